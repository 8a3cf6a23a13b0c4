"""DNS: 500 addresses on 30 lists against a local rbldnsd, beside a plain loop; a million domains in the cache.

Run: ``python -m tests.bench dns``. The rounds run in a process of their own, so that
their memory is theirs.
"""

from __future__ import annotations

import asyncio
import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dns.resolver

from milter_bounce.protocol.dnsbl import Family, State, Zone, query_name
from milter_bounce.system.dnswatch import Watcher
from milter_bounce.system.resolver import Limits, Resolver, Server
from milter_bounce.system.sqlite_store import SqliteStore
from milter_bounce.system.store_dns import DnsStore, MailDomain, MailKind
from tests.conftest import ROOT

LISTS, ADDRESSES, LISTED = 30, 500, 5
RUNS = 3
ROUNDS_FOR_MEMORY = 10
PLAIN = 3000
"""Questions of the plain loop: enough for a rate."""

DOMAINS = 1_000_000
NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
FAMILY = frozenset({Family.IPV4})
SUBJECTS = [f"192.0.{2 + number // 250}.{1 + number % 250}" for number in range(ADDRESSES)]


def zones() -> list[Zone]:
    return [Zone(f"l{number}.bl.example.net", families=FAMILY) for number in range(LISTS)]


async def one_round(port: int, cache_entries: int = 50_000) -> tuple[float, int, int]:
    """Return the seconds of one round, and how many findings were known and listed."""
    limits = Limits(per_second=0, cache_entries=cache_entries)
    resolver = Resolver([Server("127.0.0.1", port)], limits)
    known = listed = 0

    def found(finding) -> None:
        nonlocal known, listed
        known += finding.listing.state is not State.UNKNOWN
        listed += finding.listing.state is State.LISTED

    began = time.perf_counter()
    await Watcher(resolver).round(zones(), SUBJECTS, found)
    spent = time.perf_counter() - began
    resolver.close()
    return spent, known, listed


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() / 1e6


def child(port: int) -> None:
    """Print what the rounds cost, as JSON; run in a process of its own."""
    times, memory = [], []
    for _ in range(ROUNDS_FOR_MEMORY):
        spent, known, listed = asyncio.run(one_round(port))
        assert (known, listed) == (LISTS * ADDRESSES, LISTS * LISTED)
        times.append(spent)
        memory.append(resident_mb())
    print(json.dumps({"rate": LISTS * ADDRESSES / statistics.median(times), "first": memory[0], "last": memory[-1]}))


def plain(port: int) -> float:
    """Return the questions a second of a plain sequential dnspython loop."""
    resolver = dns.resolver.Resolver(configure=False)
    resolver.nameservers, resolver.port = ["127.0.0.1"], port
    names = [query_name(subject, zone) for zone in zones() for subject in SUBJECTS][:PLAIN]
    began = time.perf_counter()
    for name in names:
        try:
            resolver.resolve(name, "A")
        except dns.resolver.NXDOMAIN:
            continue
    return PLAIN / (time.perf_counter() - began)


def bench_lists(folder: Path) -> list[dict]:
    from tests.integration.dns import Lists

    lines = [":127.0.0.2:listed $", "127.0.0.2", *SUBJECTS[:LISTED]]
    with Lists(folder, {zone.zone: {"ip": lines} for zone in zones()}) as server:
        ours, base, memory = [], [], {}
        for _ in range(RUNS):
            base.append(plain(server.port))
            words = [sys.executable, "-m", "tests.bench.bench_dns", str(server.port)]
            memory = json.loads(subprocess.run(words, check=True, capture_output=True, text=True, cwd=ROOT).stdout)
            ours.append(memory["rate"])
    rate, loop = statistics.median(ours), statistics.median(base)
    return [
        figure("dns: 500 addresses x 30 lists", rate, "answers/s", loop, rate / loop, ">= 5 x plain loop", rate >= 5 * loop),
        figure(
            "dns: resident after 10 rounds", memory["last"], "MB", memory["first"], memory["last"] / memory["first"],
            "<= 1.1 x after one", memory["last"] <= 1.1 * memory["first"],
        ),
    ]  # fmt: skip


def figure(name, value, unit, baseline, ratio, goal, holds) -> dict:
    return {
        "name": name,
        "value": value,
        "unit": unit,
        "baseline": baseline,
        "ratio": ratio,
        "goal": goal,
        "holds": holds,
    }


def first_answer_ms(path: Path) -> float:
    """Return how long a fresh process's store takes from nothing to its first answer."""
    times = []
    for number in range(9):
        began = time.perf_counter()
        store = DnsStore(path)
        store.operator(f"a{number * 1000}.customer.example.com", NOW)
        times.append((time.perf_counter() - began) * 1000)
        store.close()
    return statistics.median(times)


def bench_operators(folder: Path) -> list[dict]:
    """Fill both tables that know operators: what the DNS told, and what the log and the gate know."""
    path, until = folder / "state.db", NOW + timedelta(days=7)
    empty = folder / "empty.db"
    DnsStore(empty).operator("x.example", NOW)
    operators = ("google", "microsoft-365", "yahoo", None)
    store = DnsStore(path)
    for start in range(0, DOMAINS, 50_000):
        names = [f"a{number}.customer.example.com" for number in range(start, start + 50_000)]
        store.put_operators(MailDomain(name, MailKind.MX, operators[len(name) % 4], until) for name in names)
        with SqliteStore(path).batch() as batch:
            for number, name in enumerate(names):
                if operators[number % 4] is not None:
                    batch.learn_operator(name, operators[number % 4], NOW)
    store._connection().execute("PRAGMA wal_checkpoint(TRUNCATE)")
    store.close()
    size, full, bare = path.stat().st_size / 1e6, first_answer_ms(path), first_answer_ms(empty)
    return [
        figure("dns: 1,000,000 domains on disk", size, "MB", None, None, "<= 150", size <= 150),
        figure("dns: first answer of 1,000,000", full, "ms", bare, full / bare, "<= 3 x empty", full <= 3 * bare),
    ]


def run() -> list[dict]:
    """Return the figures."""
    folder = Path(tempfile.mkdtemp(prefix="mb-dns-"))
    try:
        return bench_lists(folder / "lists") + bench_operators(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    child(int(sys.argv[1]))
