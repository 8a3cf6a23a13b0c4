"""One batch of changes to the SQLite store: collected in memory, written in one transaction.

Goes in: outcomes and deliveries in the order of the log. Comes out: histories
that know of the changes before, notices, and at `commit` one short transaction.
Does not: hold the write lock while it collects - other programs write meanwhile.

What two programs learn of one recipient at the same moment is joined at commit:
counts, bounces and suppressions add up; of an episode the later failure stands
and the attempts of both count.
"""

from __future__ import annotations

import sqlite3
import time
from collections import Counter
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, Self

from milter_bounce import limits
from milter_bounce.decide import block as blocks
from milter_bounce.decide.advise import backoff_key, block_key, domain_of, next_episode
from milter_bounce.delivery import Action, Source
from milter_bounce.verdict import (
    CATEGORIES,
    EMPTY_HISTORY,
    HELD_MARK,
    AdviceKind,
    Backoff,
    BlockState,
    FailureClass,
    History,
    Notice,
    NoticeKind,
    Suppression,
)

from .sqlite_changes import HOUR_MS, Changes
from .sqlite_hot import keys_of
from .sqlite_keys import evidence_of, message_of, occasion_of, storable, storable_outcome
from .sqlite_rows import (
    EPISODE,
    EPISODE_TEXT,
    SUPPRESSION,
    Waiting,
    episode_of,
    escaped,
    folded,
    from_ms,
    maybe_ms,
    plain,
    suppression_of,
    to_ms,
    waiting_for,
)

if TYPE_CHECKING:
    from datetime import datetime
    from types import TracebackType

    from milter_bounce.delivery import DeliveryStatus
    from milter_bounce.verdict import Advice, Block, Classification, Episode, Outcome, Standing

    from .sqlite_store import SqliteStore
    from .store import LogPosition

_MS: Final = timedelta(milliseconds=1)
_LOG_BEHIND_MS: Final = limits.LOG_BEHIND // _MS
DAY_MS: Final = 86_400_000
OTHER: Final = "other"
"""Operator of a domain that runs its own mail, in the counts."""

_NOTHING: Final[tuple[Notice, ...]] = ()


class SqliteBatch:
    """See `store.Batch`."""

    def __init__(self, store: SqliteStore) -> None:
        self._store = store
        self._hot = store.hot
        self._limits = store.limits
        self._soft_window_ms = store.limits.soft_window // _MS
        self._block_window_ms = store.limits.block_window // _MS
        self._latest_ms: int | None = None
        self._clear()

    def _clear(self) -> None:
        self._db: sqlite3.Connection | None = None
        self._begun = False
        self._new = Changes()

    def __enter__(self) -> Self:
        """Return the batch."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Commit when no exception is under way; else drop the changes."""
        if kind is not None:
            self.drop()
            return
        try:
            self.commit()
        except BaseException:  # all or nothing, whatever ends it
            self.drop()
            raise

    def drop(self) -> None:
        """Forget all changes since the last commit."""
        self._clear()
        self._hot.version = -1

    # what is known

    def _start(self) -> sqlite3.Connection:
        """Return the connection; at the beginning of a batch the file is looked at and foreign changes are read."""
        if self._db is None:
            db = self._store.connection()
            try:
                if not self._begun:  # later on memory is ahead of the file
                    self._hot.refresh(db)
            except sqlite3.Error as error:
                raise self._store.failed(error) from None
            self._db, self._begun = db, True
        return self._db

    def _query(self, sql: str, values: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        try:
            return (self._db or self._start()).execute(sql, values).fetchall()
        except sqlite3.Error as error:
            self._db = None
            raise self._store.failed(error) from None

    def _episode(self, recipient: str) -> Episode | None:
        if recipient in self._new.episodes:
            return self._new.episodes[recipient]
        rows = self._query(f"SELECT {EPISODE} FROM recipients WHERE recipient = ?", (recipient,))
        found = episode_of(rows[0]) if rows else None
        self._new.episodes[recipient] = self._new.loaded[recipient] = found
        return found

    def _suppression(self, recipient: str) -> Suppression | None:
        if recipient in self._new.suppressed:
            return self._new.suppressed[recipient]
        rows = self._query(f"SELECT {SUPPRESSION} FROM suppressions WHERE recipient = ?", (recipient,))
        return suppression_of(rows[0]) if rows else None

    def _message_since(self, recipient: str, status: DeliveryStatus) -> datetime | None:
        if status.queue_id is None or status.source is not Source.LOG:
            return None
        key = (recipient, status.queue_id)
        kept = self._waits(key)
        return from_ms(kept.since) if kept is not None and kept.failed else None

    def _waits(self, key: tuple[str, str]) -> Waiting | None:
        """Return what is kept of a message that waits: (recipient, queue ID)."""
        if key in self._new.waiting:
            return self._new.waiting[key]
        if key[1] in self._new.gone:
            return None
        rows = self._query("SELECT since, due, block, failed FROM waiting WHERE recipient = ? AND queue_id = ?", key)
        if not rows:
            return None
        since, due, block, failed = rows[0]
        return Waiting(since, due, block, bool(failed))

    def _bounced(self, recipient: str) -> dict[str, tuple[int, str]]:
        """Return message -> (when, class) of the undelivered messages of a recipient."""
        found: dict[str, tuple[int, str]] = {}
        if recipient not in self._new.reset:
            rows = self._query("SELECT message, at, class FROM bounces WHERE recipient = ?", (recipient,))
            found = {message: (at, kind) for message, at, kind in rows}
        return {**found, **self._new.bounces.get(recipient, {})}

    def recall(self, status: DeliveryStatus, verdict: Classification) -> History:
        """Return what matters for `status` under this classification."""
        if status.recipient is None or verdict.gate:
            return EMPTY_HISTORY
        status = storable(status)
        self._start()
        recipient = folded(status.recipient or "")
        episode, soft, hard, since = self._episode(recipient), 0, 0, None
        if episode is not None:
            since = self._message_since(recipient, status)
            soft, hard = self._bounce_counts(recipient, status)
        now_ms = self._reference(status)
        key, paused = block_key(status, verdict), backoff_key(status, verdict)
        return History(
            episode=episode,
            soft_bounces=soft,
            hard_bounces=hard,
            refusals=self._refusals_of(key, paused, evidence_of(status), now_ms),
            block=self._hot.block(key, from_ms(now_ms)),
            suppression=self._suppression(recipient),
            backoff=self._hot.backoffs.get(paused) if paused else None,
            message_since=since,
        )

    def _reference(self, status: DeliveryStatus) -> int:
        """Return the time that windows are counted back from: the evidence's own, for logs may be read late."""
        if status.at is not None:
            return to_ms(status.at)
        return int(time.time() * 1000) if self._latest_ms is None else self._latest_ms

    def _bounce_counts(self, recipient: str, status: DeliveryStatus) -> tuple[int, int]:
        own, kinds, now_ms = message_of(status), Counter[str](), self._reference(status)
        oldest = now_ms - self._soft_window_ms
        for message, (at, kind) in self._bounced(recipient).items():
            if message != own and oldest <= at <= now_ms + _LOG_BEHIND_MS:
                kinds[kind] += 1
        return kinds["soft"], kinds["hard"]

    def _refusals_of(self, key: str | None, paused: str | None, evidence: str, now_ms: int) -> int:
        counted = key or (paused and "~" + paused)
        if counted is None or counted not in self._hot.refusals:
            return 0
        oldest = now_ms - self._block_window_ms
        newest, found = now_ms + _LOG_BEHIND_MS, self._hot.refusals[counted].items()
        return len({occasion_of(other) for other, at in found if oldest <= at <= newest} - {occasion_of(evidence)})

    # what happened

    def record(self, outcome: Outcome, now: datetime) -> list[Notice]:
        """Remember one failed attempt or report; see `store.Batch.record`."""
        if outcome.genuine is False or outcome.classification.gate or outcome.status.recipient is None:
            return []
        outcome = storable_outcome(outcome)
        self._start()
        if self._is_one_too_many(outcome, now):
            outcome = replace(outcome, advice=replace(outcome.advice, block=None))
        status, verdict = outcome.status, outcome.classification
        self._latest_ms = now_ms = to_ms(now)
        self._new.counts[now_ms // HOUR_MS, verdict.operator or OTHER, verdict.category] += 1
        if verdict.operator and status.remote_mta and not status.hearsay and (domain := domain_of(status.recipient)):
            self.learn_operator(domain, verdict.operator, now)
        if outcome.advice.kind is AdviceKind.NONE:
            return []
        recipient = folded(status.recipient or "")
        notices = self._attempt(recipient, outcome, now)
        if outcome.advice.kind is AdviceKind.HOLD:
            notices += self._refused(status, verdict, outcome.advice, now)
        elif outcome.advice.kind is AdviceKind.RETRY:
            notices += self._paused(status, verdict, outcome.advice, now)
        return notices

    def _attempt(self, recipient: str, outcome: Outcome, now: datetime) -> list[Notice]:
        """Remember what the outcome means for its recipient."""
        status, verdict, advice = outcome.status, outcome.classification, outcome.advice
        last, now_ms = self._episode(recipient), to_ms(now)
        since = self._message_since(recipient, status)
        history = History(episode=last, message_since=since)
        waits = status.action is Action.DELAYED and status.source is Source.LOG and status.queue_id is not None
        if advice.kind is AdviceKind.FIX and not waits:
            self._left(recipient, status)
            return []
        episode = replace(
            next_episode(history, verdict, advice, now), text=plain(status.diagnostic or "", EPISODE_TEXT)
        )
        if verdict.class_ is FailureClass.NONE:  # a complaint is no failed attempt
            return self._ended(recipient, outcome, last, episode, now)
        self._put(recipient, episode)
        if advice.counts is not FailureClass.NONE:
            self._new.bounces[recipient][message_of(status)] = (now_ms, str(advice.counts))
        if waits and status.queue_id is not None:
            first = now_ms if since is None else to_ms(since)
            self._wait(recipient, status.queue_id, first, episode, now_ms, ends=advice.kind is AdviceKind.SUPPRESS)
        else:
            self._left(recipient, status)
        return self._ended(recipient, outcome, last, episode, now)

    def _ended(
        self, recipient: str, outcome: Outcome, last: Episode | None, episode: Episode, now: datetime
    ) -> list[Notice]:
        """Return the notice of an episode that this outcome ends: suppressed, or given up."""
        advice = outcome.advice
        if advice.kind is AdviceKind.SUPPRESS:
            return self._suppress(recipient, outcome, episode, now)
        if advice.kind is AdviceKind.GIVE_UP and (last is None or last.given_up != episode.given_up):
            return [_ending(NoticeKind.GAVE_UP, recipient, episode, now, outcome.status.queue_id)]
        return []

    def _suppress(self, recipient: str, outcome: Outcome, episode: Episode, now: datetime) -> list[Notice]:
        if self._suppression(recipient) is not None:
            return []
        status, verdict = outcome.status, outcome.classification
        origin = "feedback" if verdict.category == "feedback" else "log" if status.source is Source.LOG else "report"
        reason = f"{outcome.advice.reason}: {status.diagnostic or verdict.category}"
        self._new.suppressed[recipient] = Suppression(
            recipient, now, verdict.category, verdict.rule, plain(reason), origin
        )
        return [replace(_ending(NoticeKind.SUPPRESSED, recipient, episode, now, status.queue_id), text=reason)]

    def _put(self, recipient: str, episode: Episode | None) -> None:
        self._new.episodes[recipient] = episode
        self._new.dirty.add(recipient)

    def _wait(self, recipient: str, queue_id: str, first: int, episode: Episode, now_ms: int, *, ends: bool) -> None:
        """Remember that a message waits, and when all messages of its recipient are due."""
        # due at once: what the gate is going to return to its sender
        ends = ends or episode.given_up is not None
        due = now_ms if ends else None if episode.block else maybe_ms(episode.not_before)
        self._new.waiting[recipient, queue_id] = Waiting(first, due, episode.block)
        self._new.queue[queue_id].add(recipient)
        # each message by its own age: one that came later is not given up with the one that used the schedule up
        least = None if episode.given_up is None else max(to_ms(episode.given_up) - to_ms(episode.first_failure), 0)
        self._new.due[recipient] = (due, episode.block, least)

    def held(self, status: DeliveryStatus, now: datetime) -> None:
        """Remember that our own gate kept a message in the queue; see `store.Batch.held`."""
        if status.recipient is None or status.queue_id is None or status.action is not Action.DELAYED:
            return
        status = storable(status)
        self._start()
        recipient, queue_id = folded(status.recipient or ""), status.queue_id or ""
        last = self._waits((recipient, queue_id))
        standing, again_ms = self._standing(recipient, status, now), self._limits.trial_again // _MS
        kept = waiting_for(standing, last, to_ms(now), again_ms)
        if kept != last:
            self._new.waiting[recipient, queue_id] = kept
            self._new.queue[queue_id].add(recipient)
            self._new.held = True

    def _standing(self, recipient: str, status: DeliveryStatus, now: datetime) -> Standing:
        """Return what stands in the way of `recipient`, as the gate has just told it (`sqlite_gate.Gate.standing`)."""
        hot, domain = self._hot, recipient.rpartition("@")[2]
        learnt = self._new.operators[domain] if domain in self._new.operators else self._store.operator_of(domain)
        destination = learnt[0] if learnt else domain
        # Postfix's gate knows no sender: only where a block is why can it be a sender's (Sendmail)
        said = status.diagnostic
        sender = status.sender if said is None or HELD_MARK in said else None
        found = (hot.block_at(name, who, now) for who in (None, sender) for name in (destination, domain))
        block = next((one for one in found if one is not None), None)
        backoff = hot.backoffs.get(destination) or hot.backoffs.get(domain)
        known = blocks.Known(self._suppression(recipient), self._episode(recipient), now, block, backoff)
        return blocks.standing(recipient, known, now, self._limits)

    def _anything_held(self) -> bool:
        """Return whether any message waits that only our gate held, asked once a batch: deliveries are most of every log."""
        if self._new.held is None:
            self._new.held = bool(self._query("SELECT 1 FROM waiting WHERE NOT failed LIMIT 1", ()))
        return self._new.held

    def _left(self, recipient: str, status: DeliveryStatus) -> None:
        if status.queue_id is not None and status.source is Source.LOG:
            self._new.waiting[recipient, status.queue_id] = None

    def _refused(self, status: DeliveryStatus, verdict: Classification, advice: Advice, now: datetime) -> list[Notice]:
        """Remember a policy refusal: against a block that stands, as the beginning of one, or towards the threshold."""
        if (key := block_key(status, verdict)) is None:
            return []
        standing = self._hot.block(key, now)
        if standing is not None:
            block, notice = blocks.refused(standing, status, verdict, advice, now)
            self._put_block(block)
            return [notice] if notice else []
        if advice.block is None:
            self._refuse(key, evidence_of(status), to_ms(now))
            return []
        refusals = self._refusals_of(key, None, evidence_of(status), to_ms(now)) + 1
        block, notice = blocks.begin(key, status, verdict, advice, refusals, now, self._limits)
        self._put_block(block)
        for evidence in list(self._hot.refusals.get(key, ())):
            self._join_block(evidence.partition("\n")[2], key)
        self._forgive(key)
        return [notice]

    def _is_one_too_many(self, outcome: Outcome, now: datetime) -> bool:
        """Return whether the block of a single domain that would begin now is one more than are kept."""
        key, held = outcome.advice.block, self._hot.blocks
        if key is None or outcome.classification.operator is not None or len(held) < limits.BLOCKS_HELD:
            return False
        is_held = sum(block.state is not BlockState.CLOSED for block in held.values())
        return is_held >= limits.BLOCKS_HELD and self._hot.block(key, now) is None

    def _join_block(self, recipient: str, key: str) -> None:
        """Let a recipient that was held by itself, below the threshold, wait for the block from now on."""
        episode = self._episode(recipient)
        if episode is not None and episode.block is None and episode.delay is None and episode.given_up is None:
            self._put(recipient, replace(episode, block=key))
            self._new.due[recipient] = (None, key, None)

    def _put_block(self, block: Block) -> None:
        self._new.blocks.setdefault(block.key, self._hot.blocks.get(block.key))
        self._hot.blocks[block.key] = block

    def _refuse(self, key: str, evidence: str, now_ms: int) -> None:
        kept = self._hot.refusals[key]
        kept.pop(evidence, None)
        kept[evidence] = now_ms
        self._new.refusals[key, evidence] = now_ms
        if len(kept) > 2 * self._limits.block_threshold + 16:
            self._forgive(key, 1)

    def _forgive(self, key: str, number: int | None = None) -> None:
        """Take the `number` oldest refusals off a key, or all of them."""
        kept = self._hot.refusals.get(key)
        for evidence in list(kept or ())[:number]:
            del self._hot.refusals[key][evidence]
            self._new.refusals[key, evidence] = None
        if not kept:
            self._hot.refusals.pop(key, None)

    def _paused(self, status: DeliveryStatus, verdict: Classification, advice: Advice, now: datetime) -> list[Notice]:
        """Remember a failure of a whole destination: a back-off that begins, or one more towards it."""
        if (key := backoff_key(status, verdict)) is None:
            return []
        if advice.backoff_until is None:
            if advice.backoff is None:
                self._refuse("~" + key, evidence_of(status), to_ms(now))
            return []
        last = self._hot.backoffs.get(key)
        since = last.since if last else now
        begun = Backoff(key, since, advice.backoff_until, advice.backoff_until - now, verdict.category)
        self._hot.backoffs[key] = begun
        self._new.backoffs.add(key)
        self._forgive("~" + key)
        return [
            Notice(
                NoticeKind.BACKED_OFF, key, now, status.queue_id, verdict.operator, verdict.category, verdict.rule,
                since=since, until=begun.not_before,
            )
        ]  # fmt: skip

    # deliveries and departures

    def delivered(
        self,
        recipient: str,
        now: datetime,
        *,
        queue_id: str | None = None,
        operator: str | None = None,
        sender: str | None = None,
    ) -> list[Notice] | tuple[Notice, ...]:
        """Remember a delivery; see `store.Batch.delivered`."""
        self._start()
        self._latest_ms = now_ms = to_ms(now)
        self._new.counts[now_ms // HOUR_MS, operator or OTHER, "delivered"] += 1
        address, queue_id = folded(recipient), None if queue_id is None else escaped(queue_id)
        domain = address.rpartition("@")[2]
        if operator is not None and domain:
            self.learn_operator(domain, operator, now)
        hot = self._hot
        notices: list[Notice] = []
        if hot.blocks or hot.refusals or hot.backoffs:
            notices = self._eased(operator or domain, sender, now)
        episode = self._episode(address)
        if episode is not None:
            notices += self._recovered(address, episode, now, queue_id)
        elif queue_id is not None and self._anything_held():
            self._new.waiting[address, queue_id] = None  # what only our gate held has no episode
        return notices or _NOTHING

    def _eased(self, destination: str, sender: str | None, now: datetime) -> list[Notice]:
        """Remember that a destination takes mail: no back-off, one refusal fewer, a probe that succeeded."""
        notices, hot = [], self._hot
        if hot.backoffs.pop(destination, None) is not None:
            self._new.backoffs.add(destination)
        if hot.refusals:
            self._forgive("~" + destination)
        for key in keys_of(destination, sender):
            if key in hot.refusals:
                self._forgive(key, 1)
            if (standing := hot.block(key, now)) is not None:
                block, notice = blocks.delivered(standing, now)
                if notice is not None:
                    self._put_block(block)
                    notices.append(notice)
        return notices

    def _recovered(self, recipient: str, episode: Episode, now: datetime, queue_id: str | None) -> list[Notice]:
        """Remember that a recipient takes mail again: episode, bounces and a soft limit's suppression are over."""
        self._put(recipient, None)
        self._new.reset.add(recipient)
        self._new.bounces.pop(recipient, None)
        self._new.due[recipient] = (to_ms(now), None, None)
        if queue_id is not None:
            self._new.waiting[recipient, queue_id] = None
        notices = [_ending(NoticeKind.DELIVERED, recipient, episode, now, queue_id)]
        known = self._suppression(recipient)
        default = CATEGORIES.get(known.category) if known else None
        if known and default and default.class_ is FailureClass.SOFT and known.origin in {"log", "report"}:
            self._new.suppressed[recipient] = None
            notices.append(_ending(NoticeKind.UNSUPPRESSED, recipient, episode, now, queue_id))
        return notices

    def learn_operator(self, domain: str, operator: str | None, now: datetime) -> None:
        """Remember who runs the mail of `domain`; None = nobody known."""
        name, now_ms = folded(domain), to_ms(now)
        known = self._store.operator_of(name) if name not in self._new.operators else self._new.operators[name]
        if operator is None:
            if known is not None:
                self._new.operators[name] = None
        elif known is None or known[0] != operator or now_ms - known[1] > DAY_MS:
            self._new.operators[name] = (operator, now_ms)

    def expired(self, queue_id: str, now: datetime) -> list[Notice]:
        """Remember that the MTA gave the message up for all recipients that it waited for."""
        queue_id = escaped(queue_id)
        rows = self._query("SELECT recipient FROM waiting WHERE queue_id = ?", (queue_id,))
        found = {row[0] for row in rows} | self._new.queue.get(queue_id, set())
        recipients = {r for r in found if (kept := self._waits((r, queue_id))) is not None and kept.failed}
        notices: list[Notice] = []
        for recipient in sorted(recipients):
            notices += self._expired(recipient, queue_id, now)
        self.gone(queue_id)
        return notices

    def _expired(self, recipient: str, queue_id: str, now: datetime) -> list[Notice]:
        episode = self._episode(recipient)
        if episode is None:
            return []
        ended = [_ending(NoticeKind.GAVE_UP, recipient, episode, now, queue_id)] if episode.given_up is None else []
        self._put(recipient, replace(episode, given_up=episode.given_up or now, not_before=None))
        if not episode.countable:
            return ended
        self._new.bounces[recipient][queue_id] = (to_ms(now), "soft")
        limits, oldest = self._limits, to_ms(now) - self._soft_window_ms
        soft = sum(kind == "soft" and at >= oldest for at, kind in self._bounced(recipient).values())
        if soft < limits.soft_limit or self._suppression(recipient) is not None:
            return ended
        reason = f"soft limit {limits.soft_limit}"
        self._new.suppressed[recipient] = Suppression(recipient, now, episode.category, episode.rule, reason)
        return [*ended, replace(_ending(NoticeKind.SUPPRESSED, recipient, episode, now, queue_id), text=reason)]

    def gone(self, queue_id: str, recipient: str | None = None) -> None:
        """Forget that `queue_id` waits: it left the queue (for `recipient`, else for all)."""
        queue_id = escaped(queue_id)
        if recipient is not None:
            self._new.waiting[folded(recipient), queue_id] = None
            return
        self._new.gone.add(queue_id)
        for address in self._new.queue.pop(queue_id, ()):
            self._new.waiting[address, queue_id] = None

    def position(self, position: LogPosition) -> None:
        """Commit this log position with the rest of the batch."""
        self._new.positions[position.name] = position

    # writing

    def commit(self) -> None:
        """Write all changes in one transaction; see `store.Batch.commit`."""
        self._db = None  # another one, should this one fail
        with self._store.writing() as db:
            self._new.write(db, self._hot)
        self._store.learnt(self._new.operators)
        self._clear()


def _ending(kind: NoticeKind, recipient: str, episode: Episode, now: datetime, queue_id: str | None) -> Notice:
    return Notice(
        kind=kind,
        key=recipient,
        at=now,
        queue_id=queue_id,
        category=episode.category,
        rule=episode.rule,
        attempts=episode.attempts,
        since=episode.first_failure,
    )
