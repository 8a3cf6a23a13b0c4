"""Real DNS servers on loopback: rbldnsd for lists, unbound as resolver, and a scripted one for what neither does.

All on free ports with folders of their own; each is ended by its process id. No
question leaves the machine: unbound answers for the whole tree itself and asks
only the loopback servers it is told of.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Self

import dns.flags
import dns.message
import dns.query
import dns.rcode
import dns.rrset
import pytest

from tests.integration.ports import free_port

RBLDNSD = shutil.which("rbldnsd", path="/usr/sbin:/usr/bin")
UNBOUND = shutil.which("unbound", path="/usr/sbin:/usr/bin")
MISSING = [name for name, path in (("rbldnsd", RBLDNSD), ("unbound", UNBOUND)) if path is None]
needs_dns = pytest.mark.skipif(bool(MISSING), reason=f"real DNS servers: not installed: {', '.join(MISSING)}")


def ask(port: int, name: str, type_: str = "A") -> dns.message.Message:
    """Return the answer of the server on `port`."""
    return dns.query.udp(dns.message.make_query(name, type_), "127.0.0.1", port=port, timeout=2)


def wait_for(ready: Callable[[], object], seconds: float = 15, why: str = "") -> None:
    """Return once `ready()` is true; fail with `why` when it never is."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if ready():
            return
        time.sleep(0.05)
    pytest.fail(f"waited in vain {why}")


class _Process:
    """One server in the foreground, ended by its id."""

    port: int
    log: Path
    process: subprocess.Popen[bytes]

    def _start(self, words: list[str], ready: Callable[[], object]) -> None:
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(words, stdout=out, stderr=out, stdin=subprocess.DEVNULL)

        def up() -> bool:
            assert self.process.poll() is None, self.log.read_text()
            try:
                return bool(ready())
            except (OSError, dns.exception.Timeout):
                return False

        wait_for(up, why=f"for {words[0]}")

    @property
    def address(self) -> str:
        """The server as dns.nameservers wants it."""
        return f"127.0.0.1:{self.port}"

    def stop(self) -> None:
        """End the server."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(5)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


HEAD = "$SOA 2 ns.example.net. host.example.net. 1 600 300 86400 1\n$NS 2 ns.example.net.\n$TTL 1\n"
KINDS = {"ip": "ip4set", "ip6": "ip6trie", "domain": "dnset", "generic": "generic"}


class Lists(_Process):
    """rbldnsd with zones that can be changed; answers live one second.

    Args:
        folder: a folder of its own.
        zones: zone -> {kind: lines}, kinds ``ip``, ``ip6``, ``domain``, ``generic`` (rbldnsd(8), dataset types).
    """

    def __init__(self, folder: Path, zones: Mapping[str, Mapping[str, Iterable[str]]]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        parent = folder
        while (
            parent != Path("/tmp") and parent != parent.parent
        ):  # pytest's folders are 0700; rbldnsd is no longer root
            parent.chmod(parent.stat().st_mode | 0o055 if parent == folder else parent.stat().st_mode | 0o011)
            parent = parent.parent
        self.folder, self.port, self.log = folder, free_port(), folder / "rbldnsd.log"
        for zone, sets in zones.items():
            for kind, lines in sets.items():
                self._write(zone, kind, lines)
        self._stamp = 0
        self.changed: set[str] = set()
        words = [
            str(RBLDNSD),
            "-n",
            "-q",
            *(["-u", "nobody"] if os.geteuid() == 0 else []),
            "-c",
            "1",
            "-w",
            str(folder),
        ]
        words += ["-b", f"127.0.0.1/{self.port}"]
        words += [f"{zone}:{KINDS[kind]}:{zone}.{kind}" for zone, sets in zones.items() for kind in sets]
        first = next(iter(zones))
        self._start(words, lambda: ask(self.port, first, "SOA").answer)

    def _write(self, zone: str, kind: str, lines: Iterable[str]) -> None:
        target = self.folder / f"{zone}.{kind}"
        fresh = target.with_suffix(".new")
        fresh.write_text(HEAD + "".join(f"{line}\n" for line in lines))
        fresh.replace(target)

    def change(self, zone: str, kind: str, lines: Iterable[str]) -> None:
        """Put these lines in place of what a zone held, now."""
        self.changed.add(zone)
        self._write(zone, kind, lines)
        # rbldnsd tells changes by whole seconds and size: each change gets a second of its own
        self._stamp = max(self._stamp + 1, int(time.time()) + 1)
        os.utime(self.folder / f"{zone}.{kind}", (self._stamp, self._stamp))
        before = self._reloads()
        self.process.send_signal(signal.SIGHUP)
        wait_for(lambda: self._reloads() > before, why=f"for rbldnsd to read {zone} again")

    def _reloads(self) -> int:
        return self.log.read_text().count("zones reloaded")


class Recursive(_Process):
    """unbound: answers `records` itself and asks other loopback servers for `stubs`; keeps answers one second.

    Args:
        folder: a folder of its own.
        stubs: zone -> port of the server for it.
        records: lines of master file, absolute names: ``example.com. 60 IN MX 10 mx.example.com.``
        broken: names answered with SERVFAIL or REFUSED by policy: name -> ``always_refuse`` and the like.
    """

    def __init__(
        self,
        folder: Path,
        stubs: Mapping[str, int] | None = None,
        records: Iterable[str] = (),
        broken: Mapping[str, str] | None = None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.port, self.log = folder, free_port(), folder / "unbound.log"
        lines = [
            "server:",
            f"  interface: 127.0.0.1@{self.port}",
            f'  directory: "{folder}"',
            f'  pidfile: "{folder}/pid"',
            '  username: ""',
            '  chroot: ""',
            "  do-daemonize: no",
            "  use-syslog: no",
            "  do-ip6: no",
            "  num-threads: 1",
            "  do-not-query-localhost: no",
            '  module-config: "iterator"',
            "  cache-max-ttl: 1",
            "  cache-max-negative-ttl: 1",
            "  infra-host-ttl: 1",
            "  so-rcvbuf: 0",
            "  outgoing-range: 256",
            "  num-queries-per-thread: 512",
            "  unblock-lan-zones: yes",
            "  insecure-lan-zones: yes",
            '  local-zone: "." static',
            *(f'  local-zone: "{zone}." transparent' for zone in stubs or {}),
            *(f'  local-zone: "{zone}." {action}' for zone, action in (broken or {}).items()),
            *(f"  local-data: '{line}'" for line in records),
            "remote-control:",
            "  control-enable: no",
        ]
        for zone, port in (stubs or {}).items():
            lines += ["stub-zone:", f'  name: "{zone}."', f"  stub-addr: 127.0.0.1@{port}", "  stub-no-cache: yes"]
        (folder / "unbound.conf").write_text("\n".join(lines) + "\n")
        self._start([str(UNBOUND), "-d", "-p", "-c", str(folder / "unbound.conf")], self._up)

    def _up(self) -> bool:
        return ask(self.port, "nothing.invalid").rcode() == dns.rcode.NXDOMAIN


Handler = Callable[[dns.message.Message, bool], list[dns.message.Message | bytes] | None]


def reply_to(query: dns.message.Message, *records: str, rcode: int = dns.rcode.NOERROR) -> dns.message.Message:
    """Return a response to `query` with these records, written ``NAME TTL CLASS TYPE DATA``; ``@`` is the name asked."""
    made = dns.message.make_response(query)
    made.flags |= dns.flags.RA
    made.set_rcode(dns.rcode.Rcode(rcode))
    for record in records:
        name, ttl, class_, type_, data = record.split(maxsplit=4)
        name = query.question[0].name.to_text() if name == "@" else name
        made.answer.append(dns.rrset.from_text(name, int(ttl), class_, type_, data))
    return made


class Scripted:
    """A DNS server whose answers a function makes; UDP and TCP, in a thread of its own.

    The function gets the query and whether it came over TCP, and returns the packets to send; None: silence.
    """

    def __init__(self, handler: Handler, delay_s: float = 0.0) -> None:
        self.handler, self.delay_s, self.port = handler, delay_s, free_port()
        self.asked: list[str] = []
        self.tcp = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._up = threading.Event()

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._up.wait(5)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    @property
    def address(self) -> str:
        """The server as dns.nameservers wants it."""
        return f"127.0.0.1:{self.port}"

    def answers(self, wire: bytes, *, tcp: bool) -> list[bytes]:
        query = dns.message.from_wire(wire)
        self.asked.append(query.question[0].to_text())
        made = self.handler(query, tcp)
        return [item if isinstance(item, bytes) else item.to_wire() for item in made or []]

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())
        self._loop.call_soon(self._up.set)
        self._loop.run_forever()

    async def _serve(self) -> None:
        server = self

        class Udp(asyncio.DatagramProtocol):
            def connection_made(self, transport) -> None:
                self.transport = transport

            def datagram_received(self, data: bytes, addr) -> None:
                for packet in server.answers(data, tcp=False):
                    server._loop.call_later(server.delay_s, self.transport.sendto, packet, addr)

        async def over_tcp(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            server.tcp += 1
            length = int.from_bytes(await reader.readexactly(2), "big")
            for packet in server.answers(await reader.readexactly(length), tcp=True):
                writer.write(len(packet).to_bytes(2, "big") + packet)
            await writer.drain()
            writer.close()

        await self._loop.create_datagram_endpoint(Udp, local_addr=("127.0.0.1", self.port))
        await asyncio.start_server(over_tcp, "127.0.0.1", self.port)
