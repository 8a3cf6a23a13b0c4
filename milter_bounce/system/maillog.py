"""The mail log as all programs use it: a line is handed over at once, a thread writes it.

Goes in: finished lines (``verdict.log_line``). Goes out: in their order through a
``logoutput.LogOutput``, whatever time that takes. Does not wait in its callers:
answers and the heartbeat never stand behind a log that hangs or is away.

What the log does not take waits, `LINES_WAITING` lines at most. Beyond, lines are
lost, counted, and told once the log takes lines again. At an orderly end `close`
writes what waits; a program that is killed loses it.

Threads and forks: the thread begins with the first line, in the process that says
it; a forked child begins anew, with its own process number and nothing of its
parent's lines.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, Final

from milter_bounce import limits
from milter_bounce.verdict import printable

from .logoutput import Line, LogOutput

if TYPE_CHECKING:
    from milter_bounce.config import LogSection

LINE_LIMIT: Final = limits.WRITTEN_LINE
LINES_WAITING: Final = limits.LINES_WAITING

LINES_AT_ONCE: Final = 500
"""Lines that the thread takes in one turn: each turn costs the callers the interpreter's lock for a moment."""

AGAIN_S: Final = 0.2
"""Seconds between two tries of a log that takes no lines."""

LEAVE_S: Final = 2.0
"""Seconds that an orderly end waits for the log: milterd's parent kills it after five."""

SPOKEN: Final = frozenset({"warning", "error", "info"})
"""Words that set the severity in front of a line, see `MailLog.say`."""


class MailLog:
    """One program's way into the MTA's log; safe to use from several threads. Raises nothing.

    Args:
        settings: section ``[log]``.
        program: name behind the slash: ``milterd``, ``logd`` ...
    """

    def __init__(self, settings: LogSection, program: str) -> None:
        self._settings, self._program = settings, program
        self._begin()

    def _begin(self) -> None:
        """Begin with nothing said, in the process that runs now."""
        self._process = os.getpid()
        self._output = LogOutput(self._settings, self._program)
        self._waiting: deque[Line] = deque()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._lost = 0
        self._ends = False

    @property
    def output(self) -> str:
        """Where lines go at present: ``postlog``, ``syslog``, ``stdout`` or ``file``."""
        return self._output.kind

    def line(self, text: str, severity: str = "info") -> bool:
        """Hand one line over and return at once whether there was room for it.

        Control characters are escaped here once more, so that no caller can forget it.
        """
        safe = printable(text, LINE_LIMIT) if not text.isprintable() or len(text) > LINE_LIMIT else text
        if self._process != os.getpid():
            self._begin()
        with self._changed:
            if len(self._waiting) >= LINES_WAITING:
                self._lost += 1
                return False
            self._waiting.append(Line(safe if severity == "info" else f"{severity}: {safe}", severity, time.time()))
            if self._thread is None:
                self._start()
            if len(self._waiting) == 1:  # with more it is at work
                self._changed.notify_all()
        return True

    def warning(self, text: str) -> bool:
        """Hand over a line that somebody should look at."""
        return self.line(text, "warning")

    def say(self, text: str) -> bool:
        """Hand over a line that may state its severity itself: ``warning: ``, ``error: `` or ``info: `` in front."""
        severity, colon, rest = text.partition(": ")
        return self.line(rest, severity) if colon and severity in SPOKEN else self.line(text)

    def room(self, wait_s: float) -> bool:
        """Wait until there is room for a line, `wait_s` at most; return whether there is."""
        if self._process != os.getpid():
            return True
        with self._changed:
            return self._changed.wait_for(lambda: len(self._waiting) < LINES_WAITING, wait_s)

    def flush(self, wait_s: float = LEAVE_S) -> bool:
        """Wait until everything said is written, `wait_s` at most; return whether it is."""
        if self._process != os.getpid():
            return True
        with self._changed:
            return self._changed.wait_for(lambda: not self._waiting, wait_s)

    def close(self, wait_s: float = LEAVE_S) -> bool:
        """Write what waits, `wait_s` at most, and let the thread go; return whether all was written.

        The log may be used again all the same.
        """
        done = self.flush(wait_s)
        thread = self._thread if self._process == os.getpid() else None
        if thread is not None:
            with self._changed:
                self._ends = True
                self._changed.notify_all()
            thread.join(wait_s if done else 0)
            atexit.unregister(self.close)
        return done

    # -- the thread; `_start` and `_next` hold the lock ---------------------------

    def _start(self) -> None:
        self._ends = False
        thread = threading.Thread(target=self._run, name="log", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # no more threads to be had: the next line tries again
            return
        self._thread = thread
        atexit.register(self.close)

    def _run(self) -> None:
        while lines := self._next():
            try:
                taken = self._output.write(lines)
            except Exception:  # whatever is wrong with this line, the next ones must not wait for it
                self._took(1, lost=1)
                continue
            if taken:
                self._tell_lost()
                self._took(taken)
            else:
                self._rest()

    def _next(self) -> tuple[Line, ...]:
        """Return lines to write once there are any; none when the thread is to end.

        While lost ones are to be told of it is one line: the first that the log takes again is followed by that.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._ends)
            if self._ends:
                self._output.close()
                self._thread = None
                return ()
            return tuple(islice(self._waiting, 1 if self._lost else LINES_AT_ONCE))

    def _took(self, number: int, lost: int = 0) -> None:
        """Take off the first `number` of lines; only this thread takes lines off, so they are what was written."""
        with self._changed:
            for _ in range(number):
                self._waiting.popleft()
            self._lost += lost
            self._changed.notify_all()

    def _tell_lost(self) -> None:
        """Tell how many lines had no room; they stay counted while the log does not take that either."""
        with self._changed:
            lost = self._lost
        told = Line(f"warning: {lost} lines were lost while the log was away", "warning", time.time())
        if lost and self._output.write((told,)):
            with self._changed:
                self._lost -= lost

    def _rest(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._ends, AGAIN_S)
