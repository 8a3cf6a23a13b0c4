"""Waiting times that a reply states: ``try again in 30 minutes``, ``retry in 00:04:59``.

Goes in: phrases as data and the words of a reply. Comes out: a `timedelta`.
Does not: bound it by policy (``advise`` does), nor know any unit by itself.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final

import re2

from milter_bounce import limits

from .rule_toml import RulesError
from .scan import compiled, why_not

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .rule_toml import TimePhrase

LONGEST: Final = limits.STATED_WAIT


class Times:
    """All phrases with their units."""

    def __init__(self, phrases: Sequence[TimePhrase], units: Mapping[str, int]) -> None:
        """Compile the phrases.

        Raises:
            RulesError: file, phrase and what RE2 says.
        """
        self.phrases = tuple(phrases)
        self._units = dict(units)
        self._compiled = []
        for phrase in phrases:
            try:
                self._compiled.append(compiled(phrase.text))
            except re2.error:
                raise RulesError(phrase.file, phrase.id, f"RE2 cannot take it: {why_not(phrase.text)}") from None

    def stated(self, number: int, raw: bytes) -> timedelta | None:
        """Return the time that phrase `number`, which matches, states in `raw`; None where the unit is unknown."""
        found = self._compiled[number].search(raw)
        if found is None:
            return None
        try:
            return self._bounded(found.groupdict())
        except (ValueError, OverflowError):  # a phrase of the administrator's whose groups take more than digits
            return None

    def _bounded(self, groups: Mapping[bytes, bytes | None]) -> timedelta | None:
        """Return what the groups of a phrase state, if it is a waiting time at all."""
        clock, count, unit = groups.get(b"clock"), groups.get(b"n"), groups.get(b"unit")
        seconds = None
        if clock:
            seconds = _clock(clock.decode())
        elif count:
            each = self._units.get((unit or b"").decode(errors="replace").lower().rstrip("."))
            seconds = None if each is None else int(count) * each
        if not seconds:
            return None
        wait = timedelta(seconds=seconds)
        return wait if timedelta(0) < wait <= LONGEST else None


def _clock(text: str) -> int:
    """Return the seconds of ``hh:mm:ss`` or ``mm:ss``."""
    seconds = 0
    for part in text.split(":"):
        seconds = seconds * 60 + int(part)
    return seconds
