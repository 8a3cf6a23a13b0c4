"""Asking the DNS: an asyncio resolver with a cache, limits, and no trust in strangers' packets.

Goes in: names and types. Comes out: a ``DnsReply`` for each; never an exception.
Does not: judge answers (``protocol.dnsbl`` does) or walk the tree: it asks the
resolvers of the host, or those configured.

LIMITS
    Questions under way at once and questions per second are bounded; so is the
    cache, by entries. A question is given up after `attempts` times `timeout_s`.
SECURITY
    Random ids and ports that change (RFC 5452); a packet counts only from the
    server asked, with the id and the very question of one of ours. Others are
    dropped and the wait goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
import struct
from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import dns.asyncquery
import dns.exception
import dns.message
import dns.rcode
import dns.rdatatype
import dns.resolver

from milter_bounce.protocol import ProtocolError
from milter_bounce.protocol.dnswire import (
    KNOWN,
    DnsReply,
    Outcome,
    encode_query,
    encode_question,
    is_answer_to,
    lifetime_s,
    read_plain,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

QUERIES_PER_PORT: Final = 2000
"""After so many questions a channel gets a new socket, and so a new random port."""

DRAIN: Final = 64
"""Packets read in one go before other tasks get their turn."""

SWEEP_S: Final = 0.05
FAILURE_S: Final = 30
"""Seconds that SERVFAIL, refusals and timeouts are kept (RFC 2308, 7: at most 300)."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What the resolver may spend."""

    timeout_s: float = 3.0
    attempts: int = 2
    in_flight: int = 100
    """Questions under way at once; a local resolver's socket buffer holds about as many."""

    per_second: float = 200.0
    """Questions a second; 0: no limit."""

    cache_entries: int = 50_000
    ttl_floor_s: int = 1
    ttl_cap_s: int = 10_800


@dataclass(frozen=True, slots=True)
class Server:
    """Where a resolver listens."""

    host: str
    port: int = 53

    def __str__(self) -> str:
        """Return it as people write it: the port only where it is not 53."""
        return self.host if self.port == 53 else f"{self.host}:{self.port}"


def parse_server(text: str) -> Server:
    """Return the server that ``192.0.2.53``, ``192.0.2.53:5353`` or ``[2001:db8::53]:5353`` names.

    Raises:
        ValueError: anything else; a host name too, since it would have to be resolved first.
    """
    host, port = text.strip(), "53"
    if host.startswith("["):
        host, _, rest = host[1:].partition("]")
        port = rest.removeprefix(":") or "53"
    elif host.count(":") == 1:
        host, port = host.split(":")
    if not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(f"{text!r}: write ADDRESS, ADDRESS:PORT or [IPv6]:PORT")
    for family in (socket.AF_INET, socket.AF_INET6):
        with contextlib.suppress(OSError):
            socket.inet_pton(family, host)
            return Server(host, int(port))
    raise ValueError(f"{text!r}: is no IP address; write ADDRESS, ADDRESS:PORT or [IPv6]:PORT")


def system_servers() -> list[Server]:
    """Return the resolvers of ``/etc/resolv.conf``; that of this host where there are none."""
    with contextlib.suppress(dns.resolver.NoResolverConfiguration, OSError):
        found = [Server(str(name), 53) for name in dns.resolver.Resolver().nameservers]
        if found:
            return found
    return [Server("127.0.0.1")]


class _Channel:
    """Questions under way to one server over one connected UDP socket (one port)."""

    def __init__(self, loop: asyncio.AbstractEventLoop, server: Server) -> None:
        self._loop = loop
        self._socket = socket.socket(socket.AF_INET6 if ":" in server.host else socket.AF_INET, socket.SOCK_DGRAM)
        try:
            self._socket.setblocking(False)  # the socket module's own signature
            self._socket.connect((server.host, server.port))
        except OSError:
            self._socket.close()
            raise
        self.sent = 0
        self.pending: dict[int, tuple[float, bytes, asyncio.Future[bytes]]] = {}
        self._timer: asyncio.TimerHandle | None = None
        loop.add_reader(self._socket.fileno(), self._readable)

    def ask(self, question: bytes, timeout_s: float) -> asyncio.Future[bytes]:
        """Return the future of the answer's bytes; it raises TimeoutError or OSError."""
        ident = secrets.randbits(16)
        while ident in self.pending:
            ident = secrets.randbits(16)
        future: asyncio.Future[bytes] = self._loop.create_future()
        self._socket.send(encode_query(ident, question))
        self.sent += 1
        self.pending[ident] = (self._loop.time() + timeout_s, question, future)
        if self._timer is None:
            self._timer = self._loop.call_later(SWEEP_S, self._sweep)
        return future

    def _readable(self) -> None:
        for _ in range(DRAIN):
            try:
                wire = self._socket.recv(65535)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                # ICMP port unreachable comes as ECONNREFUSED and names no question: all of them have no server
                self._fail_all(error)
                return
            if len(wire) < 12:
                continue
            (ident,) = struct.unpack_from("!H", wire)
            waiting = self.pending.get(ident)
            if waiting is not None and is_answer_to(wire, waiting[1]):
                del self.pending[ident]
                if not waiting[2].done():
                    waiting[2].set_result(wire)

    def _fail_all(self, error: BaseException) -> None:
        waiting, self.pending = self.pending, {}
        for _, _, future in waiting.values():
            if not future.done():
                future.set_exception(error)

    def _sweep(self) -> None:
        """Give up what waited too long: in order of asking, since all wait equally long."""
        self._timer = None
        now = self._loop.time()
        for ident, (deadline, _, future) in list(self.pending.items()):
            if deadline > now and not future.done():
                break
            del self.pending[ident]
            if not future.done():
                future.set_exception(TimeoutError())
        if self.pending:
            self._timer = self._loop.call_later(SWEEP_S, self._sweep)

    def close(self) -> None:
        """End all questions and close the socket."""
        if self._timer is not None:
            self._timer.cancel()
        self._fail_all(OSError("closed"))
        self._loop.remove_reader(self._socket.fileno())
        self._socket.close()


class _Upstream:
    """One server, asked over a channel that is renewed as its port gets old."""

    def __init__(self, loop: asyncio.AbstractEventLoop, server: Server) -> None:
        self._loop = loop
        self.server = server
        self._channel: _Channel | None = None
        self._old: list[_Channel] = []

    def ask(self, question: bytes, timeout_s: float) -> asyncio.Future[bytes]:
        """Return the future of the answer's bytes; raises OSError where the server cannot be reached at all."""
        for channel in [old for old in self._old if not old.pending]:
            channel.close()
            self._old.remove(channel)
        if self._channel is not None and self._channel.sent >= QUERIES_PER_PORT:
            self._old.append(self._channel)
            self._channel = None
        if self._channel is None:
            self._channel = _Channel(self._loop, self.server)
        return self._channel.ask(question, timeout_s)

    def close(self) -> None:
        """Close all channels."""
        for channel in [*self._old, *filter(None, [self._channel])]:
            channel.close()
        self._old, self._channel = [], None


class _Pace:
    """Lets questions pass at most `per_second` times a second, in bursts of a tenth of a second."""

    def __init__(self, loop: asyncio.AbstractEventLoop, per_second: float) -> None:
        self._loop, self._step, self._next = loop, 1 / per_second if per_second else 0.0, 0.0

    async def wait(self) -> None:
        """Return when the next question may go out."""
        if not self._step:
            return
        now = self._loop.time()
        self._next = max(self._next + self._step, now)
        if self._next - now > 0.1:
            await asyncio.sleep(self._next - now)


class _Slots:
    """At most `free` holders at once; first come, first served."""

    def __init__(self, loop: asyncio.AbstractEventLoop, free: int) -> None:
        self._loop, self._free = loop, free
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def take(self) -> None:
        """Return when a slot is ours."""
        if self._free:
            self._free -= 1
            return
        future: asyncio.Future[None] = self._loop.create_future()
        self._waiting.append(future)
        try:
            await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                self.give()
            raise

    def give(self) -> None:
        """Hand the slot to the next in line."""
        while self._waiting:
            future = self._waiting.popleft()
            if not future.done():
                future.set_result(None)
                return
        self._free += 1


class Resolver:
    """Asks the configured servers, or those of the host. Belongs to one event loop; close it at the end."""

    def __init__(self, servers: Sequence[Server] = (), limits: Limits | None = None) -> None:
        self.servers = list(servers) or system_servers()
        self.limits = limits or Limits()
        self.asked = 0
        """Questions that went out, tries counted each."""

        self._loop = asyncio.get_running_loop()
        self._upstreams = [_Upstream(self._loop, server) for server in self.servers]
        self._pace = _Pace(self._loop, self.limits.per_second)
        self._slots = _Slots(self._loop, self.limits.in_flight)
        self._cache: OrderedDict[tuple[str, str], tuple[float, DnsReply]] = OrderedDict()
        self._same: dict[tuple[str, str], asyncio.Future[DnsReply]] = {}

    async def ask(self, name: str, type_: str = "A") -> DnsReply:
        """Return what the DNS says for `name` and `type_` (A, AAAA, MX, TXT, PTR), from the cache where that holds.

        Raises: nothing; every trouble is an outcome. The same question asked twice at once goes out once.
        """
        key = (name.lower().removesuffix("."), type_)
        if (kept := self._from_cache(key)) is not None:
            return kept
        if (same := self._same.get(key)) is not None:
            return await asyncio.shield(same)
        try:
            question = encode_question(name, type_)
        except ProtocolError as error:
            return DnsReply(Outcome.BAD, detail=str(error))
        shared: asyncio.Future[DnsReply] = self._loop.create_future()
        self._same[key] = shared
        reply = DnsReply(Outcome.UNREACHABLE, detail="given up")
        try:
            reply = await self._try_servers(question, type_)
            self._keep(key, reply)
        finally:
            del self._same[key]
            shared.set_result(reply)
        return reply

    def forget(self, name: str, type_: str = "A") -> None:
        """Drop one answer from the cache, so that the next question goes out."""
        self._cache.pop((name.lower().removesuffix("."), type_), None)

    def close(self) -> None:
        """Close all sockets; questions under way end as unreachable."""
        for upstream in self._upstreams:
            upstream.close()

    def _from_cache(self, key: tuple[str, str]) -> DnsReply | None:
        kept = self._cache.get(key)
        if kept is None:
            return None
        if kept[0] <= self._loop.time():
            del self._cache[key]
            return None
        self._cache.move_to_end(key)
        return kept[1]

    def _keep(self, key: tuple[str, str], reply: DnsReply) -> None:
        seconds = lifetime_s(reply, self.limits.ttl_floor_s, self.limits.ttl_cap_s, FAILURE_S)
        if seconds:
            self._cache[key] = (self._loop.time() + seconds, reply)
            if len(self._cache) > self.limits.cache_entries:
                self._cache.popitem(last=False)

    async def _try_servers(self, question: bytes, type_: str) -> DnsReply:
        """Return the first reply that says something about the name, else the last that came."""
        reply = DnsReply(Outcome.UNREACHABLE)
        for turn in range(max(self.limits.attempts, 1)):
            for upstream in self._upstreams:
                reply = await self._one(upstream, question, type_)
                if reply.outcome in KNOWN:
                    return reply
            if reply.outcome in {Outcome.REFUSED, Outcome.SERVFAIL} and turn == 0:
                break  # a server that answered will not answer better at once
        return reply

    async def _one(self, upstream: _Upstream, question: bytes, type_: str) -> DnsReply:
        await self._slots.take()
        try:
            await self._pace.wait()
            self.asked += 1
            wire = await upstream.ask(question, self.limits.timeout_s)
            plain = read_plain(wire, question) if type_ == "A" else None
            if plain is not None and plain.outcome is not Outcome.TRUNCATED:
                return plain
            return await self._read_full(upstream.server, wire, question)
        except TimeoutError:
            return DnsReply(Outcome.TIMEOUT, detail=f"{upstream.server}, {self.limits.timeout_s:g} s")
        except OSError as error:
            return DnsReply(Outcome.UNREACHABLE, detail=f"{upstream.server}: {error.strerror or error}")
        finally:
            self._slots.give()

    async def _read_full(self, server: Server, wire: bytes, question: bytes) -> DnsReply:
        """Return what dnspython reads in `wire`; a truncated answer is asked for again over TCP (RFC 7766)."""
        try:
            message = dns.message.from_wire(wire, raise_on_truncation=False, ignore_trailing=True)
            if message.flags & dns.flags.TC:
                message = await self._over_tcp(server, question)
            return _from_message(message)
        except (dns.exception.DNSException, struct.error, ValueError, EOFError) as error:
            if isinstance(error, dns.exception.Timeout):
                raise TimeoutError from None
            return DnsReply(Outcome.BAD, detail=f"{server}: {type(error).__name__}")

    async def _over_tcp(self, server: Server, question: bytes) -> dns.message.Message:
        query = dns.message.from_wire(encode_query(struct.unpack("!H", os.urandom(2))[0], question))
        return await dns.asyncquery.tcp(query, server.host, timeout=self.limits.timeout_s, port=server.port)


_RCODES: Final = {
    dns.rcode.NOERROR: Outcome.ANSWER,
    dns.rcode.NXDOMAIN: Outcome.NXDOMAIN,
    dns.rcode.SERVFAIL: Outcome.SERVFAIL,
    dns.rcode.REFUSED: Outcome.REFUSED,
}


def _from_message(message: dns.message.Message) -> DnsReply:
    """Return a parsed message as a reply, aliases followed as far as the message does."""
    outcome = _RCODES.get(message.rcode(), Outcome.BAD)
    if outcome not in KNOWN or not isinstance(message, dns.message.QueryMessage):
        return DnsReply(outcome, detail=dns.rcode.to_text(message.rcode()))
    chain = message.resolve_chaining()
    known_ttl = bool(chain.answer) or any(rrset.rdtype == dns.rdatatype.SOA for rrset in message.authority)
    ttl = int(chain.minimum_ttl) if known_ttl else None
    if chain.answer is None:
        return DnsReply(Outcome.NODATA if outcome is Outcome.ANSWER else outcome, (), ttl)
    return DnsReply(Outcome.ANSWER, tuple(map(_text, chain.answer)), ttl)


def _text(rdata: dns.rdata.Rdata) -> str:
    """Return a record's value as text; the strings of a TXT are joined (RFC 7208, 3.3), bytes kept apart by escapes."""
    strings = getattr(rdata, "strings", None)
    if strings is not None:
        return b"".join(strings).decode("utf-8", "backslashreplace")
    return rdata.to_text()
