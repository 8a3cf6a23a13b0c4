"""Where mails lie: single files, folders, Maildirs, mboxes, standard input.

Comes out: the bytes of one mail at a time, never more than the readers read.
Raises: `OSError` where a file cannot be read; the caller goes on with the next.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

from milter_bounce.parse.mime import SIZE_LIMIT

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MBOX_NAMES: Final = frozenset({"mbox", "inbox"})
MBOX_SUFFIXES: Final = frozenset({".mbox", ".mbx"})
# RFC 4155, A: "From " addr-spec date; a mailbox of a user (/var/mail/NAME) has no suffix
_SEPARATOR = re.compile(rb"From [^\n]{0,300}(?:[0-9]{2}:[0-9]{2}|[0-9]{4})[^\n]{0,60}\r?\n")


def found_in(paths: Iterable[str]) -> Iterator[str]:
    """Return every file that the paths name, a folder's and a Maildir's in order; ``-`` stays.

    A folder that cannot be listed comes out itself: opening it will say why.
    """
    for name in paths:
        path = Path(name)
        if name == "-" or not path.is_dir():
            yield name
            continue
        try:
            found = _mails_in(path)
        except OSError:
            found = [name]
        yield from found


def _mails_in(folder: Path) -> list[str]:
    if (folder / "cur").is_dir() and (folder / "new").is_dir():
        return [str(mail) for part in ("cur", "new") for mail in sorted((folder / part).iterdir()) if mail.is_file()]
    return [str(mail) for mail in sorted(folder.rglob("*")) if mail.is_file() and not mail.name.startswith(".")]


def mails_of(name: str, *, as_mbox: bool = False) -> Iterator[tuple[str, bytes]]:
    """Return name and bytes of each mail of a file; the second and later ones of an mbox are ``NAME#2`` and so on."""
    if name == "-":
        yield from _read(sys.stdin.buffer, "-", as_mbox=as_mbox)
        return
    with Path(name).open("rb") as stream:
        yield from _read(stream, name, as_mbox=as_mbox or looks_like_mbox(name))


def looks_like_mbox(name: str) -> bool:
    """Tell whether a file may hold several mails, by its name: mail files quote ``From `` lines too."""
    path = Path(name)
    return (
        path.suffix.lower() in MBOX_SUFFIXES or path.name.lower() in MBOX_NAMES or path.parent.name in {"mail", "spool"}
    )


def _read(stream: BinaryIO, name: str, *, as_mbox: bool) -> Iterator[tuple[str, bytes]]:
    if not as_mbox:
        yield name, stream.read(SIZE_LIMIT + 1)
        return
    for number, mail in enumerate(_mails_of_mbox(stream), 1):
        yield (name if number == 1 else f"{name}#{number}"), mail


def _mails_of_mbox(stream: BinaryIO) -> Iterator[bytes]:
    """Return the mails of an mbox; of each at most what the readers read is kept."""
    lines: list[bytes] = []
    size, blank = 0, True
    while line := stream.readline(SIZE_LIMIT):
        if blank and lines and _SEPARATOR.match(line):
            yield b"".join(lines)
            lines, size = [], 0
        if size <= SIZE_LIMIT:
            lines.append(line)
            size += len(line)
        blank = line in {b"\n", b"\r\n"}
    if lines:
        yield b"".join(lines)
