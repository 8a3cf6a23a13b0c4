"""Writer of advice lines: into the log that the MTA itself writes.

Goes in: finished lines (``verdict.log_line``). Goes out: to Postfix's own log
through the datagram socket ``public/postlog`` where ``maillog_file`` is set, to
the syslog socket with facility mail, to standard output or to a file.

Does not wait: a log that is away or full costs a line, never mail; what was
lost is counted and told once the log is back.

Why the socket and not postlog(1): on Debian 12 postlog(1) is not set-gid, so a
user without group postdrop writes nothing and gets no error (DESIGN.md section 2).
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from milter_bounce import limits
from milter_bounce.verdict import printable

if TYPE_CHECKING:
    from milter_bounce.config import LogSection

FACILITY_MAIL: Final = 2 << 3
SEVERITY: Final = {"info": 6, "warning": 4, "error": 3, "notice": 5}
LINE_LIMIT: Final = limits.WRITTEN_LINE

CHOOSE_AGAIN_S: Final = 5.0
"""Seconds between two looks at where lines should go."""


def _has_maillog_file(queue_directory: Path) -> bool:
    """Return whether Postfix's postlog service listens for us: its socket exists and may be written."""
    return os.access(queue_directory / "public" / "postlog", os.W_OK)


class MailLog:
    """One program's way into the MTA's log; safe to use from several threads.

    Args:
        settings: section ``[log]``.
        program: name behind the slash: ``milterd``, ``logd`` ...
    """

    def __init__(self, settings: LogSection, program: str) -> None:
        self._settings = settings
        self._tag = f"milter-bounce/{program}[{os.getpid()}]"
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._lost = 0
        self._chosen = time.monotonic()
        self.output = self._choose()

    def _choose(self) -> str:
        """Return where lines go; Postfix may start after us, so "auto" asks again from time to time."""
        if self._settings.output != "auto":
            return self._settings.output
        if _has_maillog_file(Path(self._settings.queue_directory)):
            return "postlog"
        return "syslog" if Path(self._settings.syslog_socket).exists() else "stdout"

    def line(self, text: str, severity: str = "info") -> bool:
        """Write one line; return whether it was handed over. Raises nothing.

        Control characters are escaped here once more, so that no caller can forget it.
        """
        safe = printable(text, LINE_LIMIT) if not text.isprintable() or len(text) > LINE_LIMIT else text
        with self._lock:
            if self._lost or time.monotonic() - self._chosen > CHOOSE_AGAIN_S:
                self._choose_again()
            if self._lost and self._write(f"warning: {self._lost} lines were lost while the log was away", "warning"):
                self._lost = 0
            sent = self._write(safe if severity == "info" else f"{severity}: {safe}", severity)
            self._lost += not sent
        return sent

    def _choose_again(self) -> None:
        self._chosen = time.monotonic()
        if (output := self._choose()) != self.output:
            self.output = output
            self._close()

    def warning(self, text: str) -> bool:
        """Write one line that somebody should look at."""
        return self.line(text, "warning")

    def _write(self, text: str, severity: str) -> bool:
        try:
            if self.output == "syslog":
                self._send(self._settings.syslog_socket, f"<{FACILITY_MAIL | SEVERITY[severity]}>", text)
            elif self.output == "postlog":
                stamped = time.strftime("%b %e %H:%M:%S ") + socket.gethostname().split(".")[0] + " "
                self._send(str(Path(self._settings.queue_directory) / "public" / "postlog"), stamped, text)
            elif self.output == "file":
                self._append(text)
            else:
                sys.stdout.write(f"{self._tag}: {text}\n")
                sys.stdout.flush()
        except (OSError, ValueError) as error:
            self._close()
            if not self._lost:
                self._complain(error)
            return False
        return True

    def _complain(self, error: Exception) -> None:
        """Tell standard error that lines are being lost; once, until the log is back."""
        settings = self._settings
        postlog = f"{settings.queue_directory}/public/postlog"
        place = {"file": settings.output_file, "syslog": settings.syslog_socket, "postlog": postlog}.get(self.output)
        why = getattr(error, "strerror", None) or error
        remedy = "free or make the place" if self.output == "file" else "start what listens there"
        remedy = "let our user write there" if isinstance(error, PermissionError) else remedy
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(
                f"{self._tag}: lines for the mail log are lost: {place or 'standard output'}: {why}; {remedy}, "
                "or set log.output\n"
            )
            sys.stderr.flush()

    def _send(self, path: str, head: str, text: str) -> None:
        """Send one datagram; a socket that was made anew (syslog or Postfix restarted) is found again."""
        payload = f"{head}{self._tag}: {text}".encode("utf-8", "backslashreplace")
        for fresh in (False, True):
            if self._socket is None or fresh:
                self._close()
                self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
                self._socket.settimeout(0.5)
                self._socket.connect(path)
            try:
                self._socket.send(payload)
            except OSError:
                if fresh:
                    raise
            else:
                return

    def _append(self, text: str) -> None:
        stamped = datetime.now().astimezone().isoformat(timespec="microseconds")
        line = f"{stamped} {socket.gethostname()} {self._tag}: {text}\n".encode("utf-8", "backslashreplace")
        target = os.open(self._settings.output_file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o640)
        try:
            os.write(target, line)
        finally:
            os.close(target)

    def _close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
