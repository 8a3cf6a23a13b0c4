"""The readers of reports with the shipped phrases: what the milter and the command line use.

Also here: what a complaint or an automatic answer means. No rule can tell,
since the kind of the message says it and not a text.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from milter_bounce import limits
from milter_bounce.delivery import Kind
from milter_bounce.parse.readers import Readers
from milter_bounce.parse.report import parse_report
from milter_bounce.verdict import CATEGORIES, AdviceKind, Classification

from .share import rules_dir

if TYPE_CHECKING:
    from milter_bounce.decide.ruleset import RuleSet
    from milter_bounce.delivery import DeliveryReport, DeliveryStatus

_BY_KIND: Final = {Kind.FEEDBACK: "feedback", Kind.AUTO_REPLY: "auto-reply"}
NO_COMPLAINT: Final = frozenset({"auth-failure", "not-spam", "virus", "dmarc"})
"""Types of feedback in which no recipient asks to be left alone (RFC 6591; RFC 5965, 7.3)."""


@dataclass(frozen=True, slots=True)
class ReportReader:
    """Phrases, loaded, and the reading of a message with them."""

    readers: Readers

    def read(self, message: bytes) -> DeliveryReport:
        """Return what a message tells about deliveries. Raises: nothing, on any bytes."""
        return parse_report(message, self.readers)


@dataclass(frozen=True, slots=True)
class ReportRules:
    """Rules for the statuses of one report: its kind decides where it can, the rules where it cannot.

    Limits: words are heeded in `limits.REPORT_WORDINGS` wordings; a recipient with yet another one is judged by its codes.
    """

    report: DeliveryReport
    rules: RuleSet
    _wordings: set[str] = field(default_factory=set)

    def classify(self, status: DeliveryStatus) -> Classification:
        """Return what a status of the report means."""
        category = _BY_KIND.get(self.report.kind)
        if category is None:
            return self.rules.classify(status if self._is_heeded(status) else replace(status, diagnostic=None))
        class_, advice, scope = CATEGORIES[category]
        kind = self.report.feedback_type or ""
        if kind in NO_COMPLAINT:
            advice = AdviceKind.NONE
        return Classification(class_, category, advice, scope, f"kind-{category}", matched=kind)

    def _is_heeded(self, status: DeliveryStatus) -> bool:
        """Return whether the words of `status` are among the first wordings of the report."""
        if len(self.report.statuses) <= limits.REPORT_WORDINGS or not status.diagnostic:
            return True
        words = self.rules.words(status)
        if len(self._wordings) < limits.REPORT_WORDINGS:
            self._wordings.add(words)
        return words in self._wordings


@lru_cache(maxsize=1)
def load_readers() -> ReportReader:
    """Return the readers with the phrases of rules/readers/reports.toml.

    Raises: `ReadersError`, `OSError`: the shipped file is broken or gone (reinstall the package).
    """
    path = rules_dir() / "readers" / "reports.toml"
    return ReportReader(Readers.from_toml(path.read_text(encoding="utf-8")))
