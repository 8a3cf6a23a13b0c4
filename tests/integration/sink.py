"""A scripted remote SMTP server on loopback: the judge of what really arrived.

One sink listens on one loopback address (MTAs cache hosts by address, Sendmail
ignores the port), answers by its `Script` and keeps its own count: connections,
commands, attempts per recipient, messages taken.
"""

from __future__ import annotations

import asyncio
import re
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self

from tests.integration.ports import free_port

Reply = str | list[str] | Callable[[str], str]
"""A reply, replies in turn (the last one stays), or a function of the address or argument."""

DROP = "!drop"
"""Close the connection instead of a reply; ``!sleep 3 250 ok`` waits first; ``421 ...`` closes after it."""


@dataclass
class Script:
    """What a sink says at each step; ``None`` means the friendly answer."""

    banner: Reply | None = None
    ehlo: Reply | None = None
    helo: Reply | None = None
    mail: Reply | None = None
    rcpt: Reply | None = None
    data: Reply | None = None
    eod: Reply | None = None
    starttls: Reply | None = None
    extensions: tuple[str, ...] = ("PIPELINING", "SIZE 10240000", "ENHANCEDSTATUSCODES", "8BITMIME", "SMTPUTF8", "DSN")


@dataclass
class Taken:
    """One message that the sink accepted."""

    sender: str
    recipients: list[str]
    data: bytes


@dataclass
class Sink:
    """One listening address with its script and its count."""

    address: str
    port: int
    script: Script
    connections: int = 0
    attempts: Counter = field(default_factory=Counter)
    """RCPT commands per recipient (lower case)."""

    taken: list[Taken] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    turns: Counter = field(default_factory=Counter)

    def delivered(self, recipient: str) -> int:
        """Return how many accepted messages named `recipient`."""
        return sum(t.recipients.count(recipient.lower()) for t in self.taken)

    def _reply(self, step: str, argument: str, default: str) -> str:
        wanted = getattr(self.script, step)
        if wanted is None:
            return default
        if callable(wanted):
            return wanted(argument) or default
        if isinstance(wanted, list):
            turn = self.turns[step, argument]
            self.turns[step, argument] += 1
            return wanted[min(turn, len(wanted) - 1)]
        return wanted

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            await self._converse(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        finally:
            writer.close()

    async def _say(self, writer, step, argument, default, taken: Taken | None = None) -> str:
        """Send one reply, and note before it goes out what it accepts; raise to end the conversation."""
        reply = self._reply(step, argument, default)
        if found := re.match(r"!sleep ([0-9.]+) (.*)", reply, re.DOTALL):
            await asyncio.sleep(float(found[1]))
            reply = found[2]
        if reply == DROP:
            raise ConnectionResetError
        if taken is not None and reply.startswith("2"):
            self.taken.append(taken)
        lines = reply.split("\n")
        writer.write("".join(f"{line}\r\n" for line in lines).encode())
        await writer.drain()
        if reply.startswith("421"):
            raise ConnectionResetError
        return reply

    async def _converse(self, reader, writer) -> None:
        sender, recipients = "", []
        await self._say(writer, "banner", "", "220 sink.test ESMTP")
        while line := await reader.readline():
            text = line.decode("utf-8", "replace").rstrip("\r\n")
            self.commands.append(text)
            verb = text[:4].upper()
            address = (re.search(r"<(.*?)>", text) or ["", ""])[1].lower()
            if verb == "EHLO":
                hello = "\n".join(["250-sink.test", *(f"250-{e}" for e in self.script.extensions), "250 HELP"])
                await self._say(writer, "ehlo", text[5:], hello)
            elif verb == "HELO":
                await self._say(writer, "helo", text[5:], "250 sink.test")
            elif verb == "STAR":
                await self._say(writer, "starttls", "", "454 4.7.0 TLS not available")
            elif verb == "MAIL":
                sender, recipients = address, []
                await self._say(writer, "mail", address, "250 2.1.0 Ok")
            elif verb == "RCPT":
                self.attempts[address] += 1
                if (await self._say(writer, "rcpt", address, "250 2.1.5 Ok")).startswith("2"):
                    recipients.append(address)
            elif verb == "DATA":
                if not recipients:
                    writer.write(b"554 5.5.1 no valid recipients\r\n")
                    continue
                if (await self._say(writer, "data", sender, "354 go on")).startswith("3"):
                    taken = Taken(sender, recipients, await self._message(reader))
                    await self._say(writer, "eod", recipients[0], "250 2.0.0 Ok: queued as SINK", taken)
                    recipients = []
            elif verb in {"RSET", "NOOP"}:
                writer.write(b"250 2.0.0 Ok\r\n")
            elif verb == "QUIT":
                writer.write(b"221 2.0.0 Bye\r\n")
                return
            else:
                writer.write(b"502 5.5.2 command not recognized\r\n")

    @staticmethod
    async def _message(reader) -> bytes:
        lines = []
        while (line := await reader.readline()) not in (b".\r\n", b""):
            lines.append(line[1:] if line.startswith(b"..") else line)
        return b"".join(lines)


class Sinks:
    """Many sinks on one port, an address each (127.0.77.N), served by one thread.

    Use as a context manager; ``add(name, script)`` returns the sink.
    """

    def __init__(self, network: str = "127.0.77") -> None:
        self.port = free_port()
        self.network = network
        self.by_name: dict[str, Sink] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def add(self, name: str, script: Script | None = None) -> Sink:
        """Start a sink called `name` (also the domain that a harness routes to it)."""
        sink = Sink(f"{self.network}.{len(self.by_name) + 1}", self.port, script or Script())
        starting = asyncio.start_server(sink.serve, sink.address, sink.port, limit=1 << 22, backlog=500)
        asyncio.run_coroutine_threadsafe(starting, self._loop).result(5)
        self.by_name[name] = sink
        return sink

    def __getitem__(self, name: str) -> Sink:
        return self.by_name[name]

    def __exit__(self, *_: object) -> None:
        def end() -> None:
            for task in asyncio.all_tasks(self._loop):
                task.cancel()
            self._loop.call_soon(self._loop.stop)

        self._loop.call_soon_threadsafe(end)
        self._thread.join(5)
