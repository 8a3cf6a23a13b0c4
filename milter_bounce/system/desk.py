"""The desk that reports cross: read, judged, logged, remembered - one message at a time.

Goes in: a message as far as the milter read it, and how it came. Comes out: what to
do with it (`Handled`): headers to add, and whether it may pass. Everything that can
fail here - rules, store, log - costs its own part and never the mail.

Limits: a message waits for the store twice `STORE_WAIT_S` at most, however many
recipients its report names. What the store does not take then is judged without
history and remembered later (``keeper``), and for `STORE_REST_S` nobody asks again.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from milter_bounce import limits, pipeline
from milter_bounce.decide.answer import AllowList, suppressed
from milter_bounce.delivery import Action, Kind, Source
from milter_bounce.escape import json_line
from milter_bounce.protocol import verp
from milter_bounce.protocol.genuine import Arrival, Trust, believe, proven
from milter_bounce.verdict import EMPTY_HISTORY, AdviceKind, Outcome, event, log_line, notice_line, printable

from . import keys
from .advising import limits_of, make_adviser, make_store, retention_of
from .keeper import Keeper, Lesson
from .notify import Notifier
from .readers import ReportRules, load_readers
from .rulefiles import load_rules
from .store import StoreError
from .store_dns import Mentions
from .store_reports import ReportLedger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from milter_bounce.config import Settings
    from milter_bounce.decide.ruleset import RuleSet
    from milter_bounce.delivery import DeliveryReport, DeliveryStatus
    from milter_bounce.protocol.token import Proof
    from milter_bounce.verdict import Classification, History, Notice

    from .maillog import MailLog
    from .store import Batch, Store

HEADER_LIMIT: Final = limits.ADDED_FIELDS
RECIPIENTS_LIMIT: Final = limits.JUDGED_RECIPIENTS

STORE_WAIT_S: Final = 0.2
"""Seconds that a message waits for other messages' turn at the store, and as long for other programs' writing."""

STORE_REST_S: Final = 2.0
"""Seconds for which the store is left alone after it failed: the next messages must not wait for it one by one."""

KEEPER_WAIT_S: Final = 0.5
"""Seconds that what is written later waits for other programs' writing."""

STORE_GRUMBLE_S: Final = 60.0
"""Seconds between two warnings about a store that cannot be used."""


@dataclass(frozen=True, slots=True)
class Handled:
    """What became of one message."""

    headers: tuple[str, ...] = ()
    outcomes: tuple[Outcome, ...] = ()
    refuse: str | None = None
    """``reject`` or ``quarantine`` for a forged report, where the administrator wants that."""


@dataclass(slots=True)
class Engine:
    """All that is made from the settings and replaced at a reload."""

    settings: Settings
    rules: RuleSet
    adviser: pipeline.Adviser
    trust: Trust
    faults: list[str] = field(default_factory=list)

    @classmethod
    def make(cls, settings: Settings) -> Engine:
        """Return the engine for these settings.

        Raises:
            ConfigError: schedules that do not suit.
            RulesError: a broken rule file.
        """
        ring, faults = keys.read_keyring(Path(settings.token.keys))
        patterns = tuple(verp.compile_pattern(p) for p in settings.token.verp)
        token = settings.token
        trust = Trust(ring, patterns, keys.today(), token.max_age_days, token.believed_recipients)
        return cls(settings, load_rules(settings), make_adviser(settings), trust, faults)


class _NotNowError(StoreError):
    """The store is left alone at the moment, or others are at it; nothing to tell of."""


@dataclass(frozen=True, slots=True)
class _Classified:
    """One status of a report: what it says, what that means, whether it is believed."""

    status: DeliveryStatus
    verdict: Classification
    proof: Proof

    def judged(
        self, recall: Callable[[DeliveryStatus, Classification], History], adviser: pipeline.Adviser, now: datetime
    ) -> Outcome:
        """Return the outcome by what `recall` remembers."""
        proof = self.proof
        return pipeline.advised(
            self.status, self.verdict, recall, adviser, now, genuine=proof.genuine, genuine_reason=proof.reason
        )


class Desk:
    """Handles reports; used by many threads at once.

    Args:
        settings: the configuration.
        log: where advice lines go.
        events: print each outcome as a JSON line on standard output.
        explain: also log why each report was believed or not.
    """

    def __init__(self, settings: Settings, log: MailLog, *, events: bool = False, explain: bool = False) -> None:
        self.engine = Engine.make(settings)
        self.readers = load_readers()
        self.store, kept = (make_store(_hasty(settings, wait_s)) for wait_s in (STORE_WAIT_S, KEEPER_WAIT_S))
        self._stores = self.store, kept
        self.log = log
        self._events = events
        self._explain = explain
        self._store_lock = threading.Lock()
        self._store_rests_until = 0.0
        self._notifier = Notifier(settings.notify, log)
        self._grumbled = -STORE_GRUMBLE_S
        self._keeper = Keeper(
            kept,
            ReportLedger(settings.store.path),
            Mentions(settings.store.path),
            self._learn,
            self._announce,
            log.warning,
            self._grumble,
        )
        self._tell_faults()

    def reload(self, settings: Settings) -> None:
        """Put new settings, rules and keys in force; the old ones stay when the new are broken.

        Raises:
            ConfigError, RulesError: as `Engine.make`; nothing was changed.
        """
        engine, limits, retention = Engine.make(settings), limits_of(settings), retention_of(settings)
        self.engine = engine
        for store in self._stores:
            store.use(limits, retention)
        self._notifier.use(settings.notify)
        self._tell_faults()

    def _tell_faults(self) -> None:
        for fault in self.engine.faults:
            self.log.warning(f"key refused: {fault}")

    def handle(self, message: bytes, queue_id: str | None, arrival: Arrival) -> Handled:
        """Return what to do with one message; its lines are logged and its outcomes remembered."""
        report = self.readers.read(message)
        if report.kind is Kind.NOT_BOUNCE:
            return Handled()
        engine, now = self.engine, datetime.now(UTC)
        if engine.trust.today != (today := keys.today()):
            engine.trust = replace(engine.trust, today=today)
        found = self._classified(report, queue_id, arrival, now)
        judged = self._judged(engine, found, now, own=arrival.own)
        for outcome, notices in judged:
            self._tell(outcome, notices)
        if (left := len(report.statuses) - RECIPIENTS_LIMIT) > 0:
            self.log.warning(f"{printable(queue_id or 'NOQUEUE')}: report names {left} more recipients than are read")
        outcomes = [outcome for outcome, _ in judged]
        self._keeper.note(outcomes, now)
        ours = any(one.proof.ours for one in found)
        refuse = None if ours else self._refusal(report, outcomes)
        return Handled(tuple(header_value(report, o) for o in outcomes[:HEADER_LIMIT]), tuple(outcomes), refuse)

    def _classified(
        self, report: DeliveryReport, queue_id: str | None, arrival: Arrival, now: datetime
    ) -> list[_Classified]:
        """Return what the statuses of a report mean, and which of them are believed; asks no store."""
        engine, found = self.engine, list[_Classified]()
        rules = ReportRules(report, engine.rules)
        for told in report.statuses[:RECIPIENTS_LIMIT]:
            # in a report of this very MTA, whatever no remote MTA said is our own side's trouble
            local = arrival.own and told.diagnostic_type not in {None, "smtp"}
            status = replace(
                told,
                queue_id=queue_id,
                source=Source.REPORT,
                at=told.at or now,
                local=local,
                hearsay=not arrival.own and not engine.settings.block.believe_reports,
            )
            proof = believe(report, status, arrival, engine.trust)
            status = proven(status, proof)
            found.append(_Classified(status, rules.classify(status), proof))
        return found

    def start(self) -> None:
        """Begin to write what nobody waits for, in a thread of its own."""
        self._keeper.start()

    def flush(self) -> None:
        """Write what waits to be written, in a second or two at most; call it at the end."""
        self._keeper.turn(1.0)

    def _refusal(self, report: DeliveryReport, outcomes: list[Outcome]) -> str | None:
        """Return what to do about backscatter: nothing, unless told so and all our mail carries a token."""
        wanted = self.engine.settings.token.on_forged
        stamped = self.engine.trust.keyring and self.engine.settings.token.stamp
        bounced = report.kind in {Kind.DSN, Kind.BOUNCE} and report.original_headers
        forged = outcomes and not any(outcome.genuine for outcome in outcomes)
        return wanted if wanted != "accept" and stamped and bounced and forged else None

    def _judged(
        self, engine: Engine, found: list[_Classified], now: datetime, *, own: bool
    ) -> list[tuple[Outcome, Sequence[Notice]]]:
        """Return the outcome of each status, and what began or ended with it; what is believed is remembered, now or later.

        Where the store cannot be used each is a first contact.
        """
        judged: list[tuple[Outcome, Sequence[Notice]]] = []
        if any(one.proof.genuine for one in found):
            try:
                with self._store_at_hand() as store:
                    self._remembered(store, engine, found, now, judged, own=own)
            except _NotNowError:
                pass
            except StoreError as error:
                self._store_rests_until = time.monotonic() + STORE_REST_S
                self._grumble(error)
            else:
                return judged
        # nothing was remembered; what was judged by its history all the same stays so
        rest = [one.judged(_no_history, engine.adviser, now) for one in found[len(judged) :]]
        outcomes = [*(outcome for outcome, _ in judged), *rest]
        self._keeper.later(Lesson(outcome, now, own) for outcome in outcomes if outcome.genuine)
        return [(outcome, ()) for outcome in outcomes]

    @contextlib.contextmanager
    def _store_at_hand(self) -> Iterator[Store]:
        """Yield the store to one message at a time.

        Raises:
            StoreError: it is left alone, or others took too long.
        """
        if not self._store_lock.acquire(timeout=STORE_WAIT_S):
            raise _NotNowError
        try:
            if time.monotonic() < self._store_rests_until:
                raise _NotNowError
            yield self.store
        finally:
            self._store_lock.release()

    def _remembered(
        self,
        store: Store,
        engine: Engine,
        found: list[_Classified],
        now: datetime,
        judged: list[tuple[Outcome, Sequence[Notice]]],
        *,
        own: bool,
    ) -> None:
        """Add to `judged` the outcomes of one report and what they begin or end, remembered in one transaction.

        What is known from the log - a report that this MTA made of a delivery it logged - is not remembered twice.

        Raises:
            StoreError: nothing is remembered; `judged` holds those outcomes that were judged before.
        """
        known = own and store.log_is_followed()
        if known or self._keeper.behind:
            judged += ((one.judged(store.recall, engine.adviser, now), ()) for one in found)
            if not known:
                raise _NotNowError
            return
        with store.batch() as batch:
            for one in found:
                outcome = one.judged(batch.recall, engine.adviser, now)
                judged.append((outcome, _remember(batch, outcome, now) if outcome.genuine else ()))

    def _learn(self, batch: Batch, lesson: Lesson) -> Sequence[Notice]:
        """Remember what had to wait, judged by what the store knows by now; return what began or ended with it."""
        told, adviser = lesson.outcome, self.engine.adviser
        outcome = pipeline.advised(
            told.status,
            told.classification,
            batch.recall,
            adviser,
            lesson.at,
            genuine=told.genuine,
            genuine_reason=told.genuine_reason,
        )
        return _remember(batch, outcome, lesson.at)

    def refusal(self, recipient: str, sender: str) -> str | None:
        """Return the text that refuses a suppressed recipient at submission; None lets it pass.

        Raises:
            StoreError: nobody knows; let it pass.
        """
        policy = self.engine.settings.policy
        bare = recipient.removeprefix("<").removesuffix(">")
        if sender in AllowList.of(policy.allow_senders) or bare in AllowList.of(policy.allow_recipients):
            return None
        # the gate's own reader: it never stands behind what is written
        standing = self.store.gate_lookup(bare, datetime.now(UTC))
        if standing.kind is not AdviceKind.SUPPRESS:
            return None
        return f"<{printable(bare, 256)}>: {suppressed(standing).text}"

    def _grumble(self, error: StoreError) -> None:
        """Warn about the store, but not with every message."""
        if time.monotonic() - self._grumbled >= STORE_GRUMBLE_S:
            self._grumbled = time.monotonic()
            self.log.warning(f"the store cannot be used, mail and advice go on without history: {error}")

    def _announce(self, notices: Iterable[Notice]) -> None:
        """Tell of what began or ended."""
        told = list(notices)
        for notice in told:
            self.log.line(notice_line(notice))
        self._notifier.tell(told)

    def _tell(self, outcome: Outcome, notices: Sequence[Notice]) -> None:
        self.log.line(log_line(outcome))
        self._announce(notices)
        if self._explain:
            verdict = "believed" if outcome.genuine else "not believed"
            self.log.line(f"{outcome.status.queue_id}: report {verdict}: {printable(outcome.genuine_reason)}")
        if self._events:
            sys.stdout.write(json_line(event(outcome), ascii_only=True) + "\n")
            sys.stdout.flush()


def _hasty(settings: Settings, wait_s: float) -> Settings:
    """Return the settings with a store that waits no longer than `wait_s` for other programs."""
    section = settings.store
    wait_s = min(section.lock_wait_s, wait_s)
    return settings.model_copy(update={"store": section.model_copy(update={"lock_wait_s": wait_s})})


def _remember(batch: Batch, outcome: Outcome, now: datetime) -> Sequence[Notice]:
    """Remember one outcome; a report of success ends an episode like a delivery in the log does."""
    status = outcome.status
    if status.action is Action.DELIVERED and status.recipient:
        return batch.delivered(status.recipient, now)
    return batch.record(outcome, now)


def _no_history(status: DeliveryStatus, verdict: Classification) -> History:
    del status, verdict
    return EMPTY_HISTORY


def header_value(report: DeliveryReport, outcome: Outcome) -> str:
    """Return the value of one X-Milter-Bounce field: ASCII, one line, nothing in it from outside but the address."""
    status, verdict, advice = outcome.status, outcome.classification, outcome.advice
    recipient = printable(status.recipient or "", 320).encode("ascii", "backslashreplace").decode("ascii")
    words = [
        f"kind={report.kind}",
        f"class={verdict.class_}",
        f"category={verdict.category}",
        f"advice={advice.kind}",
        f"rule={verdict.rule}",
        f"operator={verdict.operator or 'none'}",
        f"dsn={status.status or 'none'}",
        f"genuine={'yes' if outcome.genuine else 'no'}",
        "recipient=<" + "".join("_" if c in '<>;" ' else c for c in recipient) + ">",
    ]
    return "; ".join(words)
