"""From the configuration to adviser and store."""

from __future__ import annotations

from datetime import timedelta

import pytest

from milter_bounce import config
from milter_bounce.decide.advise import Limits
from milter_bounce.system.advising import limits_of, make_adviser, make_store, schedules_of
from milter_bounce.system.store import Retention

HOUR = timedelta(hours=1)


def test_settings_defaults_are_the_limits_defaults():
    """The manual's figures and the code's are the same."""
    settings = config.Settings()
    assert limits_of(settings) == Limits()
    assert make_store(settings).retention == Retention()


@pytest.mark.parametrize(
    ("text", "check"),
    [
        pytest.param("[block]\nprobe_after_4xx_h = 0", lambda s: limits_of(s).probe_after_4xx is None, id="no-probes"),
        pytest.param("[advice]\nhard_limit = 2", lambda s: limits_of(s).hard_limit == 2, id="hard-limit"),
        pytest.param(
            '[advice]\nschedule = "prompt"',
            lambda s: schedules_of(s).of("dns-error").first(0) == timedelta(minutes=5),
            id="prompt",
        ),
        pytest.param(
            "[advice]\ncategories = { mailbox-full = [240, 480] }",
            lambda s: schedules_of(s).of("mailbox-full").first(1) == 8 * HOUR,
            id="category",
        ),
        pytest.param(
            "[advice]\ntime_scale = 0.000277777777777777",
            lambda s: (
                schedules_of(s).general.give_up_after.seconds == 48
                and round(limits_of(s).probe_after_5xx.total_seconds()) == 24
            ),
            id="seconds-for-hours",
        ),
        pytest.param(
            "[advice]\ngive_up_after_h = 24",
            lambda s: schedules_of(s).of("greylisted").give_up_after == 24 * HOUR,
            id="end",
        ),
        pytest.param(
            "[store]\nwaiting_days = 3", lambda s: make_store(s).retention.waiting == timedelta(days=3), id="retention"
        ),
    ],
)
def test_settings_reach_the_advice(text, check):
    """Each option does what its manual says."""
    assert check(config.load(text, "test.toml"))


def test_make_adviser_draws_its_own_jitter():
    """The jitter is a random number from 0 to 1, another one each time."""
    jitter = make_adviser(config.Settings()).jitter
    drawn = {jitter() for _ in range(20)}
    assert len(drawn) == 20
    assert all(0 <= d < 1 for d in drawn)


def test_schedules_of_names_the_file_that_is_missing(tmp_path, monkeypatch):
    """An installation without its schedules is told by the file's name."""
    monkeypatch.setattr("milter_bounce.system.advising.rules_dir", lambda: tmp_path)
    with pytest.raises(config.ConfigError, match=r"schedules\.toml"):
        schedules_of(config.Settings())


@pytest.mark.parametrize(
    ("text", "told"),
    [
        pytest.param("[advice]\ncategories = { greylisted = [9, 5] }", "least and most minutes", id="range"),
        pytest.param("[advice]\ncategories = { gray = [5, 9] }", "no such category", id="category"),
        pytest.param('[advice]\nschedule = "slow"', "advice.schedule = 'slow'", id="schedule"),
        pytest.param("[block]\nthreshold = 0", "block.threshold = 0", id="threshold"),
    ],
)
def test_settings_refuse(text, told):
    """A figure that cannot be meant is refused by its key."""
    with pytest.raises(config.ConfigError) as caught:
        config.load(text, "test.toml")
    assert told in str(caught.value)
