"""The reading side of the store for answers that cannot wait: gate, policy service, milterd, flusher.

Goes in: an address, the time. Comes out: what stands in its way; what is due.
Does not: write, or wait for a program that does - WAL readers never do.

Reads by index, not from a copy in memory: a million recipients cost no memory
here, and another program's change is seen by the next question. Only blocks and
back-offs are in memory, looked at anew after `STALE_S` at the latest.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from typing import TYPE_CHECKING, Any, Final

from milter_bounce import limits
from milter_bounce.decide.block import Known, is_over, open_share, standing, within_share
from milter_bounce.verdict import BlockState

from .sqlite_file import connect, explained, identity
from .sqlite_hot import Hot
from .sqlite_rows import EPISODE, SUPPRESSION, episode_of, escaped, maybe_time, suppression_of, to_ms
from .store import Due, StoreError

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    from milter_bounce.decide.advise import Limits
    from milter_bounce.verdict import Block, Standing, Suppression

STALE_S: Final = 0.2
"""Another program's block holds, and its lift frees, after this time at the latest."""

REST_S: Final = 0.5
"""A file that could not be read is not tried again for so long: opening it may take time, and answers may not."""

WAIT_S: Final = 0.02
"""A reader waits only while the file is recovered after a crash; the answer is "no opinion" then."""

LOOKED_AT: Final = limits.SHARE_LOOKED_AT
FLUSHED_LIMIT: Final = limits.FLUSHED_KEPT

_ANYTHING: Final = (
    "SELECT 1 FROM suppressions WHERE recipient = ?1 UNION ALL SELECT 1 FROM recipients WHERE recipient = ?1 LIMIT 1"
)


class Gate:
    """Answers from the store's file at `path` through a connection of its own."""

    def __init__(self, path: Path, limits: Limits) -> None:
        self._path, self._limits = path, limits
        self.keeps_view = False
        """Read in transactions of `STALE_S`, which saves half the time of a question; whoever sets it calls `rest`."""

        self._hot = Hot()
        self._lock = threading.Lock()
        self._clear: dict[str, bool] = {}
        """Domains without block and back-off, for as long as blocks and back-offs are believed."""

        self._db: sqlite3.Connection | None = None
        self._claims: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None
        self._looked = self._rest_until = 0.0
        self._trouble: StoreError | None = None
        self._flushed: dict[tuple[str, str], datetime] = {}
        self._probed: dict[str, datetime] = {}
        """When a probe of each standing block was handed to the MTA."""

    def use(self, limits: Limits) -> None:
        """Answer by these from now on."""
        self._limits = limits

    def close(self) -> None:
        """Close the file; it is opened anew at the next question."""
        for db in (self._db, self._claims):
            if db is not None:
                with contextlib.suppress(sqlite3.Error):
                    db.close()
        self._db = self._claims = None
        self._hot.version = -1

    def look_again(self) -> None:
        """Look at blocks and back-offs anew at the next question: this process changed something."""
        self._looked = 0.0

    def _connection(self) -> sqlite3.Connection:
        """Return the connection with blocks and back-offs as of `STALE_S` ago or later."""
        moment = time.monotonic()
        if self._db is not None and moment - self._looked < STALE_S:
            return self._db
        if self._db is not None and identity(self._path) != self._file:
            self.close()
        if self._db is None:
            self._db = connect(self._path, WAIT_S, reads_only=True)
            self._file = identity(self._path)
        elif self._db.in_transaction:
            self._db.execute("COMMIT")
        self._hot.refresh(self._db, with_refusals=False)
        self._clear.clear()
        if self.keeps_view:
            self._db.execute("BEGIN")
        self._looked = moment
        return self._db

    def rest(self) -> None:
        """End the view of the file that `keeps_view` holds, when no question came for a while; it may be tidied then."""
        with self._lock:
            if self._db is not None and self._db.in_transaction and time.monotonic() - self._looked >= STALE_S:
                with contextlib.suppress(sqlite3.Error):
                    self._db.execute("COMMIT")

    def _rows(self, sql: str, values: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        """Return the rows of a query; after a failure nothing is tried for `REST_S`, the error comes at once."""
        if self._trouble is not None and time.monotonic() < self._rest_until:
            raise type(self._trouble)(str(self._trouble))
        try:
            rows = self._connection().execute(sql, values).fetchall()
        except (sqlite3.Error, StoreError) as error:
            self.close()
            self._rest_until = time.monotonic() + REST_S
            self._trouble = error if isinstance(error, StoreError) else explained(self._path, error)
            raise self._trouble from None
        self._trouble = None
        return rows

    def stranger(self, recipient: str) -> bool:
        """Return whether nothing at all is known of an address or its destination, so that it may pass; the short way.

        Raises:
            StoreError: the file cannot be read; have no opinion.
        """
        with self._lock:
            try:  # not by _rows: this runs for every recipient of every message
                if self._connection().execute(_ANYTHING, (recipient,)).fetchone() is not None:
                    return False
            except sqlite3.Error as error:
                self.close()
                raise explained(self._path, error) from None
            if not self._hot.blocks and not self._hot.backoffs:
                return True
            domain = recipient.rpartition("@")[2]
            clear = self._clear.get(domain)
            if clear is None:
                learnt = self._rows("SELECT operator FROM operators WHERE domain = ?", (domain,))
                names = (domain, learnt[0][0] if learnt else domain)
                clear = not any(name in self._hot.blocks or name in self._hot.backoffs for name in names)
                self._clear[domain] = clear
            return clear

    def suppression(self, recipient: str) -> Suppression | None:
        """Return the suppression of a folded address; None = there is none.

        Raises:
            StoreError: the file cannot be read; have no opinion.
        """
        with self._lock:
            rows = self._rows(f"SELECT {SUPPRESSION} FROM suppressions WHERE recipient = ?", (recipient,))
        return suppression_of(rows[0]) if rows else None

    def standing(
        self,
        recipient: str,
        now: datetime,
        operator: str | None = None,
        sender: str | None = None,
        queue_id: str | None = None,
    ) -> Standing:
        """Return what stands in the way of a folded address, see `store.Store.gate_lookup`.

        Raises:
            StoreError: the file cannot be read; have no opinion.
        """
        with self._lock:
            suppressed = self._rows(f"SELECT {SUPPRESSION} FROM suppressions WHERE recipient = ?", (recipient,))
            if suppressed:
                known = Known(suppression=suppression_of(suppressed[0]))
            else:
                known = self._known(recipient, now, operator, sender, queue_id)
        return standing(recipient, known, now, self._limits)

    def log_is_followed(self) -> bool:
        """Return whether logd reads a log into this store.

        Raises:
            StoreError: the file cannot be read.
        """
        with self._lock:
            return bool(self._rows("SELECT 1 FROM positions LIMIT 1", ()))

    def _waits_since(self, recipient: str, queue_id: str | None) -> datetime | None:
        """Return when the message first failed for a recipient, without a queue ID the youngest; None = none waits.

        None as well where one was held from its first attempt: what was never tried has used up no schedule.
        """
        if queue_id is None:
            rows = self._rows("SELECT max(since), min(failed) FROM waiting WHERE recipient = ?", (recipient,))
        else:
            sql = "SELECT since, failed FROM waiting WHERE recipient = ? AND queue_id = ?"
            rows = self._rows(sql, (recipient, escaped(queue_id)))
        return maybe_time(rows[0][0]) if rows and rows[0][1] else None

    def _known(
        self, recipient: str, now: datetime, operator: str | None, sender: str | None, queue_id: str | None
    ) -> Known:
        rows = self._rows(f"SELECT {EPISODE} FROM recipients WHERE recipient = ?", (recipient,))
        episode = episode_of(rows[0]) if rows else None
        waits_since = None
        if episode is not None and episode.given_up is not None:
            waits_since = self._waits_since(recipient, queue_id)
        hot = self._hot
        if not hot.blocks and not hot.backoffs:
            return Known(episode=episode, waits_since=waits_since)
        domain = recipient.rpartition("@")[2]
        learnt = self._rows("SELECT operator FROM operators WHERE domain = ?", (domain,))
        destination = learnt[0][0] if learnt else operator or domain
        block = hot.block_at(destination, sender, now)
        if block is None and destination != domain:
            block = hot.block_at(domain, sender, now)
        return Known(None, episode, waits_since, block, hot.backoffs.get(destination) or hot.backoffs.get(domain))

    def claim_probe(self, key: str, now: datetime) -> bool:
        """Return whether the caller may send the probe of block `key`; see `store.Store.claim_probe`."""
        with self._lock:
            self._rows("SELECT 1", ())
            block = self._hot.block(key, now)
            if block is None or block.probe_at is None or block.probe_at > now:
                return False
            stale = max(to_ms(block.probe_at), to_ms(now - self._limits.trial_again))
            try:
                if self._claims is None:
                    self._claims = connect(self._path, 0.0)
                sql = "INSERT INTO claims VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET at = excluded.at WHERE claims.at < ?"
                return self._claims.execute(sql, (key, to_ms(now), stale)).rowcount == 1
            except sqlite3.Error as error:
                self.close()
                raise explained(self._path, error) from None

    # what is due

    def due(self, now: datetime, limit: int) -> list[Due]:
        """Return messages to be tried now, see `store.Store.due`."""
        with self._lock:
            self._rows("SELECT 1", ())
            found: list[Due] = []
            for block in list(self._hot.blocks.values()):
                if not is_over(block, now) and len(found) < limit:
                    found += self._released(block, now, limit - len(found))
            sql = "SELECT queue_id, recipient FROM waiting WHERE due <= ? ORDER BY due LIMIT ?"
            rows = self._rows(sql, (to_ms(now), limit - len(found)))
        return found + [Due(queue_id, recipient) for queue_id, recipient in rows]

    def _released(self, block: Block, now: datetime, limit: int) -> list[Due]:
        """Return what may go of a block: one message when its probe is due, a share on the ramp."""
        if block.state is BlockState.RAMP and block.ramp_from is not None:
            share = open_share(block.ramp_from, now, self._limits.ramp)
        elif block.probe_at is not None and block.probe_at <= now and self._may_probe(block, now):
            share, limit = 1.0, 1
        else:
            return []
        found: list[Due] = []
        for queue_id, recipient in self._rows(
            "SELECT queue_id, recipient FROM waiting WHERE block = ? ORDER BY since LIMIT ?", (block.key, LOOKED_AT)
        ):
            if within_share(recipient, share) and not self._is_flushed(recipient, queue_id, now):
                found.append(Due(queue_id, recipient, block.key))
                if len(found) >= limit:
                    break
        return found

    def _may_probe(self, block: Block, now: datetime) -> bool:
        last = self._probed.get(block.key)
        return last is None or (block.probe_at or now) > last or now - last >= self._limits.trial_again

    def _is_flushed(self, recipient: str, queue_id: str, now: datetime) -> bool:
        at = self._flushed.get((recipient, queue_id))
        return at is not None and now - at < self._limits.trial_again

    def flushed(self, due: list[Due], now: datetime) -> None:
        """Remember that these were handed to the MTA."""
        with self._lock:
            for one in due:
                if one.block is not None:
                    self._flushed[one.recipient, one.queue_id] = now
                    self._probed[one.block] = now
            self._probed = {key: at for key, at in self._probed.items() if key in self._hot.blocks}
            while len(self._flushed) > FLUSHED_LIMIT:
                del self._flushed[next(iter(self._flushed))]
