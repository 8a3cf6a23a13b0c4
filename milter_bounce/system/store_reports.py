"""The ledger of reports: one row for each recipient of each report that came in. A table of its own in the store's file.

Goes in: outcomes of reports, believed or not. Comes out: rows for people. Does not:
feed the advice - what a report changes stands in the store proper, and only a
genuine one changes anything.

Limits: rows are kept `KEPT`, and `ROWS_LIMIT` of them at most: anybody can send us reports.
"""

from __future__ import annotations

import threading
from collections import deque
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

from milter_bounce import limits
from milter_bounce.verdict import printable

from .sqlite_file import connect, guarded, identity, transaction

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

    from milter_bounce.verdict import Outcome

KEPT: Final = timedelta(days=30)
ROWS_LIMIT: Final = limits.REPORT_ROWS
WAITING_LIMIT: Final = limits.REPORT_ROWS_WAITING

PRUNE_EVERY: Final = 1000
"""Rows between two prunings."""

WAIT_S: Final = 0.5
"""Seconds to wait for another program's write; the ledger is for people, mail does not wait for it."""

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS reports (
    id INTEGER PRIMARY KEY, at INTEGER NOT NULL, queue_id TEXT, recipient TEXT, action TEXT NOT NULL, status TEXT,
    class TEXT NOT NULL, category TEXT NOT NULL, advice TEXT NOT NULL, rule TEXT NOT NULL, genuine INTEGER NOT NULL,
    reason TEXT NOT NULL, text TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS reports_at ON reports (at);
CREATE INDEX IF NOT EXISTS reports_recipient ON reports (recipient);
"""


def _row(outcome: Outcome, now: datetime) -> tuple[object, ...]:
    status, verdict = outcome.status, outcome.classification
    return (
        int(now.timestamp() * 1000),
        status.queue_id,
        None if status.recipient is None else printable(status.recipient.lower(), 320),
        str(status.action),
        None if status.status is None else str(status.status),
        str(verdict.class_),
        verdict.category,
        str(outcome.advice.kind),
        verdict.rule,
        int(bool(outcome.genuine)),
        outcome.genuine_reason,
        printable(status.diagnostic or ""),
    )


class ReportLedger:
    """The table of reports in the store at `path`. `add` may be called from any thread, the rest from one at a time.

    Every method may raise `StoreError` and nothing else.
    """

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._db: sqlite3.Connection | None = None
        self._identity: object = None
        self._written = 0
        self._waiting: deque[tuple[object, ...]] = deque(maxlen=WAITING_LIMIT)
        self._lock = threading.Lock()

    def _open(self) -> sqlite3.Connection:
        if self._db is not None and self._identity != identity(self._path):
            self._db.close()
            self._db = None
        if self._db is None:
            db = connect(self._path, WAIT_S, cache_kib=limits.LEDGER_CACHE_KIB)
            with guarded(self._path):
                db.executescript(_SCHEMA)
            self._db, self._identity = db, identity(self._path)
        return self._db

    def add(self, outcomes: Sequence[Outcome], now: datetime) -> None:
        """Remember the outcomes of one report, until `flush` writes them; beyond `WAITING_LIMIT` the oldest go."""
        rows = [_row(outcome, now) for outcome in outcomes]
        with self._lock:
            self._waiting.extend(rows)

    def flush(self, now: datetime) -> None:
        """Write what waits, in one transaction."""
        with self._lock:
            rows = list(self._waiting)
        if not rows:
            return
        db = self._open()
        with guarded(self._path), transaction(db):
            db.executemany(
                "INSERT INTO reports (at, queue_id, recipient, action, status, class, category, advice, rule,"
                " genuine, reason, text) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                rows,
            )
            self._written += len(rows)
            if self._written >= PRUNE_EVERY:
                self._prune(db, now)
        with self._lock:
            for row in rows:  # those that made room meanwhile are gone already
                if self._waiting and self._waiting[0] is row:
                    self._waiting.popleft()

    def _prune(self, db: sqlite3.Connection, now: datetime) -> None:
        self._written = 0
        db.execute("DELETE FROM reports WHERE at < ?", (int((now - KEPT).timestamp() * 1000),))
        db.execute("DELETE FROM reports WHERE id <= (SELECT max(id) FROM reports) - ?", (ROWS_LIMIT,))

    def about(self, recipient: str, limit: int = 20) -> list[dict[str, object]]:
        """Return the latest reports about a recipient, the youngest first."""
        db = self._open()
        with guarded(self._path):
            found = db.execute(
                "SELECT at, queue_id, action, status, category, advice, rule, genuine, reason, text FROM reports"
                " WHERE recipient = ? ORDER BY id DESC LIMIT ?",
                (recipient.lower(), limit),
            )
            names = [column[0] for column in found.description]
            rows = [dict(zip(names, row, strict=True)) for row in found]
        for row in rows:
            row["at"] = datetime.fromtimestamp(row["at"] / 1000, UTC)
            row["genuine"] = bool(row["genuine"])
        return rows
