"""Completer of local names: mail systems name their own mailboxes without domain.

Goes in: a report. Comes out: the addresses that the returned message was sent
to, by their local parts. Does not: guess a domain.

Raises: nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from milter_bounce.parse.address import addresses_in
from milter_bounce.parse.header import decoded

if TYPE_CHECKING:
    from milter_bounce.parse.view import View


def by_local_part(view: View) -> dict[str, str]:
    """Return the addresses in the returned message's To and Cc by local part (lower case), without those that share one."""
    fields = [value for field in ("x-rcpt-to", "to", "cc") for value in view.original.all(field)]
    named: dict[str, dict[str, str]] = {}
    for address in (a for value in fields for a in addresses_in(decoded(value))):
        low = address.lower()
        named.setdefault(low.rpartition("@")[0], {})[low] = address
    return {name: next(iter(meant.values())) for name, meant in named.items() if len(meant) == 1}
