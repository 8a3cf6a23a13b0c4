"""A pattern taken apart into its alternatives, and patterns put into groups that one RE2 Set holds with ease.

Goes in: patterns with the number of their rule. Comes out: groups of pieces. Does
not: compile or match.

One Set over everything has a state for each combination of what matched so far: on wording that it never met it makes
a new one at nearly each byte, 7 ms a reply. Small groups have few states, and soon know them all.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

GROUP_CHARACTERS: Final = 1200
"""Characters of patterns in one group: of 400 to 3,500 tried, the fastest on new wording and on words of the rules in
any order; half the speed of 3,500 where every state is known."""

_WHOLE: Final = re.compile(r"\(\?[a-zA-Z-]+\)|\\Q")
"""Flags for the rest of a pattern, and quoted stretches: such a pattern stays whole."""

_TOKEN: Final = re.compile(r"\\.|\[\^?\]?(?:\\.|\[:\^?[a-z]+:\]|[^\]\\])*\]|[()|]|[^\\\[()|]+", re.DOTALL)


def alternatives(pattern: str) -> list[str]:
    """Return the top-level alternatives of a pattern: it matches where one of them does.

    A pattern that cannot be taken apart for sure comes back whole.
    """
    if "|" not in pattern or _WHOLE.search(pattern):
        return [pattern]
    found, depth, at = [""], 0, 0
    for token in _TOKEN.finditer(pattern):
        if token.start() != at:
            return [pattern]
        at, text = token.end(), token[0]
        depth += {"(": 1, ")": -1}.get(text, 0)
        if text == "|" and depth == 0:
            found.append("")
        else:
            found[-1] += text
    return found if at == len(pattern) and depth == 0 and all(found) else [pattern]


def grouped(pieces: Iterable[tuple[int, str]], most: int = GROUP_CHARACTERS) -> Iterator[list[tuple[int, str]]]:
    """Yield the numbered pieces in groups of at most `most` characters; a longer piece has a group of its own."""
    group: list[tuple[int, str]] = []
    size = 0
    for number, piece in pieces:
        if group and size + len(piece) > most:
            yield group
            group, size = [], 0
        group.append((number, piece))
        size += len(piece)
    if group:
        yield group
