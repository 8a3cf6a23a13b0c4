"""Outside text made safe for a line, a terminal, JSON: the one place where that is done.

Goes in: text. Comes out: text that nothing acts on. Does not: know where it goes.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

from . import limits

TEXT_LIMIT: Final = limits.LOGGED_TEXT

_NAMED: Final = {"\n": "\\n", "\r": "\\r", "\t": "\\t", "\\": "\\\\"}

_ODD: Final = re.compile("[\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]")
"""What JSON lets stand and some terminal, pager or reader acts on: DEL, C1, line separators, marks and controls of the
direction of writing, invisible ones."""

_BEYOND_ASCII: Final = re.compile("[^\x00-\x7f]+")
_HALVES: Final = re.compile("[\ud800-\udfff]")


def _escaped(character: str) -> str:
    """Return a character as it may stand in a line; what a terminal or a pager acts on becomes an escape."""
    if character in _NAMED:
        return _NAMED[character]
    if character.isprintable():
        return character
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def printable(text: str, limit: int = TEXT_LIMIT) -> str:
    """Return `text` as one line that can do no harm in a log, a header or a terminal.

    Control characters, line separators, bidirectional controls and lone
    surrogates come out as backslash escapes; a text longer than `limit`
    characters is cut and ends in ``...``.
    """
    cut = text[: limit + 1]
    if not cut.isprintable() or "\\" in cut:
        cut = "".join(map(_escaped, cut))
    return cut if len(cut) <= limit else cut[: limit - 3] + "..."


def harmless(text: str) -> str:
    """Return `text` whole, with the same escapes, but for the backslash, which stays: done twice it changes no more."""
    if text.isprintable():
        return text
    return "".join(character if character == "\\" else _escaped(character) for character in text)


def json_line(values: Any, *, ascii_only: bool = False) -> str:
    r"""Return `values` as JSON that every reader takes for one line of UTF-8, and that no terminal acts on.

    C0, DEL, C1, line separators and bidirectional controls are JSON's own escapes, so they come back as they were. Half
    a pair of surrogates (a byte of a file name that is no UTF-8) is no text: it becomes its escape as words, ``\udce9``.

    Section: RFC 8259, 7 and 8.1.

    Args:
        values: plain ones.
        ascii_only: escape all that is not ASCII, for a way out whose encoding is not ours to choose.
    """
    line = json.dumps(values, ensure_ascii=False)
    if line.isascii() and "\x7f" not in line:
        return line
    line = _ODD.sub(lambda found: f"\\u{ord(found[0]):04x}", line)
    line = _HALVES.sub(lambda found: f"\\\\u{ord(found[0]):04x}", line)
    return _BEYOND_ASCII.sub(lambda found: json.dumps(found[0])[1:-1], line) if ascii_only else line
