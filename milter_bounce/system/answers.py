"""What each question of the MTA is answered: glue between the wires, the store and ``decide.answer``.

Goes in: one event of a protocol core at a time. Comes out: the bytes of its
answer, at once. Does not: know a socket, wait for a lock, ask the DNS.

Whatever fails - the store, the rules, a bug - ends in "no opinion", and mail flows.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

from milter_bounce import __version__, limits
from milter_bounce.decide import answer as answers
from milter_bounce.decide.answer import (
    CHECK_ADDRESS,
    CHECK_STATUS,
    AllowList,
    CompatQuestion,
    CorrectSwitches,
    GateSwitches,
)
from milter_bounce.decide.release import Probes
from milter_bounce.escape import harmless
from milter_bounce.parse.postfix_filter import FilterQuestion, read_filter_question
from milter_bounce.protocol import memcache, policy, socketmap
from milter_bounce.verdict import GATE_MARK, KEEP, AdviceKind, Standing, printable, strip_annotation

from .due import Awaited
from .sqlite_rows import folded
from .store import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable

    from milter_bounce.config import Settings
    from milter_bounce.pipeline import Rules
    from milter_bounce.verdict import Answer, Classification, Suppression


TEXTS_KEPT: Final = limits.TEXTS_KEPT

_REMOTE_WORDS: Final = re.compile(" said: | refused to talk to me: ")
"""How Postfix goes over to what a remote MTA said."""

Q = TypeVar("Q")


class Memory(Protocol):
    """What the answers need of the store (system.store.Store)."""

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

    def stranger(self, recipient: str) -> bool:
        """Return True where nothing is known that could stand in the way of `recipient`."""

    def suppressed(self, recipient: str) -> Suppression | None:
        """Return the suppression of `recipient`."""

    def claim_probe(self, key: str, now: datetime) -> bool:
        """Return whether this caller may send the probe."""

    def rest(self) -> None:
        """Let go of what is held between questions."""


@dataclass(frozen=True, slots=True)
class Powers:
    """What the configuration lets the answers do."""

    enforce: bool
    annotate: bool
    refuse: bool
    gate: GateSwitches
    correct: CorrectSwitches
    allow_senders: AllowList
    allow_recipients: AllowList
    probe_patience: timedelta

    @classmethod
    def of(cls, settings: Settings) -> Powers:
        """Return the powers that `settings` grant."""
        gate, correct = settings.gate, settings.correct
        bounce = gate.on_policy_block == "bounce"
        return cls(
            enforce=settings.mode == "enforce",
            annotate=settings.answer.annotate,
            refuse=settings.policy.refuse_suppressed,
            gate=GateSwitches(gate.hold_early, gate.hold_blocks, gate.refuse_suppressed, gate.give_up, bounce),
            correct=CorrectSwitches(
                correct.soften,
                correct.harden,
                correct.policy and not bounce,
                frozenset(correct.off_categories),
                frozenset(correct.off_rules),
            ),
            allow_senders=AllowList.of(settings.policy.allow_senders),
            allow_recipients=AllowList.of(settings.policy.allow_recipients),
            probe_patience=timedelta(minutes=10) * settings.advice.time_scale,
        )


class Answers:
    """Answers one question at a time; knows no socket.

    Args:
        powers: what may be answered.
        memory: the store, or something like it.
        rules: classifies status texts.
        say: writes one line to the log; must not wait.
        clock: gives the aware UTC time.
    """

    def __init__(
        self,
        powers: Powers,
        memory: Memory,
        rules: Rules,
        say: Callable[[str], object],
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._powers, self._memory, self._say, self._clock = powers, memory, say, clock
        self._probes = Probes(powers.probe_patience)
        self.awaited = Awaited()
        """Messages that the flusher has just had tried, see `_gate`."""

        self._away: str | None = None
        mode = "enforce" if powers.enforce else "advise"
        self._alive = f"retry:4.3.0 {GATE_MARK}answers, version {__version__}, mode {mode}"
        self._bugs = 0
        self._judged: Callable[[str], tuple[FilterQuestion, Classification] | None] = lru_cache(TEXTS_KEPT)(
            lambda text: _judge(text, rules)
        )

    def rest(self) -> None:
        """Do what is to be done twice a second, questions or not."""
        self._memory.rest()

    # -- one method a wire: bytes of the answer to one event; None = close -------

    def on_socketmap(self, query: socketmap.Query) -> bytes:
        """Return the answer to the status filter or to Sendmail."""
        if query.map == "status":
            text = self._safely(self._status, query.key)
        elif query.map == "compat":
            text = self._safely(self._compat, query.key)
        else:
            text = None
        return socketmap.NOTFOUND if text is None else socketmap.send_ok(text)

    def on_memcache(self, event: memcache.Get | memcache.Other | memcache.Quit) -> bytes | None:
        """Return the answer to the gate's question."""
        if type(event) is memcache.Get:
            # only whole addresses: Postfix asks for domain and .parent after the address was not found, and the
            # address has been judged with its domain by then - a probe that may go must not be held by its domain
            keys = event.keys
            if len(keys) == 1 and "@" not in keys[0]:
                return memcache.END
            found = [(key, value) for key in keys if "@" in key and (value := self._safely(self._gate, key))]
            return memcache.send(found) if found else memcache.END
        if type(event) is memcache.Quit:
            return None
        return memcache.send_version(__version__) if event.name == "version" else memcache.ERROR  # type: ignore[union-attr]

    def on_policy(self, request: policy.Request) -> bytes:
        """Return the answer to smtpd."""
        action = self._safely(self._submission, request)
        return policy.DUNNO if action is None else policy.send(action)

    # -- what is answered; None = no opinion --------------------------------------

    def _safely(self, ask: Callable[[Q], str | None], question: Q) -> str | None:
        """Return the answer, or no opinion where the store or our own code fails."""
        try:
            return ask(question)
        except StoreError as error:
            if self._away is None:
                self._say(f"warning: the store cannot be read, everything passes: {printable(str(error))}")
            self._away = str(error)
        except Exception as error:  # a bug of ours must not hold mail up
            self._bugs += 1
            if self._bugs & (self._bugs - 1) == 0:
                self._say(f"error: a question was answered with no opinion: {printable(repr(error))}")
        return None

    def _store_answered(self) -> None:
        if self._away is not None:
            self._away = None
            self._say("info: the store can be read again")

    def _gate(self, key: str) -> str | None:
        """Return the gate's answer about a recipient: a transport, or None to let Postfix try.

        Postfix names no message here. So a used-up schedule (5.4.7) is answered only when every message known to wait for
        the recipient has used it up, and the flusher has asked Postfix for one of them in the last seconds: then this is
        the question about that one. In any other case the message is tried, for it may be one that nobody knows of yet;
        what is left over that way goes back at Postfix's own maximal_queue_lifetime (5 days by default). Not to be told
        apart: a message for the same recipient that enters the queue between our asking and Postfix's.
        """
        if key == CHECK_ADDRESS:
            return self._alive
        if not self._powers.enforce or (self._away is None and self._memory.stranger(key)):
            return None
        # taken by any question: a later one is not about that message
        return answers.gate_value(self._before_attempt(key, waits=self.awaited.take(folded(key))))

    def _before_attempt(
        self, recipient: str, sender: str | None = None, queue_id: str | None = None, *, waits: bool
    ) -> Answer:
        """Return what an attempt for `recipient` meets; KEEP = let it go.

        Args:
            recipient: the whole address.
            sender: the envelope sender, where it is known.
            queue_id: of the message, where it is known.
            waits: whether the question is about a message that was tried before. Only such a one is given up: a used-up
                schedule never returns a message that had no attempt of its own.
        """
        if recipient in self._powers.allow_recipients:
            return KEEP
        now = self._clock()
        standing = self._memory.gate_lookup(recipient, now, sender=sender, queue_id=queue_id)
        self._store_answered()
        if standing.kind is AdviceKind.NONE or (standing.kind is AdviceKind.GIVE_UP and not waits):
            return KEEP
        answer = answers.gate(standing, self._powers.gate)
        if not answer.keep and standing.kind is AdviceKind.HOLD and self._is_probe(standing, recipient, now):
            return KEEP
        return answer

    def _is_probe(self, standing: Standing, recipient: str, now: datetime) -> bool:
        """Return whether this recipient goes as the one probe of its block."""
        block = standing.probe or standing.block
        if block is None:
            return False
        if self._probes.went(block, recipient, now):
            return True
        if standing.probe is None:
            return False
        try:
            mine = self._memory.claim_probe(block, now)
        except StoreError:  # locked or read-only: one probe per process, from memory
            mine = not self._probes.recent(block, now)
        if mine:
            self._probes.note(block, recipient, now)
            self._say(f"probe: block={printable(block, 255)}, to=<{printable(recipient, 320)}>")
        return mine

    def _compat(self, key: str) -> str | None:
        question = CompatQuestion.from_text(key)
        if question is None or not self._powers.enforce or question.exempt:
            return None
        if question.sender in self._powers.allow_senders:
            return None
        answer = self._before_attempt(question.recipient, question.sender, question.queue_id, waits=question.tries > 0)
        return answers.compat_value(answer)

    def _submission(self, request: policy.Request) -> str | None:
        attributes, powers = request.attributes, self._powers
        sender, recipient = attributes.get("sender", ""), attributes.get("recipient", "")
        if not powers.enforce or not powers.refuse or not sender or not recipient:
            return None
        asked = attributes.get("request", "smtpd_access_policy"), attributes.get("protocol_state", "RCPT")
        if asked != ("smtpd_access_policy", "RCPT"):  # the MTA states both; who leaves one out means that
            return None
        if sender in powers.allow_senders or recipient in powers.allow_recipients:
            return None
        found = self._memory.suppressed(recipient)
        self._store_answered()
        if found is None:
            return None
        standing = Standing(
            AdviceKind.SUPPRESS, since=found.since, category=found.category, rule=found.rule, text=found.reason
        )
        return answers.policy_action(answers.suppressed(standing), recipient)

    def _status(self, key: str) -> str | None:
        powers = self._powers
        if key == CHECK_STATUS:
            return self._alive.removeprefix("retry:")
        if key.startswith("2.") or not (powers.annotate or powers.enforce):
            return None
        judged = self._judged(key)
        if judged is None:
            return None
        question, verdict = judged
        answer = answers.correct(question.code, question.status, verdict, powers.correct) if powers.enforce else KEEP
        if not answer.keep:
            self._say(
                f"filter: corrected={question.code}->{answer.status}, class={verdict.class_}, "
                f'category={verdict.category}, rule={verdict.rule}, text="{printable(question.text)}"'
            )
        if answer.keep and _is_annotated(key):
            return None
        told = answers.filtered(question.code, question.text, verdict, answer, annotate=powers.annotate)
        return None if told is None else harmless(told)


def _is_annotated(text: str) -> bool:
    """Return whether our annotation stands in a status text already, in front of anything that a remote MTA said."""
    before = _REMOTE_WORDS.split(text, 1)[0]
    return strip_annotation(before) != before


def _judge(text: str, rules: Rules) -> tuple[FilterQuestion, Classification] | None:
    """Return what is asked and what it means; an annotation that came back is no part of it."""
    question = read_filter_question(strip_annotation(text))
    return None if question is None else (question, rules.classify(question.status))
