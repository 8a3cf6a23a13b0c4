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

_LINE = re.compile(rf"^[ \t]*\[?<?({ADDRESS})>?\]?,?[ \t]+([^\n]*ERROR_CODE ?:[^\n]*(?:\n[^\n]+)*)", re.MULTILINE)
_CODE = re.compile(r"ERROR_CODE ?:[ ]?")


def read(view: View) -> list[Draft]:
    """Return the recipients with their error codes."""
    drafts = []
    for found in _LINE.finditer(view.words):
        before, _, said = found[2].partition("ERROR_CODE")
        codes = [piece.strip(" ,") for piece in _CODE.split("ERROR_CODE" + said) if piece.strip(" ,")]
        drafts.append(Draft(recipient=clean(found[1]), diagnostic=f"{' '.join(codes)} ({before.strip(' ,')})"))
    return drafts
