"""Which clock is believed when things are forgotten for their age."""

from __future__ import annotations

import pytest

from milter_bounce.system.clock import JUMP_S, REST_S, SteadyClock


class Hands:
    """Two clocks that a test turns."""

    def __init__(self):
        self.wall, self.monotonic = 1_800_000_000.0, 50.0

    def run(self, seconds, jump=0.0):
        self.wall += seconds + jump
        self.monotonic += seconds


@pytest.fixture
def hands():
    return Hands()


@pytest.fixture
def clock(hands):
    return SteadyClock(lambda: hands.wall, lambda: hands.monotonic)


@pytest.mark.parametrize("jump", [JUMP_S, -JUMP_S, 5 * 365 * 86_400.0, -40 * 365 * 86_400.0])
def test_jump_is_told_once_and_rests(hands, clock, jump):
    """After a jump of a day or of years nothing is forgotten until the new time has stood for a day."""
    assert clock.steady
    hands.run(10, jump)
    assert clock.jumped_s() == jump
    assert clock.jumped_s() == 0.0
    assert not clock.steady
    hands.run(REST_S - 1)
    assert not clock.steady
    hands.run(1)
    assert (clock.jumped_s(), clock.steady) == (0.0, True)


def test_jump_back_begins_the_rest_anew(hands, clock):
    """There and back again are two jumps: the day counts from the second."""
    hands.run(1, 10 * JUMP_S)
    assert clock.jumped_s() == 10 * JUMP_S
    hands.run(REST_S / 2, -10 * JUMP_S)
    assert clock.jumped_s() == pytest.approx(-10 * JUMP_S)
    hands.run(REST_S - 1)
    assert not clock.steady


def test_small_steps_are_no_jump(hands, clock):
    """Hours of a time zone or a suspended machine pass, however many there are."""
    for _ in range(100):
        hands.run(3600, JUMP_S - 1)
        assert clock.jumped_s() == 0.0
    assert clock.steady
