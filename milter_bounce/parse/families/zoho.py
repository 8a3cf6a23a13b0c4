"""Reader of Zoho's reports: ``a@b Invalid Address, ERROR_CODE :550, ERROR_CODE :5.1.1 ...``.

Goes in: the words. Comes out: drafts. Raises: nothing.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from milter_bounce.parse.address import ADDRESS, clean
from milter_bounce.parse.draft import Draft

if TYPE_CHECKING:
    from milter_bounce.parse.view import View

_LINE = re.compile(rf"^[ \t]*\[?<?({ADDRESS})>?\]?,?[ \t]+([^\n]*ERROR[_ ]CODE ?:[^\n]*(?:\n[^\n]+)*)", re.MULTILINE)
_CODE = re.compile(r"ERROR[_ ]CODE ?:[ ]?")
_STATUS = re.compile(
    rf"\[Status: ?[^\]\n]{{0,40}}Address: ?<?({ADDRESS})>?, ?ResponseCode ?([0-9]{{3}})?,?([^\]\n]{{0,300}})\]"
)


def read(view: View) -> list[Draft]:
    """Return the recipients with their error codes."""
    drafts = []
    for found in _LINE.finditer(view.words):
        before, *said = (piece.strip(" ,") for piece in _CODE.split(found[2]))
        reason = " ".join(piece for piece in said if piece).replace(" - ", " ")
        drafts.append(Draft(recipient=clean(found[1]), diagnostic=f"{reason} ({before})" if before else reason))
    drafts += [
        Draft(recipient=clean(found[1]), diagnostic=f"{found[2] or ''} {found[3].strip(' ,')}".strip())
        for found in _STATUS.finditer(view.words)
    ]
    return drafts
