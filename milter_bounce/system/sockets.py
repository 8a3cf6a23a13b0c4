"""What lies at the path of a unix socket, and who listens there.

Goes in: a path. Comes out: whether it is taken, and the remedy where it cannot
be had. Does not: make sockets (``serve`` and libmilter do).
"""

from __future__ import annotations

import os
import socket
import stat
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

TAKEN: Final = "another program listens there; stop it first"


class NoSocketError(OSError):
    """Something else than a socket lies where ours is to be; its text names path and remedy."""


def refuse_other(path: Path) -> None:
    """Let nothing of somebody else's be put out of the way for a socket: a file, a folder, a symbolic link.

    Raises:
        NoSocketError: something lies at `path` that is no socket.
        OSError: it cannot be looked at.
    """
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise NoSocketError(f"{path}: is no socket; remove it or name another")


def listened(path: Path) -> bool:
    """Return whether a program listens on the unix socket at `path`; asks without waiting."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except BlockingIOError:  # its backlog is full: it listens
            return True
        except OSError:
            return False
    return True


def file_at(path: Path) -> tuple[int, int] | None:
    """Return device and inode of what lies at `path`; None where nothing does."""
    try:
        facts = path.lstat()
    except OSError:
        return None
    return facts.st_dev, facts.st_ino


def folder_remedy(folder: Path, user: str = "", group: str = "") -> str:
    """Return the command that makes a folder of sockets, or gives it to those who need it."""
    return f"install -d -m 2750 -o {user or 'milter-bounce'} -g {group or 'postfix'} {folder}"
