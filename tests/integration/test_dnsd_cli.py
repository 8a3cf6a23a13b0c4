"""``milter-bounce blocklists`` against real lists: table, JSON, exit status."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from datetime import UTC, datetime

import pytest

from milter_bounce.protocol.dnsbl import State
from milter_bounce.system.store_dns import DnsStore, ListingRecord
from tests.integration.dns import Lists, Recursive, needs_dns
from tests.integration.programs import toml

pytestmark = [pytest.mark.integration, needs_dns]

ZEN, COP, PSBL, DBL = "zen.spamhaus.org", "bl.spamcop.net", "psbl.surriel.com", "dbl.spamhaus.org"
ALL = "0.0.0.0/1", "128.0.0.0/1"
ZONES = {
    ZEN: {"ip": [":127.0.0.2:[red]see\\007$", "127.0.0.2", "192.0.2.1"]},
    COP: {"ip": [":127.0.0.2:closed", *ALL]},
    PSBL: {"ip": [":127.255.255.254:open resolver", *ALL]},
    DBL: {"domain": [":127.0.1.2:spam domain", "test", "bad.example.com"]},
}
SINCE = datetime(2026, 11, 1, 6, tzinfo=UTC)


@pytest.fixture(scope="module")
def resolver(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    with (
        Lists(folder / "rbldnsd", ZONES) as lists,
        Recursive(folder / "unbound", dict.fromkeys(ZONES, lists.port)) as server,
    ):
        yield server


@pytest.fixture
def conf(tmp_path, resolver):
    path = tmp_path / "c.toml"
    dns = {"nameservers": [resolver.address], "addresses": ["192.0.2.1", "192.0.2.2"], "queries_per_second": 0}
    dns["lists"] = list(ZONES)
    path.write_text(toml({"store": {"path": str(tmp_path / "state.db")}, "dns": dns}))
    return path


def run(conf, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "milter_bounce", "blocklists", "-c", str(conf), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_table_shows_listings_and_what_is_unknown(conf, tmp_path):
    """Our own addresses are asked about; listings come with reason and link, the rest with why it is unknown."""
    ran = run(conf)
    assert ran.returncode == 1
    assert "2 addresses and domains on 3 lists: listed: 1, unknown: 4, of 6" in ran.stdout
    listed = next(line for line in ran.stdout.splitlines() if "192.0.2.1" in line and ZEN in line)
    assert "[red]see" in listed, "what a list says is no markup"
    assert "\x07" not in ran.stdout
    assert "https://check.spamhaus.org" in listed
    assert any(COP in line and "whole world" in line for line in ran.stdout.splitlines())
    assert "run a resolver of your own" in ran.stderr
    assert not (tmp_path / "state.db").exists(), "looking makes no store"


def test_json_has_one_object_for_each_pair_with_what_dnsd_knows(conf, tmp_path):
    """Each pair is one line of JSON; since when comes from dnsd's records."""
    store = DnsStore(tmp_path / "state.db")
    known = ListingRecord("192.0.2.1", ZEN, State.LISTED, SINCE, SINCE, SINCE, SINCE)
    store.put_listings([known, ListingRecord("192.0.2.1", COP, State.LISTED, SINCE, SINCE, SINCE, SINCE)])
    store.close()
    ran = run(conf, "--json")
    rows = {(row["subject"], row["blocklist"]): row for row in map(json.loads, ran.stdout.splitlines())}
    assert len(rows) == 6
    listed, unknown = rows["192.0.2.1", ZEN], rows["192.0.2.1", COP]
    assert (listed["state"], listed["since"], listed["codes"]) == ("listed", "2026-11-01T06:00:00Z", ["127.0.0.2"])
    assert (unknown["state"], unknown["last_known"], unknown["since"]) == ("unknown", "listed", None)
    assert rows["192.0.2.2", ZEN]["state"] == "not-listed"


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        pytest.param(["192.0.2.2"], 0, "listed: 0", id="free-address"),
        pytest.param(["bad.example.com"], 1, "listed: 1", id="listed-domain"),
        pytest.param(["good.example.com", "192.0.2.2"], 0, "2 addresses and domains", id="both-kinds"),
        pytest.param(["--all", "192.0.2.2"], 0, "not-listed", id="all"),
    ],
)
def test_exit_status_tells_whether_listed(conf, words, code, text):
    """0: listed nowhere, 1: listed somewhere."""
    ran = run(conf, *words)
    assert (ran.returncode, text in ran.stdout) == (code, True), ran.stdout + ran.stderr


@pytest.mark.parametrize(
    ("words", "text"),
    [
        pytest.param(["no address"], "is neither an IP address nor a domain", id="nonsense"),
        pytest.param(["1.2.3.4.5"], "is no IP address", id="five-octets"),
    ],
)
def test_wrong_usage_is_one_line_and_status_two(conf, words, text):
    """What is no address or domain is told in one line."""
    ran = run(conf, *words)
    assert (ran.returncode, ran.stderr.count("\n")) == (2, 1)
    assert text in ran.stderr


def test_dead_list_in_the_configuration_is_told(tmp_path):
    """The command refuses a dead list as dnsd does."""
    path = tmp_path / "dead.toml"
    path.write_text(toml({"dns": {"addresses": ["192.0.2.1"], "lists": ["dnsbl.sorbs.net"]}}))
    ran = run(path)
    assert ran.returncode == 2
    assert "this list is dead" in ran.stderr


def test_terminal_gets_a_progress_bar(conf):
    """On a terminal a bar runs on standard error and is gone at the end; a pipe gets none."""
    reader, writer = pty.openpty()
    command = [sys.executable, "-m", "milter_bounce", "blocklists", "-c", str(conf)]
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "120"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=writer, env=environment) as started:
        os.close(writer)
        shown = b""
        while True:
            try:
                read = os.read(reader, 65536)
            except OSError:
                break
            if not read:
                break
            shown += read
        assert started.wait(30) == 1
    os.close(reader)
    assert b"6/6" in shown
    assert "6/6" not in run(conf).stderr
