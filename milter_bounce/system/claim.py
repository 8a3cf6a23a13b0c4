"""A program's claim on the store: one of a kind per store, and its sign of life, in a file beside it.

Goes in: the store's path and the program's name. Comes out: the lock on
``STORE.PROGRAM``, which the kernel lets go when its holder dies; who holds it;
when the holder last did its work, and what it said then. Does not: touch the
store itself - a sign every few seconds in there would be a transaction each, and
have answerd and dnsd look at the whole file anew for nothing.

Limits: one host, as the store itself (flock(2)); a sign is at most `SIGN_BYTES`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import stat
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from .sockets import file_at

SIGN_EVERY_S: Final = 3.0
SIGN_BYTES: Final = 4096
"""Room for the longest path (Linux: 4,096 bytes with its end) would be more than anybody names a log."""

TRIES: Final = 5
REST_S: Final = 0.2
"""Whoever looks at a lock holds it for a moment, and a program that was just killed lets go of it a moment later."""


class TakenError(Exception):
    """Another process has the claim; the text says which one and what to do."""


@dataclass(frozen=True, slots=True)
class Sign:
    """What is known of the program that has, or had, a claim."""

    held: bool
    """Whether a living process holds the claim."""

    pid: int | None = None
    age_s: float | None = None
    """Seconds since it last did its work; None: it never did."""

    follows: str = ""
    """The log that logd follows."""


def place_of(store: Path | str, program: str) -> Path:
    """Return the file of a program's claim."""
    return Path(f"{store}.{program}")


class Claim:
    """The claim of this process; not to be shared between processes."""

    def __init__(self, store: Path | str, program: str) -> None:
        self._program, self._path = program, place_of(store, program)
        self._file = -1
        self._signed = -SIGN_EVERY_S

    def take(self) -> None:
        """Take the claim, or keep it.

        Raises:
            TakenError: another process has it.
            OSError: the file cannot be made.
        """
        if self._held():
            return
        self._let_go()
        file = self._opened()
        try:
            _lock(file)
        except BlockingIOError:
            pid = _said(file).get("pid")
            os.close(file)
            raise TakenError(
                f"another {self._program} works on this store (process {pid or 'unknown'}; {self._path} is its lock): "
                f"stop that one, or name another store.path"
            ) from None
        except OSError:
            os.close(file)
            raise
        self._file = file
        self._write({"pid": os.getpid()})

    def _opened(self) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        file = os.open(self._path, flags, 0o600)
        facts = os.fstat(file)
        if not stat.S_ISREG(facts.st_mode):
            os.close(file)
            raise OSError(errno.EINVAL, "is no plain file; remove it", str(self._path))
        if os.geteuid() == 0:  # a program run by root must not lock the programs' user out
            folder = self._path.parent.stat()
            os.fchown(file, folder.st_uid, folder.st_gid)
        return file

    def _held(self) -> bool:
        """Return whether we hold the lock, on the file that lies there."""
        if self._file < 0:
            return False
        facts = os.fstat(self._file)
        return file_at(self._path) == (facts.st_dev, facts.st_ino)

    def sign(self, *, follows: str = "") -> bool:
        """Leave a sign that the work is done up to now; return False where another process has the claim.

        At most every `SIGN_EVERY_S`. Raises nothing: a sign that cannot be left is missed by `milter-bounce check` alone.
        """
        now = time.monotonic()
        if now - self._signed < SIGN_EVERY_S:
            return True
        self._signed = now
        try:
            self.take()
            self._write({"pid": os.getpid(), "at": time.time(), "follows": follows})
        except TakenError:
            return False
        except OSError:
            return True
        return True

    def _write(self, facts: dict[str, object]) -> None:
        raw = json.dumps(facts).encode()[:SIGN_BYTES]
        # one write of one size: whoever reads meanwhile sees the old sign or the new one
        with contextlib.suppress(OSError):
            os.pwrite(self._file, raw.ljust(SIGN_BYTES), 0)

    def leave(self) -> None:
        """Give the claim back."""
        if self._held():
            self._write({})
        self._let_go()

    def _let_go(self) -> None:
        if self._file >= 0:
            os.close(self._file)
        self._file = -1


def _lock(file: int) -> None:
    """Lock an open file.

    Raises:
        OSError: BlockingIOError where another process keeps it.
    """
    for left in reversed(range(TRIES)):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not left:
                raise
            time.sleep(REST_S)
        else:
            return


def _said(file: int) -> dict[str, object]:
    try:
        facts = json.loads(os.pread(file, SIGN_BYTES, 0))
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}


def sign_of(store: Path | str, program: str) -> Sign:
    """Return what is known of the program of this name.

    Raises:
        OSError: the file may not be read.
    """
    try:
        file = os.open(place_of(store, program), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return Sign(False)
    try:
        facts = _said(file)
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            held = True
        else:
            held = False
    finally:
        os.close(file)
    pid, at, follows = facts.get("pid"), facts.get("at"), facts.get("follows")
    return Sign(
        held,
        pid if isinstance(pid, int) else None,
        max(0.0, time.time() - at) if isinstance(at, int | float) else None,
        follows if isinstance(follows, str) else "",
    )
