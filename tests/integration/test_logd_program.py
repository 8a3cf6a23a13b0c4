"""logd as an administrator runs it: standard input, signals, configuration, a real Postfix that rotates its log."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import pytest

from milter_bounce.config import from_values
from milter_bounce.system.advising import make_store
from tests.integration.enforcing import Enforced
from tests.integration.logd_run import MailLog, Runs, settings_for
from tests.integration.postfix import Postfix, needs_postfix
from tests.integration.programs import Program, toml
from tests.integration.programs import settings_for as settings_beside
from tests.integration.sink import Script, Sinks

pytestmark = pytest.mark.integration
RULE = """
[[rule]]
id = "ours"
text = "over quota"
category = "mailbox-unavailable"
source = "this test, 2026"
examples = ["452 4.2.2 The mailbox is over quota"]
"""


def values(folder):
    """Return the configuration as nested values."""
    return {
        "user": "",
        "store": {"path": str(folder / "state.db")},
        "rules": {"local": str(folder / "rules.d")},
        "log": {
            "output": "file",
            "output_file": str(folder / "advice.log"),
            "follow": str(folder / "mail.log"),
            "from_start": True,
        },
    }


def attempts(runs, recipient):
    """Return the failed attempts that the store knows of."""
    store = make_store(runs.settings)
    try:
        episode = store.recipient(recipient).episode
        return episode.attempts if episode else 0
    finally:
        store.close()


def wait_for(ready, seconds=20):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if ready():
            return
        time.sleep(0.05)
    pytest.fail("waited in vain")


def test_standard_input_is_learnt_to_its_end(tmp_path):
    """A log piped in: every status counted, an event for each failure, exit status 0."""
    log = MailLog(tmp_path / "piped.log")
    log.write(500)
    (tmp_path / "c.toml").write_text(toml(values(tmp_path)))
    words = [
        sys.executable,
        "-m",
        "milter_bounce",
        "logd",
        "-c",
        str(tmp_path / "c.toml"),
        "--follow",
        "-",
        "--events",
        "jsonl",
    ]
    ran = subprocess.run(words, stdin=log.path.open(), capture_output=True, text=True, check=False, timeout=60)
    assert (ran.returncode, ran.stderr) == (0, "")
    events = [json.loads(line) for line in ran.stdout.splitlines()]
    assert len(events) == log.failed
    assert {(one["category"], one["source"], one["advice"]) for one in events} == {("mailbox-full", "log", "retry")}
    assert Runs(settings_for(tmp_path)).counted() == {"delivered": log.sent, "mailbox-full": log.failed}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        pytest.param({"mode": "maybe"}, "mode = 'maybe'", id="value"),
        pytest.param({"log": {"colour": "red"}}, "log.colour", id="unknown-option"),
        pytest.param({"user": "nobody-of-this-name"}, "user = 'nobody-of-this-name': no such user", id="user"),
    ],
)
def test_wrong_configuration_stops_the_start(tmp_path, change, said):
    """One line with file or key and remedy, exit status 2."""
    (tmp_path / "c.toml").write_text(toml(change))
    words = [sys.executable, "-m", "milter_bounce", "logd", "-c", str(tmp_path / "c.toml"), "--follow", "-"]
    ran = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=60)
    assert ran.returncode == 2
    assert said in ran.stderr
    assert len(ran.stderr.splitlines()) == 1


def test_hang_up_takes_new_rules_and_keeps_old_ones_when_broken(tmp_path):
    """SIGHUP: a new local rule is in force; a broken one leaves the old in force and is told."""
    log, runs = MailLog(tmp_path / "mail.log"), Runs(from_values(values(tmp_path), "test"))
    (tmp_path / "rules.d").mkdir()
    with Program(
        "logd", tmp_path, values(tmp_path), ready=lambda: any("following" in line for line in runs.advice())
    ) as logd:
        log.write(5)
        assert runs.wait_counted(5)["mailbox-full"] == 1
        (tmp_path / "rules.d" / "a.toml").write_text(RULE)
        logd.signal(signal.SIGHUP)
        wait_for(lambda: any("rules reloaded" in line for line in runs.advice()))
        log.write(5)
        assert runs.wait_counted(10)["mailbox-unavailable"] == 1
        (tmp_path / "rules.d" / "a.toml").write_text("[[rule]]\nid = 7\n")
        logd.signal(signal.SIGHUP)
        wait_for(lambda: any("not reloaded, the old configuration stays in force" in line for line in runs.advice()))
        log.write(5)
        assert runs.wait_counted(15)["mailbox-unavailable"] == 2
    assert logd.errors() == ""


@needs_postfix
def test_postfix_rotates_its_log_under_way(tmp_path):
    """`postfix logrotate` renames and compresses: every status counts once, advice goes into the new log."""
    with Sinks() as sinks:
        full = sinks.add("full.test", Script(rcpt="552 5.2.2 mailbox full"))
        main = {"bounce_queue_lifetime": "0", "maillog_file_compressor": "gzip"}
        with Postfix(tmp_path / "p", main, routes={"full.test": full}) as postfix:
            settings = settings_beside(postfix, tmp_path, log={"from_start": True})
            runs = Runs(from_values(settings, "test"))
            with Program(
                "logd", tmp_path, settings, ready=lambda: any("following" in line for line in postfix.lines())
            ):
                for turn in range(3):
                    postfix.send("me@home.example", [f"u{turn}{n}@full.test" for n in range(10)])
                    wait_for(lambda turn=turn: runs.counted().get("mailbox-full", 0) == 10 * (turn + 1))
                    rotated = postfix.postfix("logrotate")
                    assert rotated.returncode == 0, rotated.stderr
                    time.sleep(1.1)  # the name of the rotated log has seconds
                postfix.send("me@home.example", "last@full.test")
                postfix.wait_log(r"milter-bounce/logd.*to=<last@full.test>.*category=mailbox-full")
            assert runs.counted()["mailbox-full"] == 31
            assert len(list(postfix.log.parent.glob("mail.log.*.gz"))) == 3


@needs_postfix
def test_own_annotations_and_gate_answers_are_no_failures(tmp_path):
    """In mode enforce with annotations, what logd counts is what reached the remote server, in the remote's own words."""
    with Sinks() as sinks:
        full = sinks.add("full.test", Script(rcpt="552 5.2.2 mailbox full"))
        routes = {"full.test": full, "ok.test": sinks.add("ok.test")}
        with Enforced(tmp_path / "p", {"log": {"from_start": True}}, routes=routes, annotate=True) as postfix:
            runs = Runs(from_values(postfix.settings, "test"))
            with postfix.traffic("t@ok.test"):
                postfix.send("me@home.example", "a@full.test")
                postfix.wait_log(r"smtp.*to=<a@full.test>.*status=deferred \(\[class=soft category=mailbox-full", 20)
                postfix.wait_log(r"error.*to=<a@full.test>, relay=none.*status=deferred \(.*milter-bounce: ", 20)
                postfix.wait_for(lambda: full.attempts["a@full.test"] >= 2, 30)
            postfix.empty_queue()  # no attempt comes after those counted now; the log goes on taking lines
            wait_for(lambda: attempts(runs, "a@full.test") == full.attempts["a@full.test"])

            def told() -> list[str]:
                # logd started before Postfix: its first lines went to standard output, there was no other log yet
                advice = postfix.lines() + postfix.programs["logd"].output().splitlines()
                return [
                    line
                    for line in advice
                    if "milter-bounce/logd" in line and "to=<a@full.test>" in line and "class=" in line
                ]

            wait_for(lambda: len(told()) >= full.attempts["a@full.test"])
            time.sleep(0.5)
            lines, attempted = told(), full.attempts["a@full.test"]
    assert len(lines) == attempted
    assert all("dsn=5.2.2, class=soft, category=mailbox-full" in line for line in lines)
    assert all('text="552 5.2.2 mailbox full"' in line for line in lines)
