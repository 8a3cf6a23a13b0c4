"""Reader of Amazon SES's notifications: JSON by mail, sent through SNS.

Goes in: a text that is a JSON object with ``notificationType``, or SNS's
envelope around one. Comes out: a report, or None. Sendmail cuts lines of more
than 990 characters with ``!`` and a line end: that is undone first.

Section: docs.aws.amazon.com/ses/latest/dg/notification-contents.html.
Limits: `JSON_LIMIT`.
Raises: nothing.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

from milter_bounce import limits
from milter_bounce.delivery import Action, DeliveryReport, EnhancedStatus, Kind
from milter_bounce.parse.address import typed_address
from milter_bounce.parse.draft import Draft, finished
from milter_bounce.parse.dsn import diagnostic_of

JSON_LIMIT: Final = limits.JSON_CHARACTERS
RECIPIENTS_LIMIT: Final = limits.JSON_RECIPIENTS

_CUT = re.compile(r"!?\n[ \t]?")
_ACTIONS: Final = {"failed": Action.FAILED, "delayed": Action.DELAYED, "delivered": Action.DELIVERED}


def read_notification(text: str) -> DeliveryReport | None:
    """Return the report that an SES notification is; None for other text."""
    if "notificationType" not in text and "eventType" not in text:
        return None
    value = _object(text)
    if isinstance(value.get("Message"), str):
        value = _object(value["Message"])
    kind = value.get("notificationType") or value.get("eventType")
    mail = _part(value, "mail")
    if kind == "Complaint":
        recipients = [Draft(recipient=a) for a in _addresses(_part(value, "complaint").get("complainedRecipients"))]
        return _report(
            Kind.FEEDBACK, recipients, mail, str(_part(value, "complaint").get("complaintFeedbackType") or "abuse")
        )
    if kind == "Bounce":
        return _report(Kind.BOUNCE, _bounced(_part(value, "bounce")), mail)
    if kind == "Delivery":
        return _report(Kind.BOUNCE, _delivered(_part(value, "delivery")), mail)
    return None


def _object(text: str) -> dict[str, Any]:
    start, end = text.find("{"), text.rfind("}")
    source = text[start : end + 1][:JSON_LIMIT]
    # lines inside a string were cut by a mail system; outside one a line end means nothing
    for attempt in (source, _CUT.sub("", source)):
        try:
            value = json.loads(attempt, strict=False)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            return value
    return {}


def _part(value: dict[str, Any], name: str) -> dict[str, Any]:
    part = value.get(name)
    return part if isinstance(part, dict) else {}


def _addresses(entries: object) -> list[str]:
    found = [e.get("emailAddress") if isinstance(e, dict) else e for e in entries] if isinstance(entries, list) else []
    return [a for a in (typed_address(f) for f in found[:RECIPIENTS_LIMIT] if isinstance(f, str)) if a]


def _bounced(bounce: dict[str, Any]) -> list[Draft]:
    entries = bounce.get("bouncedRecipients")
    drafts = []
    for entry in entries[:RECIPIENTS_LIMIT] if isinstance(entries, list) else []:
        address = (
            typed_address(entry.get("emailAddress"))
            if isinstance(entry, dict) and isinstance(entry.get("emailAddress"), str)
            else None
        )
        if address is None:
            continue
        words = {key: value for key, value in entry.items() if isinstance(value, str)}
        speaker, said = diagnostic_of(words.get("diagnosticCode", ""))
        said = said or f"{bounce.get('bounceType') or ''} {bounce.get('bounceSubType') or ''}".strip()
        drafts.append(
            Draft(
                recipient=address,
                action=_ACTIONS.get(words.get("action", ""), Action.FAILED),
                status=EnhancedStatus.from_text(words.get("status", "")),
                diagnostic=said,
                diagnostic_type=speaker,
                reporting_mta=str(bounce.get("reportingMTA") or "").rpartition(";")[2].strip() or None,
            )
        )
    return drafts


def _delivered(delivery: dict[str, Any]) -> list[Draft]:
    said = str(delivery.get("smtpResponse") or "")
    found = re.match(r"(2[0-9]{2})[ -](?:(2\.[0-9]\.[0-9]{1,3}))?", said)
    return [
        Draft(
            recipient=address,
            action=Action.DELIVERED,
            status=EnhancedStatus.from_text(found[2]) if found and found[2] else None,
            reply=int(found[1]) if found else None,
            diagnostic=said,
            reporting_mta=str(delivery.get("reportingMTA") or "").rpartition(";")[2].strip() or None,
        )
        for address in _addresses(delivery.get("recipients"))
    ]


def _report(kind: Kind, drafts: list[Draft], mail: dict[str, Any], feedback_type: str | None = None) -> DeliveryReport:
    headers = _part(mail, "commonHeaders")
    message_id = str(headers.get("messageId") or mail.get("messageId") or "").strip("<>") or None
    sender = typed_address(mail.get("source")) if isinstance(mail.get("source"), str) else None
    if kind is Kind.FEEDBACK:
        for draft in drafts:
            draft.action = Action.DELIVERED
    return DeliveryReport(
        kind=kind,
        statuses=tuple(finished(draft, draft.reporting_mta, message_id, sender) for draft in drafts),
        reader="ses",
        message_id=message_id,
        subject=str(headers["subject"]) if "subject" in headers else None,
        feedback_type=feedback_type,
    )
