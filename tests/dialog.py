r"""Dialogue files: what is said to a protocol and what it must answer.

``-> bytes`` is sent, ``<- bytes`` must come back exactly, ``<~ regex`` must match the whole answer since the last
``->``, ``<! closed`` says that the connection ends. ``\r``, ``\n``, ``\\`` and ``\xNN`` are escapes; ``#`` comments.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import ROOT

DIALOGS = ROOT / "tests" / "dialogs"


@dataclass(frozen=True)
class Turn:
    """One thing said, and what must come back."""

    said: bytes
    expected: re.Pattern[bytes]
    line: int


@dataclass(frozen=True)
class Dialog:
    """One file."""

    turns: tuple[Turn, ...]
    closes: bool


def _bytes(text: str) -> bytes:
    def one(found: re.Match[str]) -> str:
        word = found[1]
        return {"r": "\r", "n": "\n", "\\": "\\"}.get(word) or chr(int(word[1:], 16))

    return re.sub(r"\\(r|n|\\|x[0-9a-f]{2})", one, text).encode("latin-1")


def read_dialog(path: Path) -> Dialog:
    """Return the turns of a dialogue file."""
    turns: list[tuple[bytes, bytes, int]] = []
    closes, heard = False, True
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        mark, _, rest = line.partition(" ")
        if not line.strip() or mark.startswith("#"):
            continue
        if mark == "->":
            if heard or not turns:
                turns.append((b"", b"", number))
            said, expected, first = turns[-1]
            turns[-1], heard = (said + _bytes(rest), expected, first), False
        elif mark in {"<-", "<~"}:
            said, expected, first = turns[-1]
            more = re.escape(_bytes(rest)) if mark == "<-" else rest.encode()
            turns[-1], heard = (said, expected + more, first), True
        elif line == "<! closed":
            closes = True
        else:
            raise ValueError(f"{path}:{number}: neither said nor answered: {line!r}")
    return Dialog(tuple(Turn(said, re.compile(expected, re.DOTALL), line) for said, expected, line in turns), closes)


def dialogs(pattern: str) -> list[Path]:
    """Return the dialogue files whose names match."""
    found = sorted(DIALOGS.glob(pattern))
    assert found, pattern
    return found
