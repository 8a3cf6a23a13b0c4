"""Where lines come from: standard input, the journal, and which log is followed."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
import sys
import time
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from milter_bounce.config import from_values
from milter_bounce.system import logsource
from milter_bounce.system.logsource import FileSource, JournalSource, StdinSource, followed, local_zone, make_source


def drain(source, tries=100):
    """Return the lines that come until the source ends or stays silent."""
    found = []
    for _ in range(tries):
        batch = source.batch(0.05)
        if batch is None:
            break
        if not batch.lines and found:
            break
        found += batch.lines
    return found


@pytest.mark.parametrize("text", [b"one\ntwo\n", b"one\ntwo"], ids=["whole", "cut"])
@pytest.mark.parametrize("kind", ["pipe", "file"])
def test_standard_input_ends_with_its_last_line(tmp_path, text, kind):
    """Lines come out of pipes and files alike; the end is the end."""
    if kind == "pipe":
        reading, writing = os.pipe()
        os.write(writing, text)
        os.close(writing)
        file = os.fdopen(reading, "rb")
    else:
        (tmp_path / "x").write_bytes(text)
        file = (tmp_path / "x").open("rb")
    with file:
        source = StdinSource(file)
        assert drain(source) == ["one", "two"]
        assert source.batch(0) is None


def test_silent_pipe_does_not_hold_up():
    """A pipe to which nobody writes returns nothing after the time given."""
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as file:
        assert StdinSource(file).batch(0.01).lines == []
        os.close(writing)


ENTRY = {
    "__CURSOR": "s=1;i=7",
    "__REALTIME_TIMESTAMP": "1795199220344421",
    "_HOSTNAME": "mx",
    "SYSLOG_IDENTIFIER": "postfix/smtp",
    "SYSLOG_PID": "7",
    "MESSAGE": "4cXyz: to=<a@b>",
}
LINE = "2026-11-20T18:27:00.344421+00:00 mx postfix/smtp[7]: 4cXyz: to=<a@b>"


def journalctl(folder, *entries, status=0, words=""):
    """Return the command of a journalctl that prints these entries and notes how it was called."""
    script = folder / "journalctl"
    out = "\n".join(entry if isinstance(entry, str) else json.dumps(entry) for entry in entries)
    (folder / "out").write_text(out + "\n" if out else "")
    script.write_text(
        f'#!/bin/sh\necho "$@" >> {folder}/called\ncat {folder}/out\necho "{words}" >&2\n'
        + (f"exit {status}\n" if status else "exec sleep 60\n")
    )
    script.chmod(0o755)
    return (str(script),)


def test_journal_entries_become_lines(tmp_path):
    """An entry is a line with time, host, program and process; the cursor behind it is the position."""
    source = JournalSource(None, command=journalctl(tmp_path, ENTRY))
    batch = source.batch(5)
    source.close()
    assert batch.lines == [LINE]
    assert batch.position == "s=1;i=7"


def test_each_entry_of_the_journal_is_a_place_to_go_on_from(tmp_path):
    """A part of a batch ends at the cursor of its last line, entries that are no line of a mail log left out."""
    entries = [ENTRY | {"__CURSOR": f"i={n}"} | ({"_UID": "1000"} if n % 2 else {}) for n in range(6)]
    source = JournalSource(None, command=journalctl(tmp_path, *entries), writers=frozenset({"0"}))
    places = []
    while len(places) < 3:
        batch = source.batch(5)
        places += [batch.behind(count + 1) for count in range(len(batch.lines))]
    source.close()
    assert places == ["i=0", "i=2", "i=4"]


def test_file_that_cannot_be_read_is_told_through_the_source(tmp_path):
    """What the follower warns of reaches whoever made the source, and its signs of life do."""
    log, told, beats = tmp_path / "mail.log", [], []
    log.write_text("one\n")
    position = make_source(str(log), None, from_start=True).batch(0).position
    log.rename(tmp_path / "old")
    (tmp_path / "mail.log.1.gz").write_bytes(b"no archive")
    log.write_text("live\n")
    source = make_source(str(log), position, from_start=True, warn=told.append, alive=lambda: beats.append(1))
    assert drain(source, 3) == ["live"]
    source.close()
    assert len(told) == 1
    assert "mail.log.1.gz: is damaged" in told[0]
    assert beats


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        pytest.param({"MESSAGE": [52, 99, 255]}, "4c\ufffd", id="bytes"),
        pytest.param(
            {"MESSAGE": "a\nNov 20 10:00:00 mx postfix/smtp[1]: b"},
            "a Nov 20 10:00:00 mx postfix/smtp[1]: b",
            id="forged",
        ),
        pytest.param({"_UID": "0"}, "4cXyz: to=<a@b>", id="by-root"),
        pytest.param({"_UID": "1000"}, None, id="by-somebody-with-logger"),
        pytest.param({"MESSAGE": None}, None, id="too-large"),
        pytest.param({"MESSAGE": {"x": 1}}, None, id="nonsense"),
        pytest.param({"SYSLOG_IDENTIFIER": None}, None, id="no-program"),
        pytest.param({"__REALTIME_TIMESTAMP": "soon"}, None, id="no-time"),
        pytest.param({"__REALTIME_TIMESTAMP": "9" * 30}, None, id="beyond-the-calendar"),
    ],
)
def test_odd_journal_entries_are_read_or_left_out(tmp_path, change, wanted):
    """Bytes that are no text, newlines, missing fields: a line or none, never two."""
    source = JournalSource(None, command=journalctl(tmp_path, ENTRY | change, "no json", "[]", ENTRY))
    found = drain(source)
    source.close()
    assert found[-1] == LINE
    assert [text.split("]: ", 1)[1] for text in found[:-1]] == ([] if wanted is None else [wanted])


@pytest.mark.parametrize(
    ("cursor", "from_start", "option"),
    [
        pytest.param(None, False, "--lines=0", id="first-time"),
        pytest.param(None, True, "--no-tail", id="from-start"),
        pytest.param("s=1;i=7", False, "--after-cursor=s=1;i=7", id="goes-on"),
    ],
)
def test_journal_is_read_from_the_right_place(tmp_path, cursor, from_start, option):
    """The stored cursor decides, else whether the past is wanted."""
    source = JournalSource(cursor, from_start=from_start, command=journalctl(tmp_path, ENTRY))
    assert source.batch(5).lines
    source.close()
    called = (tmp_path / "called").read_text()
    assert option in called
    assert "SYSLOG_FACILITY=2" in called


def test_journalctl_that_ends_is_told_and_started_again(tmp_path, monkeypatch):
    """Its last words are in the error; the next try begins after the last cursor."""
    monkeypatch.setattr(logsource.time, "monotonic", lambda: 0.0)
    source = JournalSource(None, command=journalctl(tmp_path, ENTRY, status=1, words="Failed to open"))
    assert source.batch(5).lines == [LINE]
    with pytest.raises(OSError, match="journalctl ended: Failed to open"):
        source.batch(5)
    monkeypatch.setattr(logsource.time, "monotonic", lambda: 10.0)
    assert source.batch(5).lines == [LINE]
    source.close()
    assert "--after-cursor=s=1;i=7" in (tmp_path / "called").read_text().splitlines()[1]


@pytest.mark.skipif(
    not shutil.which("systemd-journal-remote", path="/lib/systemd:/usr/lib/systemd") or not shutil.which("journalctl"),
    reason="a real journal: systemd-journal-remote is not installed",
)
def test_real_journal_is_read(tmp_path):
    """Entries of a real journal file come out, those of other facilities do not."""
    fields = {"MESSAGE": ENTRY["MESSAGE"], "SYSLOG_IDENTIFIER": "postfix/smtp", "SYSLOG_PID": "7", "_HOSTNAME": "mx"}
    exported = ""
    for number, facility in enumerate((2, 3, 2)):
        exported += f"__REALTIME_TIMESTAMP={1795199220344421 + number}\n__MONOTONIC_TIMESTAMP={number + 1}\n"
        exported += f"_BOOT_ID={'a' * 32}\nSYSLOG_FACILITY={facility}\n"
        exported += "".join(f"{key}={value}\n" for key, value in fields.items()) + "\n"
    remote = shutil.which("systemd-journal-remote", path="/lib/systemd:/usr/lib/systemd")
    journal = tmp_path / "test.journal"
    subprocess.run([remote, "-o", str(journal), "-"], input=exported.encode(), check=True, capture_output=True)
    source = JournalSource(None, from_start=True, command=("journalctl", f"--file={journal}"))
    found = drain(source)
    source.close()
    assert [text.split("]: ")[1] for text in found] == [ENTRY["MESSAGE"]] * 2


def section(**values):
    return from_values({"log": values}, "test").log


def test_followed_log_is_what_the_configuration_names():
    """A path, the journal or standard input is taken as it stands."""
    assert [followed(section(follow=what)) for what in ("/x/mail.log", "journal", "-")] == [
        "/x/mail.log",
        "journal",
        "-",
    ]


def test_writers_of_the_journal_are_root_and_the_mta(tmp_path, monkeypatch):
    """Whom Postfix names as its owner counts, too; a name that is nobody's does not matter."""
    script = tmp_path / "postconf"
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    for owner, uid in (("nobody", str(pwd.getpwnam("nobody").pw_uid)), ("no-such-user", None)):
        script.write_text(f"#!/bin/sh\necho {owner}\n")
        script.chmod(0o755)
        found = logsource.mail_uids()
        assert "0" in found
        assert uid is None or uid in found


@pytest.mark.parametrize(
    ("answer", "wanted"),
    [
        pytest.param("/var/log/postfix.log", "/var/log/postfix.log", id="file"),
        pytest.param("", None, id="not-set"),
        pytest.param("/dev/stdout", None, id="stdout"),
    ],
)
def test_auto_asks_postfix_first(tmp_path, monkeypatch, answer, wanted):
    """maillog_file decides where it names a file; else the system's own log."""
    script = tmp_path / "postconf"
    script.write_text(f"#!/bin/sh\necho '{answer}'\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert followed(section()) == wanted or (
        wanted is None and followed(section()) in ("journal", *logsource.SYSTEM_LOGS)
    )


def test_sources_are_made_by_name(tmp_path):
    """Each kind of log has its source."""
    assert isinstance(make_source(str(tmp_path / "x"), None, from_start=False), FileSource)
    assert isinstance(make_source("journal", None, from_start=False), JournalSource)


def test_log_that_cannot_be_read_is_an_error_each_time(tmp_path):
    """A folder in the log's place is told, and the source lives on until it is a log."""
    path = tmp_path / "mail.log"
    path.mkdir()
    source = make_source(str(path), None, from_start=True)
    for _ in range(2):
        with pytest.raises(OSError, match=r"mail\.log"):
            source.batch(0)
    path.rmdir()
    Path(path).write_text("now it is\n")
    assert source.batch(0).lines == ["now it is"]
    source.close()


@pytest.mark.parametrize(
    ("name", "hours"),
    [
        pytest.param("Europe/Berlin", 1, id="name"),
        pytest.param(":UTC", 0, id="colon"),
        pytest.param(":/usr/share/zoneinfo/Europe/Berlin", 1, id="path"),
        pytest.param("XYZ-5", 5, id="rules"),
        pytest.param("No/Where", 0, id="unknown"),
    ],
)
def test_time_zone_comes_from_the_environment(monkeypatch, name, hours):
    """TZ names the zone, by name, path or rules; an unknown one is UTC."""
    monkeypatch.setenv("TZ", name)
    time.tzset()
    assert datetime(2026, 12, 1, tzinfo=local_zone()).utcoffset() == timedelta(hours=hours)
    monkeypatch.undo()
    time.tzset()


def test_time_zone_of_the_system_is_found(monkeypatch):
    """Without TZ the system's zone is read, with its rules."""
    monkeypatch.delenv("TZ", raising=False)
    assert local_zone() is not None
    assert sys.platform == "linux"
