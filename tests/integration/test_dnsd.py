"""dnsd as a program: listings in the log and the store, blocks lifted on a real Postfix, trouble told once."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from milter_bounce.system.store_dns import DnsStore, Mentions
from milter_bounce.verdict import BlocklistMention
from tests.integration.dns import Lists, Recursive, Scripted, needs_dns, reply_to, wait_for
from tests.integration.enforcing import Enforced
from tests.integration.postfix import needs_postfix
from tests.integration.programs import Program, merged, toml
from tests.integration.sink import Script, Sinks

pytestmark = [pytest.mark.integration, needs_dns]

TEST = [":127.0.0.2:see https://www.example.net/$", "127.0.0.2"]
ZEN, COP, PSBL = "zen.spamhaus.org", "bl.spamcop.net", "psbl.surriel.com"
US, OTHER = "192.0.2.1", "192.0.2.2"


def configuration(folder: Path, resolver, **dns) -> dict:
    base = {
        "user": "",
        "log": {"output": "file", "output_file": str(folder / "advice.log")},
        "store": {"path": str(folder / "state.db")},
        "rules": {"local": str(folder / "rules.d")},
        "dns": {
            "nameservers": [resolver.address],
            "addresses": [US],
            "lists": [ZEN, COP],
            "interval_s": 1,
            "timeout_s": 0.5,
            "attempts": 1,
            "queries_per_second": 0,
        },
    }
    return merged(base, {"dns": dns})


class Dnsd(Program):
    """dnsd with its log."""

    def __init__(self, folder: Path, resolver, **dns) -> None:
        super().__init__("dnsd", folder, configuration(folder, resolver, **dns), ready=lambda: self.lines("watching"))

    def lines(self, words: str = "") -> list[str]:
        log = self.folder / "advice.log"
        return [line for line in log.read_text().splitlines() if words in line] if log.exists() else []

    def wait_line(self, words: str, count: int = 1) -> list[str]:
        wait_for(lambda: len(self.lines(words)) >= count, 20, f"for {words!r} in {self.lines()}")
        return self.lines(words)


def served(folder: Path) -> Lists:
    return Lists(folder, {zone: {"ip": TEST} for zone in (ZEN, COP, PSBL)})


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dns")
    with (
        served(folder / "rbldnsd") as lists,
        Recursive(folder / "unbound", dict.fromkeys((ZEN, COP, PSBL), lists.port)) as resolver,
    ):
        yield lists, resolver


@pytest.fixture
def lists(servers):
    """Return the lists, with nobody on them."""
    for zone in tuple(servers[0].changed):
        servers[0].change(zone, "ip", TEST)
    servers[0].changed.clear()
    return servers[0]


@pytest.fixture
def resolver(servers, lists):
    """Return the resolver that asks those lists."""
    del lists
    return servers[1]


def test_listing_begins_and_ends_in_log_store_and_notice(tmp_path, lists, resolver):
    """One line when a listing begins and one when it ends, a notice, and the record with the list's reason."""
    heard = tmp_path / "heard.json"
    with Dnsd(tmp_path, resolver) as dnsd:
        dnsd.stop()
        settings = merged(
            configuration(tmp_path, resolver), {"notify": {"command": ["/usr/bin/tee", "-a", str(heard)]}}
        )
        dnsd.path.write_text(toml(settings))
        dnsd.start()
        lists.change(ZEN, "ip", [*TEST, US, OTHER])
        began = dnsd.wait_line("notice=listing-began")
        assert (
            f"listing={US}, notice=listing-began, blocklist={ZEN}, operator=Spamhaus, weight=block, codes=127.0.0.2"
            in began[0]
        )
        assert f'text="see https://www.example.net/{US}"' in began[0]
        store = DnsStore(tmp_path / "state.db")
        wait_for(lambda: (US, ZEN) in store.listings() and store.listings()[US, ZEN].state == "listed")
        assert store.listings()[US, ZEN].reason == f"see https://www.example.net/{US}"
        wait_for(heard.exists)
        wait_for(lambda: heard.read_text().endswith("\n"))
        assert json.loads(heard.read_text()) | {"at": ""} == json.loads(heard.read_text()) | {
            "at": "", "notice": "listing-began", "key": US, "blocklist": ZEN, "codes": ["127.0.0.2"],
        }  # fmt: skip
        lists.change(ZEN, "ip", TEST)
        ended = dnsd.wait_line("notice=listing-ended")
        assert f"listing={US}, notice=listing-ended, blocklist={ZEN}" in ended[0]
        assert len(dnsd.lines("notice=listing")) == 2
        wait_for(lambda: heard.read_text().count("\n") == 2)
        assert json.loads(heard.read_text().splitlines()[1])["notice"] == "listing-ended"


def test_restart_tells_nothing_twice(tmp_path, lists, resolver):
    """A listing known before a restart is not told again; its beginning stays what it was."""
    lists.change(ZEN, "ip", [*TEST, US])
    with Dnsd(tmp_path, resolver) as dnsd:
        dnsd.wait_line("notice=listing-began")
        wait_for(lambda: DnsStore(tmp_path / "state.db").listings())
        since = DnsStore(tmp_path / "state.db").listings()[US, ZEN].since
        dnsd.stop()
        dnsd.start()
        wait_for(lambda: DnsStore(tmp_path / "state.db").listings()[US, ZEN].checked > since)
        assert len(dnsd.lines("notice=listing-began")) == 1
        assert DnsStore(tmp_path / "state.db").listings()[US, ZEN].since == since


def test_unknown_keeps_a_listing(tmp_path, lists, resolver):
    """While the list turns us away or is dead, what was known stays, and nothing is said to have ended."""
    lists.change(ZEN, "ip", [*TEST, US])
    store = DnsStore(tmp_path / "state.db")
    with Dnsd(tmp_path, resolver) as dnsd:
        dnsd.wait_line("notice=listing-began")
        lists.change(ZEN, "ip", [":127.255.255.254:Error: open resolver", "0.0.0.0/1"])
        wait_for(lambda: store.listings()[US, ZEN].why)
        assert store.listings()[US, ZEN].state == "listed"
        warned = dnsd.wait_line("is turned away by")
        assert f"resolver {resolver.address} is turned away by {ZEN}" in warned[0]
        assert "run a resolver of your own" in warned[0]
        lists.change(ZEN, "ip", ["203.0.113.1"])
        wait_for(lambda: "its own test entry" in store.listings()[US, ZEN].why)
        assert store.listings()[US, ZEN].state == "listed"
        assert dnsd.lines("notice=listing-ended") == []
        assert len(dnsd.lines("is turned away by")) == 1


def test_lists_in_the_same_trouble_share_a_line(tmp_path):
    """Servers that go down are one line for all lists; what was known stays, and dnsd runs on."""
    with served(tmp_path / "own") as server, Dnsd(tmp_path, server, lists=[ZEN, COP, PSBL]) as dnsd:
        store = DnsStore(tmp_path / "state.db")
        wait_for(lambda: len(store.listings()) == 3)
        server.stop()
        told = dnsd.wait_line("not believed")
        assert all(zone in told[0] for zone in (ZEN, COP, PSBL))
        assert {record.state for record in store.listings().values()} == {"not-listed"}
        assert dnsd.process.poll() is None


def test_list_that_is_well_again_is_told(tmp_path, lists, resolver):
    """A list that was not believed and is again is one line each way."""
    lists.change(COP, "ip", ["203.0.113.1"])
    with Dnsd(tmp_path, resolver) as dnsd:
        assert f"blocklists not believed: {COP}: does not list its own test entry" in dnsd.wait_line("not believed")[0]
        lists.change(COP, "ip", TEST)
        assert dnsd.wait_line("believed again")[0].endswith(f"blocklists believed again: {COP}")
        assert ZEN not in "".join(dnsd.lines("believed"))


def test_what_is_no_longer_watched_is_forgotten(tmp_path, lists, resolver):
    """After a restart with another address the old one's records are gone."""
    del lists
    store = DnsStore(tmp_path / "state.db")
    with Dnsd(tmp_path, resolver) as dnsd:
        wait_for(lambda: len(store.listings()) == 2)
        dnsd.stop()
        dnsd.path.write_text(toml(configuration(tmp_path, resolver, addresses=[OTHER])))
        dnsd.start()
        wait_for(lambda: {subject for subject, _ in store.listings()} == {OTHER})
        assert len(store.listings()) == 2


def test_store_that_is_away_costs_no_line(tmp_path, lists, resolver):
    """With the store's folder gone listings are still told; one warning, and it is back by itself."""
    away = tmp_path / "store"
    settings = configuration(tmp_path, resolver) | {"store": {"path": str(away / "state.db")}}
    dnsd = Dnsd(tmp_path, resolver)
    dnsd.path.write_text(toml(settings))
    lists.change(ZEN, "ip", [*TEST, US])
    with dnsd:
        dnsd.wait_line("notice=listing-began")
        assert len(dnsd.wait_line("the store is away")) == 1
        away.mkdir()
        dnsd.wait_line("the store is back")
        wait_for(lambda: DnsStore(away / "state.db").listings())
        assert len(dnsd.lines("notice=listing-began")) == 1


def test_refusal_that_names_a_list_is_looked_at_at_once(tmp_path, lists, resolver):
    """Hours before the next round, a refusal's word brings the list's answer within seconds."""
    with Dnsd(tmp_path, resolver, interval_s=86_400) as dnsd:
        store = DnsStore(tmp_path / "state.db")
        wait_for(lambda: len(store.listings()) == 2)
        lists.change(ZEN, "ip", [*TEST, US])
        lists.change(PSBL, "ip", [*TEST, US])
        now = datetime.now(UTC)
        mentions = [BlocklistMention(zone, "x", US) for zone in (ZEN, PSBL)]
        Mentions(tmp_path / "state.db").note(mentions, now)
        told = dnsd.wait_line("notice=listing-began", 2)
        assert sorted(line.split("blocklist=")[1].split(",")[0] for line in told) == [PSBL, ZEN]


def test_address_that_two_refusals_name_is_watched(tmp_path, lists, resolver):
    """An address in "your IP [x]" of two refusals becomes one of ours, on every list; one refusal does not."""
    lists.change(COP, "ip", [*TEST, "198.51.100.7", "198.51.100.8"])
    with Dnsd(tmp_path, resolver) as dnsd:
        store = DnsStore(tmp_path / "state.db")
        wait_for(lambda: len(store.listings()) == 2)
        now = datetime.now(UTC)
        store.named(ZEN, "198.51.100.7", now)
        store.named(ZEN, "198.51.100.7", now)
        store.named(ZEN, "198.51.100.8", now)
        told = dnsd.wait_line("listing=198.51.100.7, notice=listing-began, blocklist=bl.spamcop.net")
        assert len(told) == 1
        wait_for(lambda: ("198.51.100.8", ZEN) in store.listings())
        assert ("198.51.100.8", COP) not in store.listings()


def test_dead_list_is_refused_at_the_start(tmp_path, resolver):
    """A dead list, one without its key and a typing error end the start with one line and status 2."""
    for name, words in (
        ("dnsbl.sorbs.net", "this list is dead (since 2024-06-05); take it out"),
        ("zen.dq.spamhaus.net", "answers only with a key"),
        ("zen.spamhause.org", "no list of that name"),
    ):
        path = tmp_path / "bad.toml"
        path.write_text(toml(configuration(tmp_path, resolver, lists=[name])))
        words_of_command = [sys.executable, "-m", "milter_bounce", "dnsd", "-c", str(path)]
        ran = subprocess.run(words_of_command, capture_output=True, text=True, timeout=30, check=False)
        assert ran.returncode == 2
        assert ran.stderr.count("\n") == 1
        assert f"{path}: dns.lists: {name}: " in ran.stderr
        assert words in ran.stderr


def test_hup_takes_new_lists_and_keeps_the_old_on_a_fault(tmp_path, lists, resolver):
    """A broken configuration leaves the running one in force and says why; a good one is taken."""
    lists.change(PSBL, "ip", [*TEST, US])
    with Dnsd(tmp_path, resolver) as dnsd:
        dnsd.path.write_text(toml(configuration(tmp_path, resolver, lists=["dnsbl.sorbs.net"])))
        dnsd.signal(signal.SIGHUP)
        assert "stays in force" in dnsd.wait_line("this list is dead")[0]
        dnsd.path.write_text(toml(configuration(tmp_path, resolver, lists=[PSBL])))
        dnsd.signal(signal.SIGHUP)
        dnsd.wait_line(f"blocklist={PSBL}")
        assert dnsd.process.poll() is None
        dnsd.process.terminate()
        assert dnsd.process.wait(10) == 0


def test_operator_of_unknown_domains_is_looked_up(tmp_path):
    """A recipient domain whose operator the log did not tell gets it from its MX, once."""

    def handler(query, _tcp):
        if "MX" in query.question[0].to_text():
            return [reply_to(query, "@ 3600 IN MX 10 mx.yahoodns.net.")]
        return [reply_to(query, rcode=3)]

    DnsStore(tmp_path / "state.db").listings()
    with sqlite3.connect(tmp_path / "state.db") as db:
        at = int(datetime.now(UTC).timestamp() * 1000)
        row = ("someone@own.example", at, at, 1, None, None, "mailbox-full", "x", None, None, 1, "")
        db.execute(f"INSERT INTO recipients VALUES ({','.join('?' * len(row))})", row)
    with Scripted(handler) as server, Dnsd(tmp_path, server):
        store = DnsStore(tmp_path / "state.db")
        wait_for(lambda: store.operator("own.example", datetime.now(UTC)))
        found = store.operator("own.example", datetime.now(UTC))
        assert found is not None
        assert found.operator == "yahoo"
        with sqlite3.connect(tmp_path / "state.db") as db:
            wait_for(lambda: db.execute("SELECT operator FROM operators WHERE domain = 'own.example'").fetchone())
        assert [name for name in server.asked if "own.example" in name] == ["own.example. IN MX"]


@needs_postfix
def test_block_is_lifted_when_the_list_lets_go(tmp_path, lists, resolver):
    """Refused by a list's name, listed in its zone: blocked; the zone changes: lifted, and the mail goes out."""
    refusing = [True]
    lists.change(ZEN, "ip", [*TEST, US])
    text = f"554 5.7.1 Service unavailable; Client host [{US}] blocked using {ZEN}; https://check.spamhaus.org/{US}"
    advice = tmp_path / "advice.log"
    over = {
        "log": {"output": "file", "output_file": str(advice)},
        "dns": configuration(tmp_path, resolver)["dns"],
        "block": {"probe_after_5xx_h": 240, "probe_after_4xx_h": 240, "ramp_m": 1.0},
    }
    with Sinks() as sinks:
        hard = sinks.add("hard.test", Script(rcpt=lambda _: text if refusing[0] else ""))
        ok = sinks.add("ok.test")
        routes = {"hard.test": hard, "ok.test": ok}
        with Enforced(tmp_path / "p", over, parts=("answerd", "logd", "dnsd"), routes=routes) as postfix:

            def told(words: str) -> bool:
                return advice.exists() and words in advice.read_text()

            postfix.send("me@home.example", "first@hard.test")
            postfix.wait_for(lambda: told("block=hard.test, operator=hard.test, notice=block-began"))
            postfix.wait_for(lambda: told(f"listing={US}, notice=listing-began, blocklist={ZEN}"))
            with postfix.traffic("other@ok.test"):
                postfix.send("me@home.example", "second@hard.test")
                postfix.wait_log("to=<second@hard.test>.*relay=none.*held", 30)
                assert hard.delivered("second@hard.test") == 0
                assert "hard.test" in postfix.ours("blocks", "list")
                refusing[0] = False
                lists.change(ZEN, "ip", TEST)
                postfix.wait_for(lambda: told("notice=block-lifted"), 20)
                postfix.wait_log("to=<first@hard.test>.*status=sent", 60)
                postfix.wait_log("to=<second@hard.test>.*status=sent", 60)
        lifted = [line for line in advice.read_text().splitlines() if "notice=block-lifted" in line]
        assert len(lifted) == 1
        assert f"by=dns:{ZEN}" in lifted[0]
        assert (hard.delivered("first@hard.test"), hard.delivered("second@hard.test")) == (1, 1)


def test_started_as_root_it_becomes_its_user(tmp_path, resolver):
    """A user that does not exist stops the start with one line."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    settings = configuration(tmp_path, resolver) | {"user": "no-such-user-of-ours"}
    path = tmp_path / "user.toml"
    path.write_text(toml(settings))
    ran = subprocess.run(
        [sys.executable, "-m", "milter_bounce", "dnsd", "-c", str(path)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert ran.returncode == 2
    assert "no such user" in ran.stderr
