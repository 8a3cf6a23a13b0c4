"""logd killed, starved and locked out: every status counts exactly once."""

from __future__ import annotations

import os
import random
import sqlite3
import subprocess
import time
from pathlib import Path

import pytest

from milter_bounce.system.advising import make_store
from tests.integration.logd_run import MailLog, Runs, settings_for

pytestmark = pytest.mark.integration
SOAK = bool(os.environ.get("MILTER_BOUNCE_SOAK"))
KILLS = 1000 if SOAK else 200
LINES = 250_000 if SOAK else 50_000


def attempts(runs, number):
    store = make_store(runs.settings)
    try:
        return store.recipient(f"full{number}@example.net").episode.attempts
    finally:
        store.close()


def wait_started(runs, log) -> None:
    """Wait until logd remembers where it is: before that, nothing tells it of files that are rotated away."""
    end = time.monotonic() + 30
    while make_store(runs.settings).log_position(str(log.path)) is None and time.monotonic() < end:
        time.sleep(0.05)


def test_killed_logd_counts_every_status_once(tmp_path):
    """Signal 9 at 200 random moments while 50,000 lines are written and rotated three times."""
    dice, log, runs = random.Random(9), MailLog(tmp_path / "mail.log"), Runs(settings_for(tmp_path))
    rotations = {KILLS // 4: "create", KILLS // 2: "compress", 3 * KILLS // 4: "copytruncate"}
    per_kill = LINES // KILLS
    runs.start()
    wait_started(runs, log)
    runs.kill()
    for number in range(KILLS):
        runs.start()
        written = dice.randrange(per_kill + 1)
        log.write(written)
        time.sleep(dice.random() * 0.12)
        if number in rotations:
            log.rotate(rotations[number])
        log.write(per_kill - written)
        time.sleep(dice.random() * 0.04)
        runs.kill()
    log.write(LINES - log.statuses)
    runs.start()
    counted = runs.wait_counted(log.statuses, 120)
    assert runs.stop() == 0
    assert counted == {"delivered": log.sent, "mailbox-full": log.failed}
    tries = [attempts(runs, number) for number in (0, 250, 499)]
    assert tries == [log.failed // 500] * 3


def test_first_start_remembers_where_it_began(tmp_path):
    """Lines written while logd is away count, though it had not yet read one when it was killed."""
    log, runs = MailLog(tmp_path / "mail.log"), Runs(settings_for(tmp_path, from_start=False))
    log.write(20)
    runs.start()
    wait_started(runs, log)
    runs.kill()
    log.write(30)
    runs.start()
    counted = runs.wait_counted(30)
    assert runs.stop() == 0
    assert sum(counted.values()) == 30


def test_locked_store_is_waited_for(tmp_path):
    """Another program that keeps the store locked delays logd, which says so and catches up."""
    log, runs = MailLog(tmp_path / "mail.log"), Runs(settings_for(tmp_path))
    log.write(100)
    runs.start()
    assert sum(runs.wait_counted(100).values()) == 100
    with sqlite3.connect(tmp_path / "state.db", isolation_level=None) as other:
        other.execute("BEGIN EXCLUSIVE")
        log.write(400)
        end = time.monotonic() + 15
        while not any("not learnt from for now" in line for line in runs.advice()) and time.monotonic() < end:
            time.sleep(0.1)
        other.execute("ROLLBACK")
    counted = runs.wait_counted(500)
    assert runs.stop() == 0
    assert counted == {"delivered": log.sent, "mailbox-full": log.failed}
    said = "\n".join(runs.advice())
    assert "the log is not learnt from for now, nothing is lost" in said
    assert "the store is back" in said


@pytest.fixture
def small_disk(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(disk)], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("a full disk: cannot mount a small tmpfs here")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_full_disk_is_waited_for(tmp_path, small_disk):
    """A disk that is full when the store is written loses and doubles nothing."""
    settings = settings_for(tmp_path)
    settings = settings.model_copy(
        update={"store": settings.store.model_copy(update={"path": str(small_disk / "state.db")})}
    )
    log, runs = MailLog(tmp_path / "mail.log"), Runs(settings)
    log.write(100)
    runs.start()
    assert sum(runs.wait_counted(100).values()) == 100
    with Path(small_disk / "filler").open("wb") as filler:
        while True:
            try:
                os.write(filler.fileno(), b"x" * 4096)
            except OSError:
                break
    log.write(20_000)
    end = time.monotonic() + 15
    while not any("not learnt from for now" in line for line in runs.advice()) and time.monotonic() < end:
        time.sleep(0.1)
    Path(small_disk / "filler").unlink()
    counted = runs.wait_counted(log.statuses)
    assert runs.stop() == 0
    assert counted == {"delivered": log.sent, "mailbox-full": log.failed}
    assert any("not learnt from for now" in line for line in runs.advice())
    assert make_store(settings).check() == []


def test_removed_store_is_made_anew(tmp_path):
    """A state file that is deleted under way costs what it knew, and logd goes on."""
    log, runs = MailLog(tmp_path / "mail.log"), Runs(settings_for(tmp_path))
    log.write(50)
    runs.start()
    assert sum(runs.wait_counted(50).values()) == 50
    for path in tmp_path.glob("state.db*"):
        path.unlink()
    log.write(70)
    counted = runs.wait_counted(70)
    assert runs.stop() == 0
    assert sum(counted.values()) == 70


@pytest.mark.parametrize("seed", range(5))
def test_clock_that_jumps_breaks_nothing(tmp_path, seed):
    """Time stamps years ahead and back are learnt from like any other."""
    dice = random.Random(seed)
    log, runs = MailLog(tmp_path / "mail.log"), Runs(settings_for(tmp_path))
    for _ in range(6):
        log.start = log.start.replace(year=dice.choice([1971, 2019, 2026, 2038, 9000]), day=dice.randrange(1, 28))
        log.write(50)
    runs.start()
    counted = runs.wait_counted(log.statuses)
    assert runs.stop() == 0
    assert sum(counted.values()) == log.statuses
