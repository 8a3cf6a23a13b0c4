"""Where lines come from: a file, the journal, standard input; and which of them it is.

Goes in: ``[log] follow``. Comes out: a `Source` of batches of lines, each with
the position behind it. Does not: read what the lines say.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import selectors
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final, Protocol
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from milter_bounce import limits

from .logtail import Batch, FileFollower, nobody

if TYPE_CHECKING:
    from collections.abc import Callable

    from milter_bounce.config import LogSection

PIECE_BYTES: Final = 262_144
LINE_LIMIT_BYTES: Final = limits.PIPE_LINE_BYTES

JOURNAL_FIELDS: Final = "MESSAGE,SYSLOG_IDENTIFIER,SYSLOG_PID,_PID,_UID,_HOSTNAME"
MAIL_USERS: Final = ("root", "postfix", "smmta", "smmsp")
"""Who writes what an MTA logs, besides Postfix's mail_owner; logger(1) lets anybody else write the same."""

SYSTEM_LOGS: Final = ("/var/log/mail.log", "/var/log/maillog")
"""Debian's and Red Hat's."""


class Source(Protocol):
    """What logd reads from. Any method may raise OSError, and be called again later."""

    name: str
    """What the position is stored under."""

    def batch(self, seconds: float) -> Batch | None:
        """Return the lines that came, none after `seconds` without; None at the end of a source that has one."""

    def close(self) -> None:
        """Let go of everything."""


def local_zone() -> tzinfo:
    """Return the time zone of this host, with its rules for summer; traditional time stamps are written in it."""
    name = os.environ.get("TZ", "").lstrip(":") or "/etc/localtime"
    try:
        if not name.startswith("/"):
            return ZoneInfo(name)
        with Path(name).open("rb") as file:
            return ZoneInfo.from_file(file)
    except (OSError, ValueError, ZoneInfoNotFoundError):
        # TZ may hold rules instead of a name (CET-1CEST): the C library knows them; the offset of now has to do
        return datetime.now().astimezone().tzinfo or UTC


class FileSource:
    """A log file, see `FileFollower`."""

    def __init__(
        self,
        path: Path,
        position: str | None,
        *,
        from_start: bool,
        warn: Callable[[str], object] = nobody,
        alive: Callable[[], None] = nobody,
    ) -> None:
        self.name = str(path)
        self._path, self._position, self._from_start = path, position, from_start
        self._warn, self._alive = warn, alive
        self._follower: FileFollower | None = None

    def batch(self, seconds: float) -> Batch:
        """Return the lines that came."""
        if self._follower is None:
            self._follower = FileFollower(
                self._path, self._position, from_start=self._from_start, warn=self._warn, alive=self._alive
            )
        return self._follower.batch(seconds)

    def close(self) -> None:
        """Close the files."""
        if self._follower:
            self._follower.close()


class _Pipe:
    """Lines of a descriptor, with a time limit on waiting."""

    def __init__(self, file: IO[bytes]) -> None:
        self._descriptor = file.fileno()
        self._selector = selectors.DefaultSelector()
        try:
            self._selector.register(self._descriptor, selectors.EVENT_READ)
        except PermissionError:  # a regular file on standard input is always ready
            self._selector.close()
        self._regular = self._selector.get_map() is None
        self._rest = b""

    def lines(self, seconds: float) -> list[bytes] | None:
        """Return whole lines, none after `seconds` without; None at the end."""
        if not self._regular and not self._selector.select(seconds):
            return []
        data = os.read(self._descriptor, PIECE_BYTES)
        if not data:
            rest, self._rest = self._rest, b""
            return [rest] if rest else None
        *whole, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > LINE_LIMIT_BYTES:
            whole, self._rest = [*whole, self._rest], b""
        return whole


def _nowhere(count: int) -> None:
    """Return that standard input has no positions."""
    del count


class StdinSource:
    """Standard input; it has an end, and no position."""

    name = "-"

    def __init__(self, file: IO[bytes] | None = None) -> None:
        self._pipe = _Pipe(file or sys.stdin.buffer)

    def batch(self, seconds: float) -> Batch | None:
        """Return the lines that came."""
        lines = self._pipe.lines(seconds)
        return None if lines is None else Batch([line.decode("utf-8", "replace") for line in lines], None, _nowhere)

    def close(self) -> None:
        """Leave standard input as it is."""


class JournalSource:
    """The journal's entries of facility mail, through journalctl(1), from the stored cursor on.

    Args:
        cursor: where to go on; None = first time.
        from_start: whether the first time begins with the oldest entry.
        command: for another journal: ``("journalctl", "--directory=...")``.
        writers: user ids whose entries count, as the journal itself knows them; an entry that tells none counts.
    """

    name = "journal"

    def __init__(
        self,
        cursor: str | None,
        *,
        from_start: bool = False,
        command: tuple[str, ...] = ("journalctl",),
        writers: frozenset[str] | None = None,
    ) -> None:
        self._writers = mail_uids() if writers is None else writers
        self._cursor, self._from_start, self._command = cursor, from_start, command
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: _Pipe | None = None
        self._not_before = 0.0

    def _start(self) -> _Pipe:
        where = [f"--after-cursor={self._cursor}"] if self._cursor else []
        tail = ["--no-tail"] if self._from_start or self._cursor else ["--lines=0"]
        options = ["--follow", "--all", "--quiet", "--output=json", f"--output-fields={JOURNAL_FIELDS}"]
        self._process = subprocess.Popen(
            [*self._command, *options, *tail, *where, "SYSLOG_FACILITY=2"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert self._process.stdout is not None  # noqa: S101 - asked for two lines above
        return _Pipe(self._process.stdout)

    def batch(self, seconds: float) -> Batch:
        """Return the entries that came.

        Raises:
            OSError: journalctl is missing or ended; the next call starts it anew.
        """
        if self._pipe is None:
            wait = self._not_before - time.monotonic()
            if wait > 0:
                time.sleep(min(wait, seconds))
                return Batch([], self._cursor)
            self._pipe = self._start()
        raw = self._pipe.lines(seconds)
        if raw is None:
            self._not_before = time.monotonic() + 5
            raise OSError(f"journalctl ended: {self._last_words()}; it is started again")
        lines, cursors = [], []
        for entry in raw:
            if (line := self._entry(entry)) is not None:
                lines.append(line)
                cursors.append(self._cursor)
        return Batch(lines, self._cursor, lambda count: cursors[count - 1])

    def _entry(self, raw: bytes) -> str | None:
        """Return a journal entry as a line of a log; None for one without message or time, or by somebody else."""
        try:
            entry = json.loads(raw)
            stamp = datetime.fromtimestamp(int(entry["__REALTIME_TIMESTAMP"]) / 1_000_000, UTC).isoformat()
            cursor = entry["__CURSOR"]
        except (ValueError, KeyError, TypeError, OverflowError):
            return None
        if isinstance(cursor, str):
            self._cursor = cursor
        message = _text(entry.get("MESSAGE"))
        tag = _text(entry.get("SYSLOG_IDENTIFIER"))
        writer = _text(entry.get("_UID"))
        if message is None or tag is None or (writer is not None and writer not in self._writers):
            return None
        pid = _text(entry.get("SYSLOG_PID")) or _text(entry.get("_PID")) or "0"
        host = _text(entry.get("_HOSTNAME")) or "localhost"
        # a message of several lines is one entry: joined, so that none of them can pass for a line of its own
        return f"{stamp} {host} {tag}[{pid}]: " + message.replace("\n", " ")

    def _last_words(self) -> str:
        process, self._process, self._pipe = self._process, None, None
        if process is None or process.stderr is None:
            return "no reason given"
        with process:
            process.kill()
            words = process.stderr.read(1000).decode("utf-8", "replace").strip().splitlines()
        return words[-1] if words else "no reason given"

    def close(self) -> None:
        """End journalctl."""
        self._last_words()


def _text(value: object) -> str | None:
    """Return a field of journalctl's JSON: text, or bytes as numbers where it is not UTF-8."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        try:
            return bytes(value).decode("utf-8", "replace")
        except (TypeError, ValueError):
            return None
    return None


def followed(section: LogSection) -> str:
    """Return what ``[log] follow`` comes to: a path, ``journal`` or ``-``."""
    if section.follow != "auto":
        return section.follow
    if path := _maillog_file():
        return path
    for candidate in SYSTEM_LOGS:
        if Path(candidate).exists():
            return candidate
    has_journal = Path("/run/systemd/journal").exists() and shutil.which("journalctl")
    return "journal" if has_journal else SYSTEM_LOGS[0]


def mail_uids() -> frozenset[str]:
    """Return the user ids, as text, of those who write an MTA's log on this host."""
    found = set()
    for name in (*MAIL_USERS, _postconf("mail_owner")):
        with contextlib.suppress(KeyError):
            found.add(str(pwd.getpwnam(name).pw_uid))
    return frozenset(found)


def _postconf(name: str) -> str:
    """Return a setting of this host's Postfix; empty where it is not set, or there is no Postfix."""
    try:
        asked = subprocess.run(
            ["postconf", "-xh", name],  # noqa: S607 - found by PATH as an administrator would
            check=False,
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return asked.stdout.strip()


def _maillog_file() -> str | None:
    """Return Postfix's ``maillog_file``; None where it is not set, or is no file."""
    path = _postconf("maillog_file")
    return path if path.startswith("/") and not path.startswith("/dev/") else None


def make_source(
    follow: str,
    position: str | None,
    *,
    from_start: bool,
    warn: Callable[[str], object] = nobody,
    alive: Callable[[], None] = nobody,
) -> Source:
    """Return the source that `follow` names, going on at `position`; for `warn` and `alive` see `FileFollower`."""
    if follow == "-":
        return StdinSource()
    if follow == "journal":
        return JournalSource(position, from_start=from_start)
    return FileSource(Path(follow), position, from_start=from_start, warn=warn, alive=alive)
