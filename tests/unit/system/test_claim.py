"""One logd and one dnsd per store, and the sign of life that `milter-bounce check` looks at."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from milter_bounce.config import from_values
from milter_bounce.system import claim, wiring
from milter_bounce.system.advising import make_store
from milter_bounce.system.claim import Claim, TakenError, sign_of
from milter_bounce.system.logtail import Position
from milter_bounce.system.store import LogPosition

HOLD = """
import sys, time
from milter_bounce.system.claim import Claim
held = Claim(sys.argv[1], "logd")
held.take()
held.sign(follows="/var/log/mail.log")
print("held", flush=True)
time.sleep(3600)
"""


@pytest.fixture
def store(tmp_path):
    """Return the path of a store."""
    return tmp_path / "state.db"


@pytest.fixture
def other(store):
    """Return another process that has logd's claim on the store."""
    with subprocess.Popen([sys.executable, "-c", HOLD, str(store)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_claim_of_another_process_is_refused_with_its_pid(store, other):
    """Who has it, and what to do; each program has a claim of its own."""
    with pytest.raises(TakenError, match=rf"another logd works on this store \(process {other.pid}; .*stop that one"):
        Claim(store, "logd").take()
    Claim(store, "dnsd").take()


def test_claim_ends_with_its_holder(store, other):
    """A kill -9 leaves no lock behind; the last sign stays, of nobody who lives."""
    assert sign_of(store, "logd").held
    other.kill()
    other.wait()
    sign = sign_of(store, "logd")
    assert (sign.held, sign.pid, sign.follows) == (False, other.pid, "/var/log/mail.log")
    Claim(store, "logd").take()


def test_looking_does_not_take_the_claim_away(store, monkeypatch):
    """A program that starts while somebody looks waits for the look to end."""
    looking = os.open(store.with_name("state.db.logd"), os.O_RDONLY | os.O_CREAT, 0o600)
    claim.fcntl.flock(looking, claim.fcntl.LOCK_SH)
    monkeypatch.setattr(claim.time, "sleep", lambda _: os.close(looking))
    Claim(store, "logd").take()


def test_lock_file_that_was_removed_is_made_again(store, monkeypatch):
    """The next sign claims the store anew; where another process did so meanwhile, it tells."""
    monkeypatch.setattr(claim, "SIGN_EVERY_S", 0.0)
    monkeypatch.setattr(claim, "REST_S", 0.0)
    ours = Claim(store, "logd")
    ours.take()
    store.with_name("state.db.logd").unlink()
    assert ours.sign()
    assert sign_of(store, "logd").held
    store.with_name("state.db.logd").unlink()
    others = Claim(store, "logd")
    others.take()
    assert not ours.sign()
    others.leave()
    assert ours.sign()


def test_signs_are_few(store, monkeypatch):
    """However often the program turns, one write in three seconds."""
    written = []
    ours = Claim(store, "logd")
    monkeypatch.setattr(ours, "_write", written.append)
    monkeypatch.setattr(claim.time, "monotonic", iter([0.1 * turn for turn in range(100)]).__next__)
    for _ in range(100):
        assert ours.sign()
    # the first is the claim itself
    assert [sorted(facts) for facts in written] == [["pid"]] + [["at", "follows", "pid"]] * 4


def test_claim_refuses_a_link(store, tmp_path):
    """A symbolic link in its place is not written through."""
    (tmp_path / "precious").write_text("precious")
    store.with_name("state.db.logd").symlink_to(tmp_path / "precious")
    with pytest.raises(OSError, match="symbolic links"):
        Claim(store, "logd").take()
    assert Claim(store, "logd").sign(), "a sign that cannot be left ends nobody"
    assert (tmp_path / "precious").read_text() == "precious"


def test_claim_that_is_left_says_nothing_more(store):
    """A program that ended in good order is not one that hangs."""
    ours = Claim(store, "logd")
    ours.take()
    ours.sign()
    ours.leave()
    assert sign_of(store, "logd") == claim.Sign(False)


@pytest.mark.parametrize("raw", [b"", b"[]", b"\xff" * 9, b'{"pid": "x", "at": "y", "follows": 1}'])
def test_damaged_sign_is_none(store, raw):
    """Whatever stands in the file, it costs a sign and nothing else."""
    store.with_name("state.db.dnsd").write_bytes(raw)
    assert sign_of(store, "dnsd") == claim.Sign(False)


# -- what `check` makes of it ----------------------------------------------------------


def settings(store, **over):
    """Return settings around `store`, whose log lies beside it."""
    log = {"follow": str(store.with_name("mail.log"))}
    return from_values({"user": "", "store": {"path": str(store)}, "log": log, **over}, "test")


def found(store, program="_logd", **over):
    """Return verdict and text of each finding about a program."""
    return [(f.ok, f.text) for f in getattr(wiring, program)(settings(store, **over))]


@pytest.mark.parametrize("program", ["_logd", "_dnsd"])
def test_check_tells_of_a_program_that_does_not_run(store, program):
    """It listens nowhere, so that no socket tells."""
    assert found(store, program) == [(False, "is not running")]


def test_check_takes_dnsd_for_needless_where_it_has_nothing_to_do(store):
    """Both its jobs are switched off."""
    assert found(store, "_dnsd", dns={"watch": False, "operators": False})[0][0] is None


@pytest.mark.parametrize(("age", "ok"), [(0, True), (wiring.OLD_S - 1, True), (wiring.OLD_S + 1, False), (None, False)])
def test_check_tells_of_a_program_that_does_nothing(store, age, ok):
    """It lives and its work is not done: hung, or without its store or log."""
    ours = Claim(store, "dnsd")
    ours.take()
    if age is not None:
        ours._write({"pid": 7, "at": time.time() - age})
    ((fine, text),) = found(store, "_dnsd")
    assert fine is ok
    assert ("has done nothing" in text) is not ok


@pytest.mark.parametrize("beside", [-1, 0, 1], ids=["below", "at", "above"])
@pytest.mark.parametrize("rotated", [False, True], ids=["same-file", "rotated"])
def test_check_tells_of_a_log_that_is_not_kept_up_with(store, beside, rotated):
    """The stored position against the file's end; after a rotation all of the new file is still to be read."""
    log = store.with_name("mail.log")
    log.touch()
    read = 0 if rotated else 1000
    os.truncate(log, read + wiring.LAG_BYTES + beside)
    position = Position(log.stat().st_ino + rotated, 1000, "head", 10)
    kept = make_store(settings(store))
    with kept.batch() as batch:
        batch.position(LogPosition(str(log), cursor=position.to_text()))
    kept.close()
    ours = Claim(store, "logd")
    ours.sign(follows=str(log))
    (_, runs), (ok, text) = found(store)
    assert "at work" in runs
    assert ok is (beside <= 0)
    assert ("MiB behind the end" in text) is not ok


def test_check_tells_of_another_log_than_the_configured(store):
    """Somebody changed log.follow and did not restart, or started logd with --follow."""
    ours = Claim(store, "logd")
    ours.sign(follows="/var/log/other.log")
    assert (None, f"reads /var/log/other.log, the configuration comes to {store.with_name('mail.log')}") in found(store)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_check_by_somebody_else_cannot_tell(store):
    """The store is its user's alone: whoever may not look learns whom to be."""
    Claim(store, "logd").take()
    store.with_name("state.db.logd").chmod(0)
    assert found(store)[0][0] is None
