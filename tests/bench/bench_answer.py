"""answerd's speed: the status filter and the gate next to servers that answer nothing, and a million recipients.

Run: ``python -m tests.bench.bench_answer``. Every figure of a pair is measured in one run, turn by turn.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import selectors
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from tests.conftest import ROOT

CONNECTIONS = 50
RATE = 1000
"""Questions a second while times are measured: a thousand deliveries a second, at any moment, on any connection."""

SECONDS = 3.0
TURNS = 5
RECIPIENTS = 1_000_000
TEXTS = [
    "4.2.2 host mx{n}.example.net[192.0.2.{b}] said: 452 4.2.2 The email account is over quota id={n} (in reply to RCPT TO command)",
    "5.1.1 host mx{n}.example.net[192.0.2.{b}] said: 550 5.1.1 <u{n}@example.net>: User unknown (in reply to RCPT TO command)",
    "4.7.1 host mx{n}.example.org[192.0.2.{b}] said: 451 4.7.1 Greylisting in action, please come back in {b} seconds (in reply to RCPT TO command)",
    "5.7.1 host mx{n}.example.org[192.0.2.{b}] said: 554 5.7.1 Service unavailable; Client host [192.0.2.1] blocked using bl.example (in reply to end of DATA command)",
    "4.4.2 lost connection with mx{n}.example.com[192.0.2.{b}] while receiving the initial server greeting",
    "2.0.0 250 2.0.0 Ok: queued as 4c{n}",
]
"""Six deliveries of which one succeeds: every text is another one, so no verdict is kept from the last time."""


# -- servers ---------------------------------------------------------------------


class EmptyMemcache(asyncio.Protocol):
    """The memcached protocol over an empty table: what the gate would be if it knew nothing."""

    table: ClassVar[dict[bytes, bytes]] = {}

    def connection_made(self, transport):
        self.transport, self.buffer = transport, b""

    def data_received(self, data):
        *lines, self.buffer = (self.buffer + data).split(b"\r\n")
        for line in lines:
            command, *keys = line.split()
            if command != b"get":
                self.transport.write(b"ERROR\r\n")
                continue
            found = [(key, self.table[key]) for key in keys if key in self.table]
            values = [b"VALUE %b 0 %d\r\n%b\r\n" % (key, len(value), value) for key, value in found]
            self.transport.write(b"".join(values) + b"END\r\n")


class EmptySocketmap(asyncio.Protocol):
    """Socketmap over an empty table."""

    def connection_made(self, transport):
        self.transport, self.buffer = transport, b""

    def data_received(self, data):
        self.buffer += data
        while b":" in self.buffer:
            length, _, rest = self.buffer.partition(b":")
            if len(rest) <= int(length):
                return
            self.buffer = rest[int(length) + 1 :]
            self.transport.write(b"9:NOTFOUND ,")


async def _serve_empty(kind: str, path: str) -> None:
    factory = EmptySocketmap if kind == "socketmap" else EmptyMemcache
    server = await asyncio.get_running_loop().create_unix_server(factory, path)
    await server.serve_forever()


@contextlib.contextmanager
def _running(words: list[str], path: Path) -> Iterator[subprocess.Popen]:
    process = subprocess.Popen([sys.executable, *words], cwd=ROOT)
    try:
        _wait_for(path)
        yield process
    finally:
        process.terminate()
        process.wait(10)


def _wait_for(path: Path) -> None:
    end = time.monotonic() + 30
    while time.monotonic() < end:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
            probe.connect(str(path))
            return
        time.sleep(0.05)
    raise RuntimeError(f"{path}: nobody listens")


def _settings(folder: Path, **answer: object) -> Path:
    conf = folder / "mb.toml"
    more = "".join(f"{name} = {str(value).lower()}\n" for name, value in answer.items())
    conf.write_text(
        f'mode = "enforce"\nuser = ""\n[log]\noutput = "file"\noutput_file = "{folder}/mb.log"\n'
        f'[store]\npath = "{folder}/state.db"\n[due]\nenabled = false\n[answer]\nsocket = "unix:{folder}/answer.sock"\n'
        f'gate_socket = "unix:{folder}/gate.sock"\npolicy_socket = ""\nsocket_group = ""\n{more}'
    )
    return conf


# -- clients ---------------------------------------------------------------------


def _connect(path: Path, count: int) -> list[socket.socket]:
    opened = []
    for _ in range(count):
        one = socket.socket(socket.AF_UNIX)
        one.connect(str(path))
        opened.append(one)
    return opened


def _times(path: Path, questions: Iterator[bytes], seconds: float = SECONDS) -> list[float]:
    """Return the times of answers to questions that come at random moments, RATE a second, on CONNECTIONS."""
    connections = _connect(path, CONNECTIONS)
    selector = selectors.DefaultSelector()
    for one in connections:
        one.setblocking(False)
        selector.register(one, selectors.EVENT_READ)
    asked: dict[socket.socket, float] = {}
    free, took = list(connections), []
    now = time.perf_counter()
    following, end = now, now + seconds
    while now < end or asked:
        if now >= following and free and now < end:
            one = free.pop(random.randrange(len(free)))
            question = next(questions)
            asked[one] = time.perf_counter()
            one.send(question)
            following += random.expovariate(RATE)
        # asleep while nothing is to be asked: a client that spins takes the server's processor
        for key, _ in selector.select(max(0.0, following - now)):
            one = key.fileobj
            one.recv(65536)
            took.append(time.perf_counter() - asked.pop(one))
            free.append(one)
        now = time.perf_counter()
    for one in connections:
        one.close()
    return took


def _rate(path: Path, questions: Iterator[bytes], seconds: float = 2.0) -> float:
    """Return the answers a second that a server gives to eight clients which ask as soon as they are answered."""
    connections = _connect(path, 8)
    selector = selectors.DefaultSelector()
    for one in connections:
        selector.register(one, selectors.EVENT_READ)
        one.send(next(questions))
    count, start = 0, time.perf_counter()
    while (now := time.perf_counter()) - start < seconds:
        for key, _ in selector.select():
            key.fileobj.recv(65536)
            key.fileobj.send(next(questions))
            count += 1
    for one in connections:
        one.close()
    return count / (now - start)


def _status_questions() -> Iterator[bytes]:
    number = 0
    while True:
        number += 1
        text = "status " + TEXTS[number % len(TEXTS)].format(n=number, b=number % 250)
        yield f"{len(text)}:{text},".encode()


def _gate_questions(known: int = 0) -> Iterator[bytes]:
    """Yield what trivial-rewrite asks of one recipient: address, domain, .parent; half of the addresses known."""
    while True:
        number = random.randrange(max(2 * known, 1_000_000))
        yield f"get u{number}@d{number % 997}.example\r\n".encode()
        yield f"get d{number % 997}.example\r\n".encode()
        yield b"get .example\r\n"


def _address_questions(known: int) -> Iterator[bytes]:
    while True:
        number = random.randrange(2 * known)
        yield f"get u{number}@d{number % 997}.example\r\n".encode()


# -- figures ---------------------------------------------------------------------


def _row(name, value, unit, baseline, goal, holds, ratio=None) -> dict:
    ratio = ratio if ratio is not None else (value / baseline if baseline else None)
    return {
        "name": name,
        "value": round(value, 4),
        "unit": unit,
        "baseline": None if baseline is None else round(baseline, 4),
        "ratio": None if ratio is None else round(ratio, 3),
        "goal": goal,
        "holds": bool(holds),
    }


def _quantile(took: list[float], share: float) -> float:
    return sorted(took)[min(len(took) - 1, int(share * len(took)))] * 1000


def status_filter(folder: Path) -> list[dict]:
    """Return the times of the status filter, annotating, next to an empty socketmap server: of each turn, then the middle turn."""
    conf, empty = _settings(folder, annotate=True), folder / "empty.sock"
    ours, theirs = [], []
    with (
        _running(["-m", "milter_bounce", "answerd", "-c", str(conf)], folder / "answer.sock"),
        _running(["-m", "tests.bench.bench_answer", "socketmap", str(empty)], empty),
    ):
        _times(folder / "answer.sock", _status_questions(), 0.5)
        for _ in range(TURNS):
            ours.append(_times(folder / "answer.sock", _status_questions()))
            theirs.append(_times(empty, _status_questions()))
    median, base = (statistics.median(_quantile(turn, 0.5) for turn in turns) for turns in (ours, theirs))
    tail, base_tail = (statistics.median(_quantile(turn, 0.999) for turn in turns) for turns in (ours, theirs))
    return [
        _row("status filter, median", median, "ms", base, "< 0.2 ms", median < 0.2),
        _row("status filter, 99.9 %", tail, "ms", base_tail, "< 2 ms", tail < 2),
    ]


def gate_rate(folder: Path) -> list[dict]:
    """Return the gate's rate next to an empty server of the memcached protocol."""
    conf, empty = _settings(folder), folder / "empty.sock"
    ours, theirs = [], []
    with (
        _running(["-m", "milter_bounce", "answerd", "-c", str(conf)], folder / "gate.sock"),
        _running(["-m", "tests.bench.bench_answer", "memcache", str(empty)], empty),
    ):
        for _ in range(4 * TURNS):  # short turns: both meet the same load of the machine
            ours.append(_rate(folder / "gate.sock", _gate_questions(), 0.5))
            theirs.append(_rate(empty, _gate_questions(), 0.5))
    value, base = statistics.median(ours), statistics.median(theirs)
    return [_row("gate, answers", value, "1/s", base, ">= 0.7 of empty", value >= 0.7 * base)]


def million(folder: Path) -> list[dict]:
    """Return the gate's time and answerd's memory with a million recipients that have a time to wait for."""
    conf = _settings(folder)
    with _running(["-m", "milter_bounce", "answerd", "-c", str(conf)], folder / "gate.sock"):
        _rate(folder / "gate.sock", _address_questions(1), 0.1)  # makes the file
    _fill(folder / "state.db")
    with _running(["-m", "milter_bounce", "answerd", "-c", str(conf)], folder / "gate.sock") as process:
        held = _connect(folder / "gate.sock", 1)[0]
        held.send(b"get u1@d1.example\r\n")
        assert b"retry:" in held.recv(4096), "the recipients are not held"
        took = _times(folder / "gate.sock", _address_questions(RECIPIENTS), 2 * SECONDS)
        status = Path(f"/proc/{process.pid}/status").read_text()
    resident = int(re.search(r"VmRSS:\s+([0-9]+)", status)[1]) / 1024
    median = statistics.median(took) * 1000
    return [
        _row("gate, 1,000,000 recipients, median", median, "ms", None, "< 0.3 ms", median < 0.3),
        _row("answerd, resident, 1,000,000 recipients", resident, "MB", None, "< 100 MB", resident < 100),
    ]


def _fill(path: Path) -> None:
    """Give a million recipients a time to wait for, straight into the table."""
    now = int(time.time() * 1000)
    with contextlib.closing(sqlite3.connect(path)) as db:
        columns = "recipient, first_failure, last_failure, attempts, not_before, delay, category, rule, countable"
        rows = (
            (f"u{n}@d{n % 997}.example", now, now, 1, now + 10_000_000, 7_200_000, "mailbox-full", "over-quota", 0)
            for n in range(RECIPIENTS)
        )
        db.execute("PRAGMA synchronous = OFF")
        db.executemany(f"INSERT INTO recipients ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
        db.commit()


def run() -> list[dict]:
    """Return all figures."""
    rows = []
    for measure in (status_filter, gate_rate, million):
        with tempfile.TemporaryDirectory(prefix="mb-") as folder:
            rows += measure(Path(folder))
    return rows


if __name__ == "__main__":
    if len(sys.argv) == 3:
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(_serve_empty(sys.argv[1], sys.argv[2]))
    else:
        for row in run():
            print(row)
