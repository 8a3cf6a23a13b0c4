"""Ten thousand recipients that never recover, under ``guide``: every figure of the schedule as it falls."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest

from milter_bounce.decide.advise import Adviser, Limits, next_episode
from milter_bounce.decide.schedule import Schedules
from milter_bounce.delivery import Action, DeliveryStatus
from milter_bounce.verdict import CATEGORIES, AdviceKind, Classification, History
from tests.conftest import ROOT

RECIPIENTS = 10_000
START = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
DEFAULT = CATEGORIES["mailbox-full"]
FULL = Classification(DEFAULT.class_, "mailbox-full", DEFAULT.advice, DEFAULT.scope, "test-full")
STATUS = DeliveryStatus("user@example.net", Action.DELAYED, reply_code=452, queue_id="4cA")


def tries(adviser):
    """Return the hours after the first failure at which one recipient is tried until it is given up."""
    now, history, hours = START, History(), []
    for _ in range(50):
        advice = adviser.advise(STATUS, FULL, history, now)
        if advice.kind is AdviceKind.GIVE_UP:
            return hours
        history = History(episode=next_episode(history, FULL, advice, now), message_since=START)
        now = advice.not_before
        hours.append((now - START) / HOUR)
    raise AssertionError("never given up")


@pytest.fixture(scope="module")
def simulated():
    text = (ROOT / "rules/schedules.toml").read_text(encoding="utf-8")
    adviser = Adviser(Schedules.from_toml(text), Limits(), random.Random(20261120).random)
    return [tries(adviser) for _ in range(RECIPIENTS)]


def test_guide_first_retry_falls_within_2_to_4_hours(simulated):
    """No first retry is earlier than 2 h or later than 4 h."""
    assert all(2 <= hours[0] <= 4 for hours in simulated)


def test_guide_each_wait_is_twice_the_last(simulated):
    """From the first wait on each is the double of the one before, exactly."""
    for hours in simulated:
        waits = [later - earlier for earlier, later in zip([0.0, *hours], hours, strict=False)]
        assert all(abs(after - 2 * before) < 1e-6 for before, after in pairwise(waits))


def test_guide_no_try_after_48_hours_and_none_left_out(simulated):
    """The last try lies within 48 h, and the one that would follow does not."""
    for hours in simulated:
        assert hours[-1] <= 48
        assert hours[-1] + 2 ** len(hours) * hours[0] > 48


def test_guide_jitter_spreads_evenly(simulated):
    """Chi-square of twenty equal bins over the range stays below its 99.9 % point for 19 degrees (43.8)."""
    bins = [0] * 20
    for hours in simulated:
        bins[min(19, int((hours[0] - 2) * 10))] += 1
    expected = RECIPIENTS / 20
    assert sum((found - expected) ** 2 / expected for found in bins) < 43.8


def test_guide_number_of_tries(simulated):
    """Waits of 2-4 h, doubled, leave three or four tries within 48 h: (2^n - 1) times the first wait."""
    assert {len(hours) for hours in simulated} == {3, 4}
