"""Readers of the families whose reports the general readers do not read well enough by themselves.

Each module reads one family's own layout from the report's words and returns
drafts; what makes a family recognisable is data (rules/readers/reports.toml). A
family without a module here is read by `parse.blocks` and `parse.told`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from . import exchange, google, groupwise, notes, sendmail, zoho

if TYPE_CHECKING:
    from collections.abc import Callable

    from milter_bounce.parse.draft import Draft
    from milter_bounce.parse.view import View

OWN_LAYOUT: Final[dict[str, Callable[[View], list[Draft]]]] = {
    "exchange": exchange.read,
    "google-groups": google.read,
    "groupwise": groupwise.read,
    "notes": notes.read,
    "sendmail": sendmail.read,
    "zoho": zoho.read,
}
"""Family name -> its reader; an empty answer sends the words to the general reader."""
