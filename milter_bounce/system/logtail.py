"""Follower of one log file through rotation, truncation and restarts.

Goes in: the path of a log, and the position of last time. Comes out: batches
of whole lines, each with the position behind it, to be committed together with
what was learnt. Every line comes out exactly once as long as the rotated files
are still there.

How a file is known again: by the hash of its first bytes. The inode alone is
not enough: ``copytruncate`` keeps it, compression changes it, and file systems
use it again.

A rotated file that cannot be read - damaged, of a kind that needs a package, not
ours to open - is told once and left; of a damaged one the part before the damage
comes out. Trouble that passes (no descriptor is free) is an error, and the next
call goes on where this one stood.

Limits: a line of more than `LINE_LIMIT_BYTES` is cut there; of rotated files
the `CHAIN_LIMIT` newest are looked at. Lines that a writer adds to a
``copytruncate``-d log between copy and truncation are lost by that very scheme.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import time
from collections import deque
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final, NamedTuple

from milter_bounce import limits

from .logfiles import SUFFIXES, LogFileError, Packed, open_log

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

HEAD_BYTES: Final = 1024
"""First bytes that tell two files apart: some ten lines, each with its time stamp."""

BATCH_BYTES: Final = 1_048_576
LINE_LIMIT_BYTES: Final = limits.LOG_LINE_BYTES
CHAIN_LIMIT: Final = limits.ROTATED_FILES
POLL_S: Final = 0.1
LOOKS: Final = 10
"""Looks at a folder whose files are renamed at the same moment."""

_UNREADABLE: Final = frozenset({errno.EACCES, errno.EPERM, errno.EIO, errno.ELOOP})
"""What will not pass by itself; no descriptor or memory, or a network file system that is away, does."""

# mail.log.1, mail.log-20261120.gz, mail.log.20261120-060000: logrotate's forms and ``postfix logrotate``'s
_ROTATED: Final = re.compile(r"[.-][0-9]{1,14}(?:[.-][0-9]{1,14}){0,3}(?:\.(?:gz|xz|zst|bz2))?")


class Batch(NamedTuple):
    """Lines without their newlines, and where to go on once they are learnt."""

    lines: list[str]
    position: str | None
    behind: Callable[[int], str | None] | None = None
    """Returns where to go on once only so many of the lines are learnt; None where that cannot be told."""


@dataclass(frozen=True, slots=True)
class Position:
    """How far a file has been read; `head` and `head_bytes` tell which file it was."""

    inode: int = 0
    offset: int = 0
    head: str = ""
    head_bytes: int = 0

    def to_text(self) -> str:
        """Return the position as it is stored."""
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def from_text(cls, text: str | None) -> Position | None:
        """Return the stored position; None for none or for what is none (another program's, an older form)."""
        try:
            values = json.loads(text or "")
            return cls(int(values["inode"]), int(values["offset"]), str(values["head"]), int(values["head_bytes"]))
        except (ValueError, KeyError, TypeError):
            return None


def nobody(text: str = "") -> None:
    """Nobody is told."""


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:32]


def head_of(file: IO[bytes], size: int) -> str:
    """Return the hash of the first `size` bytes of an open file."""
    file.seek(0)
    return _hash(file.read(size))


def _will_not_pass(error: OSError) -> bool:
    """Return whether a file stays unreadable however often it is tried."""
    return isinstance(error, LogFileError) or error.errno in _UNREADABLE


class _Reading:
    """One open file of the chain."""

    def __init__(self, path: Path, position: Position | None, alive: Callable[[], None]) -> None:
        self.path = path
        self.file = open_log(path, alive)
        self.packed = isinstance(self.file, Packed)
        self.inode = os.fstat(self.file.fileno()).st_ino
        self.position = replace(position, inode=self.inode) if position else Position(self.inode)

    def truncated(self) -> bool:
        """Return whether the file is no longer the one whose head we know."""
        if self.packed:
            return False
        known = self.position
        if os.fstat(self.file.fileno()).st_size < known.offset:
            return True
        return bool(known.head_bytes) and head_of(self.file, known.head_bytes) != known.head

    def read(self, *, last: bool = False) -> Batch:
        """Return the whole lines that are there, `BATCH_BYTES` at most, and move on.

        Args:
            last: nothing more is coming, so a line without an end is a line too.

        Raises:
            LogFileError: the rest is damaged; a line that it cuts is none.
        """
        self.file.seek(self.position.offset)
        data = self.file.read(BATCH_BYTES)
        end = data.rfind(b"\n") + 1
        if not end and isinstance(self.file, Packed) and self.file.fault:
            raise self.file.fault
        if not end and (len(data) >= LINE_LIMIT_BYTES or (last and data)):
            end = len(data)
        if not end:
            return Batch([], None)
        data, start = data[:end], self.position.offset
        self._advance(end)
        # "\n" alone ends a line: str.splitlines knows ten more characters that a forger could use.
        # NULs stand where a writer without O_APPEND went on behind a truncation.
        text = data.decode("utf-8", "replace").lstrip("\0")
        position = self.position

        def behind(count: int) -> str:
            done = sum(len(line) + 1 for line in data.split(b"\n", count)[:count])
            return replace(position, offset=start + min(done, end)).to_text()

        return Batch(text.removesuffix("\n").split("\n"), position.to_text(), behind)

    def _advance(self, count: int) -> None:
        offset = self.position.offset + count
        known = self.position
        if known.head_bytes < HEAD_BYTES:
            size = min(offset, HEAD_BYTES)
            known = replace(known, head=head_of(self.file, size), head_bytes=size)
        self.position = replace(known, offset=offset)

    def is_same_as(self, position: Position) -> bool:
        """Return whether this file begins as the one of `position` did, and is not shorter."""
        if not position.head_bytes:
            return self.inode == position.inode
        return head_of(self.file, position.head_bytes) == position.head

    def close(self) -> None:
        self.file.close()


class FileFollower:
    """Follows one log file; not to be shared between threads.

    Args:
        path: the log; it need not exist yet.
        position: what was committed last time; None = first time.
        from_start: whether a log that is there at the first time is read from its beginning.
        warn: is told, once a file, of rotated files that are not read, or not to their end.
        alive: is called all along what may take long.
    """

    def __init__(
        self,
        path: Path,
        position: str | None = None,
        *,
        from_start: bool = False,
        warn: Callable[[str], object] = nobody,
        alive: Callable[[], None] = nobody,
    ) -> None:
        self.path = path
        self._warn, self._alive = warn, alive
        self._told: deque[int] = deque(maxlen=CHAIN_LIMIT)
        self._waiting: list[_Reading] = []
        self._current: _Reading | None = None
        known = Position.from_text(position)
        if known is not None:
            self._resume(known)
        elif not from_start and path.exists():
            self._current = self._open(path)
            self._skip_to_end(self._current)

    @staticmethod
    def _skip_to_end(reading: _Reading) -> None:
        size = os.fstat(reading.file.fileno()).st_size
        reading.file.seek(max(0, size - LINE_LIMIT_BYTES))
        tail = reading.file.read(LINE_LIMIT_BYTES)
        size -= len(tail) - (tail.rfind(b"\n") + 1)
        head = min(size, HEAD_BYTES)
        reading.position = Position(reading.inode, size, head_of(reading.file, head) if head else "", head)

    @property
    def position(self) -> str | None:
        """Where reading goes on, as it is stored; None before the log exists."""
        return self._current.position.to_text() if self._current else None

    # -- rotated files --------------------------------------------------------

    def _siblings(self) -> list[Path]:
        """Return the rotated files of this log, oldest change first; of one that is being compressed the plain one."""
        found = {}
        for entry in os.scandir(self.path.parent):
            rest = entry.name.removeprefix(self.path.name)
            if rest != entry.name and _ROTATED.fullmatch(rest) and entry.is_file(follow_symlinks=False):
                found[entry.name] = entry.stat(follow_symlinks=False).st_mtime_ns
        whole = [name for name in found if Path(name).suffix not in SUFFIXES or Path(name).stem not in found]
        return [self.path.parent / name for name in sorted(whole, key=found.__getitem__)[-CHAIN_LIMIT:]]

    def _resume(self, known: Position) -> None:
        """Find the file that `known` speaks of, under whatever name it has now, and what was written after it."""
        if self.path.exists():
            now = self._open(self.path, known)
            with self._closing_on_error(now):
                is_it = now.is_same_as(known) and not now.truncated()
            if is_it:
                self._current = now
                return
            now.close()
        self._continue_after(known)

    def _continue_after(self, known: Position) -> bool:
        """Go on with the rest of the file of `known`, wherever it is, and every later one; return whether there is one.

        Raises:
            OSError: the files cannot be looked at now; nothing has changed, call again.
        """
        same, later = self._chain(known)
        if same is not None:
            same.position = replace(known, inode=same.inode)
            later.insert(0, same)
        for outdated in self._waiting:
            outdated.close()
        self._waiting = later
        return self._next()

    def _chain(self, known: Position) -> tuple[_Reading | None, list[_Reading]]:
        """Return the rotated file of `known`, None where it is gone, and the rotated files after it.

        Raises:
            OSError: one of them cannot be looked at now.
        """
        for _ in range(LOOKS - 1):
            with contextlib.suppress(FileNotFoundError):  # compressed or moved on meanwhile: it has another name
                return self._look(known)
        return self._look(known)

    def _look(self, known: Position) -> tuple[_Reading | None, list[_Reading]]:
        with contextlib.ExitStack() as opened:
            same: _Reading | None = None
            later: list[_Reading] = []
            readings: list[_Reading] = []
            unread: list[tuple[Path, OSError]] = []
            for path in self._siblings():
                self._alive()
                try:
                    sibling = self._open(path)
                    opened.callback(sibling.close)
                    readings.append(sibling)
                    is_it = sibling.is_same_as(known)
                except OSError as error:
                    if not _will_not_pass(error):
                        raise
                    unread.append((path, error))
                    continue
                if is_it:
                    # two copies of one file, or a copy and what is left of the original: the longest is at the end
                    same, later, unread = sibling, [], []
                elif same:
                    later.append(sibling)
            self._tell_unread(unread if same else unread[-1:])
            for reading in [one for one in readings if one is not same and one not in later]:
                reading.close()
            opened.pop_all()
        return same, later

    def _open(self, path: Path, position: Position | None = None) -> _Reading:
        return _Reading(path, position, self._alive)

    def _tell_unread(self, unread: Sequence[tuple[Path, OSError]]) -> None:
        """Warn of rotated files with lines, or perhaps with lines, that never came out; of each once."""
        for path, error in unread:
            why = str(error) if isinstance(error, LogFileError) else f"{path}: {error.strerror}"
            self._tell_once(path, f"a rotated log is not read, deliveries in it do not count: {why}")

    def _tell_once(self, path: Path, text: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            inode = path.stat().st_ino
            if inode in self._told:
                return
            self._told.append(inode)
        self._warn(text)

    def _next(self) -> bool:
        """Go on with the next file; return whether there is one."""
        if self._waiting:
            self._switch(self._waiting.pop(0))
            return True
        try:
            self._switch(self._open(self.path))
        except FileNotFoundError:
            return False
        return True

    def _switch(self, reading: _Reading) -> None:
        if self._current:
            self._current.close()
        self._current = reading

    # -- reading ---------------------------------------------------------------

    def batch(self, seconds: float) -> Batch:
        """Return what has been written, after waiting at most `seconds` for it; no lines where nothing came.

        Raises:
            OSError: the log cannot be read now; nothing is lost, call again.
        """
        end = time.monotonic() + seconds
        while True:
            if (found := self._step()).lines:
                return found
            left = end - time.monotonic()
            if left <= 0:
                return Batch([], self.position)
            time.sleep(min(POLL_S, left))

    def _step(self) -> Batch:
        """Return lines, moving on to the next file as often as needed."""
        for _ in range(CHAIN_LIMIT + 2):
            self._alive()
            if self._current is None and not self._next():
                break
            reading = self._current
            assert reading is not None  # noqa: S101 - what _next has just set
            ended = self._has_ended(reading)
            if reading.truncated():
                if self._continue_after(reading.position):
                    continue
                break
            if (found := self._read(reading, ended=ended)).lines:
                return found
            if not ended or not self._move_on(reading):
                break
        return Batch([], self.position)

    def _read(self, reading: _Reading, *, ended: bool) -> Batch:
        """Return the next lines of `reading`; none, and a warning, where the rest of an old file stays unreadable."""
        try:
            return reading.read(last=ended)
        except OSError as error:
            if not ended or not _will_not_pass(error):
                raise
            self._tell_once(reading.path, f"a rotated log is left before its end, its rest does not count: {error}")
            return Batch([], None)

    def _has_ended(self, reading: _Reading) -> bool:
        """Return whether nothing more will come to `reading`: asked before the read that finds it empty.

        A renamed log is still written to until its writer reopens: only when
        the new one holds something, the old one is complete.
        """
        if reading.packed or self._waiting:
            return True
        try:
            now = self.path.stat()
        except FileNotFoundError:
            return False
        return now.st_ino != reading.inode and now.st_size > 0

    def _move_on(self, reading: _Reading) -> bool:
        """Leave a file that is read to its end; several rotations may have gone by meanwhile."""
        if self._waiting:
            return self._next()
        try:
            log = self._open(self.path)
        except FileNotFoundError:
            return False
        # the log is opened before the look at what was rotated: whatever is rotated after this look comes after it
        with self._closing_on_error(log):
            same, later = self._chain(reading.position)
        inodes = [one.inode for one in later]
        rotated = inodes.index(log.inode) if log.inode in inodes else len(later)
        # the log itself was rotated since: what lies behind it is looked for when it is read to its end
        for unneeded in (*([same] if same else []), *later[rotated:]):
            unneeded.close()
        self._waiting = later[:rotated]
        if not self._waiting:
            self._switch(log)
            return True
        log.close()
        return self._next()

    @staticmethod
    @contextlib.contextmanager
    def _closing_on_error(reading: _Reading) -> Iterator[None]:
        try:
            yield
        except BaseException:  # whatever it was, nobody else knows the handle
            reading.close()
            raise

    def close(self) -> None:
        """Let go of all files."""
        for reading in (*self._waiting, *([self._current] if self._current else [])):
            reading.close()
        self._waiting, self._current = [], None
