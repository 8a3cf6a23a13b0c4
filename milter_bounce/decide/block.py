"""The life of a block: held, on trial, on the ramp, closed; and what stands in the way of one recipient.

Goes in: a block, what happened to it, when. Comes out: the block after that, and
the notice of it; or the `Standing` of a recipient. Does not: remember (the store
does) or count what was let through (``release`` does).

HELD (threshold reached) -> lifted by somebody -> TRIAL -> probe delivered -> RAMP -> time -> CLOSED. A probe that is
delivered while HELD goes straight to RAMP; a refusal on TRIAL or RAMP goes back to HELD; the last day closes any.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Final
from zlib import crc32

from milter_bounce import limits
from milter_bounce.verdict import (
    FREE,
    AdviceKind,
    Backoff,
    Block,
    BlockState,
    Episode,
    Notice,
    NoticeKind,
    Standing,
    Suppression,
)

from .advise import CLOCK_GRAIN, destination_key

if TYPE_CHECKING:
    from datetime import datetime

    from milter_bounce.delivery import DeliveryStatus
    from milter_bounce.verdict import Advice, Classification

    from .advise import Limits

CLOCK_AHEAD: Final = limits.CLOCK_AHEAD
LOG_BEHIND: Final = limits.LOG_BEHIND


def is_over(block: Block, now: datetime) -> bool:
    """Return whether a block holds nothing any more; one that began in a time to come, under a wrong clock, never did."""
    return block.state is BlockState.CLOSED or block.ends <= now or latest(block) > now + LOG_BEHIND


def latest(block: Block) -> datetime:
    """Return when the block was last heard of: its beginning, or the last refusal."""
    return max(block.began, block.last_refusal or block.began)


def open_share(ramp_from: datetime, now: datetime, ramp: timedelta) -> float:
    """Return the share of recipients, 0 to 1, that may pass so long after a successful probe.

    It begins at one in sixteen and doubles four times, evenly over `ramp`.
    """
    passed = (now - ramp_from) / ramp if ramp else 1.0
    return float(min(1.0, 2.0 ** (4 * min(max(passed, 0.0), 1.0) - 4)))


def within_share(recipient: str, share: float) -> bool:
    """Return whether `recipient` is in that share: who passed once goes on passing while the share rises."""
    return crc32(recipient.encode("utf-8", "surrogatepass")) < share * 2**32


def begin(
    key: str,
    status: DeliveryStatus,
    verdict: Classification,
    advice: Advice,
    refusals: int,
    now: datetime,
    limits: Limits,
) -> tuple[Block, Notice]:
    """Return the block that begins with this refusal, and its notice."""
    block = Block(
        key=key,
        operator=destination_key(status, verdict) or key,
        scope=verdict.scope,
        category=verdict.category,
        rule=verdict.rule,
        began=now,
        probe_at=advice.not_before,
        ends=now + limits.block_most,
        text=(status.diagnostic or "")[:512],
        zones=_zones(verdict),
        refusals=refusals,
        probe_after=advice.delay,
        last_refusal=now,
    )
    return block, _notice(NoticeKind.BLOCK_BEGAN, block, now)


def refused(
    block: Block, status: DeliveryStatus, verdict: Classification, advice: Advice, now: datetime
) -> tuple[Block, Notice | None]:
    """Return a standing block after one more refusal; a notice where it was lifted before."""
    zones = tuple(dict.fromkeys((*block.zones, *_zones(verdict))))
    more = replace(block, refusals=block.refusals + 1, last_refusal=now, zones=zones)
    if block.state is BlockState.HELD:
        probed = block.probe_at is None or now >= block.probe_at - CLOCK_GRAIN
        return (replace(more, probe_at=advice.not_before) if probed else more), None
    again = replace(
        more,
        state=BlockState.HELD,
        probe_at=advice.not_before,
        lifted_at=None,
        lifted_by=None,
        ramp_from=None,
        text=(status.diagnostic or block.text)[:512],
    )
    return again, _notice(NoticeKind.BLOCK_RENEWED, again, now)


def delivered(block: Block, now: datetime) -> tuple[Block, Notice | None]:
    """Return a block after a delivery to its destination: a probe that was due, or one on trial, opens the ramp."""
    if block.state is BlockState.TRIAL:
        eased = replace(block, state=BlockState.RAMP, ramp_from=now)
        return eased, _notice(NoticeKind.BLOCK_EASED, eased, now)
    due = block.probe_at is not None and now >= block.probe_at - CLOCK_GRAIN
    if block.state is BlockState.HELD and due:
        eased = replace(block, state=BlockState.RAMP, ramp_from=now, lifted_at=now, lifted_by="probe")
        return eased, _notice(NoticeKind.BLOCK_LIFTED, eased, now)
    return block, None


def lifted(block: Block, by: str, now: datetime) -> tuple[Block, Notice]:
    """Return a held block on trial: its next message is the probe."""
    trial = replace(block, state=BlockState.TRIAL, lifted_at=now, lifted_by=by, probe_at=now)
    return trial, _notice(NoticeKind.BLOCK_LIFTED, trial, now)


def ended(block: Block, by: str, now: datetime) -> tuple[Block, Notice]:
    """Return a block closed by a person's word, without trial and ramp."""
    closed = replace(block, state=BlockState.CLOSED, lifted_at=now, lifted_by=by, probe_at=None)
    return closed, _notice(NoticeKind.BLOCK_ENDED, closed, now)


def aged(block: Block, now: datetime, limits: Limits) -> tuple[Block, Notice | None]:
    """Return a block closed by time: its last day came, or the ramp is complete."""
    if block.state is BlockState.CLOSED:
        return block, None
    if block.ends <= now:
        by = block.lifted_by or "expired"
    elif block.state is BlockState.RAMP and block.ramp_from is not None and now >= block.ramp_from + limits.ramp:
        by = block.lifted_by or "probe"
    else:
        return block, None
    closed = replace(block, state=BlockState.CLOSED, lifted_at=block.lifted_at or now, lifted_by=by, probe_at=None)
    return closed, _notice(NoticeKind.BLOCK_ENDED, closed, now)


def added(block: Block) -> Notice:
    """Return the notice of a block that the administrator begins."""
    return _notice(NoticeKind.BLOCK_BEGAN, block, block.began)


def _zones(verdict: Classification) -> tuple[str, ...]:
    """Return the zones that a block may wait for: lists of weight advise hold no mail, so they lift none."""
    return tuple(mention.zone for mention in verdict.blocklists if mention.weight == "block")


def _notice(kind: NoticeKind, block: Block, now: datetime) -> Notice:
    return Notice(
        kind=kind,
        key=block.key,
        at=now,
        operator=block.operator,
        category=block.category,
        rule=block.rule,
        attempts=block.refusals,
        since=block.began,
        until=block.probe_at,
        by=block.lifted_by,
        text=block.text,
    )


@dataclass(frozen=True, slots=True)
class Known:
    """What the store knows that may stand in the way of one recipient."""

    suppression: Suppression | None = None
    episode: Episode | None = None
    waits_since: datetime | None = None
    """When the message that is asked about first failed; where that one is not known, the youngest that waits; None = none."""

    block: Block | None = None
    """Of its destination, not over."""

    backoff: Backoff | None = None


def standing(recipient: str, known: Known, now: datetime, limits: Limits) -> Standing:
    """Return what stands in the way of `recipient`: suppression, used-up schedule, block, its own time, back-off.

    Used up is the schedule of a message, not of an address: GIVE_UP stands only when that message has waited as long as
    the one that used it up - with the message not known, when all that wait have. Until then the others are tried on,
    the last wait apart. What never failed waits nowhere and is no message to give up.

    What was remembered as later than tomorrow stands in nobody's way: mail flows, whatever a clock said.
    """
    tomorrow = now + CLOCK_AHEAD
    if known.suppression is not None:
        s = known.suppression
        return Standing(AdviceKind.SUPPRESS, None, s.since, s.category, s.rule, s.reason)
    episode = known.episode
    if episode is not None and episode.last_failure > tomorrow:
        episode = None
    if episode is not None and episode.given_up is not None and known.waits_since is not None:
        ended = episode.given_up + max(known.waits_since - episode.first_failure, timedelta(0))
        if ended <= now < ended + limits.give_up_grace:
            return _of_episode(AdviceKind.GIVE_UP, episode)
        episode = _tried_on(episode) if now < ended else None
    if known.block is not None and latest(known.block) <= tomorrow:
        return _blocked(recipient, known.block, now, limits)
    # an episode that ended in a block which is over waits for nothing
    if episode is not None and episode.block is None and episode.not_before is not None and now < episode.not_before:
        kind = AdviceKind.RETRY if episode.delay is not None else AdviceKind.HOLD
        return _of_episode(kind, episode)
    b = known.backoff
    if b is not None and now < b.not_before <= tomorrow + b.delay:
        return Standing(AdviceKind.RETRY, b.not_before, b.since, b.category, backoff=b.key)
    return FREE


def _tried_on(episode: Episode) -> Episode | None:
    """Return a used-up episode as it is to messages that have not used it up; None where there is nothing to wait for."""
    return None if episode.delay is None else replace(episode, not_before=episode.last_failure + episode.delay)


def _of_episode(kind: AdviceKind, episode: Episode) -> Standing:
    return Standing(
        kind, episode.not_before, episode.first_failure, episode.category, episode.rule, attempts=episode.attempts
    )


def _blocked(recipient: str, block: Block, now: datetime, limits: Limits) -> Standing:
    if block.state is BlockState.RAMP and block.ramp_from is not None:
        if within_share(recipient, open_share(block.ramp_from, now, limits.ramp)):
            return FREE
        return _holding(block, block.ramp_from + limits.ramp)
    due = block.probe_at is not None and now >= block.probe_at
    return _holding(block, block.probe_at, block.key if due else None)


def _holding(block: Block, until: datetime | None, probe: str | None = None) -> Standing:
    return Standing(
        AdviceKind.HOLD,
        until,
        block.began,
        block.category,
        block.rule,
        block.text,
        block.refusals,
        block=block.key,
        probe=probe,
    )
