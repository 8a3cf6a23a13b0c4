"""What the DNS told: listings, list health, who runs a domain's mail. Tables of its own in the store's file.

Goes in: what ``dnsd`` found out, and the wishes of the other programs ("a
refusal names this list", "who runs this domain?"). Comes out: the same, later,
for them and for the command line. Does not: ask the DNS, or decide.

Every method may raise `StoreError` and nothing else. Writes are single
statements or short transactions: the programs share the file.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Final

from milter_bounce import limits
from milter_bounce.protocol.dnsbl import State

from .sqlite_file import connect, guarded, identity, transaction
from .store import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from milter_bounce.verdict import BlocklistMention

VERSION: Final = 1
NAMED_LIMIT: Final = limits.SUBJECTS_NAMED

MENTION_EVERY: Final = timedelta(minutes=1)

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS dns_version (version INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS dns_listing (
    subject TEXT NOT NULL, zone TEXT NOT NULL,
    state TEXT NOT NULL,            -- the state that stands; unknown only where nothing was ever known
    since INTEGER NOT NULL,         -- when it began
    known INTEGER,                  -- when the list last answered
    checked INTEGER NOT NULL,       -- when it was last asked
    listed INTEGER,                 -- when it last said listed
    weight TEXT NOT NULL, codes TEXT NOT NULL, meanings TEXT NOT NULL, reason TEXT NOT NULL, why TEXT NOT NULL,
    PRIMARY KEY (subject, zone)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS dns_health (
    zone TEXT NOT NULL, family TEXT NOT NULL, ok INTEGER NOT NULL, why TEXT NOT NULL,
    since INTEGER NOT NULL, checked INTEGER NOT NULL, PRIMARY KEY (zone, family)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS dns_named (
    zone TEXT NOT NULL, subject TEXT NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL,
    times INTEGER NOT NULL, asked INTEGER NOT NULL, PRIMARY KEY (zone, subject)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS dns_operator (
    domain TEXT NOT NULL PRIMARY KEY, kind INTEGER NOT NULL, operator INTEGER, until INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS dns_operator_name (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS dns_told (topic TEXT NOT NULL PRIMARY KEY, at INTEGER NOT NULL) WITHOUT ROWID;
"""


class MailKind(IntEnum):
    """What the MX records of a domain say; the numbers stand in the file."""

    MX = 1
    """There are MX hosts; who runs them may be unknown."""

    IMPLICIT = 2
    """No MX but an address: the domain is its own MX host (RFC 5321, 5.1)."""

    NULL_MX = 3
    """The domain takes no mail (RFC 7505)."""

    NO_DOMAIN = 4
    """NXDOMAIN: there is no such domain."""

    NO_HOST = 5
    """The domain exists and has neither MX nor address."""


@dataclass(frozen=True, slots=True)
class MailDomain:
    """Who runs the mail of a domain, as the DNS says."""

    domain: str
    kind: MailKind
    operator: str | None
    until: datetime
    """Believed up to then."""


@dataclass(frozen=True, slots=True)
class ListingRecord:
    """What is known of one subject on one list."""

    subject: str
    zone: str
    state: State
    since: datetime
    known: datetime | None
    checked: datetime
    listed: datetime | None
    weight: str = "block"
    codes: tuple[str, ...] = ()
    meanings: tuple[str, ...] = ()
    reason: str = ""
    why: str = ""
    """Why the last answer was none; empty where it was one."""


@dataclass(frozen=True, slots=True)
class Named:
    """A list that refusals name, for one of our addresses or domains."""

    zone: str
    subject: str | None
    """None: the refusals did not say what is listed."""

    first: datetime
    last: datetime
    times: int


def _epoch(when: datetime | None) -> int | None:
    return None if when is None else int(when.timestamp())


def _when(epoch: int) -> datetime:
    return datetime.fromtimestamp(epoch, UTC)


def _maybe(epoch: int | None) -> datetime | None:
    return None if epoch is None else _when(epoch)


class DnsStore:
    """The tables of ``dnsd``; opens the file when first used. One object per thread."""

    def __init__(self, path: Path | str, wait_s: float = 5.0) -> None:
        self.path = Path(path)
        self._wait_s = wait_s
        self._open: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None

    def _connection(self) -> sqlite3.Connection:
        if self._open is not None and identity(self.path) != self._file:
            self.close()  # the file was removed or replaced: what is written to the old one is lost
        if self._open is None:
            self._open = connect(self.path, self._wait_s)
            self._prepare(self._open)
            self._file = identity(self.path)
        return self._open

    @staticmethod
    def _prepare(db: sqlite3.Connection) -> None:
        there = db.execute("SELECT 1 FROM sqlite_master WHERE name = 'dns_version'").fetchone()
        if there and db.execute("SELECT version FROM dns_version").fetchone() == (VERSION,):
            return
        with transaction(db):
            for statement in _SCHEMA.split(";\n"):
                db.execute(statement)
            db.execute("INSERT INTO dns_version SELECT ? WHERE NOT EXISTS (SELECT 1 FROM dns_version)", (VERSION,))

    @contextlib.contextmanager
    def _using(self) -> Iterator[sqlite3.Connection]:
        """Yield the connection; any trouble with the file becomes a `StoreError`, and the file is opened anew."""
        try:
            with guarded(self.path):
                yield self._connection()
        except StoreError:
            self.close()
            raise

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._using() as db, transaction(db):
            yield db

    def close(self) -> None:
        """Close the file; the object may be used again all the same."""
        if self._open is not None:
            with contextlib.suppress(sqlite3.Error):
                self._open.close()
            self._open = None

    # listings

    def listings(self) -> dict[tuple[str, str], ListingRecord]:
        """Return what is known, by (subject, zone)."""
        with self._using() as db:
            rows = db.execute(
                "SELECT subject, zone, state, since, known, checked, listed, weight, codes, meanings, reason, why"
                " FROM dns_listing"
            )
            records = [
                ListingRecord(
                    subject, zone, State(state), _when(since), _maybe(known), _when(checked), _maybe(listed), weight,
                    tuple(json.loads(codes)), tuple(json.loads(meanings)), reason, why,
                )
                for subject, zone, state, since, known, checked, listed, weight, codes, meanings, reason, why in rows
            ]  # fmt: skip
        return {(record.subject, record.zone): record for record in records}

    def put_listings(self, records: Iterable[ListingRecord]) -> None:
        """Remember these listings in one transaction."""
        rows = [
            (
                r.subject, r.zone, str(r.state), _epoch(r.since), _epoch(r.known), _epoch(r.checked), _epoch(r.listed),
                r.weight, json.dumps(r.codes), json.dumps(r.meanings), r.reason, r.why,
            )
            for r in records
        ]  # fmt: skip
        with self._transaction() as db:
            db.executemany("INSERT OR REPLACE INTO dns_listing VALUES (?,?,?,?,?,?,?,?,?,?,?,?)", rows)

    def forget_listings(self, gone: Iterable[tuple[str, str]]) -> None:
        """Remove the listings of (subject, zone) pairs that are no longer watched."""
        with self._transaction() as db:
            db.executemany("DELETE FROM dns_listing WHERE subject = ? AND zone = ?", gone)

    def put_health(self, zone: str, family: str, *, ok: bool, why: str, now: datetime) -> bool:
        """Remember whether a list is to be believed; return whether that is news. A list is, until it shows otherwise."""
        with self._transaction() as db:
            last = db.execute(
                "SELECT ok, since FROM dns_health WHERE zone = ? AND family = ?", (zone, family)
            ).fetchone()
            news = (last is None or bool(last[0])) is not ok
            since = _epoch(now) if news or last is None else last[1]
            row = (zone, family, ok, why, since, _epoch(now))
            db.execute("INSERT OR REPLACE INTO dns_health VALUES (?,?,?,?,?,?)", row)
        return news

    # what refusals named

    def named(self, zone: str, subject: str | None, now: datetime) -> None:
        """Remember that a refusal named `zone` (and what is listed): dnsd asks that list at once."""
        with self._using() as db:
            db.execute(
                "INSERT INTO dns_named SELECT ?, ?, ?, ?, 1, 0 WHERE (SELECT count(*) FROM dns_named) < ?"
                " ON CONFLICT DO UPDATE SET last = excluded.last, times = times + 1, asked = 0",
                (zone, subject or "", _epoch(now), _epoch(now), NAMED_LIMIT),
            )

    def names(self, *, unasked: bool = False) -> list[Named]:
        """Return what refusals named, the latest last; with `unasked` only what dnsd has not asked about since."""
        with self._using() as db:
            rows = db.execute(
                "SELECT zone, subject, first, last, times FROM dns_named WHERE asked = 0 OR NOT ? ORDER BY last",
                (unasked,),
            ).fetchall()
        return [
            Named(zone, subject or None, _when(first), _when(last), times) for zone, subject, first, last, times in rows
        ]

    def asked(self, names: Iterable[Named]) -> None:
        """Remember that dnsd asked about these; a refusal that came meanwhile stays unasked."""
        rows = [(name.zone, name.subject or "", _epoch(name.last)) for name in names]
        with self._transaction() as db:
            db.executemany("UPDATE dns_named SET asked = 1 WHERE zone = ? AND subject = ? AND last <= ?", rows)

    def prune(self, before: datetime, now: datetime) -> None:
        """Remove what refusals named before then, and operators no longer believed for as long again."""
        with self._transaction() as db:
            db.execute("DELETE FROM dns_named WHERE last < ?", (_epoch(before),))
            db.execute("DELETE FROM dns_operator WHERE until < ?", (_epoch(before - (now - before)),))

    # who runs the mail of a domain

    def unknown_domains(self, since: datetime, now: datetime, limit: int) -> list[str]:
        """Return domains of recipients that failed since then and whose operator nobody knows, log and DNS alike."""
        with self._using() as db:
            rows = db.execute(
                "SELECT DISTINCT substr(recipient, instr(recipient, '@') + 1) AS domain FROM recipients"
                " WHERE last_failure >= ? AND instr(recipient, '@') > 0"
                " AND NOT EXISTS (SELECT 1 FROM operators WHERE operators.domain ="
                "   substr(recipient, instr(recipient, '@') + 1) AND operator <> '')"
                " AND NOT EXISTS (SELECT 1 FROM dns_operator WHERE dns_operator.domain ="
                "   substr(recipient, instr(recipient, '@') + 1) AND until > ?)"
                " LIMIT ?",
                (int(since.timestamp() * 1000), _epoch(now), limit),
            )
            return [domain for (domain,) in rows]

    def operator(self, domain: str, now: datetime) -> MailDomain | None:
        """Return who runs the mail of `domain`; None where the DNS was not asked, or too long ago."""
        with self._using() as db:
            row = db.execute(
                "SELECT kind, name, until FROM dns_operator LEFT JOIN dns_operator_name ON id = operator"
                " WHERE domain = ? AND until > ?",
                (domain, _epoch(now)),
            ).fetchone()
        return None if row is None else MailDomain(domain, MailKind(row[0]), row[1], _when(row[2]))

    def put_operators(self, found: Iterable[MailDomain]) -> None:
        """Remember who runs the mail of these domains."""
        with self._transaction() as db:
            ids = self._operator_ids(db)
            for item in found:
                number = None if item.operator is None else self._operator_id(db, ids, item.operator)
                row = (item.domain, int(item.kind), number, _epoch(item.until))
                db.execute("INSERT OR REPLACE INTO dns_operator VALUES (?,?,?,?)", row)

    @staticmethod
    def _operator_ids(db: sqlite3.Connection) -> dict[str, int]:
        return dict(db.execute("SELECT name, id FROM dns_operator_name").fetchall())

    @staticmethod
    def _operator_id(db: sqlite3.Connection, ids: dict[str, int], name: str) -> int:
        if name not in ids:
            ids[name] = int(db.execute("INSERT INTO dns_operator_name (name) VALUES (?)", (name,)).lastrowid or 0)
        return ids[name]

    # what was told once

    def tell_once(self, topic: str, now: datetime) -> bool:
        """Return whether `topic` was not told yet, and remember that it is now."""
        with self._using() as db:
            done = db.execute("INSERT OR IGNORE INTO dns_told VALUES (?, ?)", (topic, _epoch(now)))
            return done.rowcount > 0

    def untell(self, topic: str) -> bool:
        """Forget that `topic` was told, since it is over; return whether it had been."""
        with self._using() as db:
            return db.execute("DELETE FROM dns_told WHERE topic = ?", (topic,)).rowcount > 0

    def watch(self) -> Callable[[], bool]:
        """Return a function that tells whether another program changed the file since the last call; costs no read lock."""
        last: list[int | None] = [None]

        def changed() -> bool:
            with self._using() as db:
                version = int(db.execute("PRAGMA data_version").fetchone()[0])
            news, last[0] = version != last[0], version
            return news

        return changed


class Mentions:
    """Hands the lists that refusals name on to dnsd; raises nothing, and writes each pair at most once a minute."""

    def __init__(self, path: Path | str) -> None:
        self._store = DnsStore(path, wait_s=0.2)
        self._last: dict[tuple[str, str | None], datetime] = {}

    def note(self, mentions: Iterable[BlocklistMention], now: datetime) -> None:
        """Remember what a refusal named; a store that is away costs this hint, nothing else."""
        for mention in mentions:
            pair = (mention.zone, mention.listed)
            last = self._last.get(pair)
            if last is not None and abs(now - last) < MENTION_EVERY:
                continue
            if len(self._last) >= NAMED_LIMIT:
                self._last.clear()
            self._last[pair] = now
            with contextlib.suppress(StoreError):
                self._store.named(mention.zone, mention.listed, now)
