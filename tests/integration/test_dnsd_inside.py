"""dnsd on an event loop of the test: blocks, bugs, faults of the store, and a server that changes its mind."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from milter_bounce.config import from_values
from milter_bounce.protocol.dnsbl import State
from milter_bounce.system.advising import make_store
from milter_bounce.system.dnsd import Dnsd, Setup
from milter_bounce.system.store_dns import DnsStore
from milter_bounce.verdict import Block, BlockState, Scope
from tests.integration.dns import Scripted, reply_to

pytestmark = pytest.mark.integration

ZEN, COP = "zen.spamhaus.org", "bl.spamcop.net"
US = "192.0.2.1"
NOW = datetime.now(UTC)


class World:
    """A list server whose answers the test changes, and dnsd beside it."""

    def __init__(self, folder, **dns) -> None:
        self.listed: set[str] = set()
        self.codes = {"2.0.0.127": "127.0.0.2"}
        self.server = Scripted(self._answer)
        self.lines: list[str] = []
        self.told: list[tuple] = []
        self.folder, self.dns = folder, dns

    def _answer(self, query, _tcp):
        name, type_ = query.question[0].name.to_text(), query.question[0].rdtype
        host = ".".join(name.split(".")[:4])
        code = self.codes.get(host) or ("127.0.0.2" if name.rstrip(".") in self.listed else None)
        if type_ == 1 and code:
            return [reply_to(query, f"@ 1 IN A {code}")]
        return [reply_to(query, '@ 1 IN TXT "seen"') if type_ == 16 and code else reply_to(query, rcode=3)]

    def run(self, scenario) -> None:
        values = {"nameservers": [self.server.address], "addresses": [US], "lists": [ZEN, COP], "interval_s": 1}
        values |= {"timeout_s": 0.5, "attempts": 1, "queries_per_second": 0} | self.dns
        settings = from_values(
            {
                "user": "",
                "store": {"path": str(self.folder / "state.db")},
                "dns": values,
                "advice": {"time_scale": 0.0001},
            },
            "x",
        )
        self.store = make_store(settings)
        self.kept = DnsStore(settings.store.path, 0.5)
        self.dnsd = Dnsd(
            Setup(settings, "x"), self.store, self.kept, self.lines.append, lambda *facts: self.told.append(facts)
        )

        async def live() -> None:
            stop = asyncio.Event()
            task = asyncio.ensure_future(self.dnsd.run(stop))
            try:
                await asyncio.wait_for(scenario(), 30)
            finally:
                stop.set()
                await task

        with self.server:
            asyncio.run(live())

    async def line(self, words: str) -> str:
        """Return the first line with these words, once there is one."""
        return (await self.found(words, 1))[0]

    async def found(self, words: str, count: int) -> list[str]:
        """Return the lines with these words, once there are so many."""
        for _ in range(400):
            if len(found := [line for line in self.lines if words in line]) >= count:
                return found
            await asyncio.sleep(0.05)
        pytest.fail(f"no {words!r} in {self.lines}")


def blocked(key: str, *zones: str) -> Block:
    return Block(
        key, key, Scope.SENDING_HOST, "blocklisted", "r", datetime.now(UTC), None, NOW + timedelta(days=7), zones=zones,
        last_refusal=datetime.now(UTC),
    )  # fmt: skip


def test_listing_begins_lifts_nothing_and_ends_lifting_its_block(tmp_path):
    """Only the block whose lists all let go is lifted, by the list that let go last; the others stand."""
    world = World(tmp_path)

    async def scenario() -> None:
        world.listed |= {f"1.2.0.192.{ZEN}", f"1.2.0.192.{COP}"}
        await world.line(f"notice=listing-began, blocklist={COP}")
        await world.line(f"notice=listing-began, blocklist={ZEN}")
        for block in (blocked("a.test", ZEN), blocked("b.test", ZEN, COP), blocked("c.test", "vendor-list")):
            world.store.add_block(block)
        await asyncio.sleep(2)
        world.listed.discard(f"1.2.0.192.{ZEN}")
        assert f"by=dns:{ZEN}" in await world.line("block=a.test")
        states = {block.key: block.state for block in world.store.blocks()}
        assert states == {"a.test": BlockState.TRIAL, "b.test": BlockState.HELD, "c.test": BlockState.HELD}

    world.run(scenario)
    assert sorted(facts["notice"] for facts, _, _ in world.told) == ["listing-began", "listing-began", "listing-ended"]


def test_bug_in_one_job_ends_no_other(tmp_path):
    """When taking in one list's answers fails, the line says so, and the other list goes on."""
    world = World(tmp_path)

    async def scenario() -> None:
        absorb = world.dnsd._absorb

        def broken(findings, now):
            findings = list(findings)
            if findings and findings[0].zone.zone == ZEN:
                raise RuntimeError("a bug")
            absorb(findings, now)

        world.dnsd._absorb = broken
        world.listed |= {f"1.2.0.192.{ZEN}", f"1.2.0.192.{COP}"}
        await world.line("goes on after RuntimeError('a bug')")
        await world.line(f"notice=listing-began, blocklist={COP}")
        world.store.add_block(blocked("z.test", ZEN))
        await world.found("a bug", 2)
        world.dnsd._absorb = absorb
        await world.line(f"notice=listing-began, blocklist={ZEN}")

    world.run(scenario)


def test_resolver_turned_away_is_told_once_with_the_remedy(tmp_path):
    """Both lists turn us away: one line, one notice; well again: one line, and it would be told anew."""
    world = World(tmp_path)
    world.codes["2.0.0.127"] = "127.255.255.254"

    async def scenario() -> None:
        line = await world.line("is turned away by")
        assert ZEN in line
        assert COP in line
        await asyncio.sleep(2)
        assert world.kept.listings()[US, ZEN].state is State.UNKNOWN
        world.codes["2.0.0.127"] = "127.0.0.2"
        await world.line("believed again")
        assert world.kept.tell_once("resolver-refused", NOW)

    world.run(scenario)
    assert [facts["notice"] for facts, _, _ in world.told] == ["resolver-refused"]
    assert len([line for line in world.lines if "turned away" in line or "not believed" in line]) == 1


def test_nothing_is_asked_with_watch_off(tmp_path):
    """dns.watch = false asks no list, and says that none is watched."""
    world = World(tmp_path, watch=False, operators=False, addresses=["192.0.2.1"])

    async def scenario() -> None:
        assert "on 0 lists: none" in await world.line("watching")
        await asyncio.sleep(0.5)

    world.run(scenario)
    assert world.server.asked == []


def test_private_host_is_told_to_name_its_addresses(tmp_path, monkeypatch):
    """Where no public address is found the log says what to configure, and domains are watched all the same."""
    monkeypatch.setattr("milter_bounce.system.dnslists.outgoing_addresses", lambda: ["10.0.0.1"])
    monkeypatch.setattr("milter_bounce.system.dnslists.postconf", lambda *_: {"inet_interfaces": "127.0.0.1"})
    monkeypatch.setattr("milter_bounce.system.dnslists.found_addresses.__defaults__", (lambda: ["10.0.0.1"],))
    world = World(tmp_path, addresses=[], domains=["example.com"], lists=["dbl.spamhaus.org"])

    async def scenario() -> None:
        assert "dns.addresses" in await world.line("no public address of ours is known")

    world.run(scenario)
    assert any("dbl.spamhaus.org" in name for name in world.server.asked)
