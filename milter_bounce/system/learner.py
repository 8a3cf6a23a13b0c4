"""What logd does with lines: read, judged, remembered; then told.

Goes in: batches of log lines with the position behind them. Goes out: to the
store, what a portion of a batch tells and the position behind that portion, in
one transaction; after that, to the mail log, one line per failed attempt and
notice, and to the notifier.

A portion that the store does not take is kept and tried again: nothing is read
meanwhile, so nothing is lost and nothing counts twice.

Limits: a portion ends after `PORTION_S` of judging; whoever writes the replies
decides how long one takes, and a program that is ended in the middle of a batch
must find some of it done when it starts again. One line costs 0.1 s at most: rules
see `limits.RULE_WORDS` characters of it.
"""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from milter_bounce import limits
from milter_bounce.delivery import Action, lowered
from milter_bounce.escape import json_line
from milter_bounce.parse import log_scan
from milter_bounce.parse.log_scan import Sent
from milter_bounce.parse.logline import Delivery, Expired, LogEvent, Removed
from milter_bounce.pipeline import judge
from milter_bounce.verdict import event, log_line, notice_line

from .logtail import nobody
from .store import LogPosition, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from milter_bounce.decide.ruleset import RuleSet
    from milter_bounce.delivery import DeliveryStatus
    from milter_bounce.parse.log import LogReader
    from milter_bounce.pipeline import Adviser
    from milter_bounce.verdict import BlocklistMention, Notice

    from .logtail import Batch
    from .maillog import MailLog
    from .notify import Notifier
    from .store import Batch as Changes
    from .store import Store
    from .store_dns import Mentions

AHEAD: Final = limits.STAMP_AHEAD
ROOM_S: Final = 0.1
ROOM_TRIES: Final = 20
"""How often a portion's lines wait `ROOM_S` for room in the mail log: two seconds in all, then they are lost and counted."""

PORTION_S: Final = 1.0
"""Seconds of judging after which the store is told: some seconds less than the silence that counts as a stall."""

DOMAINS_KEPT: Final = limits.DOMAINS_KEPT


def domain_of(address: str) -> str:
    """Return the domain of an address in lower case; empty where it has none."""
    return lowered(address.rpartition("@")[2]) if "@" in address else ""


class Told:
    """What is to be told once a batch is committed."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.warnings: list[str] = []
        self.events: list[str] = []
        self.notices: list[Notice] = []
        self.mentions: list[tuple[tuple[BlocklistMention, ...], datetime]] = []


class _Taken:
    """A batch under way. Each line is read once, whatever becomes of its commit: readers remember lines before."""

    def __init__(self, batch: Batch, reader: LogReader) -> None:
        self._batch, self._reader = batch, reader
        self._read: list[list[Sent | LogEvent]] = []
        self._done = 0

    def told(self) -> Iterator[list[Sent | LogEvent]]:
        """Yield what each line tells that is not done."""
        lines = self._batch.lines
        for number in range(len(lines) - self._done):
            if number == len(self._read):
                self._read.append(list(log_scan.events((lines[self._done + number],), self._reader)))
            yield self._read[number]

    def is_last(self, number: int) -> bool:
        """Return whether nothing is left behind so many more lines."""
        return self._done + number >= len(self._batch.lines)

    def may_end(self, number: int) -> bool:
        """Return whether there is a place to go on from behind so many more lines."""
        return self._batch.behind is not None or self.is_last(number)

    def position(self, number: int) -> str | None:
        """Return the position behind so many more lines."""
        behind = self._batch.behind
        return self._batch.position if behind is None or self.is_last(number) else behind(self._done + number)

    def done(self, number: int) -> None:
        """Leave so many lines behind."""
        del self._read[:number]
        self._done += number


class Learner:
    """Learns from one log.

    Args:
        name: what the log's position is stored under.
        reader: reads its lines.
        rules: classify; replaced by `use` at a reload.
        adviser: advises.
        store: remembers.
        log: where advice lines go.
        notifier: whom block notices go to.
        events: whether each outcome is printed as a line of JSON.
        mentions: takes the blocklists that refusals name, for dnsd.
        alive: is called all along.
        clock: seconds, for the length of a portion.
    """

    def __init__(
        self,
        name: str,
        reader: LogReader,
        rules: RuleSet,
        adviser: Adviser,
        store: Store,
        log: MailLog,
        notifier: Notifier,
        *,
        events: bool = False,
        mentions: Mentions | None = None,
        alive: Callable[[], None] = nobody,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._mentions, self._alive, self._clock = mentions, alive, clock
        self._name, self._reader, self._store = name, reader, store
        self._log, self._notifier, self._events = log, notifier, events
        self._domains: dict[str, str | None] = {}
        self._taken: _Taken | None = None
        self.use(rules, adviser, notifier)

    def use(self, rules: RuleSet, adviser: Adviser, notifier: Notifier) -> None:
        """Go on with these."""
        self._rules, self._adviser, self._notifier = rules, adviser, notifier
        self._operator = lru_cache(maxsize=4096)(rules.operator_of)

    @property
    def busy(self) -> bool:
        """Return whether a part of the last batch is not learnt from yet."""
        return self._taken is not None

    def take(self, batch: Batch, now: datetime) -> None:
        """Begin with a batch; `commit` learns from its lines, a portion at each call."""
        self._reader.stamps.now = now
        self._taken = _Taken(batch, self._reader)

    def commit(self, now: datetime) -> int:
        """Remember the next portion of what was taken, and tell; return how many deliveries that was.

        Raises:
            StoreError: nothing was remembered or told; call again.
        """
        taken = self._taken
        if taken is None:
            return 0
        told = Told()
        try:
            with self._store.batch() as changes:
                lines, count = self._portion(changes, taken, now, told)
                if (position := taken.position(lines)) is not None:
                    changes.position(LogPosition(self._name, cursor=position))
        except StoreError:
            self._domains.clear()  # what was noted there was not remembered
            raise
        if taken.is_last(lines):
            self._taken = None
        taken.done(lines)
        self._tell(told)
        return count

    def _portion(self, changes: Changes, taken: _Taken, now: datetime, told: Told) -> tuple[int, int]:
        """Learn from lines until the portion's time is over; return how many lines and how many deliveries that were."""
        end, lines, count = self._clock() + PORTION_S, 0, 0
        for events in taken.told():
            for found in events:
                count += self._tried(changes, found, now, told)
            lines += 1
            self._alive()
            if self._clock() >= end and taken.may_end(lines):
                break
        return lines, count

    def _tried(self, changes: Changes, found: Sent | LogEvent, now: datetime, told: Told) -> int:
        """Learn from one event; one that we stumble over is left out and told: the next start must not die of it too."""
        try:
            return self._learn(changes, found, now, told)
        except StoreError:
            raise
        except Exception as error:  # our own bug, whichever: without this the same line would end every start
            told.warnings.append(f"left out what cannot be learnt ({type(error).__name__}: {error}): {found!r}")
            return 0

    def _learn(self, changes: Changes, found: Sent | LogEvent, now: datetime, told: Told) -> int:
        if isinstance(found, Sent):
            moment = _moment(self._reader.stamps.read(found.stamp), now)
            self._delivered(changes, found.recipient, found.queue_id, found.relay, moment, told)
            return 1
        if isinstance(found, Delivery):
            if found.probe or not found.status.recipient:
                return 0
            if found.ours:
                changes.held(found.status, _moment(found.status.at, now))
                return 0
            self._delivery(changes, found.status, _moment(found.status.at, now), told)
            return 1
        if isinstance(found, Expired):
            self._notice(changes.expired(found.queue_id, _moment(found.at, now)), told)
        elif isinstance(found, Removed):
            changes.gone(found.queue_id)
        return 0

    def _delivery(self, changes: Changes, status: DeliveryStatus, moment: datetime, told: Told) -> None:
        recipient = status.recipient or ""
        if status.action is Action.DELIVERED:
            self._delivered(changes, recipient, status.queue_id, status.remote_mta, moment, told)
            return
        outcome = judge(status, self._rules, changes.recall, self._adviser, moment)
        if outcome.classification.gate:
            return
        told.lines.append(log_line(outcome))
        if outcome.classification.blocklists:
            told.mentions.append((outcome.classification.blocklists, moment))
        if self._events:
            told.events.append(json_line(event(outcome), ascii_only=True))
        self._notice(changes.record(outcome, moment), told)
        if status.remote_mta:
            self._learn_operator(changes, recipient, outcome.classification.operator, moment)

    def _delivered(
        self, changes: Changes, recipient: str, queue_id: str | None, relay: str | None, moment: datetime, told: Told
    ) -> None:
        sender = self._reader.sender_of(queue_id)
        operator = self._operator(relay)
        if ended := changes.delivered(recipient, moment, queue_id=queue_id, operator=operator, sender=sender):
            self._notice(ended, told)

    def _learn_operator(self, changes: Changes, recipient: str, operator: str | None, moment: datetime) -> None:
        """Remember who runs a domain when that is news to us; a relay that nobody knows says nothing of the domain."""
        domain = domain_of(recipient)
        if operator is None or not domain or self._domains.get(domain) == operator:
            return
        if len(self._domains) >= DOMAINS_KEPT:
            self._domains.clear()
        self._domains[domain] = operator
        changes.learn_operator(domain, operator, moment)

    def _notice(self, notices: Sequence[Notice], told: Told) -> None:
        told.notices += notices
        told.lines += map(notice_line, notices)

    def notices(self, notices: Sequence[Notice]) -> None:
        """Tell of what began or ended without a line of the log: a block that expired."""
        told = Told()
        self._notice(notices, told)
        self._tell(told)

    def _tell(self, told: Told) -> None:
        patience = ROOM_TRIES
        for line in told.lines:
            # the log that we read can wait for the one that we write, but not for ever
            while patience and not self._log.room(ROOM_S):
                patience -= 1
                self._alive()
            self._log.line(line)
            self._alive()
        for warning in told.warnings:
            self._log.warning(warning)
        if told.events:
            sys.stdout.write("\n".join(told.events) + "\n")
            sys.stdout.flush()
        self._notifier.tell(told.notices)
        if self._mentions is not None:
            for mentions, moment in told.mentions:
                self._mentions.note(mentions, moment)
                self._alive()


def _moment(at: datetime | None, now: datetime) -> datetime:
    """Return when a line was written, as far as that can be believed."""
    return at if at is not None and at <= now + AHEAD else now


def utc_now() -> datetime:
    """Return the time, aware."""
    return datetime.now(UTC)
