"""Retry schedules: how long to wait before the next try of one recipient, and when to stop.

Goes in: the text of ``rules/schedules.toml``, a category, the last wait. Comes
out: the next wait. Does not: know what time it is, draw random numbers (the
jitter is an argument) or name a provider.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from milter_bounce.verdict import CATEGORIES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_GRAIN: Final = timedelta(milliseconds=1)
"""What the store keeps of a time: a wait must come back from it as it went in."""

_KEYS: Final = {"source", "first_minutes", "factor", "most_minutes", "give_up_hours"}


class ScheduleError(ValueError):
    """A schedule that cannot be used; the text names table and key."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """The waiting times of one kind of failure."""

    first_least: timedelta
    """The first wait is drawn evenly from this ..."""

    first_most: timedelta
    """... to this."""

    factor: float = 2.0
    """Each next wait is the last one times this."""

    most: timedelta | None = None
    """No wait is longer; None = only `give_up_after` ends the growth."""

    give_up_after: timedelta = timedelta(hours=48)
    """No try later than this after the first failure."""

    def first(self, jitter: float) -> timedelta:
        """Return the first wait for a `jitter` drawn evenly from 0 to 1."""
        drawn = self.first_least + (self.first_most - self.first_least) * jitter
        return drawn - drawn % _GRAIN

    def following(self, last: timedelta) -> timedelta:
        """Return the wait after one of `last`."""
        grown = last * self.factor
        grown -= grown % _GRAIN
        return grown if self.most is None else min(grown, self.most)

    def scaled(self, scale: float) -> Schedule:
        """Return the same schedule with every time multiplied by `scale` (demonstrations: 1/3600, seconds for hours)."""
        most = None if self.most is None else self.most * scale
        return Schedule(
            self.first_least * scale, self.first_most * scale, self.factor, most, self.give_up_after * scale
        )


@dataclass(frozen=True, slots=True)
class Schedules:
    """The schedule of every category, under the name that the configuration chose."""

    name: str
    general: Schedule
    categories: Mapping[str, Schedule] = field(default_factory=dict)
    not_counted: frozenset[str] = frozenset()
    """Categories whose undelivered messages do not count towards the soft limit."""

    def of(self, category: str) -> Schedule:
        """Return the schedule of `category`; the general one where it has none of its own."""
        return self.categories.get(category, self.general)

    def scaled(self, scale: float) -> Schedules:
        """Return the same schedules with every time multiplied by `scale`."""
        own = {name: schedule.scaled(scale) for name, schedule in self.categories.items()}
        return replace(self, general=self.general.scaled(scale), categories=own)

    def changed(
        self, first_minutes: Mapping[str, Sequence[float]] | None = None, give_up_hours: float | None = None
    ) -> Schedules:
        """Return the same schedules with the administrator's own figures in place of the shipped ones.

        Args:
            first_minutes: category -> least and most minutes before its first retry.
            give_up_hours: hours since the first failure after which nothing is tried, for all of them.

        Raises:
            ScheduleError: a category that does not exist, or a range that is none.
        """
        own = dict(self.categories)
        for category, minutes in (first_minutes or {}).items():
            where = f"categories.{category}"
            own[category] = _schedule({"first_minutes": list(minutes)}, self.of(category), _known(category, where))
        changed = replace(self, categories=own)
        if give_up_hours is None:
            return changed
        end = timedelta(hours=give_up_hours)
        own = {name: replace(schedule, give_up_after=end) for name, schedule in own.items()}
        return replace(changed, general=replace(self.general, give_up_after=end), categories=own)

    @classmethod
    def from_toml(cls, text: str, name: str = "guide") -> Schedules:
        """Return the schedules that the table `name` of ``rules/schedules.toml`` holds.

        Raises:
            ScheduleError: not TOML, no such table, an unknown key or category, a range that is none.
        """
        try:
            tables = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise ScheduleError(f"schedules are not TOML: {error}") from None
        if not isinstance(table := tables.get(name), dict):
            raise ScheduleError(f"no schedule {name!r}; there are {', '.join(sorted(set(tables) - {'soft_limit'}))}")
        own = table.pop("category", {})
        general = _schedule(table, None, name)
        categories = {
            category: _schedule(figures, general, _known(category, f"{name}.category.{category}"))
            for category, figures in own.items()
        }
        not_counted = tables.get("soft_limit", {}).get("not_counted", [])
        for category in not_counted:
            _known(category, "soft_limit.not_counted")
        return cls(name, general, categories, frozenset(not_counted))


def _known(category: str, where: str) -> str:
    if category not in CATEGORIES:
        raise ScheduleError(f"{where}: no category {category!r}")
    return where


def _schedule(table: Mapping[str, Any], base: Schedule | None, where: str) -> Schedule:
    """Return the schedule that `table` states, the rest taken from `base`."""
    if unknown := sorted(set(table) - _KEYS):
        raise ScheduleError(f"{where}.{unknown[0]}: no such key")
    least, most = _range(table, base, where)
    return Schedule(
        least,
        most,
        _figure(table, "factor", base.factor if base else 2.0, where, 1.0),
        _span(table, "most_minutes", "minutes", base.most if base else None, where),
        _span(table, "give_up_hours", "hours", base.give_up_after if base else None, where) or timedelta(hours=48),
    )


def _range(table: Mapping[str, Any], base: Schedule | None, where: str) -> tuple[timedelta, timedelta]:
    bounds = table.get("first_minutes")
    if bounds is None and base is not None:
        return base.first_least, base.first_most
    match bounds:
        case [int() | float() as least, int() | float() as most] if 0 < least <= most:
            return timedelta(minutes=least), timedelta(minutes=most)
    raise ScheduleError(f"{where}.first_minutes = {bounds!r}: give least and most minutes, for example [120, 240]")


def _figure(table: Mapping[str, Any], key: str, default: float, where: str, least: float) -> float:
    value = table.get(key, default)
    if not isinstance(value, int | float) or value < least:
        raise ScheduleError(f"{where}.{key} = {value!r}: give a number of at least {least:g}")
    return float(value)


def _span(table: Mapping[str, Any], key: str, unit: str, default: timedelta | None, where: str) -> timedelta | None:
    return timedelta(**{unit: _figure(table, key, 0, where, 0.001)}) if key in table else default
