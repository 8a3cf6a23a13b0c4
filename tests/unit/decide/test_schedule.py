"""Retry schedules: the shipped figures, changes, and schedules that are none."""

from __future__ import annotations

from datetime import timedelta

import pytest

from milter_bounce.decide.schedule import ScheduleError, Schedules
from milter_bounce.verdict import CATEGORIES
from tests.conftest import ROOT

SHIPPED = (ROOT / "rules/schedules.toml").read_text(encoding="utf-8")
HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)


@pytest.mark.parametrize(
    ("name", "category", "least", "most"),
    [
        pytest.param("guide", "mailbox-full", 2 * HOUR, 4 * HOUR, id="guide-general"),
        pytest.param("guide", "network-error", 2 * HOUR, 4 * HOUR, id="guide-network"),
        pytest.param("guide", "greylisted", 5 * MINUTE, 15 * MINUTE, id="guide-greylisted"),
        pytest.param("prompt", "mailbox-full", 2 * HOUR, 4 * HOUR, id="prompt-general"),
        pytest.param("prompt", "network-error", 5 * MINUTE, 30 * MINUTE, id="prompt-network"),
        pytest.param("prompt", "dns-error", 5 * MINUTE, 30 * MINUTE, id="prompt-dns"),
        pytest.param("prompt", "tls-failure", 5 * MINUTE, 30 * MINUTE, id="prompt-tls"),
        pytest.param("prompt", "system-error", 5 * MINUTE, 30 * MINUTE, id="prompt-system"),
    ],
)
def test_shipped_schedule_first_wait_lies_in_its_range(name, category, least, most):
    """The ends of the jitter are the ends of the range that DESIGN.md section 6 states."""
    schedule = Schedules.from_toml(SHIPPED, name).of(category)
    assert (schedule.first(0), schedule.first(1)) == (least, most)
    assert least < schedule.first(0.5) < most


@pytest.mark.parametrize("name", ["guide", "prompt"])
def test_shipped_schedule_doubles_and_ends_after_48_hours(name):
    """Every schedule that ships doubles, and stops two days after the first failure."""
    schedules = Schedules.from_toml(SHIPPED, name)
    for category in CATEGORIES:
        schedule = schedules.of(category)
        assert schedule.following(HOUR) == 2 * HOUR
        assert schedule.give_up_after == 48 * HOUR


def test_schedule_most_caps_the_growth():
    """Greylisting doubles up to its cap and stays there."""
    schedule = Schedules.from_toml(SHIPPED).of("greylisted")
    assert schedule.following(3 * HOUR) == 4 * HOUR
    assert schedule.following(4 * HOUR) == 4 * HOUR


def test_schedules_changed_takes_the_administrators_figures():
    """A category's own range and a general end replace what ships, and nothing else."""
    changed = Schedules.from_toml(SHIPPED).changed({"mailbox-full": (240, 480)}, 24)
    assert changed.of("mailbox-full").first(0) == 4 * HOUR
    assert changed.of("mailbox-unavailable").first(0) == 2 * HOUR
    assert {changed.of(c).give_up_after for c in CATEGORIES} == {24 * HOUR}


def test_schedules_scaled_makes_seconds_of_hours():
    """With a scale of 1/3600 every hour is a second, cap and end included."""
    scaled = Schedules.from_toml(SHIPPED).scaled(1 / 3600)
    assert scaled.general.first(0) == timedelta(seconds=2)
    assert scaled.general.give_up_after == timedelta(seconds=48)
    assert scaled.of("greylisted").following(timedelta(seconds=4)) == timedelta(seconds=4)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        pytest.param("guide = [", "not TOML", id="no-toml"),
        pytest.param("[other]\nfirst_minutes = [1, 2]", "no schedule 'guide'; there are other", id="no-table"),
        pytest.param("[guide]\nfactor = 2", "guide.first_minutes = None", id="no-range"),
        pytest.param("[guide]\nfirst_minutes = [4, 2]", "guide.first_minutes = [4, 2]", id="range-reversed"),
        pytest.param("[guide]\nfirst_minutes = [0, 2]", "guide.first_minutes = [0, 2]", id="range-from-zero"),
        pytest.param("[guide]\nfirst_minutes = [1, 2]\nfactor = 0.5", "guide.factor = 0.5", id="shrinking"),
        pytest.param("[guide]\nfirst_minutes = [1, 2]\nspeed = 1", "guide.speed: no such key", id="unknown-key"),
        pytest.param(
            "[guide]\nfirst_minutes = [1, 2]\n[guide.category.full]\nfactor = 2", "no category 'full'", id="category"
        ),
        pytest.param(
            '[guide]\nfirst_minutes = [1, 2]\n[soft_limit]\nnot_counted = ["full"]', "no category 'full'", id="counted"
        ),
        pytest.param("[guide]\nfirst_minutes = [1, 2]\ngive_up_hours = 0", "guide.give_up_hours = 0", id="no-end"),
    ],
)
def test_schedules_from_toml_refuses(text, told):
    """A table that is no schedule is refused by the name of its key."""
    with pytest.raises(ScheduleError) as caught:
        Schedules.from_toml(text)
    assert told in str(caught.value)


def test_schedules_changed_refuses_an_unknown_category():
    """An override of a category that does not exist names it."""
    with pytest.raises(ScheduleError, match=r"categories\.full: no category 'full'"):
        Schedules.from_toml(SHIPPED).changed({"full": (1, 2)})


def test_schedules_category_inherits_what_it_leaves_out():
    """A category's table states only what differs; without an override everything stays."""
    text = "[guide]\nfirst_minutes = [60, 120]\n[guide.category.greylisted]\nmost_minutes = 90"
    schedules = Schedules.from_toml(text)
    assert schedules.changed() == schedules
    assert schedules.of("greylisted").first(0) == HOUR
    assert schedules.of("greylisted").following(HOUR) == 90 * MINUTE
