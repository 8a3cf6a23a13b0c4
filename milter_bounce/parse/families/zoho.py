"""Reader of Zoho's reports: ``a@b Invalid Address, ERROR_CODE :550, ERROR_CODE :5.1.1 ...``.

Goes in: the words. Comes out: drafts. A line that begins with an address and
has an error code begins a recipient; its reply may go on in the next lines,
to an empty line or to the next recipient.

Limits: `RECIPIENTS_LIMIT`.
Raises: nothing.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from milter_bounce import limits
from milter_bounce.parse.address import ADDRESS, addresses_in, clean
from milter_bounce.parse.draft import Draft

if TYPE_CHECKING:
    from milter_bounce.parse.view import View

RECIPIENTS_LIMIT: Final = limits.WORDS_RECIPIENTS

_HEAD = re.compile(rf"[ \t]{{0,20}}\[?<?({ADDRESS})>?\]?(,?)[ \t]{{1,20}}(\S[^\n]*)")
_CODE = re.compile(r"ERROR[_ ]CODE ?:[ ]?")
_STATUS = re.compile(
    rf"\[Status: ?[^\]\n]{{0,40}}Address: ?<?({ADDRESS})>?, ?ResponseCode ?([0-9]{{3}})?,?([^\]\n]{{0,300}})\]"
)


def read(view: View) -> list[Draft]:
    """Return the recipients with their error codes."""
    drafts = [draft for address, text in _records(view.words) for draft in _told(address, text)]
    drafts += [
        Draft(recipient=clean(found[1]), diagnostic=f"{found[2] or ''} {found[3].strip(' ,')}".strip())
        for found in _STATUS.finditer(view.words)
    ]
    return drafts


def _records(words: str) -> list[tuple[str, str]]:
    """Return each recipient with its lines: what follows the address, and the lines that go on with it."""
    records: list[tuple[str, list[str]]] = []
    inside = False
    for line in words.split("\n"):
        head = _HEAD.match(line) if "@" in line else None
        # behind a recipient's line, "a@b, the reason" is the next one, with or without a code
        if head and (_CODE.search(head[3]) or (inside and head[2] and clean(head[1]) != records[-1][0])):
            if len(records) >= RECIPIENTS_LIMIT:
                break
            records.append((clean(head[1]), [head[3]]))
            inside = True
        elif not line.strip() or "[Status:" in line:
            inside = False
        elif inside:
            records[-1][1].append(line)
    return [(address, "\n".join(lines)) for address, lines in records]


def _told(address: str, text: str) -> list[Draft]:
    """Return the recipients that share a line (``a@b, c@d, ERROR CODE :550``), with its codes and words as reply."""
    before, *said = (piece.strip(" ,") for piece in _CODE.split(text))
    if not said:
        return [Draft(recipient=address, diagnostic=before)]
    reason = " ".join(piece for piece in said if piece).replace(" - ", " ")
    others = addresses_in(before)
    if others and not re.sub(r"[\s,;<>\[\]]", "", before).removeprefix("".join(others)):
        before = ""
    else:
        others = []
    diagnostic = f"{reason} ({before})" if before else reason
    return [Draft(recipient=each, diagnostic=diagnostic) for each in (address, *others)]
