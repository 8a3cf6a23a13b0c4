"""What a pattern sees of a reply: its words, without codes, quoting and addresses.

Goes in: the text of a reply, however it was quoted. Comes out: one line as
``rules/README.md`` ("What a pattern sees") describes it. Does not: judge.
Everything here is linear in the text, which is cut at `WORDS_LIMIT` first.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from milter_bounce import limits
from milter_bounce.delivery import lowered
from milter_bounce.verdict import strip_annotation

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

WORDS_LIMIT: Final = limits.RULE_WORDS

IP_MASK: Final = "0.0.0.0"  # noqa: S104 - nothing is bound to it
ID_MASK: Final = "#"
MASK: Final = "<@>"
"""What an address reads as, so that ``<nospam@example.com>: user unknown`` does not look like spam."""

# codes at the start: "550 5.1.1 ", "550-5.1.1 ", "(#5.1.1)", "550 #5.1.0 ", "5.7.1, ", "'550 ", "550 : "
_CODES: Final = re.compile(
    r"(?:[\"'(<\[ ]{0,3}[1-5][0-9]{2}(?![0-9]|\.[0-9]|[A-Za-z])[-:;,.)\]>\"' ]{0,3})?"
    r"(?:[ (\[]{0,2}#?[245]\.[0-9]{1,3}\.[0-9]{1,3}(?![0-9]|\.[0-9])[-:;,.)\]>\"' ]{0,3})?"
)
# Postfix: "host mx.example.com[192.0.2.1] said: "; RFC 3464 types: "smtp; "; Cisco: "5.1.0 - Unknown address error 550-'"
_SAID: Final = re.compile(
    r"(?:[xX]-[A-Za-z0-9-]{1,20}|smtp|SMTP|lmtp) ?; ?|host [^ ]{1,300} said: |"
    r"(?:[45][0-9]{2} |[45]\.[0-9.]{3,7} - )?[Uu]nknown address error (?=[45][0-9]{2}[- ])"
)
_IN_REPLY: Final = " (in reply to "
# languages without blanks between words write on behind an address: their letters and full-width marks end it
_PART: Final = r"[^\s<>()\[\]\"',;:@\u0e00-\u0e7f\u3000-\u9fff\uac00-\ud7af\uff00-\uffef]"
_ADDRESS: Final = re.compile(rf"<?{_PART}{{1,64}}@{_PART}{{1,255}}>?")
_LINE_CODE: Final = re.compile(r"[45][0-9]{2}-")
_ENDS: Final = ".!?"
# what differs from reply to reply and means nothing to a rule; tags such as AS16012611 or OFR006_102 are shorter
_NOISY: Final = re.compile(r"[0-9@]")
_IP: Final = re.compile(
    r"(?<![0-9A-Za-z.:])(?:(?!127\.)[0-9]{1,3}(?:\.[0-9]{1,3}){3}(?![0-9A-Za-z]|\.[0-9])"
    r"|[0-9a-fA-F]{1,4}(?::{1,2}[0-9a-fA-F]{1,4}){3,7}(?![0-9A-Za-z:]|\.[0-9]))"
)
_TIME: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]{5,18}Z?")
_ID: Final = re.compile(r"[A-Za-z0-9_+-]{12,}")
_PLAIN: Final = str.maketrans({
    "\u2018": "'", "\u2019": "'", "\u201b": "'", "\u00b4": "'", "\u201c": '"', "\u201d": '"', "\u00ab": '"',
    "\u00bb": '"', "\u2010": "-", "\u2011": "-", "\u2012": "-", "\u2013": "-", "\u2014": "-", "\u2212": "-",
    "\u200b": None, "\u00ad": None, "\ufeff": None,
})  # fmt: skip


def _id_masked(found: re.Match[str]) -> str:
    """Return `ID_MASK` for a run of letters and digits; a code before words ("550-SPF-check") and a number stay."""
    run = found[0]
    digits = sum(map(run[3:].count, "0123456789"))
    code = run[:4] if _LINE_CODE.match(run) else ""
    return code + ID_MASK if digits > 2 and digits < len(run) - 3 - run.count("-") else run


def _quiet(word: str, kept: AbstractSet[str]) -> str:
    """Return `word` with addresses, IPs, times and ids in it masked; the tests before each spare most words its cost."""
    if "@" in word:
        word = _masked(word, kept)
    if len(word) > 6:
        colons = word.count(":")
        if colons > 2 or word.count(".") > 2:
            word = _IP.sub(IP_MASK, word)
        if len(word) > 11:
            if colons > 1:
                word = _TIME.sub(ID_MASK, word)
            word = _ID.sub(_id_masked, word)
    return word


def _bare(address: str) -> str:
    """Return what `_ADDRESS` found without brackets and what ends a sentence."""
    address = address.strip("<>")
    dots = address.find("..", address.rfind("@"))  # Sendmail's "user@example.com...User unknown" without the blank
    return address[: dots if dots > 0 else None].rstrip(_ENDS)


def addresses_in(text: str) -> set[str]:
    """Return the mail addresses that a reply names, folded; of its first `WORDS_LIMIT` characters."""
    return {lowered(_bare(found)) for found in _ADDRESS.findall(text[:WORDS_LIMIT])}


def _masked(word: str, kept: AbstractSet[str]) -> str:
    """Return `word` with each mail address in it as `MASK`, but for those that a rule names."""

    def mask(found: re.Match[str]) -> str:
        address, bare = found[0].strip("<>"), _bare(found[0])
        if bare.lower() in kept:
            return found[0]
        code = address[:4] if _LINE_CODE.match(address) else ""  # "550-user@example.com no longer": a line's code
        return code + MASK + address[len(bare) :]

    return _ADDRESS.sub(mask, word)


def words_of(text: str, code: int | None = None, kept: AbstractSet[str] = frozenset()) -> str:
    """Return the words of a reply's `text` for matching.

    Args:
        text: the reply with or without its codes, on one line or several.
        code: its reply code; repeated at line starts of a long reply, and taken out there.
        kept: addresses, in lower case, that stay as they are because a rule names them.

    Limits: the first `WORDS_LIMIT` characters.
    Raises: nothing, on any text.
    """
    text = strip_annotation(text[:WORDS_LIMIT])
    if not text.isascii():
        text = text.translate(_PLAIN)
    noisy = _NOISY.search
    line = " ".join([_quiet(word, kept) if len(word) > 4 and noisy(word) else word for word in text.split()])
    while found := _SAID.match(line):
        line = line[found.end() :]
    cut = line.rfind(_IN_REPLY)
    if cut > 0:
        line = line[:cut]
    long = code is not None and line.startswith(f"{code}-")
    line = line[_codes_end(line) :]
    return _unrepeated(line, code, long=long) if code is not None else line


def _codes_end(line: str) -> int:
    """Return where the words begin: after one pair of codes, or two as in ``550 5.7.1 550 User unknown``."""
    first = _CODES.match(line)
    end = first.end() if first else 0
    if end and line[end : end + 1].isdigit():
        second = _CODES.match(line, end)
        return second.end() if second else end
    return end


def _unrepeated(line: str, code: int, *, long: bool) -> str:
    """Return `line` without the codes that stood at the line starts of a long reply: ``550-5.7.1``, ``550 5.7.1``.

    In a reply that began with ``550-`` a bare ``550`` is the last line's.
    """
    start = f" {code}"
    if start not in line:
        return line
    status = r"[245]\.[0-9]{1,3}\.[0-9]{1,3}(?= |$)"
    bare = f"|(?= |$)(?: {status})?" if long else f"| {status}"
    return re.sub(rf"(?: {code}(?:-(?:{status})?{bare}))+ ?", " ", line).strip()
