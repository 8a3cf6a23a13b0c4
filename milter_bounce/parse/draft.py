"""A delivery status in the making: what the readers fill in, and how it is finished.

Goes in: pieces of evidence about one recipient from any place of a report.
Comes out: `DeliveryStatus`, with reply code and status taken from the
diagnostic where no field states them. Does not: judge.

Section: RFC 3464 2.3 (fields of a recipient), RFC 3463 (status).
Raises: nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from milter_bounce import limits
from milter_bounce.delivery import Action, DeliveryStatus, EnhancedStatus, Source

from .reply import NO_CODES, Codes, codes_in, joined, parse_reply

if TYPE_CHECKING:
    from datetime import datetime

DIAGNOSTIC_LIMIT: Final = limits.DIAGNOSTIC
RECIPIENT_LIMIT: Final = limits.ADDRESS

SUCCESS: Final = 2
"""The class of a status that tells of success (RFC 3463, 2)."""

_DELIVERED: Final = frozenset({Action.DELIVERED, Action.RELAYED, Action.EXPANDED})
_IP_IN_BRACKETS = re.compile(r"[(\[]\s*((?:[0-9]{1,3}\.){3}[0-9]{1,3}|[0-9A-Fa-f:]*:[0-9A-Fa-f:.]{2,45})\s*[)\]]")


@dataclass(slots=True)
class Draft:
    """What is known so far about one recipient."""

    recipient: str | None = None
    original_recipient: str | None = None
    action: Action | None = None
    status: EnhancedStatus | None = None
    reply: int | None = None
    diagnostic: str = ""
    diagnostic_type: str | None = None
    remote_mta: str | None = None
    remote_ip: str | None = None
    reporting_mta: str | None = None
    command: str | None = None
    arrival_date: datetime | None = None
    last_attempt: datetime | None = None
    will_retry_until: datetime | None = None
    remark: str = ""
    """What the reporting MTA says about its own Status field, in brackets behind it."""

    defects: list[str] = field(default_factory=list)


def finished(draft: Draft, reporting_mta: str | None, message_id: str | None, sender: str | None) -> DeliveryStatus:
    """Return the draft as a delivery status."""
    action = draft.action or Action.FAILED
    diagnostic = joined(draft.diagnostic)[:DIAGNOSTIC_LIMIT]
    reply, status, defects = draft.reply, draft.status, draft.defects
    if action in _DELIVERED:
        accepted = parse_reply(diagnostic)
        if accepted.code is not None and accepted.code // 100 == 2:
            reply = reply or accepted.code
        status = status or EnhancedStatus(2, 0, 0)
    else:
        reply, status = _codes(draft, diagnostic, action)
    name, address = _host(draft.remote_mta)
    return DeliveryStatus(
        recipient=draft.recipient,
        action=action,
        original_recipient=draft.original_recipient,
        status=status,
        reply_code=reply,
        diagnostic=diagnostic or joined(draft.remark)[:DIAGNOSTIC_LIMIT] or None,
        diagnostic_type=draft.diagnostic_type,
        remote_mta=name,
        remote_ip=draft.remote_ip or address,
        reporting_mta=draft.reporting_mta or reporting_mta,
        command=draft.command,
        sender=sender,
        message_id=message_id,
        arrival_date=draft.arrival_date,
        last_attempt=draft.last_attempt,
        will_retry_until=draft.will_retry_until,
        at=draft.last_attempt,
        source=Source.REPORT,
        defects=tuple(dict.fromkeys(defects)),
    )


def _codes(draft: Draft, diagnostic: str, action: Action) -> tuple[int | None, EnhancedStatus | None]:
    """Return reply code and status: what the remote MTA said before what the reporting MTA made of it.

    A status that contradicts the reply code is kept and noted, a Status field
    of another class than the remote MTA's own status is noted; where nobody states one, the class that the reply or the action implies is supplied
    and noted as derived.
    """
    told = codes_in(diagnostic) if diagnostic else NO_CODES
    if told.reply is None:
        told = _codes_aside(draft, told)
    reply = draft.reply or told.reply
    stated = draft.status
    if stated is not None and stated.class_ == SUCCESS:
        # "Action: failed, Status: 2.0.0": one of them is wrong, and nobody reports a success as a failure
        draft.defects.append("status-contradicts-action")
        stated = None
    status = told.status
    if status is None or (stated is not None and _vague(status) and not _vague(stated)):
        status = stated or status
    if stated is not None and status is not None and stated.class_ != status.class_:
        draft.defects.append("status-contradicts-diagnostic")
    if status is not None and reply is not None and status.class_ != reply // 100:
        draft.defects.append("status-contradicts-reply")
    if status is None:
        digit = reply // 100 if reply else (4 if action is Action.DELAYED else 5)
        status = EnhancedStatus(digit, 0, 0)
        draft.defects.append("status-derived")
    return reply, status


def _codes_aside(draft: Draft, told: Codes) -> Codes:
    """Return the codes that stand where they do not belong: behind the Status, or in Remote-MTA."""
    for text in (draft.remark, draft.remote_mta or ""):
        found = codes_in(text) if text else NO_CODES
        if found.reply is not None:
            return Codes(found.reply, told.status or found.status)
    return told


def _vague(status: EnhancedStatus) -> bool:
    """Tell whether a status says nothing but its class (RFC 3463, 3.1)."""
    return status.subject == 0 and status.detail == 0


def _host(text: str | None) -> tuple[str | None, str | None]:
    """Return host name and address of ``mx.example.net (192.0.2.1)`` and the like."""
    if not text:
        return None, None
    text = text[:500].strip()
    found = _IP_IN_BRACKETS.search(text)
    address = found[1] if found else None
    name = re.split(r"[\s(\[,;]", text, maxsplit=1)[0].strip("<>.'\"").lower()
    return (name or address or None), address
