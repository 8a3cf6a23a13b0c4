"""What reports taught and nobody waits for: written by a thread of its own.

Goes in: the outcomes of reports. Goes out: to the store - the ledger, the lists
that refusals named, and what could not be remembered while the store was away.
Does not: judge, or let the mail or the heartbeat wait.

A report is remembered before the MTA gets its answer wherever the store can be
written at that moment; only else it waits here, in the order in which reports came,
and is judged anew by what the store remembers by then. `LESSONS_WAITING` of them at
most, and in memory only: a program that is killed loses those that wait.
"""

from __future__ import annotations

import itertools
import threading
from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from milter_bounce import limits

from .store import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from milter_bounce.verdict import BlocklistMention, Notice, Outcome

    from .store import Batch, Store
    from .store_dns import Mentions
    from .store_reports import ReportLedger

LESSONS_WAITING: Final = limits.REPORT_ROWS_WAITING

PORTION: Final = 500
"""Outcomes in one transaction: other programs write between two of them."""

TURN_S: Final = 1.0
"""Seconds between two looks at what waits."""


@dataclass(frozen=True, slots=True)
class Lesson:
    """A believed outcome that is still to be remembered."""

    outcome: Outcome
    at: datetime
    own: bool
    """Whether this MTA made the report: then logd knows of it, where it reads the log."""


class Keeper:
    """Takes what is to be written, from many threads; one turn at a time.

    Args:
        store: a store of its own, for the mail's must not wait behind it.
        ledger: the table of reports.
        mentions: takes the blocklists that refusals name.
        learn: judges and remembers a lesson in a batch; returns what began or ended with it.
        tell: tells of that.
        warn: writes a warning to the log.
        grumble: tells of a store that cannot be used, but not each time.
    """

    def __init__(
        self,
        store: Store,
        ledger: ReportLedger,
        mentions: Mentions,
        learn: Callable[[Batch, Lesson], Sequence[Notice]],
        tell: Callable[[Iterable[Notice]], None],
        warn: Callable[[str], object],
        grumble: Callable[[StoreError], None],
    ) -> None:
        self._store, self._ledger, self._mentions = store, ledger, mentions
        self._learn, self._tell, self._warn, self._grumble = learn, tell, warn, grumble
        self._lessons: deque[Lesson] = deque()
        self._named: deque[tuple[Sequence[BlocklistMention], datetime]] = deque(maxlen=LESSONS_WAITING)
        self._lost = 0
        self._lock, self._turn = threading.Lock(), threading.Lock()
        self._idle = threading.Event()

    @property
    def behind(self) -> bool:
        """Whether lessons wait: what comes now has to wait behind them."""
        return bool(self._lessons)

    def later(self, lessons: Iterable[Lesson]) -> None:
        """Take lessons that the store could not take; beyond `LESSONS_WAITING` they are counted as lost."""
        with self._lock:
            for lesson in lessons:
                if len(self._lessons) < LESSONS_WAITING:
                    self._lessons.append(lesson)
                else:
                    self._lost += 1

    def note(self, outcomes: Sequence[Outcome], now: datetime) -> None:
        """Take the outcomes of one report for the ledger, and the lists that those believed name."""
        self._ledger.add(outcomes, now)
        for outcome in outcomes:
            if outcome.genuine and outcome.classification.blocklists:
                self._named.append((outcome.classification.blocklists, now))

    def start(self) -> None:
        """Begin to write, in a thread of its own."""
        threading.Thread(target=self._run, name="keeper", daemon=True).start()

    def _run(self) -> None:
        while True:
            self._idle.wait(TURN_S)
            try:
                self.turn()
            except Exception as error:  # a bug of ours must not end what writes; the next turn may do better
                self._warn(f"what reports taught could not be written: {error!r}")

    def turn(self, wait_s: float = 0.0) -> None:
        """Write what waits; where another thread is at it, wait for it `wait_s` at most. Raises no `StoreError`."""
        if not self._turn.acquire(timeout=wait_s):
            return
        try:
            self._catch_up()
            self._ledger.flush(datetime.now(UTC))
            while self._named:
                self._mentions.note(*self._named.popleft())
        except StoreError as error:
            self._grumble(error)
        finally:
            self._turn.release()

    def _catch_up(self) -> None:
        """Remember the lessons that wait, the oldest first.

        Raises:
            StoreError: what was not remembered still waits.
        """
        while portion := self._first():
            notices: list[Notice] = []
            followed = self._store.log_is_followed()
            with self._store.batch() as batch:
                for lesson in portion:
                    if not (lesson.own and followed):
                        notices += self._one(batch, lesson)
            with self._lock:
                for _ in portion:
                    self._lessons.popleft()
                lost, self._lost = self._lost, 0
            self._tell(notices)
            if lost:
                self._warn(f"{lost} recipients of reports are not remembered: the store was away for too long")

    def _first(self) -> list[Lesson]:
        with self._lock:
            return list(itertools.islice(self._lessons, PORTION))

    def _one(self, batch: Batch, lesson: Lesson) -> Sequence[Notice]:
        """Return what began or ended with one lesson; one that we stumble over is left out, or it would hold up all."""
        try:
            return self._learn(batch, lesson)
        except StoreError:
            raise
        except Exception as error:  # our own bug, whichever
            self._warn(f"left out what cannot be learnt ({type(error).__name__}: {error})")
            return ()
