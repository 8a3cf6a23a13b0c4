"""The desk that reports cross: read, judged, logged, remembered - one message at a time.

Goes in: a message as far as the milter read it, and how it came. Comes out: what to
do with it (`Handled`): headers to add, and whether it may pass. Everything that can
fail here - rules, store, log - costs its own part and never the mail.
"""

from __future__ import annotations

import json
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
from milter_bounce.protocol import verp
from milter_bounce.protocol.genuine import Arrival, Trust, believe, proven
from milter_bounce.verdict import EMPTY_HISTORY, AdviceKind, Outcome, event, log_line, notice_line, printable

from . import keys
from .advising import make_adviser, make_store
from .notify import Notifier
from .readers import ReportRules, load_readers
from .rulefiles import load_rules
from .store import StoreError
from .store_dns import Mentions
from .store_reports import ReportLedger

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from milter_bounce.config import Settings
    from milter_bounce.decide.ruleset import RuleSet
    from milter_bounce.delivery import DeliveryReport, DeliveryStatus
    from milter_bounce.protocol.token import Proof
    from milter_bounce.verdict import Classification, History, Notice

    from .maillog import MailLog
    from .store import Batch

HEADER_LIMIT: Final = limits.ADDED_FIELDS
RECIPIENTS_LIMIT: Final = limits.JUDGED_RECIPIENTS

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
        self.store = make_store(settings)
        self.log = log
        self._events = events
        self._explain = explain
        self._ledger = ReportLedger(settings.store.path)
        self._mentions = Mentions(settings.store.path)
        self._store_lock = threading.Lock()
        self._notifier = Notifier(settings.notify, log)
        self._grumbled = -STORE_GRUMBLE_S
        self._tell_faults()

    def reload(self, settings: Settings) -> None:
        """Put new settings, rules and keys in force; the old ones stay when the new are broken.

        Raises:
            ConfigError, RulesError: as `Engine.make`; nothing was changed.
        """
        self.engine = Engine.make(settings)
        self._notifier = Notifier(settings.notify, self.log)
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
        outcomes, rules, ours = [], ReportRules(report, engine.rules), False
        known = arrival.own and self._log_is_followed()
        for found in report.statuses[:RECIPIENTS_LIMIT]:
            # in a report of this very MTA, whatever no remote MTA said is our own side's trouble
            local = arrival.own and found.diagnostic_type not in {None, "smtp"}
            status = replace(
                found,
                queue_id=queue_id,
                source=Source.REPORT,
                at=found.at or now,
                local=local,
                hearsay=not arrival.own and not engine.settings.block.believe_reports,
            )
            proof = believe(report, status, arrival, engine.trust)
            ours = ours or proof.ours
            outcome, notices = self._judge(engine, rules, proven(status, proof), now, proof, known=known)
            outcomes.append(outcome)
            self._tell(outcome, notices)
        if (left := len(report.statuses) - RECIPIENTS_LIMIT) > 0:
            self.log.warning(f"{printable(queue_id or 'NOQUEUE')}: report names {left} more recipients than are read")
        with self._store_lock:
            self._ledger.add(outcomes, now)
        refuse = None if ours else self._refusal(report, outcomes)
        return Handled(tuple(header_value(report, o) for o in outcomes[:HEADER_LIMIT]), tuple(outcomes), refuse)

    def flush(self) -> None:
        """Write the ledger; call it every second and at the end."""
        with self._store_lock:
            try:
                self._ledger.flush(datetime.now(UTC))
            except StoreError as error:
                self._grumble(error)

    def _refusal(self, report: DeliveryReport, outcomes: list[Outcome]) -> str | None:
        """Return what to do about backscatter: nothing, unless told so and all our mail carries a token."""
        wanted = self.engine.settings.token.on_forged
        stamped = self.engine.trust.keyring and self.engine.settings.token.stamp
        bounced = report.kind in {Kind.DSN, Kind.BOUNCE} and report.original_headers
        forged = outcomes and not any(outcome.genuine for outcome in outcomes)
        return wanted if wanted != "accept" and stamped and bounced and forged else None

    def _judge(
        self, engine: Engine, rules: pipeline.Rules, status: DeliveryStatus, now: datetime, proof: Proof, *, known: bool
    ) -> tuple[Outcome, Sequence[Notice]]:
        """Return the outcome of one status and what began or ended with it; without a store it is a first contact.

        What is `known` from the log - a report that this MTA made of a delivery it logged - is not remembered twice.
        """

        def judged(recall: Callable[[DeliveryStatus, Classification], History]) -> Outcome:
            return pipeline.judge(
                status, rules, recall, engine.adviser, now, genuine=proof.genuine, genuine_reason=proof.reason
            )

        notices: Sequence[Notice] = ()
        with self._store_lock:
            try:
                if not proof.genuine:
                    return judged(self.store.recall), notices
                with self.store.batch() as batch:
                    outcome = judged(batch.recall)
                    notices = () if known else _remember(batch, outcome, now)
                self._mentions.note(outcome.classification.blocklists, now)
            except StoreError as error:
                self._grumble(error)
                return judged(_no_history), ()
        return outcome, notices

    def _log_is_followed(self) -> bool:
        with self._store_lock:
            try:
                return self._ledger.log_is_followed()
            except StoreError as error:
                self._grumble(error)
        return False

    def refusal(self, recipient: str, sender: str) -> str | None:
        """Return the text that refuses a suppressed recipient at submission; None lets it pass.

        Raises:
            StoreError: nobody knows; let it pass.
        """
        policy = self.engine.settings.policy
        bare = recipient.removeprefix("<").removesuffix(">")
        if sender in AllowList.of(policy.allow_senders) or bare in AllowList.of(policy.allow_recipients):
            return None
        with self._store_lock:
            standing = self.store.gate_lookup(bare, datetime.now(UTC))
        if standing.kind is not AdviceKind.SUPPRESS:
            return None
        return f"<{printable(bare, 256)}>: {suppressed(standing).text}"

    def _grumble(self, error: StoreError) -> None:
        """Warn about the store, but not with every message."""
        if time.monotonic() - self._grumbled >= STORE_GRUMBLE_S:
            self._grumbled = time.monotonic()
            self.log.warning(f"the store cannot be used, mail and advice go on without history: {error}")

    def _tell(self, outcome: Outcome, notices: Sequence[Notice]) -> None:
        self.log.line(log_line(outcome))
        for notice in notices:
            self.log.line(notice_line(notice))
        self._notifier.tell(notices)
        if self._explain:
            verdict = "believed" if outcome.genuine else "not believed"
            self.log.line(f"{outcome.status.queue_id}: report {verdict}: {printable(outcome.genuine_reason)}")
        if self._events:
            sys.stdout.write(json.dumps(event(outcome), ensure_ascii=True) + "\n")
            sys.stdout.flush()


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
