"""Advice: what to do about a classified status, and until when (DESIGN.md section 6).

Goes in: a status, its classification, the history, the time, a drawn number.
Comes out: `Advice`; and the episode that follows from it. Does not: remember
anything (the store does), know what time it is, or draw random numbers.

What holds for every advice:

- A local status never suppresses and never blocks: only what a remote MTA said
  convicts. Whether a report is genuine was settled before: one that is not is
  judged without history and never recorded.
- An attempt before its time changes nothing: the time that stands goes on
  standing, and the wait is not doubled.
- A single refusal by a large operator (one that the rules know by name) holds
  its recipient until the next probe and nobody else; the operator counts as
  blocked from the threshold on. A domain of its own is blocked at once.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from milter_bounce import limits
from milter_bounce.delivery import Action, lowered
from milter_bounce.verdict import (
    Advice,
    AdviceKind,
    BlockState,
    Classification,
    Episode,
    FailureClass,
    History,
    Scope,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from milter_bounce.delivery import DeliveryStatus

    from .schedule import Schedules

EPISODE_GAP: Final = limits.EPISODE_GAP
LOG_BEHIND: Final = limits.LOG_BEHIND
CLOCK_GRAIN: Final = timedelta(seconds=1)
"""Traditional log time stamps are cut to whole seconds: a try this much before its time was in time."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The figures of the advice that are no schedule; every `timedelta` shrinks with the time scale."""

    hard_limit: int = 1
    soft_limit: int = 4
    soft_window: timedelta = timedelta(days=30)
    retry_after_least: timedelta = timedelta(minutes=1)
    retry_after_most: timedelta = timedelta(hours=24)
    block_threshold: int = 10
    block_window: timedelta = timedelta(hours=1)
    probe_after_4xx: timedelta | None = timedelta(hours=4)
    probe_after_5xx: timedelta | None = timedelta(hours=24)
    block_most: timedelta = timedelta(days=7)
    ramp: timedelta = timedelta(hours=1)
    """From a successful probe until everybody passes again."""

    trial_again: timedelta = timedelta(minutes=10)
    """A probe that nothing was heard of is followed by another after this time."""

    backoff_threshold: int = 3
    backoff_least: timedelta = timedelta(minutes=10)
    backoff_most: timedelta = timedelta(hours=1)
    give_up_grace: timedelta = timedelta(hours=2)
    """How long the gate returns a message whose schedule is used up; what still waits then is tried by the MTA's own."""

    def scaled(self, scale: float) -> Limits:
        """Return the same limits with every time multiplied by `scale`."""
        stated = {field.name: getattr(self, field.name) for field in fields(self)}
        times: dict[str, Any] = {k: value * scale for k, value in stated.items() if isinstance(value, timedelta)}
        return replace(self, **times)


def domain_of(address: str | None) -> str | None:
    """Return the domain of `address` in lower case; None where it has none."""
    if address is None:
        return None
    domain = lowered(address.rpartition("@")[2]).rstrip(".")
    return domain or None if "@" in address else None


def destination_key(status: DeliveryStatus, verdict: Classification) -> str | None:
    """Return who refuses: the operator, else the recipient's domain; None where neither is known."""
    return verdict.operator or domain_of(status.recipient)


def block_key(status: DeliveryStatus, verdict: Classification) -> str | None:
    """Return the key of the block that a refusal belongs to: the destination, and the sender where it is about him.

    ``yahoo`` (the sending host is refused), ``yahoo/example.com`` (the sender's domain), ``yahoo/a@example.com``
    (the sender). None for a refusal that blocks nobody else: of one recipient, of one message, by our own side, or of
    which only somebody else's report tells.
    """
    destination = destination_key(status, verdict)
    if destination is None or status.local or status.hearsay or verdict.advice is not AdviceKind.HOLD:
        return None
    sender = lowered((status.sender or "").strip("<>"))
    match verdict.scope:
        case Scope.SENDING_HOST | Scope.DESTINATION:
            return destination
        case Scope.SENDER_DOMAIN if domain := domain_of(sender):
            return f"{destination}/{domain}"
        case Scope.SENDER if sender:
            return f"{destination}/{sender}"
    return None


def backoff_key(status: DeliveryStatus, verdict: Classification) -> str | None:
    """Return the key of the destination that a soft failure is about; None for one of a recipient or message, or hearsay."""
    if status.hearsay or verdict.advice is not AdviceKind.RETRY or verdict.scope is not Scope.DESTINATION:
        return None
    return destination_key(status, verdict)


@dataclass(frozen=True, slots=True)
class Adviser:
    """Turns classified statuses into advice: the schedules and limits with a source of jitter."""

    schedules: Schedules
    limits: Limits
    jitter: Callable[[], float]
    """Gives numbers drawn evenly from 0 to 1."""

    def advise(self, status: DeliveryStatus, verdict: Classification, history: History, now: datetime) -> Advice:
        """Return what to do about `status`; `now` is the aware UTC time of the attempt."""
        advice = self._advise(status, verdict, history, now)
        attempts = 0 if _is_over(history, now) or history.episode is None else history.episode.attempts
        return replace(advice, attempt=attempts + 1, countable=self._countable(status, verdict))

    def _countable(self, status: DeliveryStatus, verdict: Classification) -> bool:
        """Return whether an undelivered message with this status says something about the mailbox."""
        about_mailbox = verdict.scope in {Scope.RECIPIENT, Scope.DESTINATION} and verdict.class_ is FailureClass.SOFT
        return about_mailbox and not status.local and verdict.category not in self.schedules.not_counted

    def _advise(self, status: DeliveryStatus, verdict: Classification, history: History, now: datetime) -> Advice:
        wanted = verdict.advice
        if verdict.gate or wanted is AdviceKind.NONE:
            return Advice(AdviceKind.NONE)
        if wanted is AdviceKind.SUPPRESS and verdict.class_ is FailureClass.POLICY:
            wanted = AdviceKind.HOLD  # TAXONOMY: the receiver's refusal of us never suppresses an address
        if wanted is AdviceKind.SUPPRESS:
            return self._suppress(status, verdict, history, now)
        if wanted is AdviceKind.HOLD:
            return self._hold(status, verdict, history, now)
        if wanted is AdviceKind.FIX:
            return Advice(AdviceKind.FIX, reason="the message or our set-up must change")
        if history.suppression is not None:
            return Advice(AdviceKind.SUPPRESS, reason=f"suppressed since {history.suppression.since:%Y-%m-%d}")
        if wanted is AdviceKind.GIVE_UP:
            return self._undelivered(status, verdict, history, Advice(AdviceKind.GIVE_UP, reason="the MTA gave up"))
        return self._retry(status, verdict, history, now)

    def _suppress(self, status: DeliveryStatus, verdict: Classification, history: History, now: datetime) -> Advice:
        if status.local and status.action is Action.DELAYED:
            return self._retry(status, verdict, history, now)
        if status.local:
            return Advice(AdviceKind.FIX, reason="no remote MTA said so")
        bounces, limit = history.hard_bounces + 1, self.limits.hard_limit
        if verdict.class_ is not FailureClass.HARD or history.suppression is not None:
            return Advice(AdviceKind.SUPPRESS, counts=verdict.class_, reason=f"category {verdict.category}")
        if bounces >= limit:
            return Advice(AdviceKind.SUPPRESS, counts=FailureClass.HARD, reason=f"hard limit {limit}")
        reason = f"hard bounce {bounces} of {limit}"
        return Advice(AdviceKind.GIVE_UP, counts=FailureClass.HARD, reason=reason)

    def _hold(self, status: DeliveryStatus, verdict: Classification, history: History, now: datetime) -> Advice:
        key, block = block_key(status, verdict), history.block
        if (
            block is not None
            and block.state is BlockState.HELD
            and block.probe_at
            and now < block.probe_at - CLOCK_GRAIN
        ):
            return Advice(AdviceKind.HOLD, block.probe_at, block=key, reason="block stands")
        delay = self._stated(verdict) or self._probe_after(status)
        not_before = None if delay is None else now + delay
        if block is not None and block.state is not BlockState.CLOSED:  # no threshold for a renewed refusal
            return Advice(AdviceKind.HOLD, not_before, delay=delay, block=key, reason="block stands")
        refusals, needed = history.refusals + 1, self.limits.block_threshold if verdict.operator else 1
        if key is None or refusals < needed:
            reason = f"refusal {refusals} of {needed}" if key else "refusal of one"
            if not_before and (standing := _standing_hold(history, verdict, now)):
                return Advice(AdviceKind.HOLD, standing, reason=reason)
            return Advice(AdviceKind.HOLD, not_before, delay=delay, reason=reason)
        return Advice(AdviceKind.HOLD, not_before, delay=delay, block=key, reason=f"refusals {refusals}")

    def _probe_after(self, status: DeliveryStatus) -> timedelta | None:
        permanent = status.reply_code // 100 == 5 if status.reply_code else status.status and status.status.class_ == 5
        return self.limits.probe_after_5xx if permanent else self.limits.probe_after_4xx

    def _stated(self, verdict: Classification) -> timedelta | None:
        """Return the waiting time that the reply states, inside our bounds."""
        if verdict.retry_after is None:
            return None
        return max(self.limits.retry_after_least, min(self.limits.retry_after_most, verdict.retry_after))

    def _retry(self, status: DeliveryStatus, verdict: Classification, history: History, now: datetime) -> Advice:
        planned = self._planned(verdict, history, now)
        started = _started(history, now)
        if planned.not_before and planned.not_before > started + self.schedules.of(verdict.category).give_up_after:
            planned = Advice(AdviceKind.GIVE_UP, reason=f"schedule {self.schedules.name} used up")
        planned = self._backed_off(status, verdict, history, now, planned)
        return self._undelivered(status, verdict, history, planned)

    def _planned(self, verdict: Classification, history: History, now: datetime) -> Advice:
        """Return the next try by the reply's own time or the schedule, without regard to its end."""
        if stated := self._stated(verdict):
            return Advice(AdviceKind.RETRY, now + stated, delay=stated, reason="stated in the reply")
        schedule, episode = self.schedules.of(verdict.category), None if _is_over(history, now) else history.episode
        reason = f"schedule {self.schedules.name}"
        if episode is None or episode.delay is None or self.schedules.of(episode.category) != schedule:
            delay = schedule.first(self.jitter())
        elif episode.not_before is not None and now < episode.not_before - CLOCK_GRAIN:
            return Advice(AdviceKind.RETRY, episode.not_before, delay=episode.delay, reason="before its time")
        else:
            delay = schedule.following(episode.delay)
        return Advice(AdviceKind.RETRY, now + delay, delay=delay, reason=reason)

    def _backed_off(
        self, status: DeliveryStatus, verdict: Classification, history: History, now: datetime, advice: Advice
    ) -> Advice:
        """Return `advice` with the back-off of the whole destination, where enough of its recipients met the same."""
        key, last = backoff_key(status, verdict), history.backoff
        if last is not None and last.not_before > now + last.delay + LOG_BEHIND:
            last = None  # begun under a clock that ran ahead
        if key is None or advice.kind is not AdviceKind.RETRY:
            return advice
        if last is not None and now < last.not_before - CLOCK_GRAIN:
            return replace(advice, backoff=key)
        limits = self.limits
        needed = limits.block_threshold if verdict.operator else limits.backoff_threshold
        if last is None and history.refusals + 1 < needed:
            return advice
        delay = min(limits.backoff_most, last.delay * 2 if last else self._stated(verdict) or limits.backoff_least)
        return replace(advice, backoff=key, backoff_until=now + delay)

    def _undelivered(self, status: DeliveryStatus, verdict: Classification, history: History, advice: Advice) -> Advice:
        """Return `advice` with the count of an undelivered message, or suppress when it is one too many."""
        ended = status.action is Action.FAILED or advice.kind is AdviceKind.GIVE_UP
        if not ended or not self._countable(status, verdict):
            return advice
        limits = self.limits
        if history.soft_bounces + 1 < limits.soft_limit:
            return replace(advice, counts=FailureClass.SOFT)
        reason = f"soft limit {limits.soft_limit} in {limits.soft_window.total_seconds() / 86400:g} d"
        return Advice(AdviceKind.SUPPRESS, counts=FailureClass.SOFT, reason=reason)


def _standing_hold(history: History, verdict: Classification, now: datetime) -> datetime | None:
    """Return until when the recipient is held already for the same reason; None where that time is over."""
    episode = history.episode
    if episode is None or episode.not_before is None or episode.delay is not None or _is_over(history, now):
        return None
    waits = episode.category == verdict.category and now < episode.not_before - CLOCK_GRAIN
    return episode.not_before if waits else None


def _is_over(history: History, now: datetime) -> bool:
    """Return whether a new episode begins: this one was given up before this message first failed, or is of another time.

    A last failure long ago, or one to come, is what a clock that jumped leaves behind.
    """
    episode = history.episode
    if episode is None:
        return False
    if not now - EPISODE_GAP <= episode.last_failure <= now + LOG_BEHIND:
        return True
    if episode.given_up is None:
        return False
    return history.message_since is None or history.message_since > episode.given_up


def _started(history: History, now: datetime) -> datetime:
    """Return when the clock of ``give-up`` began to run: the recipient's first failure or this message's, the earlier."""
    times = [now]
    if history.message_since is not None:
        times.append(history.message_since)
    if history.episode is not None and not _is_over(history, now):
        times.append(history.episode.first_failure)
    return min(times)


def next_episode(history: History, verdict: Classification, advice: Advice, now: datetime) -> Episode:
    """Return the recipient's episode after a failed attempt with this advice.

    A message that is older than the episode (its own was given up, then another one's began) may be given up without
    ending the younger one.
    """
    last = None if _is_over(history, now) else history.episode
    first = now if last is None else min(last.first_failure, now)
    given_up = last.given_up if last else None
    if advice.kind is AdviceKind.GIVE_UP and given_up is None:
        older = last is not None and history.message_since is not None and history.message_since < last.first_failure
        given_up = None if older else now
    keeps = last is not None and given_up is None and advice.kind is AdviceKind.GIVE_UP
    delay = (advice.delay or (last.delay if last else None)) if advice.kind is not AdviceKind.HOLD else None
    return Episode(
        first_failure=first,
        last_failure=now if last is None else max(last.last_failure, now),
        attempts=(last.attempts if last else 0) + 1,
        not_before=last.not_before if keeps and last else advice.not_before,
        delay=delay,
        category=verdict.category,
        rule=verdict.rule,
        block=advice.block,
        given_up=given_up,
        countable=advice.countable,
    )
