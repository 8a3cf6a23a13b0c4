"""What a batch changes, and how it is written: one pass over each table.

Goes in: the changes of one batch, in memory. Comes out: statements inside the
caller's transaction. Does not: begin or end it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from .sqlite_rows import (
    BACKOFF,
    BLOCK,
    EPISODE,
    SUPPRESSION,
    backoff_row,
    block_of,
    block_row,
    episode_of,
    episode_row,
    holes,
    suppression_row,
)

if TYPE_CHECKING:
    import sqlite3

    from milter_bounce.verdict import Block, Episode, Suppression

    from .sqlite_hot import Hot
    from .sqlite_rows import Waiting
    from .store import LogPosition

HOUR_MS: Final = 3_600_000


@dataclass(slots=True)
class Changes:
    """The changes of one batch; None as a value means that the row goes."""

    episodes: dict[str, Episode | None] = field(default_factory=dict)
    """Recipient -> episode as it is now; also what was only read."""

    loaded: dict[str, Episode | None] = field(default_factory=dict)
    """Recipient -> episode as it stood in the file."""

    dirty: set[str] = field(default_factory=set)
    reset: set[str] = field(default_factory=set)
    """Recipients whose bounces are forgotten, before those below are added."""

    bounces: defaultdict[str, dict[str, tuple[int, str]]] = field(default_factory=lambda: defaultdict(dict))
    """Recipient -> message -> when, class."""

    suppressed: dict[str, Suppression | None] = field(default_factory=dict)
    waiting: dict[tuple[str, str], Waiting | None] = field(default_factory=dict)
    """(recipient, queue ID) -> what is kept of it."""

    due: dict[str, tuple[int | None, str | None, int | None]] = field(default_factory=dict)
    """Recipient -> due, block of all its messages; and how long each must have waited to be due, None = however short."""

    queue: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    """Queue ID -> recipients that it waits for by this batch."""

    gone: set[str] = field(default_factory=set)
    held: bool | None = None
    """Whether messages wait that only our gate held; None = not asked yet."""

    blocks: dict[str, Block | None] = field(default_factory=dict)
    """Key -> block before; as it is now it stands in `Hot`."""

    backoffs: set[str] = field(default_factory=set)
    refusals: dict[tuple[str, str], int | None] = field(default_factory=dict)
    operators: dict[str, tuple[str, int] | None] = field(default_factory=dict)
    counts: Counter[tuple[int, str, str]] = field(default_factory=Counter)
    positions: dict[str, LogPosition] = field(default_factory=dict)

    def write(self, db: sqlite3.Connection, hot: Hot) -> None:
        """Write all of it."""
        self._join(db, hot)
        self._write_recipients(db)
        self._write_waiting(db)
        self._write_destinations(db, hot)
        db.executemany(
            "INSERT INTO counts VALUES (?, ?, ?, ?)"
            " ON CONFLICT (hour, operator, category) DO UPDATE SET number = number + excluded.number",
            [(hour * HOUR_MS, operator, category, n) for (hour, operator, category), n in self.counts.items()],
        )
        db.executemany(
            # the other columns are left from the first form of the schema; taking them away would be a new version of it,
            # which older programs that still run refuse
            "INSERT OR REPLACE INTO positions (name, inode, offset, head, cursor) VALUES (?, 0, 0, '', ?)",
            [(p.name, p.cursor) for p in self.positions.values()],
        )

    def _join(self, db: sqlite3.Connection, hot: Hot) -> None:
        """Join our episodes with what another program committed since they were read."""
        (version,) = db.execute("PRAGMA data_version").fetchone()
        if version == hot.version:
            return
        for recipient in self.dirty:
            row = db.execute(f"SELECT {EPISODE} FROM recipients WHERE recipient = ?", (recipient,)).fetchone()
            theirs, before, ours = (
                episode_of(row) if row else None,
                self.loaded.get(recipient),
                self.episodes[recipient],
            )
            if theirs is not None and ours is not None and theirs != before:
                more = theirs.attempts - (before.attempts if before else 0)
                later = ours if ours.last_failure >= theirs.last_failure else theirs
                attempts = max(ours.attempts + more, 1)
                self.episodes[recipient] = replace(later, attempts=attempts)
            self.loaded[recipient] = theirs  # should this transaction fail, the next one must not add again
        for key, known in self.blocks.items():
            row = db.execute(f"SELECT {BLOCK} FROM blocks WHERE key = ?", (key,)).fetchone()
            theirs_block = block_of(row) if row else None
            if theirs_block is not None and known is not None and theirs_block.lifted_at != known.lifted_at:
                # somebody lifted it while we read on: the person's word stands
                hot.blocks[key] = replace(theirs_block, refusals=hot.blocks[key].refusals)
        hot.version = -1  # the next batch reads their blocks

    def _write_recipients(self, db: sqlite3.Connection) -> None:
        episodes = [(r, self.episodes[r]) for r in self.dirty]
        db.executemany("DELETE FROM recipients WHERE recipient = ?", [(r,) for r, e in episodes if e is None])
        db.executemany(
            f"INSERT OR REPLACE INTO recipients (recipient, {EPISODE}) VALUES (?, {holes(EPISODE)})",
            [(r, *episode_row(e)) for r, e in episodes if e is not None],
        )
        db.executemany("DELETE FROM bounces WHERE recipient = ?", [(r,) for r in self.reset])
        db.executemany(
            "INSERT OR IGNORE INTO bounces VALUES (?, ?, ?, ?)",
            [(r, message, *known) for r, kept in self.bounces.items() for message, known in kept.items()],
        )
        changed = self.suppressed.items()
        db.executemany("DELETE FROM suppressions WHERE recipient = ?", [(r,) for r, s in changed if s is None])
        db.executemany(
            f"INSERT OR IGNORE INTO suppressions VALUES ({holes(SUPPRESSION)})",
            [suppression_row(s) for _, s in changed if s is not None],
        )

    def _write_waiting(self, db: sqlite3.Connection) -> None:
        db.executemany("DELETE FROM waiting WHERE queue_id = ?", [(q,) for q in self.gone])
        changes = self.waiting.items()
        db.executemany("DELETE FROM waiting WHERE recipient = ? AND queue_id = ?", [k for k, v in changes if v is None])
        db.executemany(
            "INSERT OR REPLACE INTO waiting (recipient, queue_id, since, due, block, failed) VALUES (?, ?, ?, ?, ?, ?)",
            [(*key, *kept) for key, kept in changes if kept is not None],
        )
        db.executemany(
            "UPDATE waiting SET due = coalesce(max(?1, since + ?3), ?1), block = ?2 WHERE recipient = ?4",
            [(due, block, least, recipient) for recipient, (due, block, least) in self.due.items()],
        )

    def _write_destinations(self, db: sqlite3.Connection, hot: Hot) -> None:
        db.executemany(
            f"INSERT OR REPLACE INTO blocks VALUES ({holes(BLOCK)})",
            [block_row(hot.blocks[key]) for key in self.blocks],
        )
        kept = [hot.backoffs[key] for key in self.backoffs if key in hot.backoffs]
        db.executemany("DELETE FROM backoffs WHERE key = ?", [(key,) for key in self.backoffs])
        db.executemany(f"INSERT INTO backoffs VALUES ({holes(BACKOFF)})", [backoff_row(b) for b in kept])
        refusals = self.refusals.items()
        db.executemany("DELETE FROM refusals WHERE key = ? AND evidence = ?", [k for k, at in refusals if at is None])
        db.executemany(
            "INSERT OR REPLACE INTO refusals VALUES (?, ?, ?)", [(*k, at) for k, at in refusals if at is not None]
        )
        learnt = self.operators.items()
        db.executemany("DELETE FROM operators WHERE domain = ?", [(d,) for d, known in learnt if known is None])
        db.executemany(
            "INSERT OR REPLACE INTO operators VALUES (?, ?, ?)",
            [(d, *known) for d, known in learnt if known is not None],
        )
