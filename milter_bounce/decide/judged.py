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
    spoken_of = _BY_COMMAND.get(status.command or "", {}).get(rule.category)
    if spoken_of is not None:
        rule = replace(rule, category=spoken_of, class_=None, advice=None, scope=None)
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


_OF_US: Final = dict.fromkeys(("invalid-recipient", "inactive-mailbox", "recipient-moved"), "policy-rejection")
_OF_OUR_NAME: Final = dict.fromkeys(
    ("invalid-recipient", "inactive-mailbox", "recipient-moved", "invalid-domain"), "rdns-missing"
)
_OF_SENDER: Final = dict.fromkeys(
    ("invalid-recipient", "inactive-mailbox", "recipient-moved", "invalid-domain"), "sender-rejected"
)
_BY_COMMAND: Final = {"CONNECT": _OF_US, "EHLO": _OF_OUR_NAME, "HELO": _OF_OUR_NAME, "MAIL": _OF_SENDER}
"""What words about a recipient mean where none was named yet: RFC 5321, 3.3 and 4.1.1 - the greeting answers our host,
EHLO our name, MAIL the sender. A greeting may still say that the host takes no mail at all (RFC 7504)."""

_ADVICE_OF: Final = {
    FailureClass.HARD: AdviceKind.FIX,
    FailureClass.SOFT: AdviceKind.RETRY,
    FailureClass.POLICY: AdviceKind.HOLD,
    FailureClass.NONE: AdviceKind.NONE,
}
"""What a rule that changes only the class is taken to advise."""
