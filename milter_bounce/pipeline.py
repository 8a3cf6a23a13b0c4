"""judge(): the only place where the rooms meet. Pure: evidence and history in, outcome out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from .verdict import History, Outcome

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from .delivery import DeliveryStatus
    from .verdict import Advice, Classification


class Rules(Protocol):
    """What the pipeline needs of a rule set (decide.ruleset)."""

    def classify(self, status: DeliveryStatus) -> Classification:
        """Return what `status` means."""


class Adviser(Protocol):
    """What the pipeline needs of the advice (decide.advise): schedules and limits bound to it."""

    def advise(self, status: DeliveryStatus, verdict: Classification, history: History, now: datetime) -> Advice:
        """Return what to do about `status`."""


def judge(
    status: DeliveryStatus,
    rules: Rules,
    recall: Callable[[DeliveryStatus, Classification], History],
    adviser: Adviser,
    now: datetime,
    *,
    genuine: bool | None = None,
    genuine_reason: str = "",
) -> Outcome:
    """Return the outcome for one status.

    Args:
        status: the evidence.
        rules: classifies it.
        recall: what the store remembers that matters for this status under this classification.
        adviser: turns both into advice.
        now: aware UTC time of the judgement.
        genuine: for a report, whether it was shown genuine; False means that nothing may change on its word, so it
            is judged without history.
        genuine_reason: why, in words.
    """
    verdict = rules.classify(status)
    return advised(status, verdict, recall, adviser, now, genuine=genuine, genuine_reason=genuine_reason)


def advised(
    status: DeliveryStatus,
    verdict: Classification,
    recall: Callable[[DeliveryStatus, Classification], History],
    adviser: Adviser,
    now: datetime,
    *,
    genuine: bool | None = None,
    genuine_reason: str = "",
) -> Outcome:
    """Return the outcome for one status that is classified already; see `judge`."""
    history = History() if genuine is False else recall(status, verdict)
    return Outcome(status, verdict, adviser.advise(status, verdict, history, now), genuine, genuine_reason)
