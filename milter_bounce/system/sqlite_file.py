"""The store's file: opened safely, its schema, its faults in plain words.

Goes in: a path. Comes out: a connection with the current schema, or `StoreError`.
Does not: know what the tables mean to anybody.

Limits: local file systems only - WAL needs shared memory (sqlite.org/wal.html).
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
import time
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from milter_bounce import limits

from .store import StoreCorruptError, StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

APPLICATION_ID: Final = 0x6D626E63
"""``mbnc``: file(1) and we ourselves know the file by it."""

MIGRATIONS: Final = (
    # version 1; times are milliseconds since 1970, in UTC; recipients, domains and keys are in lower case
    """
    CREATE TABLE recipients (
        recipient TEXT PRIMARY KEY, first_failure INTEGER NOT NULL, last_failure INTEGER NOT NULL,
        attempts INTEGER NOT NULL, not_before INTEGER, delay INTEGER, category TEXT NOT NULL, rule TEXT NOT NULL,
        block TEXT, given_up INTEGER, countable INTEGER NOT NULL) WITHOUT ROWID;
    CREATE INDEX recipients_last ON recipients (last_failure);
    CREATE TABLE bounces (
        recipient TEXT NOT NULL, message TEXT NOT NULL, at INTEGER NOT NULL, class TEXT NOT NULL,
        PRIMARY KEY (recipient, message)) WITHOUT ROWID;
    CREATE INDEX bounces_at ON bounces (at);
    CREATE TABLE waiting (
        recipient TEXT NOT NULL, queue_id TEXT NOT NULL, since INTEGER NOT NULL, due INTEGER, block TEXT,
        PRIMARY KEY (recipient, queue_id)) WITHOUT ROWID;
    CREATE INDEX waiting_queue ON waiting (queue_id);
    CREATE INDEX waiting_due ON waiting (due) WHERE due IS NOT NULL;
    CREATE INDEX waiting_block ON waiting (block, since) WHERE block IS NOT NULL;
    CREATE TABLE suppressions (
        recipient TEXT PRIMARY KEY, since INTEGER NOT NULL, category TEXT NOT NULL, rule TEXT NOT NULL,
        reason TEXT NOT NULL, origin TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE blocks (
        key TEXT PRIMARY KEY, operator TEXT NOT NULL, scope TEXT NOT NULL, category TEXT NOT NULL, rule TEXT NOT NULL,
        began INTEGER NOT NULL, probe_at INTEGER, ends INTEGER NOT NULL, text TEXT NOT NULL, zones TEXT NOT NULL,
        refusals INTEGER NOT NULL, lifted_at INTEGER, lifted_by TEXT, state TEXT NOT NULL, probe_after INTEGER,
        ramp_from INTEGER, last_refusal INTEGER) WITHOUT ROWID;
    CREATE TABLE claims (key TEXT PRIMARY KEY, at INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE refusals (
        key TEXT NOT NULL, evidence TEXT NOT NULL, at INTEGER NOT NULL, PRIMARY KEY (key, evidence)) WITHOUT ROWID;
    CREATE INDEX refusals_at ON refusals (at);
    CREATE TABLE backoffs (
        key TEXT PRIMARY KEY, since INTEGER NOT NULL, not_before INTEGER NOT NULL, delay INTEGER NOT NULL,
        category TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE operators (domain TEXT PRIMARY KEY, operator TEXT NOT NULL, at INTEGER NOT NULL) WITHOUT ROWID;
    CREATE INDEX operators_at ON operators (at);
    CREATE TABLE counts (
        hour INTEGER NOT NULL, operator TEXT NOT NULL, category TEXT NOT NULL, number INTEGER NOT NULL,
        PRIMARY KEY (hour, operator, category)) WITHOUT ROWID;
    CREATE TABLE positions (
        name TEXT PRIMARY KEY, inode INTEGER NOT NULL, offset INTEGER NOT NULL, head TEXT NOT NULL,
        cursor TEXT NOT NULL) WITHOUT ROWID;
    """,
    # version 2: what our gate held before any attempt waits too; the words of the last failure
    """
    ALTER TABLE waiting ADD COLUMN failed INTEGER NOT NULL DEFAULT 1;
    ALTER TABLE recipients ADD COLUMN text TEXT NOT NULL DEFAULT ''
    """,
)
"""One script for each version of the schema; never change one that was released, add another."""

DAMAGED_REMEDY: Final = (
    "put a backup in its place (`milter-bounce store backup` makes them), without -wal and -shm; or move it away with "
    "those: a new one is begun, the suppressions, blocks and histories in this one are lost, and only "
    "`milter-bounce logd --from-start` (log.from_start) learns again what the mail log still tells"
)
"""What to do about a damaged file, and what that costs."""

_LOCKED: Final = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL}
_DAMAGED: Final = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT}
_CLOSED_DOORS: Final = {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_AUTH}


def explained(path: Path, error: Exception) -> StoreError:
    """Return the fault as one line: what happened, which file, what to do."""
    code = getattr(error, "sqlite_errorcode", None)
    primary = None if code is None else code & 0xFF
    if primary in _DAMAGED:
        return StoreCorruptError(f"{path}: damaged ({error}); stop the programs and {DAMAGED_REMEDY}")
    if primary in _LOCKED:
        return StoreError(f"{path}: locked by another program for too long; see who with `fuser -v {path}`")
    if primary == sqlite3.SQLITE_FULL:
        return StoreError(f"{path}: the disk is full; free some space")
    if primary in _CLOSED_DOORS or isinstance(error, PermissionError):
        return StoreError(f"{path}: cannot be opened or written ({error}); let the programs' user own file and folder")
    if isinstance(error, FileNotFoundError) and not path.parent.is_dir():
        return StoreError(
            f"{path}: its folder is missing; make it for the programs' user (install -d -m 0700 -o milter-bounce "
            f"{path.parent}), or set store.path"
        )
    if isinstance(error, OSError):
        return StoreError(f"{path}: {error.strerror or error}; see store.path")
    return StoreError(f"{path}: {error}; see `milter-bounce store check`")


@contextlib.contextmanager
def guarded(path: Path) -> Iterator[None]:
    """Turn whatever goes wrong with the file into `StoreError`."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise explained(path, error) from None


def connect(
    path: Path, wait_s: float, *, reads_only: bool = False, cache_kib: int = limits.PAGE_CACHE_KIB
) -> sqlite3.Connection:
    """Return a connection to the store at `path` with the current schema; the file is made if need be.

    Args:
        path: the file; a symbolic link is refused, for its target may be anybody's.
        wait_s: how long statements wait for other programs.
        reads_only: refuse to write through this connection.
        cache_kib: pages of the file that are kept in memory, in KiB.

    Raises:
        StoreError: nothing else.
    """
    with guarded(path):
        _make(path)
        uri = f"file:{quote(str(path.absolute()))}?mode=rw"
        db = sqlite3.connect(
            uri, uri=True, timeout=wait_s, isolation_level=None, cached_statements=256, check_same_thread=False
        )
        try:
            _prepare(db, path, wait_s)
            db.execute(f"PRAGMA cache_size = -{cache_kib}")
            if reads_only:
                db.execute("PRAGMA query_only = ON")
        except BaseException:  # whatever it was, nobody else would close it
            db.close()
            raise
    return db


def _make(path: Path) -> None:
    """Make the file with mode 0600 where it is missing; refuse what is no plain file.

    An existing one is not opened here: closing it would drop the locks that SQLite holds on it elsewhere in this
    process (sqlite.org/howtocorrupt.html, 2.2).
    """
    try:
        found = path.lstat()
    except FileNotFoundError:
        with contextlib.suppress(FileExistsError):
            made = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            if os.geteuid() == 0:  # a command run by root must not lock the programs' user out
                folder = path.parent.stat()
                os.fchown(made, folder.st_uid, folder.st_gid)
            os.close(made)
        return
    if not stat.S_ISREG(found.st_mode):
        kind = "a symbolic link" if stat.S_ISLNK(found.st_mode) else "no plain file"
        raise StoreError(f"{path}: is {kind}; name the file itself in store.path")


def _prepare(db: sqlite3.Connection, path: Path, wait_s: float) -> None:
    _write_ahead(db, wait_s)
    db.execute("PRAGMA synchronous = NORMAL")  # a crash of the host may lose the last transactions, position included
    db.execute("PRAGMA journal_size_limit = 67108864")
    db.execute("PRAGMA trusted_schema = OFF")
    if _version(db, path) < len(MIGRATIONS):
        _migrate(db, path)


def _write_ahead(db: sqlite3.Connection, wait_s: float) -> None:
    """Switch to WAL; the switch itself does not wait for other programs that start at the same moment, so this does."""
    until = time.monotonic() + wait_s
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError:
            if time.monotonic() >= until:
                raise
            time.sleep(0.02)
        else:
            return


def _version(db: sqlite3.Connection, path: Path) -> int:
    (application,) = db.execute("PRAGMA application_id").fetchone()
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if application not in {0, APPLICATION_ID}:
        raise StoreCorruptError(f"{path}: belongs to another program; name another file in store.path")
    if version > len(MIGRATIONS):
        raise StoreCorruptError(f"{path}: was written by a newer milter-bounce; update this one")
    return int(version)


@contextlib.contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """Begin, and commit at the end; whatever ends it early, the file is as it was before.

    Raises:
        sqlite3.Error: of the statements, as they are.
    """
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:  # an interrupt, too: the lock must not outlive what took it
        if db.in_transaction:
            with contextlib.suppress(sqlite3.Error):
                db.execute("ROLLBACK")
        raise


def _migrate(db: sqlite3.Connection, path: Path) -> None:
    """Bring the schema up to date in one transaction; another program may have done it meanwhile."""
    with transaction(db):
        for version in range(_version(db, path), len(MIGRATIONS)):
            for statement in MIGRATIONS[version].split(";"):
                db.execute(statement)
        db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        db.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")


def identity(path: Path) -> tuple[int, int] | None:
    """Return device and inode of the file at `path`; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
