"""Codes without words: which rule an enhanced status, a reply code or a first digit falls under.

Goes in: the rules of ``status.toml`` and ``replies.toml``. Comes out: one rule
for any pair of codes. Does not: read text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from milter_bounce import limits

from .rule_toml import Rule, Tier

if TYPE_CHECKING:
    from collections.abc import Sequence

    from milter_bounce.delivery import EnhancedStatus

KEPT: Final = limits.CODES_KEPT


def _default(name: str) -> Rule:
    return Rule(f"default-{name}", "(built in)", Tier.REPLY, "undetermined", source="RFC 5321, 4.2.1: the first digit")


DEFAULT_4XX: Final = _default("4xx")
DEFAULT_5XX: Final = _default("5xx")
DEFAULT_NONE: Final = _default("none")
DEFAULT_IDS: Final = frozenset({"default-4xx", "default-5xx", "default-none"})


def first_digit(code: int | None, status: EnhancedStatus | None) -> int | None:
    """Return the digit that says temporary or permanent: the reply code's, else the status's."""
    if code is not None:
        return code // 100
    return None if status is None else status.class_


def _default_of(code: int | None, status: EnhancedStatus | None) -> Rule:
    digit = first_digit(code, status)
    if digit == 4:
        return DEFAULT_4XX
    return DEFAULT_5XX if digit == 5 else DEFAULT_NONE


class Codes:
    """The rules of the codes; the first that fits, in file order."""

    def __init__(self, status_rules: Sequence[Rule], reply_rules: Sequence[Rule]) -> None:
        """Keep the rules in order; what they say of a pair of codes is remembered."""
        self.status_rules, self.reply_rules = tuple(status_rules), tuple(reply_rules)
        self._known: dict[tuple[int | None, EnhancedStatus | None], Rule] = {}

    def rule_of(self, code: int | None, status: EnhancedStatus | None) -> Rule:
        """Return the rule that the codes alone fall under.

        An enhanced status beats a reply code (RFC 3463), unless it says nothing
        (x.0.0, RFC 3463, 3.1) and the reply code does.
        """
        key = (code, status)
        known = self._known.get(key)
        if known is None:
            known = self.all_of(code, status)[0]
            if len(self._known) < KEPT:
                self._known[key] = known
        return known

    def all_of(self, code: int | None, status: EnhancedStatus | None) -> list[Rule]:
        """Return every rule that the codes fall under, the one that decides first."""
        by_status = [r for r in self.status_rules if status and any(p.matches(status) for p in r.status or ())]
        by_reply = [r for r in self.reply_rules if r.reply and code in r.reply]
        silent = status is not None and status.subject == 0 and status.detail == 0
        ordered = by_reply + by_status if silent and status and status.class_ != 2 else by_status + by_reply
        return [*ordered, _default_of(code, status)]
