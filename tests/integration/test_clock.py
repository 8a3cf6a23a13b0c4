"""The host's clock jumps by years under the live programs (a preloaded library): they live, mail flows, little is forgotten."""

from __future__ import annotations

import contextlib
import re
import shutil
import sqlite3
import subprocess
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from milter_bounce.system import keys
from tests.integration.enforcing import Enforced
from tests.integration.postfix import needs_postfix
from tests.integration.sink import Script, Sinks

GCC = shutil.which("gcc")
needs_gcc = pytest.mark.skipif(GCC is None, reason="a clock that jumps is a preloaded library: no gcc is installed")
pytestmark = [pytest.mark.integration, needs_postfix, needs_gcc]

NEWS = "news@home.example"
TURNS_S = 3.0
"""Several turns of logd's housekeeping, which comes every 0.6 s here, and of the heartbeats."""


class Clock:
    """The wall clock of our programs; Postfix and the tests keep the true one."""

    def __init__(self, folder: Path) -> None:
        self.path, library = folder / "clock", folder / "jumping_clock.so"
        source = Path(__file__).with_name("jumping_clock.c")
        subprocess.run([GCC, "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"], check=True)
        self.turn(0)
        self.environment = {"LD_PRELOAD": str(library), "JUMPING_CLOCK": str(self.path)}

    def turn(self, years: int) -> None:
        fresh = self.path.with_suffix(".new")
        fresh.write_text(f"{years * 365 * 86_400}\n")
        fresh.replace(self.path)


@pytest.fixture
def host(tmp_path):
    clock = Clock(tmp_path)
    with Sinks("127.0.67") as sinks:
        routes = {
            "ok.test": sinks.add("ok.test"),
            "bad.test": sinks.add("bad.test", Script(rcpt="550 5.1.1 User unknown")),
            "full.test": sinks.add("full.test", Script(rcpt="452 4.2.2 Mailbox full")),
            "listed.test": sinks.add("listed.test", Script(rcpt="554 5.7.1 blocked using zen.spamhaus.org")),
        }
        over = {"log": {"output": "postlog"}, "advice": {"time_scale": 0.01}}
        parts = ("milterd", "answerd", "logd")
        mta = Enforced(tmp_path / "p", over, parts, routes=routes, environment=clock.environment)
        keys.new_key(mta.folder / "keys")
        with mta:
            mta.sinks, mta.clock = sinks, clock
            for recipient in ("gone@bad.test", "a@full.test", "b@listed.test"):
                mta.send(NEWS, recipient)
                mta.wait_log(rf"logd\[\d+\]: \w+: to=<{re.escape(recipient)}>, operator=")
            mta.wait_for(lambda: all(remembered(mta).values()))
            yield mta


def remembered(host) -> dict[str, list]:
    """Return what must outlast a wrong clock: who is suppressed, what is blocked until when, who failed since when."""
    asked = {
        "suppressions": "recipient, since, reason",
        "blocks": "key, state, began, ends",
        "recipients": "recipient, first_failure, category",
    }
    with contextlib.closing(sqlite3.connect(host.folder / "state.db", timeout=10)) as store:
        return {table: sorted(store.execute(f"SELECT {columns} FROM {table}")) for table, columns in asked.items()}


def settled(host) -> dict[str, list]:
    """Return what is remembered once logd has learnt all that the log holds: its writing is some moments behind."""
    before = remembered(host)
    for _ in range(20):
        time.sleep(1.5)
        if (now := remembered(host)) == before:
            return now
        before = now
    pytest.fail(f"it goes on changing: {before}")


def jump(host, years: int) -> None:
    """Set the programs' clock; they live on, and mail flows."""
    alive = {name: program.process.pid for name, program in host.programs.items()}
    host.clock.turn(years)
    time.sleep(TURNS_S)
    recipient = f"after{time.monotonic_ns()}@ok.test"
    host.send(NEWS, recipient)
    host.wait_for(lambda: host.sinks["ok.test"].delivered(recipient) == 1, 30)
    assert {name: program.process.pid for name, program in host.programs.items()} == alive
    assert all(program.process.poll() is None for program in host.programs.values())
    assert [line for line in host.lines() if "died" in line and "milter-bounce/" in line] == []


def test_clock_jumps_ahead_and_back(host):
    """Five years ahead: no block ends, no suppression goes, nobody's schedule is used up; it is told, and so is the way back."""
    host.empty_queue()
    before = settled(host)
    for years in (5, 0):
        jump(host, years)
        assert remembered(host) == before
    told = host.wait_log(r"milter-bounce/logd\[\d+\]: warning: the clock jumped by .* days", count=2)
    assert ["+" in told[0].partition("jumped by")[2][:3], "-" in told[1].partition("jumped by")[2][:3]] == [True, True]


def test_clock_jumps_back_and_ahead(host):
    """Five years back, what holds mail until a day in five years holds nothing; set right, advice is about today."""
    before, full = remembered(host), host.sinks["full.test"]
    tried = full.connections
    jump(host, -5)
    host.wait_for(lambda: full.connections > tried, 30)
    assert remembered(host)["suppressions"] == before["suppressions"]
    jump(host, 0)
    host.send(NEWS, "late@full.test")
    line = host.wait_log(r"logd\[\d+\]: \w+: to=<late@full.test>, operator=.* not_before=")[0]
    until = datetime.fromisoformat(re.search(r"not_before=([^ ,]+)", line)[1])
    assert abs(until - datetime.now(UTC)) < timedelta(days=2)
    assert remembered(host)["suppressions"] == before["suppressions"]
