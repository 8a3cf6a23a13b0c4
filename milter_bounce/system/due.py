"""What has fallen due is tried: recipients whose time came, probes, the share after a block is lifted.

Goes in: the store's ``due`` list. Goes out: one ``postqueue -i`` a message, paced.
Does not: choose (the store does) or let anything pass the gate (the gate does).

A thread of its own: neither the store's locks nor postqueue(1) ever delay an answer.
"""

from __future__ import annotations

import threading
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


class Calendar(Protocol):
    """What is needed of the store (system.store.Store)."""

    def due(self, now: datetime, limit: int = 100) -> list[Due]:
        """Return messages to be tried now."""

    def flushed(self, due: Iterable[Due], now: datetime) -> None:
        """Remember that these were handed to the MTA."""


class Flusher:
    """Looks for what is due every so often, and has it tried."""

    def __init__(self, store: Calendar, mta: Queue, section: DueSection, say: Callable[[str], object]) -> None:
        self._store, self._mta, self._section, self._say = store, mta, section, say
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
        except StoreError as error:
            self._complain(f"what is due cannot be read: {error}")
            return 0
        done: list[Due] = []
        for entry in due:
            if self._stop.wait(1 / self._section.per_second):
                break
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
