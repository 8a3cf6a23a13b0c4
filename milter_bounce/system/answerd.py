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
    HUP reads configuration and rules again; broken ones leave the old in force and log why, and what only a restart
    puts in force is named. TERM and INT end the program.

DIAGNOSTICS
    One warning when the store cannot be read, one line when it can again; a line for each correction and each probe.
    Exit status 0 after TERM, 1 when a socket cannot be had, 2 for a wrong configuration, also where something else than
    a socket stands at a socket's path (one line).

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
import grp
import resource
import signal
import sys
from typing import TYPE_CHECKING, Any

from milter_bounce.config import ConfigError
from milter_bounce.decide.rule_toml import RulesError
from milter_bounce.escape import harmless
from milter_bounce.protocol import memcache, policy, socketmap
from milter_bounce.verdict import printable

from .advising import make_store
from .answers import Answers, Powers
from .due import Awaited, Flusher
from .heartbeat import EVERY_S, Heartbeat
from .maillog import MailLog
from .memory import settle
from .nanny import drop_privileges
from .queue import make_queue
from .reloading import renewed, tell_at_start
from .rulefiles import load_rules
from .serve import Server, Service
from .settings import load_settings, name_of
from .sockets import NoSocketError

if TYPE_CHECKING:
    from collections.abc import Iterable
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
        self._began = self._settings = settings
        self._config_path, self._lines = config_path, lines
        self._answers = make_answers(settings, lines.say)
        self._heart = Heartbeat()
        self._flusher: Flusher | None = None
        self._awaited = Awaited()
        self._reloading: asyncio.Task[None] | None = None
        self._again = False
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
            NoSocketError: what stands in a socket's place is none.
            OSError: a socket cannot be had.
            ConfigError: the user to become, or the group of the sockets, does not exist.
        """
        _require_group(self.services, self._settings.answer.socket_group, self._config_path)
        stop, loop = asyncio.Event(), asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        loop.add_signal_handler(signal.SIGHUP, self.hang_up)
        async with Server(self.services, self._settings.answer.socket_group, self._settings.user) as server:
            drop_privileges(self._settings, self._config_path)
            await server.accept()
            self._put_flusher_to_work(self._make_flusher(self._settings))
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
        self._put_flusher_to_work(None)

    def hang_up(self) -> None:
        """Have configuration and rules read again, once more where that is under way: the last file that was there counts."""
        self._again = True
        if self._reloading is None or self._reloading.done():
            self._reloading = asyncio.get_running_loop().create_task(self._reload_all())

    async def _reload_all(self) -> None:
        while self._again:
            self._again = False
            try:
                await self._reload()
            except Exception as error:  # what is in force answers on, and the next HUP is heard
                self._lines.say(f"error: the reload ended half way: {printable(repr(error))}; please report this")

    async def _reload(self) -> None:
        """Read configuration and rules again; keep the old ones where the new are broken."""

        def make() -> tuple[Settings, Answers, Flusher | None]:
            settings = load_settings(self._config_path)
            return settings, make_answers(settings, self._lines.say), self._make_flusher(settings)

        fresh = await asyncio.to_thread(renewed, make, self._warn)
        if fresh is None:
            return
        self._settings, self._answers, flusher = fresh
        self._put_to_work()
        self._put_flusher_to_work(flusher)
        settle()
        self._lines.say(f"reloaded, mode {self._settings.mode}")
        tell_at_start("answerd", self._began, self._settings, self._warn)

    def _warn(self, text: str) -> None:
        self._lines.say(f"warning: {text}")

    def _make_flusher(self, settings: Settings) -> Flusher | None:
        if settings.mode != "enforce" or not settings.due.enabled:
            return None
        mta = make_queue(settings.due)
        if mta is None:
            self._lines.say(
                "warning: neither postqueue(1) nor due.sendmail_command is there: "
                "what falls due waits for the MTA's own queue runs"
            )
            return None
        return Flusher(make_store(settings), mta, settings.due, self._lines.say, awaited=self._awaited)

    def _put_flusher_to_work(self, flusher: Flusher | None) -> None:
        """Let this one wake the queue, and no other."""
        if self._flusher is not None:
            self._flusher.stop()
        self._flusher = flusher
        if flusher is not None:
            flusher.start()


def _require_group(services: Iterable[Service], group: str, config_path: Path | None) -> None:
    """Tell a group that does not exist before any socket is made.

    Raises:
        ConfigError: one of the sockets is to be given to it.
    """
    if not group or not any(service.address.startswith("unix:") for service in services):
        return
    try:
        grp.getgrnam(group)
    except KeyError:
        raise ConfigError(
            f"{name_of(config_path)}: answer.socket_group = {group!r}: no such group; "
            "name the one that the MTA's services run as, or leave it empty"
        ) from None


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
    except (ConfigError, RulesError, NoSocketError) as error:
        sys.stderr.write(f"milter-bounce answerd: {harmless(str(error))}\n")
        return 2
    except OSError as error:
        sys.stderr.write(f"milter-bounce answerd: {harmless(str(error))}\n")
        return 1
    finally:
        lines.close()
    return 0
