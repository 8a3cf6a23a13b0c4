"""What a pattern sees of a reply: its words, without codes, quoting and addresses.

Goes in: the text of a reply, however it was quoted. Comes out: one line as
``rules/README.md`` ("What a pattern sees") describes it. Does not: judge.
Everything here is linear in the text, which is cut at `WORDS_LIMIT` first.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from milter_bounce.verdict import strip_annotation

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

WORDS_LIMIT: Final = 2048
"""Characters of a reply that rules look at: RFC 5321, 4.5.3.1.5 grants 512 a line, the longest real replies have four."""

MASK: Final = "<@>"
"""What an address reads as, so that ``<nospam@example.com>: user unknown`` does not look like spam."""

# codes at the start: "550 5.1.1 ", "550-5.1.1 ", "(#5.1.1)", "550 #5.1.0 ", "5.7.1, ", "'550 ", "550 : "
_CODES: Final = re.compile(
    r"(?:[\"'(<\[ ]{0,3}[1-5][0-9]{2}(?![0-9]|\.[0-9]|[A-Za-z])[-:;,.)\]>\"' ]{0,3})?"
    r"(?:[ (\[]{0,2}#?[245]\.[0-9]{1,3}\.[0-9]{1,3}(?![0-9]|\.[0-9])[-:;,.)\]>\"' ]{0,3})?"
)
# Postfix: "host mx.example.com[192.0.2.1] said: "; RFC 3464 types: "smtp; "
_SAID: Final = re.compile(r"(?:[xX]-[A-Za-z0-9-]{1,20}|smtp|SMTP|lmtp) ?; ?|host [^ ]{1,300} said: ")
_IN_REPLY: Final = " (in reply to "
_ADDRESS: Final = re.compile(r"<?[^\s<>()\[\]\"',;:@]{1,64}@[^\s<>()\[\]\"',;:@]{1,255}>?")
_ENDS: Final = ".!?"
_PLAIN: Final = str.maketrans({
    "\u2018": "'", "\u2019": "'", "\u201b": "'", "\u00b4": "'", "\u201c": '"', "\u201d": '"', "\u00ab": '"',
    "\u00bb": '"', "\u2010": "-", "\u2011": "-", "\u2012": "-", "\u2013": "-", "\u2014": "-", "\u2212": "-",
    "\u200b": None, "\u00ad": None, "\ufeff": None,
})  # fmt: skip


def _masked(word: str, kept: AbstractSet[str]) -> str:
    """Return `word` with each mail address in it as `MASK`, but for those that a rule names."""

    def mask(found: re.Match[str]) -> str:
        address = found[0].strip("<>")
        bare = address.rstrip(_ENDS)
        return found[0] if bare.lower() in kept else MASK + address[len(bare) :]

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
    parts = text.split()
    if "@" in text:
        parts = [_masked(word, kept) if "@" in word else word for word in parts]
    line = " ".join(parts)
    while found := _SAID.match(line):
        line = line[found.end() :]
    cut = line.rfind(_IN_REPLY)
    if cut > 0:
        line = line[:cut]
    line = line[_codes_end(line) :]
    return _unrepeated(line, code) if code is not None else line


def _codes_end(line: str) -> int:
    """Return where the words begin: after one pair of codes, or two as in ``550 5.7.1 550 User unknown``."""
    first = _CODES.match(line)
    end = first.end() if first else 0
    if end and line[end : end + 1].isdigit():
        second = _CODES.match(line, end)
        return second.end() if second else end
    return end


def _unrepeated(line: str, code: int) -> str:
    """Return `line` without the codes that stood at the line starts of a long reply: ``550-5.7.1``, ``550 5.7.1``."""
    start = f" {code}"
    if start + "-" not in line and start + " " not in line:
        return line
    return re.sub(
        rf" {code}(?:-(?:[245]\.[0-9]{{1,3}}\.[0-9]{{1,3}}(?= |$))?| [245]\.[0-9]{{1,3}}\.[0-9]{{1,3}}(?= |$))",
        "",
        line,
    )
