"""Rates that operators act on, from ``rules/thresholds.toml``.

Goes in: how many messages of each class and category failed, and how many there
were. Comes out: each rate with its mark: fine, warn or bad.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from milter_bounce.config import ConfigError
from milter_bounce.verdict import CATEGORIES, FailureClass

from .share import rules_dir

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from .logtally import Failed


@dataclass(frozen=True, slots=True)
class Threshold:
    """One rate, and from where on it harms."""

    id: str
    label: str
    warn: float
    bad: float
    classes: frozenset[str] = frozenset()
    categories: frozenset[str] = frozenset()

    def rate(self, failed: Iterable[Failed], messages: int) -> float:
        """Return the share of `messages` that failed in the classes and categories that count here."""
        hits = sum(1 for one in failed if one.class_ in self.classes or one.category in self.categories)
        return hits / messages if messages else 0.0

    def mark(self, rate: float) -> str:
        """Return ``fine``, ``warn`` or ``bad``."""
        return "bad" if rate > self.bad else "warn" if rate > self.warn else "fine"


def _threshold(entry: dict[str, Any]) -> Threshold:
    classes, categories = frozenset(entry.get("classes", ())), frozenset(entry.get("categories", ()))
    if unknown := sorted((classes - {str(c) for c in FailureClass}) | (categories - CATEGORIES.keys())):
        raise ValueError(f"no such class or category: {unknown[0]}")
    warn, bad = float(entry["warn"]), float(entry["bad"])
    if not 0 < warn <= bad <= 1:
        raise ValueError("needs 0 < warn <= bad <= 1")
    return Threshold(str(entry["id"]), str(entry["label"]), warn, bad, classes, categories)


def load_thresholds(path: Path | None = None) -> list[Threshold]:
    """Return the thresholds of `path`, by default the shipped ones.

    Raises:
        ConfigError: file, threshold and reason.
    """
    path = path or rules_dir() / "thresholds.toml"
    entry: dict[str, Any] = {}
    try:
        with path.open("rb") as file:
            entries = tomllib.load(file)["threshold"]
        found = []
        for entry in entries:
            found.append(_threshold(entry))
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{path}: {entry.get('id', 'thresholds')}: {error}; compare with the shipped file") from None
    return found
