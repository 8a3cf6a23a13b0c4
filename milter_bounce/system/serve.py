"""Sockets for protocol cores: one event loop, many connections, nobody waits.

Goes in: a listening address, a protocol core (``protocol``) and a function that
answers its events at once. Does not: know what is asked.

Limits: connections per socket; a question that has begun must end within
`request_s`, a silent connection is closed after `idle_s`; a client that asks
and never reads is not read from any more. Whoever is closed gets "no opinion"
by the MTA's own rules. A socket that another program listens on is never taken
from it, and what is no socket is never replaced; a unix socket of ours that vanished is made again at the next sweep.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import grp
import os
import pwd
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, Self

from milter_bounce import limits
from milter_bounce.protocol import ProtocolError

from .sockets import TAKEN, NoSocketError, file_at, folder_remedy, listened, refuse_other

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

SWEEP_S: Final = 1.0
BACKLOG: Final = 1024
"""Connections that may wait to be accepted: all delivery agents of a busy host at once."""


class Core(Protocol):
    """What a protocol core is to a socket."""

    @property
    def pending(self) -> bool:
        """Whether a question has begun and not ended."""

    def receive(self, data: bytes) -> Iterable[Any]:
        """Yield the questions that are complete."""


@dataclass(slots=True)
class Service:
    """One listening socket: what is spoken on it, who answers, and its limits."""

    name: str
    address: str
    """``unix:/path`` or ``inet:PORT@HOST``."""

    core: Callable[[], Core]
    answer: Callable[[Any], bytes | None]
    """Makes the bytes of an answer; None closes the connection."""

    connections: int = limits.CONNECTIONS
    idle_s: float = limits.IDLE_S
    request_s: float = limits.REQUEST_S
    warn: Callable[[str], object] = print
    open: set[_Conversation] = field(default_factory=set)
    refused: int = 0
    """Connections that were one too many."""

    broken: int = 0
    """Conversations that ended in bytes that are no question."""

    now: float = 0.0
    """The loop's time at the last sweep: near enough for time limits of seconds."""


class _Conversation(asyncio.Protocol):
    """One connection: bytes to the core, events to the answerer, bytes back."""

    __slots__ = ("_core", "_service", "_transport", "begun", "heard")

    def __init__(self, service: Service) -> None:
        self._service, self._core = service, service.core()
        self._transport: asyncio.Transport | None = None
        self.heard = service.now
        self.begun: float | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - stream servers only
        self._transport = transport
        service = self._service
        if len(service.open) >= service.connections:
            service.refused += 1
            if service.refused & (service.refused - 1) == 0:  # 1, 2, 4 ...: a flood fills no log
                service.warn(f"{service.name}: more than {service.connections} connections; {service.refused} refused")
            transport.abort()
            return
        service.open.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._service.open.discard(self)

    def data_received(self, data: bytes) -> None:
        service, transport = self._service, self._transport
        answers: list[bytes] = []
        if transport is None:
            return
        try:
            for event in self._core.receive(data):
                answer = service.answer(event)
                if answer is None:
                    self._finish(answers)
                    return
                answers.append(answer)
        except ProtocolError as error:
            service.broken += 1
            self._finish([*answers, error.reply])
            return
        self.heard = service.now
        if not self._core.pending:
            self.begun = None
        elif answers or self.begun is None:
            self.begun = service.now
        if answers:
            transport.write(answers[0] if len(answers) == 1 else b"".join(answers))

    def _finish(self, answers: list[bytes]) -> None:
        """Send what is to be said, then close."""
        if self._transport is not None:
            self._transport.write(b"".join(answers))
            self._transport.close()

    def pause_writing(self) -> None:
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        if self._transport is not None:
            self._transport.resume_reading()

    def overdue(self, now: float) -> bool:
        """Return whether a question takes too long to end, or nothing was heard for too long."""
        service = self._service
        return now - self.heard > service.idle_s or (self.begun is not None and now - self.begun > service.request_s)

    def end(self) -> None:
        """Close at once, whatever is still to be written."""
        if self._transport is not None:
            self._transport.abort()


@dataclass(frozen=True, slots=True)
class Owner:
    """Whom sockets and their folder belong to; an empty name leaves user or group as they are."""

    user: str = ""
    group: str = ""

    def give(self, path: Path) -> None:
        """Make `path` theirs, where it is not yet; the user only where we are root and may.

        Nothing is asked of the system for nothing: systemd's filters forbid chown(2) even where it changes nothing.

        Raises:
            OSError: there is no such group, or it is not ours to give to.
        """
        uid = gid = -1
        with contextlib.suppress(KeyError):
            uid = pwd.getpwnam(self.user).pw_uid if self.user and os.geteuid() == 0 else -1
        try:
            gid = grp.getgrnam(self.group).gr_gid if self.group else -1
        except KeyError:  # answerd looks before it begins; it went since
            raise OSError(0, f"no group {self.group}; set answer.socket_group") from None
        facts = path.stat()
        if uid not in {-1, facts.st_uid} or gid not in {-1, facts.st_gid}:
            os.chown(path, uid, gid)


def _unix_socket(path: Path, owner: Owner) -> socket.socket:
    """Return a listening socket at `path`: folder made, mode 0660, group set, then moved over what stood there.

    Moved, not bound in place: an old socket needs no removal. Anything else that stands there is not ours to replace.
    """
    refuse_other(path)
    if listened(path):
        raise OSError(errno.EADDRINUSE, TAKEN)
    if not path.parent.is_dir():
        path.parent.mkdir(mode=0o750, parents=True)
        owner.give(path.parent)
        # setgid: milterd's socket, which libmilter makes as the programs' user, gets the MTA's group here too
        with contextlib.suppress(PermissionError):  # systemd's RestrictSUIDSGID forbids it: tmpfiles.d does it there
            path.parent.chmod(0o2750)
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.unlink(missing_ok=True)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listening.bind(str(fresh))
        fresh.chmod(0o660)
        owner.give(fresh)
        listening.listen(BACKLOG)
        refuse_other(path)
        fresh.replace(path)
    except OSError:
        listening.close()
        fresh.unlink(missing_ok=True)
        raise
    return listening


def listen(address: str, owner: Owner) -> socket.socket:
    """Return a listening socket for ``unix:/path`` or ``inet:PORT@HOST``.

    Raises:
        NoSocketError: something that is no socket stands there.
        OSError: it cannot be made; names the address.
    """
    kind, _, place = address.partition(":")
    try:
        if kind == "unix":
            listening = _unix_socket(Path(place), owner)
        else:
            port, _, host = place.partition("@")
            family = socket.AF_INET6 if kind == "inet6" else socket.AF_INET
            listening = socket.create_server((host, int(port)), family=family, backlog=BACKLOG)
    except NoSocketError:
        raise
    except (OSError, OverflowError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        if isinstance(error, PermissionError) and kind == "unix":
            reason = f"{reason}; {folder_remedy(Path(place).parent, owner.user, owner.group)}"
        raise OSError(f"{address}: cannot listen: {reason}") from None
    listening.setblocking(False)
    return listening


@dataclass(slots=True)
class _Place:
    """An address that is listened on, who takes its connections, and which file it is."""

    service: Service
    listening: socket.socket
    server: asyncio.AbstractServer | None = None
    path: Path | None = None
    """None: no unix socket."""

    file: tuple[int, int] | None = None
    told: bool = False
    """Whether it was said that the socket is lost and cannot be had again."""

    @classmethod
    def made(cls, service: Service, owner: Owner) -> _Place:
        """Return the place of `service`, listening.

        Raises:
            OSError: as `listen`.
        """
        place = cls(service, listen(service.address, owner))
        if service.address.startswith("unix:"):
            place.path = Path(service.address.removeprefix("unix:"))
            place.file = file_at(place.path)
        return place

    def lost(self) -> bool:
        """Return whether our socket's file is gone, or another stands in its place."""
        return self.path is not None and file_at(self.path) != self.file

    def leave(self) -> None:
        """Remove the socket's file if it is ours, and stop listening."""
        # the file first: once nobody holds the socket, its inode number may be another's
        if self.path is not None and self.file is not None and not self.lost():
            with contextlib.suppress(OSError):
                self.path.unlink()
        self.close()

    def close(self) -> None:
        """Stop listening; the conversations under way go on."""
        if self.server is not None:
            self.server.close()
        self.listening.close()


class Server:
    """All services of one program on one event loop; an async context manager.

    Entering it makes the sockets, `accept` begins to take connections: between the two a program that was started as
    root becomes its user, and not one byte from outside is read before.
    """

    def __init__(self, services: Iterable[Service], group: str = "", user: str = "") -> None:
        self._services = [service for service in services if service.address]
        self._owner = Owner(user, group)
        self._places: list[_Place] = []
        self._sweeper: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Make the socket of every address; clients that connect wait in its backlog."""
        try:
            for service in self._services:
                self._places.append(_Place.made(service, self._owner))
        except OSError:
            await self.__aexit__()
            raise
        return self

    async def accept(self) -> None:
        """Begin to serve."""
        for place in self._places:
            await self._serve(place)
        self._sweeper = asyncio.create_task(self._sweep())

    @staticmethod
    async def _serve(place: _Place) -> None:
        loop, service = asyncio.get_running_loop(), place.service
        service.now = loop.time()
        start = loop.create_server if place.path is None else loop.create_unix_server
        place.server = await start(lambda: _Conversation(service), sock=place.listening, backlog=BACKLOG)

    async def _sweep(self) -> None:
        """Close what is overdue, and make sockets again that were lost, once a second."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(SWEEP_S)
            now = loop.time()
            for service in self._services:
                service.now = now
                for conversation in [c for c in service.open if c.overdue(now)]:
                    conversation.end()
            for number, place in enumerate(self._places):
                if place.lost():
                    self._places[number] = await self._again(place)

    async def _again(self, place: _Place) -> _Place:
        """Return a new place for one whose socket is lost; the old one where it cannot be had, told once."""
        service = place.service
        try:
            fresh = _Place.made(service, self._owner)
        except OSError as error:
            if not place.told:
                service.warn(f"{service.name}: our socket was removed or replaced, nobody asks us: {error}")
            place.told = True
            return place
        await self._serve(fresh)
        place.close()
        service.warn(f"{service.name}: {service.address} was removed or replaced, and is ours again")
        return fresh

    async def __aexit__(self, *_: object) -> None:
        """Stop listening, close what is open, remove the sockets that are still ours."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        for place in self._places:
            place.leave()
        for service in self._services:
            for conversation in list(service.open):
                conversation.end()
