"""supervise - runs all programs, starts those anew that die, ends those that hang.

SYNOPSIS
    milter-bounce run [-c CONF] [--only PROGRAM]... [--events jsonl]

DESCRIPTION
    Starts milterd, answerd, logd and dnsd as processes of their own. One that dies is
    started again, after 0.5 s at first and twice as long each time it dies early, up to
    30 s; one that has run for a minute starts from 0.5 s again. Each program writes signs
    of life into a pipe (heartbeat.py); one that falls silent is ended, at the latest 5 s
    after its last sign of life, and started again: a status filter that hangs costs
    Postfix 100 s a recipient, one that is gone costs nothing.

    Under systemd (Type=notify) READY=1 is sent once every program serves, WATCHDOG=1
    while this process lives; the programs' own messages are not passed on. With --events
    each outcome comes out as a line of JSON on standard output, from milterd and logd.

SIGNALS
    HUP goes on to every program: they read configuration and rules again. TERM and INT
    end all of them; what has not ended after 8 s is killed.

DIAGNOSTICS
    A line in the mail log for every start anew, with the reason. Exit status 0 after
    TERM; 2 when a program refuses its configuration at the very first start.

LIMITS
    Four programs. A program that refuses its configuration later on is tried again every
    30 s.

SECURITY
    Runs as root only to hand that on: each program drops its privileges by itself, and
    this process reads nothing from outside but single bytes from its children.
"""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from .heartbeat import PIPE_VARIABLE, STALL_S, notify_systemd
from .maillog import MailLog

if TYPE_CHECKING:
    from pathlib import Path
    from types import FrameType

    from milter_bounce.config import Settings

PROGRAMS: Final = ("milterd", "answerd", "logd", "dnsd")
EVENTFUL: Final = frozenset({"milterd", "logd"})
FIRST_REST_S: Final = 0.5
LONGEST_REST_S: Final = 30.0
STEADY_S: Final = 60.0
"""A program that has run so long is thought well: its next death is a first one."""

LEAVE_S: Final = 8.0
"""libmilter takes 4 s to leave (sendmail/SENDMAIL.md, pitfall 7), milterd's own parent allows 5."""

PATIENCE_S: Final = 15.0
"""A program that has lived so long counts as serving, though it has not said so."""

TURN_S: Final = 0.25
WRONG_CONFIGURATION: Final = 2


@dataclass
class Child:
    """One program: its process, its pipe, its record."""

    name: str
    command: list[str]
    process: subprocess.Popen[bytes] | None = None
    pipe: int = -1
    started: float = 0.0
    seen: float = 0.0
    ready: bool = False
    rest_s: float = FIRST_REST_S
    start_at: float = 0.0
    starts: int = 0
    reason: str = field(default="")

    def stalled(self, now: float) -> bool:
        """Return whether it served once and has given no sign of life for too long."""
        return self.ready and now - self.seen > STALL_S


class Supervisor:
    """Keeps the programs running.

    Args:
        commands: program -> its command line.
        log: where starts and ends are told.
    """

    def __init__(self, commands: dict[str, list[str]], log: MailLog) -> None:
        self.children = [Child(name, command) for name, command in commands.items()]
        self._log = log
        self._selector = selectors.DefaultSelector()
        self._stopping = False
        self._announced = False

    # -- signals -----------------------------------------------------------------

    def stop(self, number: int = 0, frame: FrameType | None = None) -> None:
        """End all programs, then return from `run`."""
        del number, frame
        self._stopping = True

    def hang_up(self, number: int = 0, frame: FrameType | None = None) -> None:
        """Have every program read its configuration again."""
        del number, frame
        for child in self.children:
            if child.process and child.process.poll() is None:
                child.process.send_signal(signal.SIGHUP)

    # -- the loop ------------------------------------------------------------------

    def run(self) -> int:
        """Keep the programs running until told to stop; return the exit status."""
        try:
            while not self._stopping:
                now = time.monotonic()
                for child in self.children:
                    if child.process is None and now >= child.start_at:
                        self._start(child)
                self._listen()
                status = self._look_after()
                if status:
                    return status
                self._announce()
        finally:
            notify_systemd("STOPPING=1")
            self._end_all()
            self._log.close()
        return 0

    def _start(self, child: Child) -> None:
        reading, writing = os.pipe()
        environ = {k: v for k, v in os.environ.items() if k not in {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"}}
        try:
            child.process = subprocess.Popen(
                child.command,
                env=environ | {PIPE_VARIABLE: str(writing)},
                pass_fds=(writing,),
                stdin=subprocess.DEVNULL,
                # a group of its own, so that a program that hangs ends together with what it has started
                process_group=0,
            )
        except OSError as error:
            os.close(reading)
            child.reason = f"cannot be started: {child.command[0]}: {error.strerror} (for user {os.geteuid()})"
            self._again(child)
            return
        finally:
            os.close(writing)
        os.set_blocking(reading, False)
        self._selector.register(reading, selectors.EVENT_READ, child)
        child.pipe, child.ready = reading, False
        child.started = child.seen = time.monotonic()
        child.starts += 1

    def _listen(self) -> None:
        """Take in the signs of life that come within one turn."""
        for key, _ in self._selector.select(TURN_S):
            child: Child = key.data
            try:
                data = os.read(child.pipe, 4096)
            except BlockingIOError:
                continue
            if data:
                child.seen = time.monotonic()
                child.ready = child.ready or b"R" in data
            else:
                # the end of the pipe comes before the end of the process: poll() tells the rest
                self._selector.unregister(child.pipe)

    def _look_after(self) -> int:
        """Note who died and end who hangs; return an exit status to leave with, or 0."""
        now = time.monotonic()
        for child in self.children:
            if child.process is None:
                continue
            status = child.process.poll()
            if status is not None:
                if status == WRONG_CONFIGURATION and not child.ready and child.starts == 1:
                    self._forget(child)
                    return status
                child.reason = f"ended by signal {-status}" if status < 0 else f"ended with status {status}"
                self._again(child)
            elif child.stalled(now):
                self._kill(child)
                child.process.wait()
                child.reason = f"hung: no sign of life for {now - child.seen:.1f} s, killed"
                self._again(child)
        return 0

    def _again(self, child: Child) -> None:
        """Line a program up for its next start."""
        now = time.monotonic()
        if child.process is not None:
            self._kill(child)  # what it has started must not outlive it: the next one needs the same sockets
            if now - child.started >= STEADY_S:
                child.rest_s = FIRST_REST_S
        self._forget(child)
        child.start_at = now + child.rest_s
        self._log.warning(f"{child.name} {child.reason}; starting it again in {child.rest_s:.1f} s")
        child.rest_s = min(child.rest_s * 2, LONGEST_REST_S)

    def _forget(self, child: Child) -> None:
        if child.pipe >= 0:
            if child.pipe in self._selector.get_map():
                self._selector.unregister(child.pipe)
            os.close(child.pipe)
        child.pipe, child.process, child.ready = -1, None, False

    @staticmethod
    def _kill(child: Child) -> None:
        assert child.process is not None  # noqa: S101 - only called for one that was started
        try:
            os.killpg(child.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return

    def _announce(self) -> None:
        """Tell systemd that everything serves, once, and from then on that we live."""
        now = time.monotonic()
        if not self._announced and all(
            child.ready or (child.process is not None and now - child.started > PATIENCE_S) for child in self.children
        ):
            self._announced = True
            notify_systemd(f"READY=1\nSTATUS=running: {', '.join(child.name for child in self.children)}")
            self._log.line(f"running: {', '.join(child.name for child in self.children)}")
        notify_systemd("WATCHDOG=1")

    def _end_all(self) -> None:
        """End every program in good order; kill what stays."""
        running = [child for child in self.children if child.process is not None]
        for child in running:
            if child.process and child.process.poll() is None:
                child.process.terminate()
        end = time.monotonic() + LEAVE_S
        for child in running:
            process = child.process
            if process is None:
                continue
            try:
                process.wait(max(0.0, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                self._log.warning(f"{child.name} did not leave within {LEAVE_S:.0f} s and is killed")
            self._kill(child)
            process.wait()
            self._forget(child)
        self._selector.close()


def commands(config_path: Path | None, only: tuple[str, ...] = (), *, events: bool = False) -> dict[str, list[str]]:
    """Return the command line of each program; with `events` those that can print each outcome."""
    conf = ["-c", str(config_path)] if config_path else []
    told = {name: ["--events", "jsonl"] if events and name in EVENTFUL else [] for name in PROGRAMS}
    names = [name for name in PROGRAMS if not only or name in only]
    return {name: [sys.executable, "-m", "milter_bounce", name, *conf, *told[name]] for name in names}


def main(
    settings: Settings, config_path: Path | None = None, *, only: tuple[str, ...] = (), events: bool = False
) -> int:
    """Run all programs until TERM; return the exit status."""
    wanted = commands(config_path, only, events=events)
    if not settings.milter.socket:
        wanted.pop("milterd", None)  # an empty socket switches a service off
    supervisor = Supervisor(wanted, MailLog(settings.log, "run"))
    signal.signal(signal.SIGTERM, supervisor.stop)
    signal.signal(signal.SIGINT, supervisor.stop)
    signal.signal(signal.SIGHUP, supervisor.hang_up)
    return supervisor.run()
