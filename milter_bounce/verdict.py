"""Nouns of judgement: what a delivery status means and what to do about it.

Goes in: evidence (``delivery``). Comes out: ``Classification``, ``Advice``,
``Outcome`` with its one log line and its one event, and ``Answer`` for the MTA.
Does not: decide. The vocabulary is TAXONOMY's: class, advice, category, scope.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final, NamedTuple

from .escape import printable as printable  # noqa: PLC0414 - all rooms know it by this place

if TYPE_CHECKING:
    from datetime import datetime, timedelta

    from .delivery import DeliveryStatus, EnhancedStatus


class FailureClass(StrEnum):
    """What kind of failure it is."""

    HARD = "hard"
    SOFT = "soft"
    POLICY = "policy"
    NONE = "none"


class AdviceKind(StrEnum):
    """What the queue and the list owner should do; never called action, which is RFC 3464's field."""

    RETRY = "retry"
    HOLD = "hold"
    SUPPRESS = "suppress"
    FIX = "fix"
    GIVE_UP = "give-up"
    NONE = "none"


class Scope(StrEnum):
    """Whom the failure is about, and so what a back-off or a block is keyed by."""

    RECIPIENT = "recipient"
    DESTINATION = "destination"
    MESSAGE = "message"
    SENDER = "sender"
    SENDER_DOMAIN = "sender-domain"
    SENDING_HOST = "sending-host"
    NONE = "none"


class CategoryDefaults(NamedTuple):
    """What a category means unless the rule says otherwise."""

    class_: FailureClass
    advice: AdviceKind
    scope: Scope


def _defaults(class_: str, advice: str, scope: str) -> CategoryDefaults:
    return CategoryDefaults(FailureClass(class_), AdviceKind(advice), Scope(scope))


CATEGORIES: Final[dict[str, CategoryDefaults]] = {
    "invalid-recipient": _defaults("hard", "suppress", "recipient"),
    "invalid-domain": _defaults("hard", "suppress", "destination"),
    "inactive-mailbox": _defaults("hard", "suppress", "recipient"),
    "recipient-moved": _defaults("hard", "suppress", "recipient"),
    "mailbox-full": _defaults("soft", "retry", "recipient"),
    "mailbox-unavailable": _defaults("soft", "retry", "recipient"),
    "greylisted": _defaults("soft", "retry", "recipient"),
    "rate-limited": _defaults("soft", "retry", "destination"),
    "too-many-recipients": _defaults("soft", "retry", "message"),
    "network-error": _defaults("soft", "retry", "destination"),
    "dns-error": _defaults("soft", "retry", "destination"),
    "system-error": _defaults("soft", "retry", "destination"),
    "system-full": _defaults("soft", "retry", "destination"),
    "tls-failure": _defaults("soft", "retry", "destination"),
    "blocklisted": _defaults("policy", "hold", "sending-host"),
    "poor-reputation": _defaults("policy", "hold", "sending-host"),
    "auth-failure": _defaults("policy", "hold", "sender-domain"),
    "rdns-missing": _defaults("policy", "hold", "sending-host"),
    "spam-content": _defaults("policy", "fix", "message"),
    "virus": _defaults("policy", "fix", "message"),
    "policy-rejection": _defaults("policy", "hold", "sender"),
    "sender-rejected": _defaults("hard", "fix", "sender"),
    "relay-denied": _defaults("hard", "fix", "sender"),
    "content-rejected": _defaults("hard", "fix", "message"),
    "message-too-large": _defaults("hard", "fix", "message"),
    "protocol-error": _defaults("hard", "fix", "sender"),
    "config-error": _defaults("hard", "fix", "sender"),
    "routing-loop": _defaults("hard", "fix", "destination"),
    "expired": _defaults("soft", "give-up", "recipient"),
    "auto-reply": _defaults("none", "none", "none"),
    "feedback": _defaults("none", "suppress", "recipient"),
    "delivered": _defaults("none", "none", "none"),
    # class and advice of "undetermined" go by the first digit; these are for no digit at all
    "undetermined": _defaults("soft", "retry", "recipient"),
}
"""Category -> its default class, advice and scope (TAXONOMY)."""


@dataclass(frozen=True, slots=True)
class BlocklistMention:
    """A blocklist that a reply names or links."""

    zone: str
    operator: str
    listed: str | None = None
    """The IP address or domain that the reply says is listed; None where it does not say."""

    lookup: str | None = None
    """Where to look it up and ask for removal (URL)."""

    weight: str = "block"
    """``block`` or ``advise``: a list of weight advise never holds mail."""


@dataclass(frozen=True, slots=True)
class Classification:
    """What a delivery status means, and which rule says so."""

    class_: FailureClass
    category: str
    advice: AdviceKind
    scope: Scope
    rule: str
    """Id of the rule that decided; ``default-4xx`` and the like where only a digit did."""

    matched: str = ""
    """The text, code or digit that the rule matched."""

    operator: str | None = None
    """Who runs the recipient's mail, by MX suffix; None where no known operator does."""

    blocklists: tuple[BlocklistMention, ...] = ()
    retry_after: timedelta | None = None
    """A waiting time that the reply itself states ("try again in 30 minutes")."""

    gate: bool = False
    """True for a text of our own (gate or filter annotation) that came back: never a failure."""


@dataclass(frozen=True, slots=True)
class Episode:
    """The failed attempts of one recipient since the last success."""

    first_failure: datetime
    last_failure: datetime
    attempts: int
    not_before: datetime | None = None
    delay: timedelta | None = None
    """The last waiting time advised; the next is twice as long."""

    category: str = ""
    """What the last failure was."""

    rule: str = ""
    block: str | None = None
    """Key of the block that the last failure belongs to."""

    given_up: datetime | None = None
    """When the schedule was used up; a message that first fails later starts a new episode."""

    countable: bool = False
    """Whether its message counts towards the soft limit should it go undelivered."""

    text: str = ""
    """What was said at the last failure, cut."""


class BlockState(StrEnum):
    """How far a block is from being over."""

    HELD = "held"
    """Nothing passes but one probe now and then."""

    TRIAL = "trial"
    """Lifted, not yet proved: the next message is the probe, the rest waits for its word."""

    RAMP = "ramp"
    """A probe was delivered: a rising share passes."""

    CLOSED = "closed"
    """Over; kept for the record."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """A destination that is left in peace for a while: too many connections, too fast, out of order."""

    key: str
    """The operator, else the domain."""

    since: datetime
    not_before: datetime
    delay: timedelta
    category: str


BY_HAND: Final = "admin"
"""Rule of the blocks and suppressions that the administrator adds; a block of it ends at once when it is lifted."""


@dataclass(frozen=True, slots=True)
class Block:
    """A destination that refuses us: nothing is retried until it is lifted."""

    key: str
    operator: str
    scope: Scope
    category: str
    rule: str
    began: datetime
    probe_at: datetime | None
    """When one message is let through to learn whether the block still stands."""

    ends: datetime
    """A block always ends: when this day comes it expires by itself."""

    text: str = ""
    zones: tuple[str, ...] = ()
    """Blocklist zones that the refusals named: it lifts when none of them lists us."""

    refusals: int = 1
    lifted_at: datetime | None = None
    lifted_by: str | None = None
    """``dns:ZONE``, ``probe``, ``expired`` or the name of the person, for the record."""

    state: BlockState = BlockState.HELD
    probe_after: timedelta | None = None
    """From one refused probe to the next; None = no probes."""

    ramp_from: datetime | None = None
    """Since when a rising share passes."""

    last_refusal: datetime | None = None


@dataclass(frozen=True, slots=True)
class Suppression:
    """A recipient that is not to be mailed again."""

    recipient: str
    since: datetime
    category: str
    rule: str
    reason: str
    origin: str = "log"
    """``log``, ``report``, ``feedback``, ``admin`` or ``import``."""


@dataclass(frozen=True, slots=True)
class History:
    """What the store remembers that matters for one status; empty for a first contact."""

    episode: Episode | None = None
    soft_bounces: int = 0
    """Undelivered messages to this recipient in the window of the soft limit, without this one."""

    hard_bounces: int = 0
    refusals: int = 0
    """Policy refusals under this block key within the threshold's window, without this one."""

    block: Block | None = None
    suppression: Suppression | None = None
    backoff: Backoff | None = None
    """The back-off that the destination is or was last under."""

    message_since: datetime | None = None
    """When this message first failed for this recipient; None = it did not before."""


EMPTY_HISTORY: Final = History()


@dataclass(frozen=True, slots=True)
class Advice:
    """What to do and until when."""

    kind: AdviceKind
    not_before: datetime | None = None
    """No attempt before this time (aware UTC); None = nothing to wait for, or nothing to try."""

    attempt: int = 1
    delay: timedelta | None = None
    block: str | None = None
    """Key of the block that this status belongs to; None where none stands or begins."""

    backoff: str | None = None
    """Key of the destination that is backed off as a whole."""

    backoff_until: datetime | None = None
    """Until when it is; None where no back-off begins."""

    countable: bool = False
    """Whether the message counts towards the soft limit should it go undelivered in the end."""

    counts: FailureClass = FailureClass.NONE
    """``soft`` or ``hard`` where the message went undelivered and counts towards that limit of its recipient."""

    reason: str = ""
    """Which figure decided, in words: ``schedule guide``, ``stated in the reply``, ``soft limit 4 in 30 d``."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One status with its verdict: what is logged, stored, printed and answered."""

    status: DeliveryStatus
    classification: Classification
    advice: Advice
    genuine: bool | None = None
    """For a report: shown genuine or not (DESIGN.md section 7); None where the question does not arise."""

    genuine_reason: str = ""


class NoticeKind(StrEnum):
    """What came to an end or began."""

    DELIVERED = "delivered"
    GAVE_UP = "gave-up"
    SUPPRESSED = "suppressed"
    UNSUPPRESSED = "unsuppressed"
    RELEASED = "released"
    BACKED_OFF = "backed-off"
    BACKOFF_ENDED = "backoff-ended"
    BLOCK_BEGAN = "block-began"
    BLOCK_RENEWED = "block-renewed"
    BLOCK_LIFTED = "block-lifted"
    BLOCK_EASED = "block-eased"
    BLOCK_ENDED = "block-ended"


@dataclass(frozen=True, slots=True)
class Notice:
    """Something that changed for a recipient or a destination: one line in the log.

    A block's beginning also goes to the administrator.
    """

    kind: NoticeKind
    key: str
    """The recipient, the block's key or the destination."""

    at: datetime
    queue_id: str | None = None
    operator: str | None = None
    category: str | None = None
    rule: str | None = None
    attempts: int | None = None
    """Failed attempts of the episode, or refusals of the block."""

    since: datetime | None = None
    until: datetime | None = None
    """The next probe of a block, the end of a back-off."""

    by: str | None = None
    """Who or what lifted a block: ``dns:ZONE``, ``probe``, ``delivery``, ``expired`` or a person."""

    text: str = ""


@dataclass(frozen=True, slots=True)
class Standing:
    """What stands in the way of one recipient now: what the gate and the policy service answer from."""

    kind: AdviceKind = AdviceKind.NONE
    """none = let it pass; retry = before its time; hold = blocked; give-up = schedule used up; suppress."""

    until: datetime | None = None
    since: datetime | None = None
    category: str = ""
    rule: str = ""
    text: str = ""
    """Why, in words; for a suppression its reason."""

    attempts: int = 0
    block: str | None = None
    backoff: str | None = None
    probe: str | None = None
    """Key of a block whose next probe this recipient may be."""


FREE: Final = Standing()

GATE_MARK: Final = "milter-bounce: "
"""How each text of the queue gate begins after its status: ``4.7.1 milter-bounce: held until ...``."""

HELD_MARK: Final = "held until lifted, block "
"""How the gate goes on where a block is why."""

_ANNOTATION: Final = re.compile(
    r"\[class=[a-z]{1,10} category=[a-z-]{1,40} advice=[a-z-]{1,12} rule=[A-Za-z0-9._-]{1,80}"
    r"(?: was=[245]\.[0-9]{1,3}\.[0-9]{1,3})?\] ?"
)


def annotation(verdict: Classification, was: EnhancedStatus | None = None) -> str:
    """Return what the status filter puts before the original text; `strip_annotation` takes it off again.

    `was` is the code before a correction.
    """
    before = "" if was is None else f" was={was}"
    parts = f"class={verdict.class_} category={verdict.category} advice={verdict.advice} rule={verdict.rule}{before}"
    return f"[{parts}]"


def strip_annotation(text: str) -> str:
    """Return `text` without the annotations of our own status filter, so that the original is what is judged."""
    return _ANNOTATION.sub("", text) if "[class=" in text else text


def _quoted(text: str) -> str:
    return '"' + printable(text).replace('"', "'") + '"'


def _bracketed(address: str | None) -> str:
    """Return ``<address>`` with nothing in it that could end the field early."""
    if address is None or address == "<>":
        return "<>"
    return "<" + printable(address, 320).replace("<", "\\x3c").replace(">", "\\x3e").replace(" ", "\\x20") + ">"


def _relay(status: DeliveryStatus) -> str:
    if status.remote_mta is None and status.remote_ip is None:
        return "none"
    name = printable(status.remote_mta or "unknown", 255).replace(" ", "\\x20").replace(",", "\\x2c")
    address = f"[{printable(status.remote_ip, 64)}]" if status.remote_ip else ""
    port = f":{status.remote_port}" if status.remote_port is not None else ""
    return name + address + port


def stamp(when: datetime | None) -> str | None:
    """Return an aware UTC datetime as ``2026-11-20T21:34:00Z``; None stays None."""
    return None if when is None else when.strftime("%Y-%m-%dT%H:%M:%SZ")


def log_line(outcome: Outcome) -> str:
    """Return the one advice line of DESIGN.md section 6, without time stamp and program name.

    The order of the fields never changes; a field with nothing to say is left
    out, but for those that an administrator filters on.
    """
    status, verdict, advice = outcome.status, outcome.classification, outcome.advice
    fields = [f"{printable(status.queue_id or 'NOQUEUE', 64)}: to={_bracketed(status.recipient)}"]
    if status.original_recipient and status.original_recipient != status.recipient:
        fields.append(f"orig_to={_bracketed(status.original_recipient)}")
    fields += [
        f"operator={verdict.operator or 'none'}",
        f"relay={_relay(status)}",
        f"dsn={status.status or 'none'}",
        f"class={verdict.class_}",
        f"category={verdict.category}",
        f"rule={verdict.rule}",
        f"advice={advice.kind}",
    ]
    if advice.block:
        fields.append(f"block={printable(advice.block, 255)}")
    if advice.not_before is not None:
        fields.append(f"not_before={stamp(advice.not_before)}")
    fields += [
        f"attempt={advice.attempt}",
        f"blocklist={','.join(b.zone for b in verdict.blocklists) or 'none'}",
    ]
    if outcome.genuine is not None:
        fields.append(f"genuine={'yes' if outcome.genuine else 'no'}")
    fields.append(f"text={_quoted(status.diagnostic or '')}")
    return ", ".join(fields)


_RECIPIENT_NOTICES: Final = {
    NoticeKind.DELIVERED,
    NoticeKind.GAVE_UP,
    NoticeKind.SUPPRESSED,
    NoticeKind.UNSUPPRESSED,
}


_KEY_NAMES: Final = {
    NoticeKind.BACKED_OFF: "backoff",
    NoticeKind.BACKOFF_ENDED: "backoff",
    NoticeKind.RELEASED: "destination",
}


def notice_line(notice: Notice) -> str:
    """Return the one log line of a notice, without time stamp and program name; the order of fields never changes."""
    if notice.kind in _RECIPIENT_NOTICES or (notice.kind is NoticeKind.RELEASED and "@" in notice.key):
        fields = [f"{printable(notice.queue_id or 'NOQUEUE', 64)}: to={_bracketed(notice.key)}"]
    else:
        key = _KEY_NAMES.get(notice.kind, "block")
        fields = [f"{key}={printable(notice.key, 255)}"]
    named = {
        "operator": notice.operator,
        "notice": str(notice.kind),
        "category": notice.category,
        "rule": notice.rule,
        "attempts": notice.attempts,
        "since": stamp(notice.since),
        "hours": None if notice.since is None else f"{max((notice.at - notice.since).total_seconds(), 0) / 3600:.1f}",
        "until": stamp(notice.until),
        "by": notice.by,
    }
    fields += [f"{name}={printable(str(value), 255)}" for name, value in named.items() if value is not None]
    if notice.text:
        fields.append(f"text={_quoted(notice.text)}")
    return ", ".join(fields)


def status_fields(status: DeliveryStatus, verdict: Classification) -> dict[str, object]:
    """Return one recipient of the command line's JSON (DESIGN.md section 9); "not stated" is null."""
    return {
        "recipient": status.recipient,
        "original_recipient": status.original_recipient,
        "action": str(status.action),
        "status": str(status.status) if status.status else None,
        "reply": str(status.reply_code) if status.reply_code else None,
        "diagnostic": status.diagnostic,
        "diagnostic_type": status.diagnostic_type,
        "remote_mta": status.remote_mta,
        "command": status.command,
        **verdict_fields(verdict),
        "defects": list(status.defects),
    }


def verdict_fields(verdict: Classification) -> dict[str, object]:
    """Return a classification as JSON fields."""
    return {
        "operator": verdict.operator,
        "class": str(verdict.class_),
        "category": verdict.category,
        "advice": str(verdict.advice),
        "scope": str(verdict.scope),
        "rule": verdict.rule,
        "matched": verdict.matched,
        "blocklists": [
            {"zone": b.zone, "operator": b.operator, "listed": b.listed, "lookup": b.lookup, "weight": b.weight}
            for b in verdict.blocklists
        ],
        "retry_after_s": None if verdict.retry_after is None else int(verdict.retry_after.total_seconds()),
    }


def event(outcome: Outcome) -> dict[str, object]:
    """Return one outcome as the object of ``--events jsonl``."""
    status, advice = outcome.status, outcome.advice
    return {
        "queue_id": status.queue_id,
        "source": str(status.source),
        **status_fields(status, outcome.classification),
        "advice": str(advice.kind),
        "not_before": stamp(advice.not_before),
        "attempt": advice.attempt,
        "block": advice.block,
        "genuine": outcome.genuine,
        "reason": advice.reason,
    }


@dataclass(frozen=True, slots=True)
class Answer:
    """What the MTA is told: keep = no opinion; else a code pair and a text in plain words."""

    keep: bool = True
    status: str | None = None
    """Enhanced status, for example ``4.7.1``."""

    text: str = ""
    rule: str = ""


KEEP: Final = Answer()
