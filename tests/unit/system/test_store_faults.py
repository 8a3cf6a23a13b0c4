"""The store when something is wrong with its file: one kind of error, nothing lost, and it recovers by itself."""

from __future__ import annotations

import os
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta

import pytest

from milter_bounce.decide.advise import domain_of
from milter_bounce.delivery import Action, DeliveryStatus, Source
from milter_bounce.system import logd, sqlite_file
from milter_bounce.system.sqlite_store import SqliteStore, open_store
from milter_bounce.system.store import LogPosition, StoreCorruptError, StoreError
from milter_bounce.verdict import CATEGORIES, Advice, AdviceKind, Block, Classification, Outcome, Scope, Suppression
from tests.conftest import ROOT

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)
WHO = "user@example.net"
SUPPRESSION = Suppression(WHO, NOW, "invalid-recipient", "r", "gone")
BLOCK = Block("example.net", "example.net", Scope.SENDING_HOST, "policy-rejection", "admin", NOW, None, NOW + HOUR)


def failure(who=WHO, queue_id="4cA", category="mailbox-full", at=NOW):
    default = CATEGORIES[category]
    verdict = Classification(default.class_, category, default.advice, default.scope, "r")
    status = DeliveryStatus(who, Action.DELAYED, queue_id=queue_id, at=at, source=Source.LOG)
    return Outcome(status, verdict, Advice(AdviceKind.RETRY, at + HOUR, delay=HOUR))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "state.db"


@pytest.fixture
def store(path):
    opened = SqliteStore(path, lock_wait_s=0.05)
    yield opened
    opened.close()


# opening


def test_missing_folder_is_named_with_the_remedy(tmp_path):
    """A state folder that nobody has made is told with the command that makes it."""
    with pytest.raises(StoreError, match=r"folder is missing; .*install -d .*/none\)"):
        open_store(tmp_path / "none" / "state.db")


def test_store_file_is_its_owners_alone(path):
    """The file holds addresses: nobody else reads it."""
    open_store(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("kind", ["symlink", "folder"])
def test_store_refuses_what_is_no_plain_file(path, kind):
    """A symbolic link may lead to anybody's file."""
    if kind == "symlink":
        path.with_name("other").touch()
        path.symlink_to(path.with_name("other"))
    else:
        path.mkdir()
    with pytest.raises(StoreError, match="name the file itself"):
        open_store(path)


@pytest.mark.parametrize(
    ("pragma", "told"),
    [
        pytest.param("application_id = 7", "belongs to another program", id="foreign"),
        pytest.param("user_version = 99", "newer milter-bounce", id="newer"),
    ],
)
def test_store_refuses_a_file_of_others(path, pragma, told):
    """Neither another program's file nor one of a later version is touched."""
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA {pragma}")
    with pytest.raises(StoreCorruptError, match=told):
        open_store(path)


@pytest.mark.parametrize("content", [b"no database, but long enough to be taken for one" * 99, b"\0" * 4096])
def test_store_says_what_to_do_with_a_damaged_file(path, content):
    """A file that is no database is named with the remedy, and left as it is."""
    path.write_bytes(content)
    assert "nothing is lost" not in logd._put_off(StoreCorruptError("damaged"))
    with pytest.raises(StoreCorruptError, match=r"move it away .* are lost"):
        open_store(path)
    assert path.read_bytes() == content


def test_store_missing_folder_is_told(tmp_path):
    """A folder that is not there is an error of the configuration, in one line."""
    with pytest.raises(StoreError) as caught:
        open_store(tmp_path / "none" / "state.db")
    assert "store.path" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_store_is_migrated_and_keeps_its_rows(path, monkeypatch):
    """A file of an older version gets the newer tables and loses nothing."""
    old = SqliteStore(path)
    old.suppress([SUPPRESSION])
    old.close()
    more = (*sqlite_file.MIGRATIONS, "ALTER TABLE suppressions ADD COLUMN note TEXT; CREATE TABLE extra (x INTEGER)")
    monkeypatch.setattr(sqlite_file, "MIGRATIONS", more)
    new = SqliteStore(path)
    assert [s.recipient for s in new.suppressions()] == [WHO]
    assert new.connection().execute("PRAGMA user_version").fetchone() == (len(more),)
    assert new.connection().execute("SELECT count(*) FROM extra").fetchone() == (0,)


def test_store_failed_migration_changes_nothing(path, monkeypatch):
    """A migration happens as a whole or not at all."""
    SqliteStore(path).suppress([SUPPRESSION])
    more = (*sqlite_file.MIGRATIONS, "CREATE TABLE extra (x INTEGER); CREATE TABLE suppressions (y INTEGER)")
    with monkeypatch.context() as patch:
        patch.setattr(sqlite_file, "MIGRATIONS", more)
        with pytest.raises(StoreError):
            open_store(path)
    assert [s.recipient for s in open_store(path).suppressions()] == [WHO]


# under way


def test_store_locked_is_an_error_and_then_is_not(path, store):
    """While another program holds the lock the batch waits in memory; then it is written, once."""
    store.connection()
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    batch = store.batch()
    batch.record(failure(), NOW)
    batch.position(LogPosition("log", "10"))
    for _ in range(2):
        with pytest.raises(StoreError, match="locked"):
            batch.commit()
    assert store.gate_lookup(WHO, NOW).kind is AdviceKind.NONE  # the gate answers all the while
    holder.execute("ROLLBACK")
    batch.commit()
    assert store.recipient(WHO).episode.attempts == 1
    assert store.log_position("log").cursor == "10"
    assert [c.number for c in store.counts(NOW)] == [1]


def test_store_batch_that_fails_inside_with_is_dropped(path, store):
    """Told again from the log a lost batch ends as if it had not been there before."""
    store.connection()
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError), store.batch() as batch:
        batch.record(failure(), NOW)
    holder.execute("ROLLBACK")
    with store.batch() as batch:
        batch.record(failure(), NOW)
    assert store.recipient(WHO).episode.attempts == 1
    assert [c.number for c in store.counts(NOW)] == [1]


def test_store_full_disk_is_an_error_and_nothing_is_half_written(store):
    """What does not fit is not there at all, and fits when there is room again."""
    store.suppress([SUPPRESSION])
    pages = store.connection().execute("PRAGMA page_count").fetchone()[0]
    store.connection().execute(f"PRAGMA max_page_count = {pages}")
    batch = store.batch()
    for i in range(2000):
        batch.record(failure(f"u{i}@example.net", f"4c{i}"), NOW)
    with pytest.raises(StoreError, match="disk is full"):
        batch.commit()
    assert store.recipient("u0@example.net").episode is None
    assert store.check() == []
    batch.commit()  # the connection was opened anew, and with it the limit is gone
    assert store.recipient("u1999@example.net").episode.attempts == 1


@pytest.mark.parametrize("replaced", [False, True])
def test_store_deleted_under_way_begins_anew(path, store, replaced):
    """A file that was removed or replaced is noticed by the next change; blocks of the old one are forgotten."""
    store.add_block(BLOCK)
    assert store.gate_lookup(WHO, NOW).kind is AdviceKind.HOLD
    batch = store.batch()
    batch.record(failure(), NOW)
    for name in ("", "-wal", "-shm"):
        path.with_name(path.name + name).unlink(missing_ok=True)
    if replaced:
        open_store(path).close()
    batch.commit()
    assert path.exists()
    assert store.recipient(WHO).episode.attempts == 1
    assert SqliteStore(path).recipient(WHO).episode.attempts == 1
    assert store.blocks() == []
    assert store.gate_lookup(WHO, NOW).until == NOW + HOUR


def test_store_damage_under_way_is_one_kind_of_error(path, store):
    """Pages overwritten by something else give StoreCorruptError from every side, and no other exception."""
    store.suppress(Suppression(f"u{i}@example.net", NOW, "c", "r", "x" * 300) for i in range(2000))
    store.vacuum()
    store.close()
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(os.urandom(path.stat().st_size - 8192))
    with pytest.raises(StoreCorruptError):
        list(store.suppressions())
    with pytest.raises(StoreError):
        [store.suppressed(f"u{i}@example.net") for i in range(2000)]
    batch = store.batch()
    with pytest.raises(StoreError):
        [batch.record(failure(f"u{i}@example.net"), NOW) for i in range(2000)]


def test_store_check_tells_damage(store):
    """An index that does not fit its table is found."""
    for i in range(50):
        store.record(failure(f"u{i}@example.net", f"4c{i}"), NOW)
    db = store.connection()
    db.execute("PRAGMA writable_schema = ON")
    db.execute(
        "UPDATE sqlite_master SET sql = 'CREATE INDEX waiting_queue ON waiting (since)' WHERE name = 'waiting_queue'"
    )
    store.close()
    assert store.check() != []


def test_gate_rests_after_a_failure_and_recovers(path, store, monkeypatch):
    """While the file cannot be read every question is answered at once, and soon after it can be all is well."""
    rest = "milter_bounce.system.sqlite_gate.REST_S"
    monkeypatch.setattr(rest, 3600.0)
    path.mkdir()
    with pytest.raises(StoreError, match="no plain file"):
        store.gate_lookup(WHO, NOW)
    path.rmdir()
    with pytest.raises(StoreError, match="no plain file"):
        store.gate_lookup(WHO, NOW)
    monkeypatch.setattr(rest, 0.0)
    store._gate._rest_until = 0.0
    assert store.gate_lookup(WHO, NOW).kind is AdviceKind.NONE


# several programs


def test_store_sees_another_programs_change(path, store, monkeypatch):
    """A block that somebody lifts or adds elsewhere counts here when the memory is stale, well within a second."""
    monkeypatch.setattr("milter_bounce.system.sqlite_gate.STALE_S", 0.0)
    other = SqliteStore(path)
    assert store.gate_lookup(WHO, NOW).kind is AdviceKind.NONE
    other.add_block(BLOCK)
    assert store.gate_lookup(WHO, NOW).kind is AdviceKind.HOLD
    other.suppress([SUPPRESSION])
    assert store.gate_lookup(WHO, NOW).kind is AdviceKind.SUPPRESS
    other.unsuppress([WHO])
    other.expire(NOW + HOUR)
    assert store.gate_lookup(WHO, NOW).kind is AdviceKind.NONE


def test_store_lift_under_way_stands(path, store):
    """A block that somebody lifts while a batch reads on stays lifted."""
    default = CATEGORIES["blocklisted"]
    verdict = Classification(default.class_, "blocklisted", default.advice, default.scope, "r")
    status = DeliveryStatus(WHO, Action.DELAYED, reply_code=450, queue_id="4cA", at=NOW, source=Source.LOG)
    refusal = Outcome(status, verdict, Advice(AdviceKind.HOLD, NOW + HOUR, delay=HOUR, block=domain_of(WHO)))
    store.record(refusal, NOW)
    with store.batch() as batch:
        batch.record(refusal, NOW + MINUTE)
        SqliteStore(path).lift("example.net", "admin", NOW + MINUTE)
    (block,) = store.blocks()
    assert (block.lifted_by, block.refusals) == ("admin", 2)


def test_store_two_batches_of_one_recipient_are_joined(path, store):
    """What two programs learn at the same moment adds up."""
    store.record(failure(), NOW)
    first, second = store.batch(), SqliteStore(path).batch()
    for batch in (first, second):
        batch.record(failure(at=NOW + MINUTE), NOW + MINUTE)
    first.commit()
    second.commit()
    assert store.recipient(WHO).episode.attempts == 3


WRITER = """
import sys
from datetime import UTC, datetime, timedelta
sys.path.insert(0, {root!r})
sys.path.insert(0, {root!r} + "/tests/unit/system")
from test_store_faults import failure
from milter_bounce.system.sqlite_store import SqliteStore
from milter_bounce.system.store import LogPosition
store, name = SqliteStore({path!r}), sys.argv[1]
position = store.log_position(name)
for i in range(int(position.cursor) if position else 0, int(sys.argv[2])):
    at = datetime(2026, 11, 20, 12, 0, tzinfo=UTC) + timedelta(seconds=i)
    with store.batch() as batch:
        batch.record(failure("user@example.net", name + str(i)), at)
        batch.record(failure(name + "@example.org", name + str(i)), at)
        batch.delivered(name + "@example.com", at)
        batch.position(LogPosition(name, str(i + 1)))
    print(i, flush=True)
"""


def writer(path, name, count):
    code = WRITER.format(root=str(ROOT), path=str(path))
    return subprocess.Popen(
        [sys.executable, "-c", code, name, str(count)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_store_several_programs_write_at_once(path):
    """Three programs make the file and write to it together: no error, no status lost or doubled."""
    programs = [writer(path, name, 150) for name in "abc"]
    assert [program.communicate()[1] for program in programs] == ["", "", ""]
    store = SqliteStore(path)
    assert {c.category: c.number for c in store.counts(NOW)} == {"mailbox-full": 900, "delivered": 450}
    assert store.recipient(WHO).episode.attempts == 450
    assert [store.log_position(name).cursor for name in "abc"] == ["150", "150", "150"]
    assert store.check() == []


def test_store_killed_programs_count_everything_once(path):
    """After kill -9 between and inside transactions position and what was learnt have never parted."""
    for step in range(6):
        program = writer(path, "a", 90)
        for _ in range(4 + 3 * step):
            program.stdout.readline()
        program.send_signal(signal.SIGKILL)
        program.communicate()
    assert writer(path, "a", 90).communicate()[1] == ""
    store = SqliteStore(path)
    assert {c.category: c.number for c in store.counts(NOW)} == {"mailbox-full": 180, "delivered": 90}
    assert store.recipient("a@example.org").episode.attempts == 90
    assert store.check() == []


def test_store_may_be_used_by_several_threads(store):
    """The milter's threads share one store."""
    errors = []

    def work(name):
        try:
            for i in range(50):
                store.record(failure(WHO, f"{name}{i}"), NOW)
                store.gate_lookup(WHO, NOW)
                store.suppressed(WHO)
        except StoreError as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert store.recipient(WHO).episode.attempts == 200
