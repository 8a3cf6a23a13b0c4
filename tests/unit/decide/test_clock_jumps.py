"""What a clock that jumped leaves behind: it holds nothing back, and no schedule is used up by it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from milter_bounce.decide.advise import Adviser, Limits, next_episode
from milter_bounce.decide.block import Known, is_over, standing
from milter_bounce.decide.schedule import Schedules
from milter_bounce.delivery import Action, DeliveryStatus
from milter_bounce.limits import CLOCK_AHEAD, EPISODE_GAP, LOG_BEHIND
from milter_bounce.verdict import (
    CATEGORIES,
    FREE,
    AdviceKind,
    Backoff,
    Block,
    Classification,
    Episode,
    History,
    Scope,
)
from tests.conftest import ROOT

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
HOUR, SECOND = timedelta(hours=1), timedelta(seconds=1)
YEARS = timedelta(days=5 * 365)
WHO = "user@example.net"
ADVISER = Adviser(
    Schedules.from_toml((ROOT / "rules/schedules.toml").read_text(encoding="utf-8"), "guide"), Limits(), lambda: 0.5
)
FULL = CATEGORIES["mailbox-full"]
VERDICT = Classification(FULL.class_, "mailbox-full", FULL.advice, FULL.scope, "r")
REFUSED = CATEGORIES["blocklisted"]
REFUSAL = Classification(REFUSED.class_, "blocklisted", REFUSED.advice, REFUSED.scope, "r")
STATUS = DeliveryStatus(WHO, Action.DELAYED, reply_code=450, sender="news@example.com", queue_id="4cA")


def episode(at: datetime, **changes) -> Episode:
    return replace(Episode(at, at, 3, at + 2 * HOUR, 2 * HOUR, "mailbox-full", "r"), **changes)


def block(at: datetime, **changes) -> Block:
    plain = Block(
        "example.net",
        "example.net",
        Scope.SENDING_HOST,
        "blocklisted",
        "r",
        at,
        at + 24 * HOUR,
        at + timedelta(days=30),
    )
    return replace(plain, **changes)


def pause(at: datetime) -> Backoff:
    return Backoff("example.net", at, at + HOUR, HOUR, "rate-limited")


def known(at: datetime) -> list[Known]:
    """Return all that can be remembered at a time and holds mail back."""
    return [
        Known(episode=episode(at)),
        Known(episode=episode(at, given_up=at, not_before=None), waits_since=at),
        Known(episode=episode(at, delay=None)),
        Known(block=block(at)),
        Known(block=block(NOW - HOUR, last_refusal=at, probe_at=at + HOUR)),
        Known(backoff=pause(at)),
    ]


@pytest.mark.parametrize("one", range(len(known(NOW))))
@pytest.mark.parametrize(
    ("ahead", "stands"),
    [(timedelta(0), True), (CLOCK_AHEAD - SECOND, True), (CLOCK_AHEAD + 2 * SECOND, False), (YEARS, False)],
    ids=["now", "below", "above", "years"],
)
def test_what_is_remembered_from_a_time_to_come_holds_nobody(one, ahead, stands):
    """The clock ran ahead and was set right: what was learnt meanwhile is in nobody's way."""
    assert (standing(WHO, known(NOW + ahead)[one], NOW, Limits()) != FREE) is stands


@pytest.mark.parametrize(("ahead", "over"), [(LOG_BEHIND, False), (LOG_BEHIND + SECOND, True), (YEARS, True)])
def test_block_of_a_time_to_come_is_over(ahead, over):
    """A refusal today begins a block of its own."""
    later = block(NOW + ahead, ends=NOW + 2 * YEARS)
    assert is_over(later, NOW) is over


@pytest.mark.parametrize("moved", [YEARS, -YEARS], ids=["clock-set-back", "clock-set-ahead"])
def test_failure_after_a_jump_begins_a_new_episode(moved):
    """Neither is the next try put off by years, nor is the schedule used up at one stroke."""
    history = History(episode=episode(NOW + moved))
    advice = ADVISER.advise(STATUS, VERDICT, history, NOW)
    after = next_episode(history, VERDICT, advice, NOW)
    assert (advice.kind, advice.attempt, advice.not_before) == (AdviceKind.RETRY, 1, NOW + 3 * HOUR)
    assert (after.first_failure, after.last_failure, after.attempts) == (NOW, NOW, 1)


@pytest.mark.parametrize(
    ("gap", "kind", "attempt"),
    [(EPISODE_GAP - SECOND, AdviceKind.GIVE_UP, 4), (EPISODE_GAP + SECOND, AdviceKind.RETRY, 1)],
    ids=["below", "above"],
)
def test_a_failure_long_ago_is_another_episode(gap, kind, attempt):
    """No retry waits that long: whoever failed so long ago is not given up at the first failure since."""
    advice = ADVISER.advise(STATUS, VERDICT, History(episode=episode(NOW - gap)), NOW)
    assert (advice.kind, advice.attempt) == (kind, attempt)


def test_refusal_after_a_jump_is_held_from_now():
    """A hold of a time to come does not stand, neither the recipient's own nor the block's."""
    later = History(episode=episode(NOW + YEARS, delay=None, category="blocklisted"), block=None)
    advice = ADVISER.advise(STATUS, REFUSAL, later, NOW)
    assert advice.kind is AdviceKind.HOLD
    assert advice.not_before < NOW + timedelta(days=2)


def test_back_off_of_a_time_to_come_is_begun_anew():
    """A destination is left in peace for the least time again, not until a wrong clock's year."""
    limits = CATEGORIES["rate-limited"]
    slow = Classification(limits.class_, "rate-limited", limits.advice, Scope.DESTINATION, "r")
    for at, until in ((NOW + YEARS, None), (NOW, NOW + HOUR)):
        advice = ADVISER.advise(STATUS, slow, History(backoff=pause(at)), NOW)
        assert advice.backoff_until is until or advice.backoff == "example.net"
        assert advice.not_before < NOW + timedelta(days=2)
