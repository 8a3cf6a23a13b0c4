"""The administrator's side of the SQLite store: suppressions, records, upkeep.

Goes in: orders and questions of the command line and of the hourly upkeep.
Comes out: records. Does not: take part in a delivery.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

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


PRUNE_ROWS: Final = 2000
"""Rows of one step of upkeep: milliseconds, in which nobody else can write."""


class _Walk(NamedTuple):
    """How to find the rows of a table that may go when only a look at each tells."""

    table: str
    order: tuple[str, str]
    """Columns of an index, in its order."""

    start: tuple[object, object]
    """What is before every row in that order."""

    within: str
    """Which rows of the index are looked at."""

    goes: str
    """Which of them go."""


_WAITING: Final = _Walk("waiting", ("recipient", "queue_id"), ("", ""), "TRUE", "since < :before")
# the invariant that a delivery relies on: who has bounces or waits has a row here
_RECIPIENTS: Final = _Walk(
    "recipients",
    ("last_failure", "recipient"),
    (-(1 << 62), ""),
    "last_failure < :before",
    "NOT EXISTS (SELECT 1 FROM bounces AS b WHERE b.recipient = r.recipient)"
    " AND NOT EXISTS (SELECT 1 FROM waiting AS w WHERE w.recipient = r.recipient)",
)


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

    def prune(self, now: datetime) -> int:
        """Remove all that is past its retention; return how many rows went."""
        return sum(self.pruning(now))

    def pruning(self, now: datetime, rows: int = PRUNE_ROWS) -> Iterator[int]:
        """Remove what is past its retention in short steps; yield after each how many rows went.

        A step looks at `rows` rows, those that stay included; between two of them others may write.
        """
        kept, limits = self.retention, self.limits
        yield from self._walk(_WAITING, to_ms(now - kept.waiting), rows)
        yield from self._sweep("bounces", "at < ?", to_ms(now - limits.soft_window), rows)
        yield from self._walk(_RECIPIENTS, to_ms(now - kept.episodes), rows)
        yield from self._sweep("refusals", "at < ?", to_ms(now - limits.block_window), rows)
        yield from self._sweep("claims", "at < ?", to_ms(now - kept.waiting), rows)
        yield from self._sweep("backoffs", "not_before < ?", to_ms(now - limits.backoff_most * 2), rows)
        yield from self._sweep("operators", "at < ?", to_ms(now - kept.operators), rows)
        yield from self._sweep("counts", "hour < ?", to_ms(now - kept.counts), rows)
        yield from self._sweep("blocks", "state = 'closed' AND ends < ?", to_ms(now - kept.blocks), rows)

    def _sweep(self, table: str, where: str, before: int, rows: int) -> Iterator[int]:
        """Remove the old rows of a table in which an index finds them, or which is small."""
        key = ", ".join(TABLES[table])
        sql = f"DELETE FROM {table} WHERE ({key}) IN (SELECT {key} FROM {table} WHERE {where} LIMIT ?)"
        removed = rows
        while removed >= rows:
            with self.writing() as db:
                removed = db.execute(sql, (before, rows)).rowcount
            yield removed

    def _walk(self, walk: _Walk, before: int, rows: int) -> Iterator[int]:
        """Remove the old rows of a table in which no index tells them from those that stay: all are looked at."""
        order = ", ".join(walk.order)
        look = (
            f"SELECT {order}, {walk.goes} FROM {walk.table} AS r WHERE {walk.within} AND ({order}) > (:first, :second)"
            f" ORDER BY {order} LIMIT :rows"
        )
        # asked again, for something may have been written since the look
        remove = f"DELETE FROM {walk.table} AS r WHERE ({order}) = (:first, :second) AND {walk.within} AND {walk.goes}"
        place, looked_at = walk.start, rows
        while looked_at >= rows:
            with self.reading() as db:
                at = {"first": place[0], "second": place[1], "before": before, "rows": rows}
                found = db.execute(look, at).fetchall()
            looked_at, removed = len(found), 0
            old = [{"first": first, "second": second, "before": before} for first, second, goes in found if goes]
            if old:
                with self.writing() as db:
                    removed = db.executemany(remove, old).rowcount
            if found:
                place = found[-1][:2]
            yield removed

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
