"""logd by itself: the only one on its store, and with a log that is not there."""

from __future__ import annotations

import subprocess
import sys

import pytest

from milter_bounce.config import from_values
from milter_bounce.system import logd
from milter_bounce.system.claim import Claim
from milter_bounce.system.supervise import commands
from tests.integration.programs import toml


@pytest.fixture
def values(tmp_path):
    """Return a configuration whose files all lie in one folder."""
    return {
        "user": "",
        "store": {"path": str(tmp_path / "state.db")},
        "log": {
            "output": "file",
            "output_file": str(tmp_path / "advice.log"),
            "follow": str(tmp_path / "mail.log"),
        },
    }


@pytest.mark.parametrize(("program", "words"), [("logd", ["--events", "jsonl"]), ("dnsd", [])])
def test_second_program_on_one_store_is_refused(tmp_path, values, program, words):
    """`logd --events jsonl` by hand beside `run` would count everything twice: status 1, one line, nothing read."""
    (tmp_path / "c.toml").write_text(toml(values))
    first = Claim(tmp_path / "state.db", program)
    first.take()
    command = [sys.executable, "-m", "milter_bounce", program, "-c", str(tmp_path / "c.toml"), *words]
    ran = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 1
    assert ran.stderr.startswith(f"milter-bounce {program}: another {program} works on this store (process ")
    assert ran.stderr.count("\n") == 1
    assert not (tmp_path / "advice.log").exists()


def test_store_that_cannot_be_claimed_is_waited_for_with_the_remedy(tmp_path, values, monkeypatch):
    """Without the store's folder there is no lock either: what is told is what to do about the folder."""
    values["store"]["path"] = str(tmp_path / "none" / "state.db")
    daemon = logd.Logd(from_values(values, "test"), None, events=False)
    monkeypatch.setattr(daemon, "_rest", lambda _: (tmp_path / "none").mkdir())
    assert daemon._known_position() is None
    told = (tmp_path / "advice.log").read_text()
    assert "waits for the store" in told
    assert "its folder is missing; make it" in told
    assert (tmp_path / "none" / "state.db.logd").exists()


@pytest.fixture
def clock(monkeypatch):
    """Return a clock that the test turns: its seconds stand in a list of one."""
    now = [1000.0]
    monkeypatch.setattr(logd.time, "monotonic", lambda: now[0])
    return now


def test_log_that_does_not_come_is_told_once(tmp_path, values, clock):
    """After some seconds, with the remedy; a file that vanishes for a rotation's moment is nothing."""
    daemon = logd.Logd(from_values(values, "test"), None, events=False)

    def told() -> int:
        path = tmp_path / "advice.log"
        assert daemon.log.flush()
        return (
            path.read_text().count("does not exist, so that nothing is learnt; set log.follow") if path.exists() else 0
        )

    daemon._look_for_log()
    clock[0] += logd.MISSING_S - 0.1
    daemon._look_for_log()
    assert told() == 0
    clock[0] += 0.1
    for _ in range(3):
        daemon._look_for_log()
        clock[0] += 1000
    assert told() == 1
    (tmp_path / "mail.log").touch()
    daemon._look_for_log()
    (tmp_path / "mail.log").unlink()
    daemon._look_for_log()
    assert told() == 1
    clock[0] += logd.MISSING_S
    daemon._look_for_log()
    assert told() == 2


@pytest.mark.parametrize("follow", ["-", "journal"])
def test_what_is_no_file_is_not_missing(tmp_path, values, clock, follow):
    """Standard input and the journal have no path."""
    values["log"]["follow"] = follow
    daemon = logd.Logd(from_values(values, "test"), None, events=False)
    for _ in range(3):
        daemon._look_for_log()
        clock[0] += 1000
    assert not (tmp_path / "advice.log").exists()


def test_run_hands_events_on_to_those_that_print_them(tmp_path):
    """`run --events jsonl` instead of a second logd by hand."""
    made = commands(tmp_path / "c.toml", events=True)
    assert {name: words[-2:] == ["--events", "jsonl"] for name, words in made.items()} == {
        "milterd": True,
        "answerd": False,
        "logd": True,
        "dnsd": False,
    }
