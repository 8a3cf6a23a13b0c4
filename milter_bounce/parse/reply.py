"""Reader of one SMTP reply, however it was quoted: code, enhanced status, text.

Goes in: text from a report, a log line, a question of the MTA or a person.
Comes out: `ReplyParts`. Does not: judge.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from milter_bounce.delivery import EnhancedStatus

TEXT_LIMIT = 4096
"""Characters of a reply that are looked at: RFC 5321, 4.5.3.1.5 grants 512 a line, real replies have a few lines."""

# RFC 5321, 4.2: Reply-code = %x32-35 %x30-35 %x30-39, then "-" or SP; real servers also use 6 to 9 in the middle
_CODE_FIRST = re.compile(r"\s*[\"'(<\[]?([245][0-9]{2})(?=[- #:;,.)\]>\"']|$)(?![.][0-9])")
# the status after the code, or anywhere at a word's edge that is not inside an IP address or a version
_STATUS_NEAR = re.compile(r"[- #:(\[]{0,3}#?([245]\.[0-9]{1,3}\.[0-9]{1,3})(?![0-9.]*[0-9])")
_STATUS_ANY = re.compile(r"(?<![0-9.])#?([245]\.[0-9]{1,3}\.[0-9]{1,3})(?![0-9]|\.[0-9])")
_CONTINUED = re.compile(r"[\r\n]+\s*")


class ReplyParts(NamedTuple):
    """One reply: code (200 to 599) and status where it states them, and its text with lines joined by a blank."""

    code: int | None
    status: EnhancedStatus | None
    text: str


def parse_reply(text: str) -> ReplyParts:
    """Return the parts of a reply such as ``550 5.1.1 <a@b>: user unknown``.

    Section: RFC 5321 4.2 (reply), RFC 2034 (enhanced status after the code).
    Limits: the first `TEXT_LIMIT` characters are looked at.
    Raises: nothing, on any text.
    """
    joined = _CONTINUED.sub(" ", text[:TEXT_LIMIT]).strip()
    code, status, rest = None, None, joined
    if found := _CODE_FIRST.match(joined):
        code, rest = int(found[1]), joined[found.end(1) :]
    near = _STATUS_NEAR.match(rest) or _STATUS_ANY.search(rest)
    if near:
        status = EnhancedStatus.from_text(near[1])
    return ReplyParts(code, status, joined)
