"""Reader of Google Groups' refusals, which come in the writer's language and name the group by its short name.

Goes in: the words and X-Failed-Recipients. Comes out: drafts with the whole
text, since its links are all that is the same in every language.
Raises: nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from milter_bounce.parse.address import addresses_in
from milter_bounce.parse.draft import Draft

if TYPE_CHECKING:
    from milter_bounce.parse.view import View


def read(view: View) -> list[Draft]:
    """Return the groups that refused; empty where no field names them."""
    failed = [a for value in view.fields.all("x-failed-recipients") for a in addresses_in(value)]
    return [Draft(recipient=address, diagnostic=view.words) for address in failed]
