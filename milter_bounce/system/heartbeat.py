"""Sign of life of a program: to `milter-bounce run` over a pipe, to systemd over its socket.

SYNOPSIS
    heart = Heartbeat()
    heart.ready()          once it serves
    heart.beat()           at least every second from the loop that must not stall

DESCRIPTION
    ``milter-bounce run`` hands each program the writing end of a pipe in
    MILTER_BOUNCE_HEARTBEAT; a program that has said "ready" and then stays
    silent for `STALL_S` is ended and started again. Under systemd READY=1 and
    WATCHDOG=1 go to NOTIFY_SOCKET (sd_notify(3)); no library is needed.
    Without either nothing is written.

LIMITS
    A beat never waits: one that finds the pipe full is dropped. When nobody reads the
    pipe any more, the program's process group gets SIGTERM.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from typing import Final

PIPE_VARIABLE: Final = "MILTER_BOUNCE_HEARTBEAT"
STALL_S: Final = 4.0
"""Silence after which a program counts as hung: DESIGN.md section 2 wants it ended within 5 s."""

EVERY_S: Final = 0.5
"""More beats in this time are left out: they would tell nothing new."""


def notify_systemd(text: str, environ: os._Environ[str] | dict[str, str] | None = None) -> bool:
    """Send a state to systemd; return whether there was one to send it to. Raises nothing."""
    address = (environ if environ is not None else os.environ).get("NOTIFY_SOCKET", "")
    if not address:
        return False
    # "@" stands for an abstract socket (sd_notify(3))
    target = "\0" + address[1:] if address[0] == "@" else address
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.setblocking(False)
            sender.connect(target)
            sender.send(text.encode())
    except OSError:
        return False
    return True


class Heartbeat:
    """One program's sign of life. Raises nothing, whatever became of the other side."""

    def __init__(self) -> None:
        self._last = 0.0
        self._pipe: int | None = None
        with contextlib.suppress(KeyError, ValueError, OSError):
            self._pipe = int(os.environ[PIPE_VARIABLE])
            os.set_blocking(self._pipe, False)
            os.set_inheritable(self._pipe, False)

    def ready(self) -> None:
        """Tell that the program serves; from now on silence counts as a stall."""
        self._write(b"R")
        notify_systemd("READY=1")

    def beat(self) -> None:
        """Tell that the program is alive; cheap enough for every turn of a loop."""
        now = time.monotonic()
        if now - self._last >= EVERY_S:
            self._last = now
            self._write(b"B")
            notify_systemd("WATCHDOG=1")

    def stopping(self) -> None:
        """Tell that the program ends because it was asked to."""
        self._write(b"S")
        notify_systemd("STOPPING=1")

    def _write(self, byte: bytes) -> None:
        if self._pipe is None:
            return
        try:
            os.write(self._pipe, byte)
        except BlockingIOError:
            pass
        except OSError:
            # nobody reads: `milter-bounce run` was killed. The next one needs our sockets, so the whole group leaves.
            self._pipe = None
            os.killpg(0, signal.SIGTERM)
