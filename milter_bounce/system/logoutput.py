"""One way out for log lines: into the log that the MTA itself writes.

Goes in: finished lines, some at a time. Goes out: to Postfix's own log through the
datagram socket ``public/postlog`` where ``maillog_file`` is set, to the syslog
socket with facility mail, to standard output or to a file. Does not: keep what
was not taken (``maillog`` does).

Why the socket and not postlog(1): on Debian 12 postlog(1) is not set-gid, so a
user without group postdrop writes nothing and gets no error (DESIGN.md section 2).
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from milter_bounce.config import LogSection

What = TypeVar("What")

FACILITY_MAIL: Final = 2 << 3
SEVERITY: Final = {"info": 6, "warning": 4, "error": 3, "notice": 5}

CHOOSE_AGAIN_S: Final = 5.0
"""Seconds between two looks at where lines should go, while they go where they should."""

SEND_S: Final = 0.5
"""Seconds that one line waits for room in a socket; only ``maillog``'s own thread ever waits so long."""


class UnwritableError(Exception):
    """The first of the lines can never be written; the next ones may."""


class Line(NamedTuple):
    """What was said, how bad it is (a name in ``SEVERITY``), and when (seconds since 1970)."""

    text: str
    severity: str
    at: float


def _has_maillog_file(queue_directory: Path) -> bool:
    """Return whether Postfix's postlog service listens for us: its socket exists and may be written."""
    return os.access(queue_directory / "public" / "postlog", os.W_OK)


class LogOutput:
    """Writes lines, for one thread; may wait for `SEND_S`.

    Args:
        settings: section ``[log]``.
        program: name behind the slash: ``milterd``, ``logd`` ...
    """

    def __init__(self, settings: LogSection, program: str) -> None:
        self._settings = settings
        self._tag = f"milter-bounce/{program}[{os.getpid()}]"
        self._socket: socket.socket | None = None
        self._failing = False
        self._chosen = time.monotonic()
        self.kind = self._choose()
        """``postlog``, ``syslog``, ``stdout`` or ``file``."""

    def _choose(self) -> str:
        """Return where lines go; Postfix may start after us, so "auto" asks again."""
        if self._settings.output != "auto":
            return self._settings.output
        if _has_maillog_file(Path(self._settings.queue_directory)):
            return "postlog"
        return "syslog" if Path(self._settings.syslog_socket).exists() else "stdout"

    def write(self, lines: Sequence[Line]) -> int:
        """Write lines in their order; return how many were taken, the others are to be tried again.

        Raises:
            UnwritableError: the first never will be, and none was taken.
        """
        # while Postfix's own log is not there each turn looks for it: one access(2), and no line more goes elsewhere
        waits = self._settings.output == "auto" and self.kind != "postlog"
        if waits or self._failing or time.monotonic() - self._chosen > CHOOSE_AGAIN_S:
            self._choose_again()
        if self.kind == "file":
            return self._try(self._append, lines)
        taken = 0
        for line in lines:
            try:
                if self._try(self._write, line) == 0:
                    break
            except UnwritableError:
                if taken == 0:
                    raise
                break  # it is the first the next time
            taken += 1
        return taken

    def _try(self, write: Callable[[What], int], what: What) -> int:
        """Return how many lines were taken; a log that takes none is told of, once."""
        try:
            taken = write(what)
        except (OSError, ValueError) as error:
            if isinstance(error, UnicodeError) or getattr(error, "errno", None) == errno.EMSGSIZE:
                raise UnwritableError(str(error)) from None
            self.close()
            if not self._failing:
                self._complain(error)
            self._failing = True
            return 0
        self._failing = False
        return taken

    def _choose_again(self) -> None:
        self._chosen = time.monotonic()
        if (kind := self._choose()) != self.kind:
            self.kind = kind
            self.close()

    def _write(self, line: Line) -> int:
        text, severity, at = line
        if self.kind == "syslog":
            self._send(self._settings.syslog_socket, f"<{FACILITY_MAIL | SEVERITY[severity]}>", text)
        elif self.kind == "postlog":
            moment = time.strftime("%b %e %H:%M:%S ", time.localtime(at))
            stamped = moment + socket.gethostname().split(".")[0] + " "
            self._send(str(Path(self._settings.queue_directory) / "public" / "postlog"), stamped, text)
        else:
            sys.stdout.write(f"{self._tag}: {text}\n")
            sys.stdout.flush()
        return 1

    def _complain(self, error: Exception) -> None:
        """Tell standard error that lines do not get through; once, until the log is back."""
        settings = self._settings
        postlog = f"{settings.queue_directory}/public/postlog"
        place = {"file": settings.output_file, "syslog": settings.syslog_socket, "postlog": postlog}.get(self.kind)
        why = getattr(error, "strerror", None) or error
        remedy = "free or make the place" if self.kind == "file" else "start what listens there"
        remedy = "let our user write there" if isinstance(error, PermissionError) else remedy
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(
                f"{self._tag}: the mail log takes no lines: {place or 'standard output'}: {why}; {remedy}, "
                "or set log.output\n"
            )
            sys.stderr.flush()

    def _send(self, path: str, head: str, text: str) -> None:
        """Send one datagram; a socket that was made anew (syslog or Postfix restarted) is found again."""
        payload = f"{head}{self._tag}: {text}".encode("utf-8", "backslashreplace")
        for fresh in (False, True):
            if self._socket is None or fresh:
                self.close()
                self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
                self._socket.settimeout(SEND_S)
                self._socket.connect(path)
            try:
                self._socket.send(payload)
            except TimeoutError:  # it listens and does not read: a new socket would wait as long
                raise
            except OSError:
                if fresh:
                    raise
            else:
                return

    def _append(self, lines: Sequence[Line]) -> int:
        """Append lines in one write; a disk that fills up under it takes the first of them."""
        head = f"{socket.gethostname()} {self._tag}: "
        data = "".join(f"{_stamp(line.at)} {head}{line.text}\n" for line in lines).encode("utf-8", "backslashreplace")
        target = os.open(self._settings.output_file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o640)
        try:
            return data.count(b"\n", 0, os.write(target, data))
        finally:
            os.close(target)

    def close(self) -> None:
        """Let go of the socket; the next line makes it anew."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def _stamp(at: float) -> str:
    return datetime.fromtimestamp(at).astimezone().isoformat(timespec="microseconds")
