"""What a rule means for one status: its verdict, tempered by the first digit and by who spoke.

Goes in: a rule, what it matched, the codes. Comes out: `Classification`.
Section: rules/README.md, "4xx and 5xx"; TAXONOMY, "Resolutions that hold everywhere".
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from milter_bounce.delivery import Action
from milter_bounce.verdict import CATEGORIES, AdviceKind, Classification, FailureClass

from .codes import first_digit
from .rule_toml import Tier

if TYPE_CHECKING:
    from milter_bounce.delivery import DeliveryStatus

    from .rule_toml import Rule


def code_text(status: DeliveryStatus) -> str:
    """Return the codes of `status` as matched text: ``550 5.1.1``; "" where it has none."""
    return " ".join(str(part) for part in (status.reply_code, status.status) if part is not None)


def temporary(status: DeliveryStatus) -> bool | None:
    """Return whether the codes claim a transient failure; None where there are none."""
    if status.action is Action.DELAYED and status.reply_code is None:
        return True
    digit = first_digit(status.reply_code, status.status)
    return None if digit is None else digit == 4


def judged(rule: Rule, matched: str, operator: str | None, status: DeliveryStatus) -> Classification:
    """Return the verdict of `rule` on `status`, whose text it matched in `matched`."""
    rule = _of_whom(rule, status.command)
    transient = temporary(status)
    defaults = CATEGORIES[rule.category]
    class_, advice = rule.class_ or defaults.class_, rule.advice or defaults.advice
    if rule.category == "undetermined" and rule.class_ is None and transient is False:
        class_, advice = FailureClass.HARD, rule.advice or AdviceKind.FIX
    if transient and rule.class_ is None and class_ is FailureClass.HARD and rule.category != "inactive-mailbox":
        class_, advice = FailureClass.SOFT, AdviceKind.RETRY
    if rule.class_ is not None and rule.advice is None and rule.class_ is not defaults.class_:
        advice = _ADVICE_OF[rule.class_]
    if advice is AdviceKind.GIVE_UP and status.action is Action.DELAYED:
        advice = AdviceKind.RETRY  # x.4.7 in a warning: who writes it goes on trying
    if status.local and advice is AdviceKind.SUPPRESS:
        advice = AdviceKind.FIX
    return Classification(class_, rule.category, advice, rule.scope or defaults.scope, rule.id, matched, operator)


def _of_whom(rule: Rule, command: str | None) -> Rule:
    """Return what `rule` means where `command` was refused and no recipient was named yet (RFC 5321, 3.3 and 4.1.1).

    What the administrator says, or a rule that names its commands, stays. A greeting may say that the host takes no
    mail at all (RFC 7504).
    """
    meant = _BEFORE_RCPT.get(command or "")
    if meant is None or rule.category not in _OF_RECIPIENT or rule.command is not None or rule.tier is Tier.LOCAL:
        return rule
    if command == "CONNECT" and rule.category == "invalid-domain":
        return rule
    return replace(rule, category=meant, class_=None, advice=None, scope=None)


_OF_RECIPIENT: Final = frozenset({"invalid-recipient", "inactive-mailbox", "recipient-moved", "invalid-domain"})
_BEFORE_RCPT: Final = {
    "CONNECT": "policy-rejection",
    "EHLO": "rdns-missing",
    "HELO": "rdns-missing",
    "MAIL": "sender-rejected",
}
"""What words about a recipient mean then: the greeting answers our host, EHLO our name, MAIL the sender."""

_ADVICE_OF: Final = {
    FailureClass.HARD: AdviceKind.FIX,
    FailureClass.SOFT: AdviceKind.RETRY,
    FailureClass.POLICY: AdviceKind.HOLD,
    FailureClass.NONE: AdviceKind.NONE,
}
"""What a rule that changes only the class is taken to advise."""
