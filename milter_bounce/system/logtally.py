"""Counts over whole logs: what ``milter-bounce log`` shows.

Goes in: pieces of log text, in their order. Comes out: a `Tally`, and tallies
add up: that of a log is the sum of those of its pieces, so that pieces can be
counted by several processes. Does not: print.

A message is a queue ID and a recipient. It is delivered if any attempt was;
else its last failure stands.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, NamedTuple

from milter_bounce import limits
from milter_bounce.decide.words import words_of
from milter_bounce.delivery import Action
from milter_bounce.parse import log_scan
from milter_bounce.parse.log_scan import scan
from milter_bounce.parse.logline import Delivery

if TYPE_CHECKING:
    from datetime import datetime

    from milter_bounce.decide.ruleset import RuleSet
    from milter_bounce.delivery import DeliveryStatus
    from milter_bounce.parse.log import LogReader
    from milter_bounce.verdict import Classification

REFUSALS_LIMIT: Final = limits.TALLIED_REFUSALS
TEXT_LIMIT: Final = limits.TALLIED_TEXT
_CHANGING: Final = re.compile(r"[0-9a-fA-F]*[0-9][0-9a-zA-Z._:-]*")
"""Numbers, addresses, queue IDs, times: what differs from one refusal to the next."""


class Failed(NamedTuple):
    """The last failure of a message."""

    operator: str
    class_: str
    category: str


class Judged(NamedTuple):
    """What some words mean, their wording without what changes from one to the next, and the words."""

    verdict: Classification
    wording: str
    example: str


@dataclass
class Refusal:
    """One reason in one wording, as often as it came."""

    category: str
    rule: str
    example: str
    recipient: str
    count: int = 0
    operators: Counter[str] = field(default_factory=Counter)


@dataclass
class Tally:
    """What a log or a piece of it holds."""

    attempts: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(operator, category) -> delivery statuses, successes as ``delivered``."""

    delivered: Counter[str] = field(default_factory=Counter)
    """Operator -> messages that were delivered."""

    failed: dict[int, Failed] = field(default_factory=dict)
    """Hash of a message -> its last failure; delivered later on: no longer in here."""

    sent: set[int] = field(default_factory=set)
    """Messages delivered in this piece; empty once it was added to another."""

    refusals: dict[str, Refusal] = field(default_factory=dict)
    blocklists: dict[str, tuple[str, str | None, int]] = field(default_factory=dict)
    """Zone -> who runs it, where to look it up, how often it was named."""

    rules: Counter[str] = field(default_factory=Counter)
    first: datetime | None = None
    last: datetime | None = None
    held: int = 0
    """Recipients that our own gate held back: no attempts."""

    def add(self, later: Tally) -> None:
        """Add the tally of a later piece."""
        self.attempts += later.attempts
        self.delivered += later.delivered
        self.rules += later.rules
        self.held += later.held
        self.failed.update(later.failed)
        # fewer messages fail than are delivered, but in one piece it may be the other way round
        for message in later.sent & self.failed.keys():
            del self.failed[message]
        for key, refusal in later.refusals.items():
            known = self.refusals.setdefault(key, replace(refusal, count=0, operators=Counter()))
            known.count += refusal.count
            known.operators += refusal.operators
        for zone, (operator, lookup, count) in later.blocklists.items():
            self.blocklists[zone] = (operator, lookup, count + self.blocklists.get(zone, ("", "", 0))[2])
        times = [when for when in (self.first, later.first, self.last, later.last) if when is not None]
        self.first, self.last = (min(times), max(times)) if times else (None, None)


def domain_of(address: str) -> str:
    """Return the domain of an address in lower case; ``none`` where it has none."""
    return address.rpartition("@")[2].lower() if "@" in address else "none"


class Counting:
    """Counts pieces of a log into tallies."""

    def __init__(self, rules: RuleSet, reader: LogReader) -> None:
        self._rules, self._reader = rules, reader
        self._verdicts: dict[object, Judged] = {}
        self._templates: dict[tuple[str, str], Judged] = {}

    def count(self, text: str) -> Tally:
        """Return the tally of a piece of whole lines."""
        tally = Tally()
        sent: list[tuple[str, ...]] = []
        for found in scan(text, self._reader, sent):
            if isinstance(found, log_scan.Failed):
                self._repeated(tally, found)
            else:
                self._delivery(tally, found)
        tally.sent.update([hash((queue_id, recipient)) for _, queue_id, recipient, _ in sent])
        destinations = Counter([(relay, recipient.rpartition("@")[2]) for _, _, recipient, relay in sent])
        for (relay, domain), number in destinations.items():
            self._success(tally, self._rules.operator_of(relay) or domain.lower(), number)
        for message in tally.sent & tally.failed.keys():
            del tally.failed[message]
        self._span(tally, text)
        return tally

    @staticmethod
    def _success(tally: Tally, operator: str, number: int) -> None:
        tally.attempts[operator, "delivered"] += number
        tally.delivered[operator] += number

    def _delivery(self, tally: Tally, found: Delivery) -> None:
        status = found.status
        if found.probe:
            return
        if found.ours:
            tally.held += 1
            return
        recipient = status.recipient or ""
        message = hash((status.queue_id, recipient))
        if status.action is Action.DELIVERED:
            tally.sent.add(message)
            self._success(tally, self._rules.operator_of(status.remote_mta) or domain_of(recipient), 1)
            return
        self._failure(tally, message, recipient, self._judged(status))

    def _repeated(self, tally: Tally, found: log_scan.Failed) -> None:
        """Count a failure in Postfix's plain form: read and judged only where its template is new."""
        known = self._templates.get(found.template)
        if known is None:
            for event in self._reader.feed(found.line):
                if isinstance(event, Delivery):
                    self._delivery(tally, event)
                    if not event.ours and len(self._templates) < REFUSALS_LIMIT:
                        self._templates[found.template] = self._judged(event.status)
            return
        self._failure(tally, hash((found.queue_id, found.recipient)), found.recipient, known)

    @staticmethod
    def _failure(tally: Tally, message: int, recipient: str, judged: Judged) -> None:
        verdict, wording, example = judged
        operator = verdict.operator or domain_of(recipient)
        tally.attempts[operator, verdict.category] += 1
        tally.failed[message] = Failed(operator, str(verdict.class_), verdict.category)
        tally.rules[verdict.rule] += 1
        for named in verdict.blocklists:
            count = tally.blocklists.get(named.zone, ("", "", 0))[2]
            tally.blocklists[named.zone] = (named.operator, named.lookup, count + 1)
        refusal = tally.refusals.get(wording)
        if refusal is None:
            if len(tally.refusals) >= REFUSALS_LIMIT:
                return
            refusal = Refusal(verdict.category, verdict.rule, example, recipient)
            tally.refusals[wording] = refusal
        refusal.count += 1
        refusal.operators[operator] += 1

    def _judged(self, status: DeliveryStatus) -> Judged:
        """Return what `status` means; the same words from the same host are judged once."""
        key = (
            status.diagnostic, status.remote_mta, status.status, status.reply_code, status.command, status.local,
            status.action, status.diagnostic_type,
        )  # fmt: skip
        known = self._verdicts.get(key)
        if known is None:
            if len(self._verdicts) >= REFUSALS_LIMIT:
                self._verdicts.clear()
            words = words_of((status.diagnostic or "")[: 2 * TEXT_LIMIT], status.reply_code)
            wording = f"{status.reply_code} {status.status} {_CHANGING.sub('#', words)[:TEXT_LIMIT]}"
            known = self._verdicts[key] = Judged(self._rules.classify(status), wording, status.diagnostic or "")
        return known

    def _span(self, tally: Tally, text: str) -> None:
        """Note from when to when the piece goes, by its first and last line with a time stamp."""
        reader = self._reader
        head, tail = text[:4096].split("\n")[:5], text[-4096:].rstrip("\n").split("\n")[-5:]
        times = [when for line in (*head, *tail) if (when := reader.time_of(line)) is not None]
        if times:
            tally.first, tally.last = min(times), max(times)
