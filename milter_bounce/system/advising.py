"""From settings to the adviser and the store that the programs share."""

from __future__ import annotations

from datetime import timedelta
from random import SystemRandom
from typing import TYPE_CHECKING

from milter_bounce.config import ConfigError
from milter_bounce.decide.advise import Adviser, Limits
from milter_bounce.decide.schedule import ScheduleError, Schedules

from .share import rules_dir
from .sqlite_store import SqliteStore
from .store import Retention

if TYPE_CHECKING:
    from milter_bounce.config import Settings


def limits_of(settings: Settings) -> Limits:
    """Return the limits that the sections advice and block state, on their time scale."""
    advice, block = settings.advice, settings.block
    return Limits(
        hard_limit=advice.hard_limit,
        soft_limit=advice.soft_limit,
        soft_window=timedelta(days=advice.soft_window_days),
        retry_after_least=timedelta(minutes=advice.retry_after_min_m),
        retry_after_most=timedelta(hours=advice.retry_after_max_h),
        block_threshold=block.threshold,
        block_window=timedelta(minutes=block.window_m),
        probe_after_4xx=timedelta(hours=block.probe_after_4xx_h) or None,
        probe_after_5xx=timedelta(hours=block.probe_after_5xx_h) or None,
        block_most=timedelta(days=block.max_days),
        ramp=timedelta(minutes=block.ramp_m),
        backoff_threshold=advice.backoff_threshold,
        backoff_least=timedelta(minutes=advice.backoff_min_m),
        backoff_most=timedelta(minutes=advice.backoff_max_m),
    ).scaled(advice.time_scale)


def schedules_of(settings: Settings) -> Schedules:
    """Return the schedules that the section advice states, on its time scale.

    Raises:
        ConfigError: the shipped schedules are missing or do not suit the settings.
    """
    path = rules_dir() / "schedules.toml"
    try:
        shipped = Schedules.from_toml(path.read_text(encoding="utf-8"), settings.advice.schedule)
        own = shipped.changed(settings.advice.categories, settings.advice.give_up_after_h)
    except (OSError, UnicodeDecodeError, ScheduleError) as error:
        raise ConfigError(f"{path}: {error}; install milter-bounce anew") from None
    return own.scaled(settings.advice.time_scale)


def make_adviser(settings: Settings) -> Adviser:
    """Return the adviser for these settings, with jitter from the operating system.

    Raises:
        ConfigError: as `schedules_of`.
    """
    return Adviser(schedules_of(settings), limits_of(settings), SystemRandom().random)


def retention_of(settings: Settings) -> Retention:
    """Return how long the section store has things kept."""
    section = settings.store
    return Retention(
        episodes=timedelta(days=section.episodes_days),
        counts=timedelta(days=section.counts_days),
        blocks=timedelta(days=section.blocks_days),
        waiting=timedelta(days=section.waiting_days),
        operators=timedelta(days=section.operators_days),
    )


def make_store(settings: Settings) -> SqliteStore:
    """Return the store for these settings; the file is opened, and made if need be, at the first use.

    Raises:
        nothing: a store that cannot be opened raises `StoreError` at each use, and is tried again.
    """
    section = settings.store
    return SqliteStore(section.path, limits_of(settings), retention_of(settings), lock_wait_s=section.lock_wait_s)
