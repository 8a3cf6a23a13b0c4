"""From what is known to what the MTA is told.

Goes in: a classified status, or what is remembered of a recipient, and which
capabilities are switched on. Comes out: an `Answer`, and its spelling for each
of the MTA's questions (gate, status filter, policy service, Sendmail's map).
Does not: look anything up, know the time, count.

"No opinion" is ``verdict.KEEP``; every doubt ends there, and mail flows.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from milter_bounce import limits
from milter_bounce.delivery import EnhancedStatus, lowered
from milter_bounce.verdict import GATE_MARK, HELD_MARK, KEEP, AdviceKind, Answer, FailureClass, annotation, printable

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from milter_bounce.delivery import DeliveryStatus
    from milter_bounce.verdict import Classification, Standing

TEXT_LIMIT: Final = limits.ANSWERED_TEXT

CHECK_ADDRESS: Final = "milter-bounce-check@check.invalid"
"""Asked by ``milter-bounce check``: the gate answers it in every mode, for "not found" is also what Postfix gets from
the empty table behind a gate that is away. RFC 2606: nobody has mail under .invalid."""

CHECK_STATUS: Final = "4.3.0 milter-bounce: check"
"""The same for the status filter."""

_DETAIL: Final = {
    # category -> subject and detail of its enhanced status (RFC 3463, 3; IANA registry)
    "mailbox-full": "2.2",
    "mailbox-unavailable": "2.1",
    "greylisted": "7.1",
    "rate-limited": "4.5",
    "too-many-recipients": "5.3",
    "network-error": "4.1",
    "dns-error": "4.3",
    "system-error": "3.0",
    "system-full": "3.1",
    "tls-failure": "7.5",
}


@dataclass(frozen=True, slots=True)
class GateSwitches:
    """Which capabilities of the gate are on."""

    hold_early: bool = True
    hold_blocks: bool = True
    refuse_suppressed: bool = True
    give_up: bool = True
    bounce_blocked: bool = False


@dataclass(frozen=True, slots=True)
class CorrectSwitches:
    """Which corrections are on."""

    soften: bool = True
    harden: bool = True
    policy: bool = True
    off_categories: frozenset[str] = frozenset()
    off_rules: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class AllowList:
    """Addresses that are never refused or held: ``user@domain``, ``domain`` or ``.domain`` for its subdomains."""

    entries: frozenset[str] = frozenset()

    @classmethod
    def of(cls, entries: Iterable[str]) -> AllowList:
        """Return the list that the configuration's words mean."""
        return cls(frozenset(lowered(entry.strip().strip("<>")) for entry in entries))

    def __contains__(self, address: object) -> bool:
        """Return whether `address` is named, by itself, by its domain or by a domain above."""
        if not self.entries or not isinstance(address, str):
            return False
        folded = lowered(address.strip("<>"))
        domain = folded.rpartition("@")[2]
        if folded in self.entries or domain in self.entries:
            return True
        labels = domain.split(".")[-127:]
        return any("." + ".".join(labels[i:]) in self.entries for i in range(1, len(labels)))


def _minute(when: datetime) -> str:
    return when.strftime("%Y-%m-%dT%H:%MZ")


def _answer(status: str, text: str, rule: str = "") -> Answer:
    return Answer(keep=False, status=status, text=GATE_MARK + printable(text, TEXT_LIMIT), rule=rule)


# -- the gate ---------------------------------------------------------------


def gate(standing: Standing, on: GateSwitches) -> Answer:
    """Return what the queue manager is told about one recipient before an attempt.

    Returns: KEEP to let it go; a 4.x.x that keeps it in the queue without a
    connection; a 5.x.x that returns it. The text says until when, why and since when.
    """
    match standing.kind:
        case AdviceKind.SUPPRESS if on.refuse_suppressed:
            return suppressed(standing)
        case AdviceKind.GIVE_UP if on.give_up:
            tried = "1 attempt" if standing.attempts == 1 else f"{standing.attempts} attempts"
            return _answer("5.4.7", f"given up after {tried}, {_why(standing)}", standing.rule)
        case AdviceKind.HOLD if on.hold_blocks and standing.block is not None:
            return _blocked(standing, bounce=on.bounce_blocked)
        case AdviceKind.HOLD | AdviceKind.RETRY if on.hold_early and standing.until is not None:
            return _early(standing)
    return KEEP


def _why(standing: Standing) -> str:
    """Return category, since when and by which rule, as far as they are known."""
    since = "" if standing.since is None else f" since {_minute(standing.since)}"
    rule = f", rule {standing.rule}" if standing.rule else ""
    return f"{standing.category or 'failing'}{since}{rule}"


def _early(standing: Standing) -> Answer:
    until = "now" if standing.until is None else _minute(standing.until)
    detail = "7.1" if standing.kind is AdviceKind.HOLD else _DETAIL.get(standing.category, "4.0")
    if standing.backoff is not None:
        return _answer(f"4.{detail}", f"{standing.backoff} not before {until}, {_why(standing)}", standing.rule)
    return _answer(
        f"4.{detail}", f"not before {until}, {_why(standing)}, attempt {standing.attempts + 1}", standing.rule
    )


def _blocked(standing: Standing, *, bounce: bool) -> Answer:
    if bounce:
        return _answer("5.7.1", f"not sent, blocked by {standing.block}, {_why(standing)}", standing.rule)
    until = "" if standing.until is None else f", next probe {_minute(standing.until)}"
    return _answer("4.7.1", f"{HELD_MARK}{standing.block}, {_why(standing)}{until}", standing.rule)


def suppressed(standing: Standing) -> Answer:
    """Return the answer for mail to a suppressed recipient: since when and why."""
    reason = f", {standing.text}" if standing.text else ""
    return _answer("5.1.1", f"suppressed, {_why(standing)}{reason}", standing.rule)


# -- the status filter --------------------------------------------------------


def correct(code: EnhancedStatus, status: DeliveryStatus, verdict: Classification, on: CorrectSwitches) -> Answer:
    """Return the code that replaces one whose first digit says the wrong thing; KEEP where it says the right one.

    Only what a remote MTA said is corrected, only between 4 and 5, and subject and detail stay as they are.

    Args:
        code: what Postfix is about to log.
        status: the evidence behind it.
        verdict: what it means.
        on: which corrections are on.
    """
    if code.class_ not in {4, 5} or status.local or verdict.gate or status.reply_code is None:
        return KEEP
    if verdict.category in on.off_categories or verdict.rule in on.off_rules:
        return KEEP
    wanted = _wanted(verdict, on)
    if wanted is None or wanted == code.class_:
        return KEEP
    return Answer(keep=False, status=str(EnhancedStatus(wanted, code.subject, code.detail)), rule=verdict.rule)


def _wanted(verdict: Classification, on: CorrectSwitches) -> int | None:
    """Return the first digit that a verdict asks for; None where it asks for none or that correction is off."""
    if verdict.class_ is FailureClass.SOFT and verdict.advice is AdviceKind.RETRY and on.soften:
        return 4
    if verdict.class_ is FailureClass.HARD and verdict.advice is AdviceKind.SUPPRESS and on.harden:
        return 5
    if verdict.class_ is FailureClass.POLICY and verdict.advice is AdviceKind.HOLD and on.policy:
        return 4
    return None


def filtered(
    status: EnhancedStatus, text: str, verdict: Classification, answer: Answer, *, annotate: bool
) -> str | None:
    """Return the status filter's answer to Postfix, ``4.2.2 text``; None leaves code and text as they are.

    Args:
        status: the code in the question.
        text: the text in the question, as it was.
        verdict: what it means.
        answer: of `correct`.
        annotate: put the verdict in front even where the code stays.
    """
    if status.class_ == 2 or verdict.gate or (answer.keep and not annotate):
        return None
    if answer.keep:
        return f"{status} {annotation(verdict)} {text}"
    return f"{answer.status} {annotation(verdict, status)} {text}"


# -- spellings ----------------------------------------------------------------

_NOT_PLAIN: Final = re.compile(r"[^A-Za-z0-9 .:_@/+-]+")


def gate_value(answer: Answer) -> str | None:
    """Return a transport table's value (transport(5)): ``retry:4.2.2 text`` or ``error:5.1.1 text``; None = no entry."""
    if answer.keep or answer.status is None:
        return None
    service = "error" if answer.status.startswith("5") else "retry"
    return f"{service}:{answer.status} {answer.text}"


def policy_action(answer: Answer, recipient: str) -> str | None:
    """Return an access(5) action, ``550 5.1.1 text``; None = DUNNO. Only a permanent answer refuses."""
    if answer.keep or answer.status is None or not answer.status.startswith("5"):
        return None
    return f"550 {answer.status} <{printable(recipient, 256)}>: {answer.text}"


def compat_value(answer: Answer) -> str | None:
    """Return what Sendmail's check_compat asks for, ``DEFER 4.7.1 text`` or ``REJECT 5.1.1 text``; None = not found.

    Plain words only: Sendmail takes the text apart into tokens, drops quotes and
    parentheses, and blanks after ``,`` and ``;`` (seen with 8.17.1.9).
    """
    if answer.keep or answer.status is None:
        return None
    word = "REJECT" if answer.status.startswith("5") else "DEFER"
    plain = " ".join(_NOT_PLAIN.sub(" ", answer.text).split())
    return f"{word} {answer.status} {plain}"


@dataclass(frozen=True, slots=True)
class CompatQuestion:
    """What Sendmail's check_compat asks: ``queue ID;tries;sender;recipient``."""

    queue_id: str
    tries: int
    sender: str
    recipient: str

    @classmethod
    def from_text(cls, text: str) -> CompatQuestion | None:
        """Return the question in `text`; None for anything else. The recipient may contain a ``;``, the sender not."""
        parts = text.split(";", 3)
        if len(parts) != 4:
            return None
        tries = int(parts[1]) if re.fullmatch(r"[0-9]{1,6}", parts[1]) else 0
        return cls(parts[0], tries, parts[2].strip().strip("<>"), parts[3].strip().strip("<>"))

    @property
    def exempt(self) -> bool:
        """Whether it must never be held or refused: reports (null reverse-path) and local recipients.

        A server that refuses those as well makes Sendmail lose its own reports ("savemail panic", seen).
        """
        return not self.sender or "@" not in self.recipient
