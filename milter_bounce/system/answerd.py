"""answerd - answers the MTA's questions from what is remembered, at once or not at all.

SYNOPSIS
    milter-bounce answerd [-c CONF]

DESCRIPTION
    Listens on three sockets (section [answer]):

    socket         socketmap. Map ``status``: Postfix's delivery status filter; map ``compat``: Sendmail's check_compat.
    gate_socket    memcached text protocol: the queue gate, asked by a trivial-rewrite that only qmgr uses.
    policy_socket  check_policy_service: refuses suppressed recipients at submission.

    In mode advise every answer is "no opinion", but for the annotation (annotate = true). In mode enforce the sections
    [gate], [correct] and [policy] say what is answered, and [due] has messages tried when they fall due.

SIGNALS
    HUP reads configuration and rules again; broken ones leave the old in force and log why. TERM and INT end the
    program.

DIAGNOSTICS
    One warning when the store cannot be read, one line when it can again; a line for each correction and each probe.
    Exit status 0 after TERM, 1 when a socket cannot be had, 2 for a wrong configuration (one line).

LIMITS
    One event loop that waits for nothing: the store is read without waiting for locks, the DNS is never asked, log
    lines go through a thread. Connections, question sizes and idle times are limited (protocol/*, system/serve).

SECURITY
    Sockets have mode 0660 and the group answer.socket_group. Text from outside is escaped before it is answered or
    logged.

BUGS
    Postfix's gate asks about addresses, not messages. A used-up schedule is answered (5.4.7) only in the seconds after
    [due] had its message tried; a fresh message to the same recipient that enters the queue in these very seconds - or
    within 30 s on a host with no other mail, for so long the queue manager repeats its resolver's last answer - may go
    back in its place. gate.give_up = false leaves all returning to Postfix's maximal_queue_lifetime.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import signal
import sys
from typing import TYPE_CHECKING, Any

from milter_bounce.config import ConfigError
from milter_bounce.decide.rule_toml import RulesError
from milter_bounce.protocol import memcache, policy, socketmap

from .advising import make_store
from .answers import Answers, Powers
from .due import Awaited, Flusher
from .heartbeat import EVERY_S, Heartbeat
from .maillog import MailLog
from .memory import settle
from .nanny import drop_privileges
from .queue import make_queue
from .rulefiles import load_rules
from .serve import Server, Service
from .settings import load_settings

if TYPE_CHECKING:
    from pathlib import Path

    from milter_bounce.config import Settings


def make_answers(settings: Settings, say: Any) -> Answers:
    """Return what answers questions under these settings.

    Raises:
        RulesError: broken rules.
    """
    unhurried = settings.model_copy(update={"store": settings.store.model_copy(update={"lock_wait_s": 0.0})})
    store = make_store(unhurried)
    store.keep_view()
    return Answers(Powers.of(settings), store, load_rules(settings), say)


class Program:
    """answerd from start to end: its sockets, its answers, its reloads."""

    def __init__(self, settings: Settings, config_path: Path | None, lines: MailLog) -> None:
        self._settings, self._config_path, self._lines = settings, config_path, lines
        self._answers = make_answers(settings, lines.say)
        self._heart = Heartbeat()
        self._flusher: Flusher | None = None
        self._awaited = Awaited()
        section = settings.answer
        limits = (section.connections, section.idle_s, section.request_s, lines.warning)
        wires = (
            ("socketmap", section.socket, socketmap.Connection),
            ("gate", section.gate_socket, memcache.Connection),
            ("policy", section.policy_socket, policy.Connection),
        )
        self.services = [Service(name, address, core, lambda _: b"", *limits) for name, address, core in wires]
        self._put_to_work()

    def _put_to_work(self) -> None:
        """Let the services answer with the answers in force, and the flusher follow the settings in force."""
        to_socketmap, to_gate, to_policy = self.services
        self._answers.awaited = self._awaited
        to_socketmap.answer = self._answers.on_socketmap
        to_gate.answer = self._answers.on_memcache
        to_policy.answer = self._answers.on_policy

    async def serve(self) -> None:
        """Serve until TERM or INT.

        Raises:
            OSError: a socket cannot be had.
            ConfigError: the user to become does not exist.
        """
        stop, loop = asyncio.Event(), asyncio.get_running_loop()
        tasks: set[asyncio.Task[None]] = set()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        loop.add_signal_handler(signal.SIGHUP, lambda: tasks.add(loop.create_task(self._reload())))
        async with Server(self.services, self._settings.answer.socket_group, self._settings.user) as server:
            drop_privileges(self._settings)
            await server.accept()
            self._start_flusher()
            settle()
            self._heart.ready()
            listening = ", ".join(s.address for s in self.services if s.address)
            self._lines.say(f"started, mode {self._settings.mode}, listening on {listening}")
            while not stop.is_set():
                self._heart.beat()
                self._answers.rest()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), EVERY_S)
            self._heart.stopping()
        self._stop_flusher()

    async def _reload(self) -> None:
        """Read configuration and rules again; keep the old ones where the new are broken."""
        try:
            settings = await asyncio.to_thread(load_settings, self._config_path)
            answers = await asyncio.to_thread(make_answers, settings, self._lines.say)
        except (ConfigError, RulesError) as error:
            self._lines.say(f"warning: not reloaded, the old settings stay in force: {error}")
            return
        if settings.answer != self._settings.answer:
            self._lines.say("warning: section [answer] changed: sockets and limits change at the next start only")
        self._settings, self._answers = settings, answers
        self._put_to_work()
        self._stop_flusher()
        self._start_flusher()
        settle()
        self._lines.say(f"reloaded, mode {settings.mode}")

    def _start_flusher(self) -> None:
        settings = self._settings
        if settings.mode != "enforce" or not settings.due.enabled:
            return
        mta = make_queue(settings.due)
        if mta is None:
            self._lines.say(
                "warning: neither postqueue(1) nor due.sendmail_command is there: "
                "what falls due waits for the MTA's own queue runs"
            )
            return
        self._flusher = Flusher(make_store(settings), mta, settings.due, self._lines.say, awaited=self._awaited)
        self._flusher.start()

    def _stop_flusher(self) -> None:
        if self._flusher is not None:
            self._flusher.stop()
            self._flusher = None


def _raise_descriptor_limit(wanted: int) -> None:
    """Let the process open as many sockets as its limits of connections need, as far as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    target = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < target:
        with contextlib.suppress(OSError, ValueError):  # fewer connections are no reason not to serve
            resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))


def main(settings: Settings, config_path: Path | None = None, **_options: Any) -> int:
    """Run answerd until it is told to end; return the exit status."""
    lines = MailLog(settings.log, "answerd")
    try:
        _raise_descriptor_limit(3 * settings.answer.connections + 100)
        asyncio.run(Program(settings, config_path, lines).serve())
    except (ConfigError, RulesError) as error:
        sys.stderr.write(f"milter-bounce answerd: {error}\n")
        return 2
    except OSError as error:
        sys.stderr.write(f"milter-bounce answerd: {error}\n")
        return 1
    finally:
        lines.close()
    return 0
