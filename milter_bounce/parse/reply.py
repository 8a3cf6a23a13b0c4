"""Reader of one SMTP reply, however it was quoted: code, enhanced status, text.

Goes in: text from a report, a log line, a question of the MTA or a person.
Comes out: `ReplyParts`. Does not: judge.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from milter_bounce import limits
from milter_bounce.delivery import EnhancedStatus

TEXT_LIMIT = limits.REPLY

# RFC 5321, 4.2: Reply-code = %x32-35 %x30-35 %x30-39, then "-" or SP; real servers also use 6 to 9 in the middle;
# of 1xx and 3xx only 334 and 354, or a code that stands alone: "100 messages" is no reply
_CODE_FIRST = re.compile(r"\s*[\"'(<\[]?([245][0-9]{2}|3[35]4|[13][0-9]{2}(?=\s*\Z))(?=[- #:;,.)\]>\"']|$)(?![.][0-9])")
# the status after the code, or anywhere at a word's edge that is not inside an IP address or a version
_STATUS_NEAR = re.compile(r"[- #:(\[]{0,3}#?([245]\.[0-9]{1,3}\.[0-9]{1,3})(?![0-9.]*[0-9])")
_STATUS_ANY = re.compile(r"(?<![0-9.])#?([245]\.[0-9]{1,3}\.[0-9]{1,3})(?![0-9]|\.[0-9])")
_CONTINUED = re.compile(r"[\r\n]+\s*")


class ReplyParts(NamedTuple):
    """One reply: code (200 to 599) and status where it states them, and its text with lines joined by a blank."""

    code: int | None
    status: EnhancedStatus | None
    text: str


_SLASHES: Final = re.compile(r"\.?/(?=[A-Z]|$)")


def unlogged(text: str) -> str:
    """Return a reply as it was said, from qmail's log: ``192.0.2.1_said:_550_User_unknown/Giving_up_on_192.0.2.1./``.

    Section: qmail-send(8), "failure": blanks are logged as underscores, line ends as slashes.
    """
    if "_said:_" not in text and "(#" not in text:
        return text
    return _SLASHES.sub(". ", text).replace("_", " ") if " " not in text.strip() else text


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


_LINE_END_JUNK = re.compile(r"[ \t\r\n]+")
# code and status side by side, as servers write them and as reports quote them: "550 5.1.1", "550-5.1.1",
# "550 #5.1.0", "550-'5.7.1", "ERROR_CODE :550, ERROR_CODE :5.1.1", "550 (5.1.1)"
_PAIR = re.compile(
    r"(?<![0-9.])([45][0-9]{2})(?:[- ,:]{1,3}(?:ERROR_CODE :)?|[-: ]{0,2}SMTP[;:]? ?)[\"'(<\[#]{0,2}([45]\.[0-9]\.[0-9]{1,3})(?![0-9]|\.[0-9])"
)
# a code alone ...
_CODE = re.compile(r"(?<![0-9.A-Za-z])[45][0-5][0-9](?=[- ,;:.'\")\]\n]|$)")
# ... and what may stand before it: a line's beginning, a quote, a colon, or a word that introduces a reply
_BEFORE = re.compile(
    r"(?:(?:^|\n)[ \t]{0,12}(?:[-*•]{1,2}[ \t]{1,4})?[#<]{0,2}|[:;：>\"'(\[“‘「][ \t]{0,3}\n?[ \t]{0,12}|[a-z)] -{1,2} "
    r"|(?:said|returned|error|code|response|reason|reply|replied|status|rejected|refused|got|smtp|was|is|with)[ :=#]{1,3}"
    r"|[ \t]#|-> )$",
    re.IGNORECASE,
)
# a number that counts something is no code
_COUNTED = re.compile(r" ?(?:[A-Z][a-z]{2} [0-9]|hours|days|minutes|messages|recipients|bytes|KB|MB|lines)")
_BEFORE_LENGTH = 24
_STATUS_STRICT = re.compile(r"(?<![0-9.A-Za-z/])#?([45]\.[0-7]\.[0-9]{1,3})(?![0-9]|\.[0-9])")
# the statuses that only say "gave up": the cause, where one is told, is another (RFC 3463, 3.5)
_GIVEN_UP = {"4.4.7", "5.4.7"}


class Codes(NamedTuple):
    """The reply code and the enhanced status that a text tells of, where it does."""

    reply: int | None
    status: EnhancedStatus | None


NO_CODES = Codes(None, None)


def codes_in(text: str) -> Codes:
    """Return the codes of the reply that a report's text quotes; the cause before a mere "given up".

    Limits: the first `TEXT_LIMIT` characters are looked at.
    Raises: nothing, on any text.
    """
    text = text[:TEXT_LIMIT]
    pairs = _PAIR.findall(text)
    if pairs:
        chosen = next((pair for pair in pairs if pair[1] not in _GIVEN_UP), None)
        if chosen is None and len(pairs) == 1:
            chosen = pairs[0]
            other = next((s for s in _STATUS_STRICT.findall(text) if s not in _GIVEN_UP), None)
            if other:
                chosen = (chosen[0], other)
        code, status = chosen or pairs[0]
        return Codes(int(code), EnhancedStatus.from_text(status))
    at = _introduced(text)
    code_alone = int(text[at : at + 3]) if at is not None else None
    statuses = _STATUS_STRICT.findall(text)
    status_alone = next((s for s in statuses if s not in _GIVEN_UP), statuses[0] if statuses else None)
    return Codes(code_alone, EnhancedStatus.from_text(status_alone) if status_alone else None)


def joined(text: str) -> str:
    """Return text on one line, every run of blanks and line ends as one blank."""
    return _LINE_END_JUNK.sub(" ", text).strip()


# a code with its status needs no introduction
_PAIRED = re.compile(r"(?<![0-9.])[45][0-5][0-9][- ]{1,2}[\"'(#]{0,2}[45]\.[0-9]\.[0-9]")


def _introduced(text: str, *, reply: bool = False) -> int | None:
    """Return where the first introduced code stands; for a `reply`, one that text follows."""
    for found in _CODE.finditer(text):
        at, end = found.start(), found.end()
        if _COUNTED.match(text, end) or (reply and text[end : end + 1] in {",", ";", "'", '"', ")", "]", "."}):
            continue
        before = text[max(0, at - _BEFORE_LENGTH) : at]
        if at == 0 or text[end : end + 2] == "-'" or _BEFORE.search(before):
            return at
    return None


def reply_start(text: str) -> int | None:
    """Return where in `text` a quoted refusal begins; None where none is quoted."""
    at, paired = _introduced(text, reply=True), _PAIRED.search(text)
    if paired and (at is None or paired.start() < at):
        return paired.start()
    if at is None:
        return None
    # "5.3.0 - Other mail system problem 554-'Blocked'" (IronPort): the status stands before the reply
    line = text.rfind("\n", 0, at) + 1
    before = _STATUS_STRICT.search(text, line, at)
    return before.start() if before and not _STATUS_STRICT.search(text, at, at + 12) else at
