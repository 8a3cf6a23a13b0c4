"""The store in SQLite: one file, WAL, shared by all programs of a host.

Goes in and comes out: see ``store.Store``. Does not: decide anything.

Threads: one-shot methods may be called from any thread; a batch belongs to one.
The gate's look-ups have a connection of their own that waits for nobody.

Limits: `OPERATORS_LIMIT` domains in memory, so memory stays flat.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from milter_bounce import limits
from milter_bounce.decide import block as blocks
from milter_bounce.decide.advise import Limits
from milter_bounce.verdict import BY_HAND, BlockState

from .sqlite_batch import SqliteBatch
from .sqlite_file import connect, explained, identity, transaction
from .sqlite_gate import Gate
from .sqlite_held import Holding
from .sqlite_hot import Hot
from .sqlite_rows import BLOCK, BLOCK_HOLES, block_of, block_row, folded, to_ms
from .store import LogPosition, Retention, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from datetime import datetime

    from milter_bounce.delivery import DeliveryStatus
    from milter_bounce.verdict import Block, Classification, History, Notice, Outcome, Standing, Suppression

    from .store import Due

OPERATORS_LIMIT: Final = limits.OPERATORS_KEPT


class SqliteStore(Holding):
    """See `store.Store`.

    Args:
        path: the file; made with mode 0600 at the first use.
        limits: windows, thresholds, the ramp.
        retention: how long things are kept.
        lock_wait_s: how long writes wait for other programs.
    """

    def __init__(
        self,
        path: str | Path,
        limits: Limits | None = None,
        retention: Retention | None = None,
        *,
        lock_wait_s: float = 5.0,
    ) -> None:
        self.path = Path(path)
        self.limits = limits or Limits()
        self.retention = retention or Retention()
        self.hot = Hot()
        self._wait_s = lock_wait_s
        self._lock = threading.RLock()
        self._db: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None
        self._operators: dict[str, tuple[str, int] | None] = {}
        self._gate = Gate(self.path, self.limits)

    def use(self, limits: Limits, retention: Retention) -> None:
        """Go on with these; a batch that is under way ends with the old ones."""
        self.limits, self.retention = limits, retention
        self._gate.use(limits)

    # the file

    def connection(self) -> sqlite3.Connection:
        """Return the connection for writing; opened anew when the file was removed or replaced under way.

        Raises:
            StoreError: it cannot be opened.
        """
        with self._lock:
            if self._db is not None and identity(self.path) != self._file:
                self._drop()
            if self._db is None:
                self._db = connect(self.path, self._wait_s)
                self._file = identity(self.path)
            return self._db

    def failed(self, error: Exception) -> StoreError:
        """Return the fault in words; the file is opened anew at the next use."""
        self._drop()
        return explained(self.path, error)

    def _drop(self) -> None:
        with self._lock:
            if self._db is not None:
                with contextlib.suppress(sqlite3.Error):
                    self._db.close()
            self._db = None
            self.hot.version = -1
            self._operators.clear()

    def close(self) -> None:
        """Close the file; the store may be used again all the same."""
        self._drop()
        self._gate.close()

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Yield the connection; whatever goes wrong with it is a `StoreError`."""
        with self._lock:
            db = self.connection()
            try:
                yield db
            except (sqlite3.Error, OSError) as error:
                raise self.failed(error) from None

    @contextlib.contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Yield the connection inside a transaction: committed at the end, rolled back on any exception."""
        with self.reading() as db:
            with transaction(db):
                yield db
            self._gate.look_again()

    # what the batch asks

    def operator_of(self, domain: str) -> tuple[str, int] | None:
        """Return who runs the mail of `domain` as learnt, and when that was last written down."""
        if domain in self._operators:
            return self._operators[domain]
        with self.reading() as db:
            row = db.execute("SELECT operator, at FROM operators WHERE domain = ?", (domain,)).fetchone()
        self.learnt({domain: row})
        return self._operators[domain]

    def learnt(self, operators: dict[str, tuple[str, int] | None]) -> None:
        """Keep these operators in memory."""
        if len(self._operators) + len(operators) > OPERATORS_LIMIT:
            self._operators.clear()
        self._operators.update(operators)

    # one change at a time

    def batch(self) -> SqliteBatch:
        """Return a new batch; one at a time per store."""
        return SqliteBatch(self)

    def recall(self, status: DeliveryStatus, verdict: Classification) -> History:
        """Return what matters for `status` under this classification."""
        with self._lock:
            return self.batch().recall(status, verdict)

    def record(self, outcome: Outcome, now: datetime) -> list[Notice]:
        """Remember one outcome in a transaction of its own."""
        with self._lock, self.batch() as batch:
            return batch.record(outcome, now)

    def delivered(
        self,
        recipient: str,
        now: datetime,
        *,
        queue_id: str | None = None,
        operator: str | None = None,
        sender: str | None = None,
    ) -> Sequence[Notice]:
        """Remember one delivery in a transaction of its own."""
        with self._lock, self.batch() as batch:
            return batch.delivered(recipient, now, queue_id=queue_id, operator=operator, sender=sender)

    def log_position(self, name: str) -> LogPosition | None:
        """Return up to where the log `name` was read; None where it never was."""
        with self.reading() as db:
            sql = "SELECT name, cursor FROM positions WHERE name = ?"
            row = db.execute(sql, (name,)).fetchone()
        return LogPosition(*row) if row else None

    def log_is_followed(self) -> bool:
        """Return whether logd reads the mail log into this store: then it knows what this MTA's own reports tell.

        Asked of the gate's reader, which waits for nobody.
        """
        return self._gate.log_is_followed()

    # the gate

    def gate_lookup(
        self,
        recipient: str,
        now: datetime,
        *,
        operator: str | None = None,
        sender: str | None = None,
        queue_id: str | None = None,
    ) -> Standing:
        """Return what stands in the way of `recipient`."""
        return self._gate.standing(folded(recipient), now, operator, sender, queue_id)

    def keep_view(self) -> None:
        """Answer the gate faster: read in longer transactions; the caller calls `rest` twice a second from now on."""
        self._gate.keeps_view = True

    def rest(self) -> None:
        """End a reading transaction that nobody needs any more; returns at once."""
        self._gate.rest()

    def stranger(self, recipient: str) -> bool:
        """Return True where nothing is known that could stand in the way: most mail, answered in a third of the time.

        False says nothing: ask `gate_lookup`.
        """
        plain = recipient.isascii() and recipient.isprintable() and "\\" not in recipient and len(recipient) < 256
        return plain and self._gate.stranger(recipient.lower())

    def suppressed(self, recipient: str) -> Suppression | None:
        """Return the suppression of `recipient`; None = may be mailed."""
        return self._gate.suppression(folded(recipient))

    def claim_probe(self, key: str, now: datetime) -> bool:
        """Return True for the one caller of this host who may send the probe that is due for block `key`."""
        return self._gate.claim_probe(key, now)

    def due(self, now: datetime, limit: int = 100) -> list[Due]:
        """Return messages to be tried now: one for each probe that is due, the share after a lift, times that came."""
        return self._gate.due(now, limit)

    def flushed(self, due: Iterable[Due], now: datetime) -> None:
        """Remember that these were handed to the MTA: they are not due again before their next failure."""
        done = list(due)
        self._gate.flushed(done, now)
        # a failure that was recorded since has set a later time, which stands
        own = [(d.recipient, d.queue_id, to_ms(now)) for d in done if d.block is None]
        if own:
            with self.writing() as db:
                db.executemany("UPDATE waiting SET due = NULL WHERE recipient = ? AND queue_id = ? AND due <= ?", own)

    # blocks

    def blocks(self, *, closed: bool = False) -> list[Block]:
        """Return the blocks that are not over, the oldest first; with `closed` all on record."""
        where = "" if closed else " WHERE state != 'closed'"
        with self.reading() as db:
            return [block_of(row) for row in db.execute(f"SELECT {BLOCK} FROM blocks{where} ORDER BY began, key")]

    def lift(self, key: str, by: str, now: datetime, *, at_once: bool = False) -> Notice | None:
        """Lift a block: a probe goes out, then a rising share; None where no such block is held."""

        def lifted(block: Block) -> tuple[Block, Notice | None]:
            if block.state is not BlockState.CLOSED and (at_once or block.rule == BY_HAND):
                return blocks.ended(block, by, now)
            held = block.state is BlockState.HELD
            return blocks.lifted(block, by, now) if held else (block, None)

        found = self._change_blocks(lifted, "key = ?", (key,), now)
        return found[0] if found else None

    def add_block(self, block: Block) -> Notice:
        """Begin or replace a block by hand."""
        with self.writing() as db:
            db.execute(f"INSERT OR REPLACE INTO blocks VALUES ({BLOCK_HOLES})", block_row(block))
        self.hot.version = -1
        return blocks.added(block)

    def expire(self, now: datetime) -> list[Notice]:
        """End blocks whose last day came and ramps that are complete; call it once a minute."""
        return self._change_blocks(lambda block: blocks.aged(block, now, self.limits), "state != 'closed'", (), now)

    def _change_blocks(
        self,
        change: Callable[[Block], tuple[Block, Notice | None]],
        where: str,
        values: tuple[Any, ...],
        now: datetime,
    ) -> list[Notice]:
        """Apply `change` to some blocks in one transaction; what waited for one that is closed becomes due."""
        notices: list[Notice] = []
        with self.writing() as db:
            for row in db.execute(f"SELECT {BLOCK} FROM blocks WHERE {where}", values).fetchall():
                changed, notice = change(block_of(row))
                if notice is None:
                    continue
                notices.append(notice)
                db.execute(f"INSERT OR REPLACE INTO blocks VALUES ({BLOCK_HOLES})", block_row(changed))
                if changed.state is BlockState.CLOSED:
                    due = "UPDATE waiting SET due = ?, block = NULL WHERE block = ?"
                    db.execute(due, (to_ms(now), changed.key))
        if notices:
            self.hot.version = -1
        return notices


def open_store(path: str | Path, limits: Limits | None = None, retention: Retention | None = None) -> SqliteStore:
    """Return the store at `path`, opened once to see that it can be.

    Raises:
        StoreError: it cannot.
    """
    store = SqliteStore(path, limits, retention)
    store.connection()
    return store
