"""The store: what is remembered between two attempts, shared by all programs of a host.

Goes in: outcomes, deliveries, the administrator's orders. Comes out: `History`
for the advice, `Standing` for the gate, `Notice`s of what began and ended.
Does not: decide (``decide.advise`` does) or write the log (its callers do).

Every method may raise `StoreError`, and nothing else, whatever is wrong with
the file: locked, full, unwritable, corrupt, gone. Callers let mail flow and try
again; the store opens itself anew by itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Protocol, Self

from milter_bounce import limits

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from datetime import datetime
    from pathlib import Path
    from types import TracebackType

    from milter_bounce.delivery import DeliveryStatus
    from milter_bounce.verdict import (
        Backoff,
        Block,
        Classification,
        Episode,
        History,
        Notice,
        Outcome,
        Standing,
        Suppression,
    )


class StoreError(Exception):
    """The store cannot answer; the text is one line: what happened, which file, what to do."""


class StoreCorruptError(StoreError):
    """The file is damaged or no store of ours: trying again will not help, ``milter-bounce store check`` may."""


@dataclass(frozen=True, slots=True)
class Retention:
    """How long things are kept that no longer matter to the advice."""

    episodes: timedelta = limits.EPISODE_GAP
    counts: timedelta = timedelta(days=90)
    blocks: timedelta = timedelta(days=90)
    """Closed blocks, for the record."""

    waiting: timedelta = timedelta(days=10)
    operators: timedelta = timedelta(days=90)


@dataclass(frozen=True, slots=True)
class LogPosition:
    """Up to where a log was read, committed with what was learnt from it."""

    name: str
    """The log as configured: a path, or ``journal``."""

    cursor: str = ""
    """What its reader wants back: the journal's cursor, `logtail.Position` of a file."""


@dataclass(frozen=True, slots=True)
class Due:
    """A message that should be tried now: for ``postqueue -i QUEUEID``."""

    queue_id: str
    recipient: str
    block: str | None = None
    """Key of the block whose probe or rising share it belongs to."""


@dataclass(frozen=True, slots=True)
class RecipientRecord:
    """All that is known of one recipient."""

    recipient: str
    operator: str | None
    episode: Episode | None
    suppression: Suppression | None
    bounces: tuple[tuple[datetime, str, str], ...]
    """When, ``soft`` or ``hard``, which message; those in the window of the limit."""

    waiting: tuple[tuple[str, datetime], ...]
    """Queue IDs of the messages that wait for this recipient, and since when."""


@dataclass(frozen=True, slots=True)
class HeldRecipients:
    """Recipients of one destination that are held by themselves: refused below the threshold of a block."""

    key: str
    """The operator, else the domain."""

    category: str
    number: int
    first: datetime
    """When the first of them may be tried again, and the last."""

    last: datetime
    text: str
    """What one of them was told."""


@dataclass(frozen=True, slots=True)
class WaitingMessage:
    """One message that waits for one recipient."""

    queue_id: str
    recipient: str
    since: datetime
    attempts: int
    """Failed attempts of the recipient's episode; 0 where only our gate held the message."""


@dataclass(frozen=True, slots=True)
class Released:
    """What an order to release freed."""

    recipients: int
    backoffs: int


@dataclass(frozen=True, slots=True)
class Count:
    """Delivery statuses of one hour."""

    hour: datetime
    operator: str
    category: str
    number: int


class Batch(Protocol):
    """Changes that are committed together; sees its own changes before they are.

    ``commit()`` may be called any number of times. After a `StoreError` from it the changes are still there, and the
    only thing to do is ``commit()`` again. Left by an exception, its own `StoreError` included, ``with`` drops them.
    """

    def __enter__(self) -> Self:
        """Return the batch."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Commit when no exception is under way; else drop the changes."""

    def recall(self, status: DeliveryStatus, verdict: Classification) -> History:
        """Return what matters for `status` under this classification; `pipeline.judge` takes this method."""

    def record(self, outcome: Outcome, now: datetime) -> list[Notice]:
        """Remember one failed attempt or report, at `now` = when it happened; return what began or ended with it.

        Nothing is remembered of an outcome with genuine False, of one of our own texts, or without a recipient.
        """

    def delivered(
        self,
        recipient: str,
        now: datetime,
        *,
        queue_id: str | None = None,
        operator: str | None = None,
        sender: str | None = None,
    ) -> Sequence[Notice]:
        """Remember a delivery: the fast path for ``status=sent``; return what ended with it.

        `sender` ends blocks of that sender or his domain; without it only those of our host.
        """

    def learn_operator(self, domain: str, operator: str | None, now: datetime) -> None:
        """Remember who runs the mail of `domain`; None = nobody known."""

    def held(self, status: DeliveryStatus, now: datetime) -> None:
        """Remember that our own gate kept a message in the queue: it waits for what it was held for.

        No attempt was made, so nothing is counted and no episode begins.
        """

    def expired(self, queue_id: str, now: datetime) -> list[Notice]:
        """Remember that the MTA gave the message up (``status=expired``) for all recipients that it waited for."""

    def gone(self, queue_id: str, recipient: str | None = None) -> None:
        """Forget that `queue_id` waits: it left the queue (for `recipient`, else for all)."""

    def position(self, position: LogPosition) -> None:
        """Commit this log position with the rest of the batch."""

    def commit(self) -> None:
        """Make all changes so far lasting, in one transaction.

        Raises:
            StoreError: nothing was changed; the changes are still in the batch.
        """


class Store(Protocol):
    """What the programs and the command line need of a store."""

    def batch(self) -> Batch:
        """Return a new batch; one at a time per store."""

    def recall(self, status: DeliveryStatus, verdict: Classification) -> History:
        """Return what matters for `status`, see `Batch.recall`."""

    def record(self, outcome: Outcome, now: datetime) -> list[Notice]:
        """Remember one outcome in a transaction of its own, see `Batch.record`."""

    def delivered(
        self,
        recipient: str,
        now: datetime,
        *,
        queue_id: str | None = None,
        operator: str | None = None,
        sender: str | None = None,
    ) -> Sequence[Notice]:
        """Remember one delivery in a transaction of its own, see `Batch.delivered`."""

    def log_position(self, name: str) -> LogPosition | None:
        """Return up to where the log `name` was read; None where it never was."""

    def log_is_followed(self) -> bool:
        """Return whether logd reads the mail log into this store: then it knows what this MTA's own reports tell."""

    # what the gate, the policy service and the flusher ask

    def gate_lookup(
        self,
        recipient: str,
        now: datetime,
        *,
        operator: str | None = None,
        sender: str | None = None,
        queue_id: str | None = None,
    ) -> Standing:
        """Return what stands in the way of `recipient`.

        After a lift and a successful probe a rising share of the recipients passes. An episode that ended in a block
        has no time of its own, the block speaks for it.

        Args:
            recipient: the whole address.
            now: aware UTC.
            operator: who runs the domain as far as the caller knows; the store's own knowledge comes first.
            sender: the envelope sender where the caller knows it (Sendmail): blocks of one sender hold only then.
            queue_id: of the message where the caller knows it (Sendmail): then it is given up when it has waited as long
                as the schedule, and a message that waits nowhere is not. Without it, when all that wait have - and still
                the question may be about one that never failed: the caller must know better, or let it go.
        """

    def suppressed(self, recipient: str) -> Suppression | None:
        """Return the suppression of `recipient`; None = may be mailed."""

    def claim_probe(self, key: str, now: datetime) -> bool:
        """Return True for the one caller of this host who may send the probe that is due for block `key`.

        A probe that nothing was heard of may be claimed again after a while.

        Raises:
            StoreError: also when another program writes at this moment; it never waits.
        """

    def due(self, now: datetime, limit: int = 100) -> list[Due]:
        """Return messages to be tried now: one for each probe that is due, the share after a lift, times that came."""

    def flushed(self, due: Iterable[Due], now: datetime) -> None:
        """Remember that these were handed to the MTA: they are not due again before their next failure."""

    # blocks

    def blocks(self, *, closed: bool = False) -> list[Block]:
        """Return the blocks that are not over, the oldest first; with `closed` all on record."""

    def lift(self, key: str, by: str, now: datetime, *, at_once: bool = False) -> Notice | None:
        """Lift a block: a probe goes out, then a rising share; None where no such block is held.

        The rest waits for the probe's word; a renewed refusal brings the block back. One that was added by hand ends
        at once, and with `at_once` any does, also on trial.
        """

    def backoffs(self, now: datetime) -> list[Backoff]:
        """Return the back-offs that are not over, the oldest first."""

    def holds(self, now: datetime) -> list[HeldRecipients]:
        """Return the recipients that are held by themselves, counted by destination and category, most first."""

    def waiting_for(self, key: str, limit: int) -> tuple[list[WaitingMessage], int]:
        """Return messages that wait for a block or back-off, the oldest first, and how many there are in all."""

    def release(self, key: str | None, now: datetime) -> Released:
        """Let what is held for its own sake be tried now: an address, a destination with its back-off, None = all."""

    def end_backoff(self, key: str, by: str, now: datetime) -> Notice | None:
        """End the back-off of a destination: what waits for nothing else is due; None where there is none."""

    def queue_ids(self) -> set[str]:
        """Return the queue IDs of all messages that wait."""

    def gone(self, queue_ids: Iterable[str]) -> int:
        """Forget messages that are in no queue any more; return how many rows that were."""

    def add_block(self, block: Block) -> Notice:
        """Begin or replace a block by hand."""

    def expire(self, now: datetime) -> list[Notice]:
        """End blocks whose last day came and ramps that are complete; call it once a minute."""

    # suppressions

    def suppressions(self) -> Iterator[Suppression]:
        """Yield all suppressions by address."""

    def suppress(self, suppressions: Iterable[Suppression]) -> int:
        """Add suppressions, an older one of the same recipient stays; return how many are new."""

    def unsuppress(self, recipients: Iterable[str]) -> int:
        """Remove suppressions with the bounces that led to them; return how many there were. Others stay as they are."""

    # the rest of the command line

    def recipient(self, address: str) -> RecipientRecord:
        """Return all that is known of `address`; an empty record where that is nothing."""

    def counts(self, since: datetime) -> list[Count]:
        """Return the hourly counts since then."""

    def prune(self, now: datetime) -> int:
        """Remove all that is past its retention; return how many rows went."""

    def pruning(self, now: datetime) -> Iterator[int]:
        """Remove the same in short steps, each when it is asked for; yield how many rows went. Begin one hourly."""

    def check(self) -> list[str]:
        """Return what is wrong with the file, one line a fault; empty = sound."""

    def backup(self, file: Path) -> int:
        """Copy the store into the new `file`, mode 0600, as it is at one moment; return its bytes."""

    def vacuum(self) -> tuple[int, int]:
        """Rebuild the file without its holes; return its bytes before and after."""

    def export(self) -> Iterator[dict[str, object]]:
        """Yield every row of every table as one object with its ``table``."""

    def close(self) -> None:
        """Close the file; the store may be used again all the same."""

    @property
    def path(self) -> Path:
        """The file."""
