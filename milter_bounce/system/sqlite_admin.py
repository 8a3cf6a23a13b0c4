"""The administrator's side of the SQLite store: suppressions, records, upkeep.

Goes in: orders and questions of the command line and of the hourly upkeep.
Comes out: records. Does not: take part in a delivery.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from .sqlite_rows import (
    EPISODE,
    SUPPRESSION,
    episode_of,
    folded,
    from_ms,
    holes,
    suppression_of,
    suppression_row,
    to_ms,
)
from .store import Count, RecipientRecord

if TYPE_CHECKING:
    import contextlib
    import sqlite3
    from collections.abc import Iterable, Iterator
    from datetime import datetime
    from pathlib import Path

    from milter_bounce.decide.advise import Limits
    from milter_bounce.verdict import Suppression

    from .store import Retention

PAGE: Final = 1000
"""Rows that are read at a time: nobody waits for a long reader, and none is in memory as a whole."""

TABLES: Final = {
    # table -> its key, by which it is read page by page
    "recipients": ("recipient",),
    "bounces": ("recipient", "message"),
    "waiting": ("recipient", "queue_id"),
    "suppressions": ("recipient",),
    "blocks": ("key",),
    "claims": ("key",),
    "refusals": ("key", "evidence"),
    "backoffs": ("key",),
    "operators": ("domain",),
    "counts": ("hour", "operator", "category"),
    "positions": ("name",),
}


class Administration:
    """What of `store.Store` is asked by people; `SqliteStore` brings the file."""

    path: Path
    limits: Limits
    retention: Retention

    def reading(self) -> contextlib.AbstractContextManager[sqlite3.Connection]:
        """Give the connection."""
        raise NotImplementedError

    def writing(self) -> contextlib.AbstractContextManager[sqlite3.Connection]:
        """Give the connection in a transaction."""
        raise NotImplementedError

    def _pages(self, table: str, columns: str) -> Iterator[tuple[object, ...]]:
        """Yield the rows of a table in the order of its key, `PAGE` at a time."""
        key = ", ".join(TABLES[table])
        after: tuple[object, ...] | None = None
        while True:
            where = "" if after is None else f" WHERE ({key}) > ({', '.join('?' * len(after))})"
            sql = f"SELECT {key}, {columns} FROM {table}{where} ORDER BY {key} LIMIT {PAGE}"
            with self.reading() as db:
                rows = db.execute(sql, after or ()).fetchall()
            width = len(TABLES[table])
            for row in rows:
                yield row[width:]
            if len(rows) < PAGE:
                return
            after = rows[-1][:width]

    # suppressions

    def suppressions(self) -> Iterator[Suppression]:
        """Yield all suppressions by address."""
        yield from map(suppression_of, self._pages("suppressions", SUPPRESSION))

    def suppress(self, suppressions: Iterable[Suppression]) -> int:
        """Add suppressions, an older one of the same recipient stays; return how many are new."""
        rows = [suppression_row(s) for s in suppressions]
        with self.writing() as db:
            before = db.total_changes
            db.executemany(f"INSERT OR IGNORE INTO suppressions VALUES ({holes(SUPPRESSION)})", rows)
            return db.total_changes - before

    def unsuppress(self, recipients: Iterable[str]) -> int:
        """Remove suppressions with the bounces that led to them; return how many there were. Others stay as they are."""
        with self.writing() as db:
            sql = "DELETE FROM suppressions WHERE recipient = ?"
            removed = [(who,) for who in map(folded, recipients) if db.execute(sql, (who,)).rowcount]
            db.executemany("DELETE FROM bounces WHERE recipient = ?", removed)
            db.executemany("DELETE FROM recipients WHERE recipient = ?", removed)
        return len(removed)

    # questions

    def recipient(self, address: str) -> RecipientRecord:
        """Return all that is known of `address`; an empty record where that is nothing."""
        recipient, domain = folded(address), folded(address).rpartition("@")[2]
        with self.reading() as db:
            episode = db.execute(f"SELECT {EPISODE} FROM recipients WHERE recipient = ?", (recipient,)).fetchone()
            suppression = db.execute(f"SELECT {SUPPRESSION} FROM suppressions WHERE recipient = ?", (recipient,))
            suppressed = suppression.fetchone()
            sql = "SELECT at, class, message FROM bounces WHERE recipient = ? ORDER BY at"
            bounces = db.execute(sql, (recipient,)).fetchall()
            sql = "SELECT queue_id, since FROM waiting WHERE recipient = ? ORDER BY since"
            waiting = db.execute(sql, (recipient,)).fetchall()
            operator = db.execute("SELECT operator FROM operators WHERE domain = ?", (domain,)).fetchone()
        return RecipientRecord(
            recipient,
            operator[0] if operator else None,
            episode_of(episode) if episode else None,
            suppression_of(suppressed) if suppressed else None,
            tuple((from_ms(at), kind, message) for at, kind, message in bounces),
            tuple((queue_id, from_ms(since)) for queue_id, since in waiting),
        )

    def counts(self, since: datetime) -> list[Count]:
        """Return the hourly counts since then."""
        sql = "SELECT hour, operator, category, number FROM counts WHERE hour >= ? ORDER BY hour, operator, category"
        with self.reading() as db:
            return [Count(from_ms(row[0]), *row[1:]) for row in db.execute(sql, (to_ms(since),))]

    # upkeep

    def prune(self, now: datetime, limit: int = 50_000) -> int:
        """Remove what is past its retention, at most `limit` rows a table; return how many went. Call it hourly."""
        kept, limits = self.retention, self.limits
        bounces = "SELECT 1 FROM bounces AS b WHERE b.recipient = r.recipient"
        waiting = "SELECT 1 FROM waiting AS w WHERE w.recipient = r.recipient"
        aged = (
            ("waiting", "since < ?", kept.waiting),
            ("bounces", "at < ?", limits.soft_window),
            # the invariant that a delivery relies on: who has bounces or waits has a row here
            (
                "recipients AS r",
                f"last_failure < ? AND NOT EXISTS ({bounces}) AND NOT EXISTS ({waiting})",
                kept.episodes,
            ),
            ("refusals", "at < ?", limits.block_window),
            ("claims", "at < ?", kept.waiting),
            ("backoffs", "not_before < ?", limits.backoff_most * 2),
            ("operators", "at < ?", kept.operators),
            ("counts", "hour < ?", kept.counts),
            ("blocks", "state = 'closed' AND ends < ?", kept.blocks),
        )
        removed = 0
        for table, where, age in aged:
            name, key = table.split()[0], ", ".join(TABLES[table.split()[0]])
            sql = f"DELETE FROM {name} WHERE ({key}) IN (SELECT {key} FROM {table} WHERE {where} LIMIT ?)"
            with self.writing() as db:
                removed += db.execute(sql, (to_ms(now - age), limit)).rowcount
        return removed

    def check(self) -> list[str]:
        """Return what is wrong with the file, one line a fault; empty = sound."""
        with self.reading() as db:
            faults = [str(row[0]) for row in db.execute("PRAGMA integrity_check(20)") if row[0] != "ok"]
            present = {row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        return faults + [f"table {name} is missing" for name in TABLES if name not in present]

    def vacuum(self) -> tuple[int, int]:
        """Rebuild the file without its holes; return its bytes before and after."""
        with self.reading() as db:
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            before = self.path.stat().st_size
            db.execute("VACUUM")
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            return before, self.path.stat().st_size

    def export(self) -> Iterator[dict[str, object]]:
        """Yield every row of every table as one object with its ``table``; times are milliseconds since 1970."""
        for table in TABLES:
            with self.reading() as db:
                columns = [row[1] for row in db.execute(f"PRAGMA table_info({table})")]
            for row in self._pages(table, ", ".join(columns)):
                yield {"table": table, **dict(zip(columns, row, strict=True))}
