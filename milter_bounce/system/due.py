"""What has fallen due is tried: recipients whose time came, probes, the share after a block is lifted.

Goes in: the store's ``due`` list. Goes out: one ``postqueue -i`` a message, paced.
Does not: choose (the store does) or let anything pass the gate (the gate does).

A thread of its own: neither the store's locks nor postqueue(1) ever delay an answer.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Protocol

from milter_bounce.verdict import printable

from .store import Due, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from milter_bounce.config import DueSection

    from .queue import Queue

FLUSHED_AT_ONCE: Final = 50
"""Messages after which the store is told: a program that is killed has asked for these twice, which does no harm."""


SEEN_S: Final = 0.3
"""From a look at what is due to the first attempt: by then the gate has seen, too, what released it
(``sqlite_gate.STALE_S``), and does not hold it once more."""

LISTING_KEPT_S: Final = 60.0
"""How long a list of the queue is believed for the messages on it."""

LISTING_SHARE: Final = 10
"""A list of the queue is not made again before so many times the time that it took: a queue may be long."""

AWAITED_S: Final = 10.0
"""Seconds in which Postfix asks about a message that it was asked to try: its queue manager looks at once."""


class Awaited:
    """Recipients of messages that we have just had tried: the next question about one is about that message.

    Postfix's gate asks about an address, never about a message, so this is what the gate can know of which one it is.
    """

    def __init__(self) -> None:
        self._moments: dict[str, deque[float]] = {}
        self._lock = threading.Lock()

    def note(self, recipient: str) -> None:
        """Expect one question about `recipient`, a folded address."""
        with self._lock:
            now = time.monotonic()
            self._moments[recipient] = deque([*self._moments.pop(recipient, ()), now])
            while (oldest := next(iter(self._moments))) != recipient and now - self._moments[oldest][-1] > AWAITED_S:
                del self._moments[oldest]

    def take(self, recipient: str) -> bool:
        """Return whether a question about `recipient` was expected; each expected one counts once."""
        with self._lock:
            moments = self._moments.get(recipient, deque())
            while moments:
                if time.monotonic() - moments.popleft() <= AWAITED_S:
                    return True
            self._moments.pop(recipient, None)
        return False


class Calendar(Protocol):
    """What is needed of the store (system.store.Store)."""

    def due(self, now: datetime, limit: int = 100) -> list[Due]:
        """Return messages to be tried now."""

    def flushed(self, due: Iterable[Due], now: datetime) -> None:
        """Remember that these were handed to the MTA."""

    def queue_ids(self) -> set[str]:
        """Return the queue IDs of all messages that wait."""

    def gone(self, queue_ids: Iterable[str]) -> int:
        """Forget messages that are in no queue any more."""


class Presence:
    """Which of the messages that wait are in the queue at all.

    A message may leave it without a line that names it (``postsuper -d ALL``); its ghost would take the one place of a
    block's probe. One that was missing in two lists of the queue in a row is gone: a single list misses what moves from
    one queue to another meanwhile.
    """

    def __init__(self, store: Calendar, mta: Queue) -> None:
        self._store, self._mta = store, mta
        self._listed: frozenset[str] | None = frozenset()
        self._missing: set[str] = set()
        self._made = self._again = float("-inf")

    def sort(self, due: list[Due]) -> tuple[list[Due], set[str]]:
        """Return what is to be tried, and the queue IDs of all messages that are gone.

        Where the queue cannot be listed, everything is tried.

        Raises:
            StoreError: the store cannot tell what waits.
        """
        moment = time.monotonic()
        if moment < self._made + LISTING_KEPT_S and (
            self._listed is None or all(one.queue_id in self._listed for one in due)
        ):
            return due, set()
        if moment < self._again:  # a probe can wait for the next list, and has one place only
            return [one for one in due if one.block is None or one.queue_id in (self._listed or ())], set()
        return self._compare(due, moment)

    def _compare(self, due: list[Due], moment: float) -> tuple[list[Due], set[str]]:
        suspects = self._missing & self._store.queue_ids() if self._missing else set()
        self._listed = self._mta.listed()
        now = time.monotonic()
        self._made, self._again = moment, now + LISTING_SHARE * (now - moment)
        if self._listed is None:
            self._missing = set()
            return due, set()
        gone = suspects - self._listed
        missing = {one.queue_id for one in due} - self._listed
        # where one is missing others may be: the next list settles it for all at once
        self._missing = self._store.queue_ids() - self._listed if missing - gone else set()
        return [one for one in due if one.queue_id not in missing], gone


class Flusher:
    """Looks for what is due every so often, and has it tried."""

    def __init__(
        self,
        store: Calendar,
        mta: Queue,
        section: DueSection,
        say: Callable[[str], object],
        *,
        settle_s: float = SEEN_S,
        awaited: Awaited | None = None,
    ) -> None:
        self._store, self._mta, self._section, self._say = store, mta, section, say
        self._presence, self._settle_s = Presence(store, mta), settle_s
        self._awaited = awaited or Awaited()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="due", daemon=True)
        self._trouble: str | None = None

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """End after the message at hand."""
        self._stop.set()

    def _run(self) -> None:
        while not self._stop.wait(self._section.every_s):
            try:
                self.turn()
            except Exception as error:  # a bug must not end what wakes the queue; the next look may do better
                self._complain(f"looking for due messages failed: {error!r}")

    def turn(self) -> int:
        """Look once and have what is due tried; return how many messages were asked for."""
        limit = max(1, int(self._section.per_second * max(self._section.every_s, 1.0)))
        try:
            due = self._store.due(datetime.now(UTC), limit)
            if not due or self._stop.wait(self._settle_s):
                return 0
            due, gone = self._presence.sort(due)
            if gone:
                self._store.gone(gone)
                self._say(f"info: {len(gone)} messages are in the queue no more; they are not waited for")
        except StoreError as error:
            self._complain(f"what is due cannot be read: {error}")
            return 0
        done: list[Due] = []
        for entry in due:
            if self._stop.wait(1 / self._section.per_second):
                break
            if entry.block is None:
                self._awaited.note(entry.recipient)  # before it is asked for: the question may come first
            if reason := self._mta.retry(entry.queue_id):
                self._complain(f"{printable(entry.queue_id, 64)}: is due and could not be tried: {reason}")
            done.append(entry)
            if len(done) % FLUSHED_AT_ONCE == 0:
                self._tell(done[-FLUSHED_AT_ONCE:])
        self._tell(done[len(done) - len(done) % FLUSHED_AT_ONCE :])
        return len(done)

    def _tell(self, done: list[Due]) -> None:
        if not done:
            return
        try:
            self._store.flushed(done, datetime.now(UTC))
        except StoreError as error:
            self._complain(f"what was tried cannot be noted: {error}")
        else:
            self._trouble = None

    def _complain(self, text: str) -> None:
        """Log a trouble once, not at every look."""
        if text != self._trouble:
            self._trouble = text
            self._say(f"warning: {printable(text)}")
