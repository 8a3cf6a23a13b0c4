"""Reader of HTML as plain text, for reports that have no plain part.

Goes in: HTML, however broken. Comes out: its words, with line ends where
blocks end. Does not: render tables or follow anything.

Limits: `mime.TEXT_LIMIT` bounds what comes in; one pass each, linear.
Raises: nothing.
"""

from __future__ import annotations

import html
import re

_HIDDEN = ("style", "script", "head", "title")
_BLOCK_END = re.compile(
    r"<(?:br|/?p|/?div|/?tr|/?li|/?h[1-6]|/?table|hr|/?ul|/?pre|/?blockquote)\b[^<>]{0,2000}>", re.IGNORECASE
)
_CELL_END = re.compile(r"</?t[dh]\b[^<>]{0,2000}>", re.IGNORECASE)
_TAG = re.compile(r"<[A-Za-z/!?][^<>]{0,4000}>")
_BLANKS = re.compile(r"[ \t\r\f\v\u00a0]+")
_SPACED_LINE_END = re.compile(r" ?\n ?")
_EMPTY_LINES = re.compile(r"\n{3,}")


def text_of_html(source: str) -> str:
    """Return the words of an HTML text."""
    for name in _HIDDEN:
        source = _without(source, name)
    preformatted = "<pre" in source.lower()
    if not preformatted:
        source = source.replace("\n", " ")
    source = _BLOCK_END.sub("\n", source)
    source = _CELL_END.sub(" ", source)
    text = html.unescape(_TAG.sub("", source))
    text = _SPACED_LINE_END.sub("\n", _BLANKS.sub(" ", text))
    return _EMPTY_LINES.sub("\n\n", text).strip()


def _without(source: str, name: str) -> str:
    """Return the text without the elements of that name."""
    low, kept, at = source.lower(), [], 0
    while (begin := low.find("<" + name, at)) >= 0:
        kept.append(source[at:begin])
        end = low.find("</" + name, begin)
        if end < 0:
            # an element that never ends hides nothing: browsers show what follows, and so do we
            return "".join(kept) + source[begin + len(name) + 1 :]
        at = low.find(">", end) + 1 or len(source)
    return "".join(kept) + source[at:]
