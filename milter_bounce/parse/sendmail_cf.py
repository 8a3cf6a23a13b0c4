"""Reader of sendmail.cf, as far as milter-bounce hangs on it: options, milters, maps, rulesets.

Goes in: the text of a sendmail.cf, as m4 made it. Comes out: `SendmailCf`.
Does not: expand macros, or judge.

Section: Sendmail Installation and Operation Guide, 5 (configuration file).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

from milter_bounce import limits

CF_LIMIT: Final = limits.SENDMAIL_CF

_MILTER: Final = re.compile(r"X([^,\s]{1,100}),(.{0,1000})")
_MAP: Final = re.compile(r"K([A-Za-z0-9_.-]{1,100})\s+(\S{1,40})(?:\s+(.{0,1000}))?")
_OPTION: Final = re.compile(r"O\s*([A-Za-z0-9.]{1,60})\s*=\s*(.{0,1000})")
_RULESET: Final = re.compile(r"S([A-Za-z0-9_.]{1,100})")
_LETTER: Final = re.compile(r"\s*([A-Za-z])=([^,]*)")
_TIME: Final = re.compile(r"([0-9]{1,9})([smhdw]?)")
_UNITS: Final = {"": 60, "s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


@dataclass(frozen=True, slots=True)
class Map:
    """One ``K`` line: class and arguments."""

    class_: str
    arguments: str = ""

    @property
    def flags(self) -> list[str]:
        """Return the words that begin with ``-``."""
        return [word for word in self.arguments.split() if word.startswith("-")]

    @property
    def target(self) -> str | None:
        """Return the first word that is no flag: for a socket map the address of its server."""
        return next((word for word in self.arguments.split() if not word.startswith("-")), None)


@dataclass(slots=True)
class SendmailCf:
    """What a sendmail.cf says."""

    options: dict[str, str] = field(default_factory=dict)
    milters: dict[str, dict[str, str]] = field(default_factory=dict)
    """Name -> letter -> value: S socket, F flags, T limits."""

    maps: dict[str, Map] = field(default_factory=dict)
    rulesets: dict[str, list[str]] = field(default_factory=dict)
    """Name -> rules, left side, right side and comment as they stand."""


def read_cf(text: str) -> SendmailCf:
    """Return what `text` says; lines of no interest are passed over.

    Raises: nothing, on any text.
    """
    cf, rules = SendmailCf(), None
    for line in text[:CF_LIMIT].splitlines():
        if rules is not None and line[:1] == "R":
            rules.append(line[1:])
        elif found := _RULESET.match(line):
            # a second S line of the same name goes on with that ruleset
            rules = cf.rulesets.setdefault(found[1], [])
        elif found := _OPTION.match(line):
            cf.options[found[1]] = found[2].strip()
        elif found := _MILTER.match(line):
            cf.milters[found[1]] = {m[1]: m[2].strip() for m in _LETTER.finditer(found[2])}
        elif found := _MAP.match(line):
            cf.maps[found[1]] = Map(found[2], (found[3] or "").strip())
    return cf


def read_time(text: str, unit: str = "") -> timedelta | None:
    """Return the time that ``2h``, ``1d12h`` or ``30`` mean; a bare number counts minutes unless `unit` says else."""
    at, seconds = 0, 0
    while found := _TIME.match(text, at):
        seconds += int(found[1]) * _UNITS[found[2] or unit]
        at = found.end()
    try:
        return timedelta(seconds=seconds) if at and at == len(text) else None
    except OverflowError:
        return None


def read_limits(text: str) -> dict[str, timedelta]:
    """Return the limits of a milter's ``T=C:2s;S:5s;R:10s;E:20s``."""
    parts = (part.strip().partition(":") for part in text.split(";"))
    return {name: limit for name, _, value in parts if (limit := read_time(value)) is not None}
