"""``milter-bounce log``: tables, JSON, exit status."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time

import pytest
from click.testing import CliRunner

from milter_bounce.cli import main
from tests.bench.make_log import lines
from tests.conftest import ROOT

STAMP = "2026-11-20T10:00:00+00:00 mx"


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "mail.log"
    path.write_text("".join(lines(2000)))
    return path


def run(*words, **env):
    return CliRunner().invoke(main, ["log", *map(str, words)], env={"COLUMNS": "160", **env})


def test_tables_show_operators_refusals_and_lists(log):
    """Operators by category with their rates, top refusals with rule and example, blocklists with their look-up."""
    shown = run(log)
    assert shown.exit_code == 0
    for words in ("2000 delivery statuses of 2000 messages", "google", "yahoo", "delivered", "hard", ">2%"):
        assert words in shown.stdout
    for words in ("Most frequent refusals", "zen.spamhaus.org", "check.spamhaus.org"):
        assert words in shown.stdout


def test_json_is_one_object_per_status(log):
    """Every status, successes too, with the fields of DESIGN.md section 9 and what only a log knows."""
    shown = run("--json", log)
    found = [json.loads(line) for line in shown.stdout.splitlines()]
    assert (shown.exit_code, len(found)) == (0, 2000)
    assert {one["log_status"] for one in found} == {"sent", "bounced", "deferred"}
    listed = next(one for one in found if one["category"] == "blocklisted")
    assert (listed["reply"], listed["status"], listed["class"], listed["advice"]) == ("554", "5.7.1", "policy", "hold")
    assert [b["zone"] for b in listed["blocklists"]] == ["zen.spamhaus.org"]
    assert listed["sender"].endswith("@shop.example")
    assert listed["queue_id"].startswith("4d")


def test_missing_log_is_told_and_the_rest_read(log, tmp_path):
    """Exit status 1 when a file was named that cannot be opened; the rest is shown."""
    shown = run(tmp_path / "missing", log)
    assert shown.exit_code == 1
    assert "2000 delivery statuses" in shown.stdout
    assert "missing: No such file or directory" in shown.stderr


@pytest.mark.parametrize("options", [[], ["--json"], ["--processes", "2"]])
def test_pipe_given_by_name_is_read_as_standard_input_is(log, options):
    """``milter-bounce log <(zcat mail.log.1.gz)``."""
    script = 'p=$1; shift; exec "$@" <(cat "$p")'
    words = [sys.executable, "-m", "milter_bounce", "log", *options]
    ran = subprocess.run(
        ["bash", "-c", script, "-", log, *words], check=False, capture_output=True, text=True, timeout=120, cwd=ROOT
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    if "--json" in options:
        assert len(ran.stdout.splitlines()) == 2000
    else:
        assert "2000 delivery statuses of 2000 messages" in ran.stdout


def test_named_pipe_waits_for_its_writer(log, tmp_path):
    """A pipe that nobody has opened yet is no empty log."""
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=lambda: (time.sleep(0.3), (tmp_path / "pipe").write_bytes(log.read_bytes())))
    writer.start()
    shown = run(tmp_path / "pipe")
    writer.join()
    assert "2000 delivery statuses of 2000 messages" in shown.stdout


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_device_never_hangs(options):
    """/dev/null is an empty log; a device without an end is refused at once."""
    empty = run(*options, "/dev/null")
    assert empty.exit_code == 0
    endless = run(*options, "/dev/zero")
    assert endless.exit_code == 1
    assert "/dev/zero: is no regular file" in endless.stderr


def test_json_of_a_reply_with_control_characters_does_nothing_to_a_terminal(tmp_path):
    """C1 and DEL are JSON's escapes: they come back as they were, and no terminal sees them."""
    said = "550 5.7.1 \x9b31m red \x7f \u202e \u2066 evil"
    (tmp_path / "x").write_text(
        f"{STAMP} postfix/smtp[1]: AAAAA1: to=<a@evil.example>, relay=mx[192.0.2.1]:25, delay=1, delays=0/0/0/1, "
        f"dsn=5.7.1, status=bounced (host mx[192.0.2.1] said: {said} (in reply to RCPT TO command))\n"
    )
    shown = run("--json", tmp_path / "x").stdout
    assert shown.rstrip("\n").isprintable()
    assert "\\u009b31m red \\u007f \\u202e \\u2066 evil" in shown
    assert json.loads(shown)["diagnostic"] == said


def test_log_without_deliveries_says_so(tmp_path):
    """A log of something else is no error; how much of it is a mail log's is told."""
    (tmp_path / "x").write_text("Nov 20 10:00:00 mx cron[1]: hello\n")
    shown = run(tmp_path / "x")
    assert shown.exit_code == 0
    assert "0 delivery statuses" in shown.stdout
    assert "0 of 1 lines are a mail log's" in shown.stderr
    (tmp_path / "y").write_text(f"{STAMP} postfix/qmgr[1]: AAAAA1: removed\nhello\n{STAMP} sm-mta[1]: starting\n")
    assert "2 of 3 lines are a mail log's" in run(tmp_path / "y").stderr


def test_hostile_text_reaches_the_terminal_escaped(tmp_path):
    """Escapes, rich's markup and bidirectional marks in a reply do nothing to the terminal."""
    said = "550 5.7.1 \x1b[31mred\x1b[0m [bold]markup[/bold] [/] \u202e evil"
    (tmp_path / "x").write_text(
        f"{STAMP} postfix/smtp[1]: AAAAA1: to=<a@[bold]evil.example>, relay=mx[192.0.2.1]:25, delay=1, delays=0/0/0/1, "
        f"dsn=5.7.1, status=bounced (host mx[192.0.2.1] said: {said} (in reply to RCPT TO command))\n"
    )
    shown = run(tmp_path / "x")
    assert shown.exit_code == 0
    assert "\x1b" not in shown.stdout
    assert "\u202e" not in shown.stdout
    assert "[bold]markup[/bold]" in shown.stdout


def test_wrong_configuration_is_one_line(tmp_path, log):
    """Exit status 2 with file, key and remedy."""
    conf = tmp_path / "conf.toml"
    conf.write_text('mode = "sometimes"\n')
    shown = run("-c", conf, log)
    assert shown.exit_code == 2
    assert "mode = 'sometimes'" in shown.stderr
    assert len(shown.stderr.splitlines()) == 1


@pytest.mark.parametrize("width", ["40", "80", "300"])
def test_tables_hold_at_any_width(log, width):
    """Narrow or wide, no operator and no rate vanishes."""
    shown = run(log, COLUMNS=width)
    assert shown.exit_code == 0
    assert "google" in shown.stdout
    assert "unknown" in shown.stdout
