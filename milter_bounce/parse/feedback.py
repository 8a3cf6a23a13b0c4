"""Reader of complaints: feedback reports (ARF) and the other forms that providers use.

Goes in: `View`. Comes out: a `DeliveryReport` of kind feedback, or None.
Does not: judge the complaint: its type is reported.

Section: RFC 5965 3 (fields), RFC 6591 (authentication failure), RFC 6590 (redaction).
Raises: nothing.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from milter_bounce import limits
from milter_bounce.delivery import Action, DeliveryReport, DeliveryStatus, Kind, Source

from .address import addresses_in, typed_address
from .header import Fields, date_of, decoded, fields_of, message_id_of, parameter, unfolded
from .reply import joined

if TYPE_CHECKING:
    from .view import View

RECIPIENTS_LIMIT: Final = limits.FEEDBACK_RECIPIENTS

_ARF_TYPES: Final = frozenset({"message/feedback-report", "message/feedback-type", "text/feedback-report"})
_INLINE = re.compile(r"^Feedback-Type[ \t]*:", re.IGNORECASE | re.MULTILINE)
# what a report's fields are beside Feedback-Type: one of them with it, and a returned message, are no talk about reports
_INLINE_FIELD = re.compile(
    r"^(?:User-Agent|Version|Source-IP|Original-Mail-From|Original-Rcpt-To|Arrival-Date|Reported-Domain)[ \t]*:",
    re.IGNORECASE | re.MULTILINE,
)
_FOR = re.compile(r"\bfor[ \t\n]+<([^<>\s@]{1,64}@[^<>\s]{1,255})>")


def read_feedback(view: View) -> DeliveryReport | None:
    """Return the complaint that a message is; None for anything else."""
    fields = _arf_fields(view)
    if fields is not None:
        return _report(view, fields, unfolded(fields.get("feedback-type") or "abuse").lower())
    if view.status_parts:
        return None
    for complaint in view.readers.complaints:
        if complaint.text:
            matched = complaint.text in view.low and (view.depth == 0 or view.from_daemon)
        else:
            matched = complaint.sender in (view.sender_address or "") and complaint.subject in view.subject.lower()
        if matched:
            return _report(view, Fields(()), complaint.type)
    return None


def _arf_fields(view: View) -> Fields | None:
    """Return the fields of the feedback-report part; None where the message has none."""
    for part in view.own:
        if part.type in _ARF_TYPES:
            return fields_of(re.sub(r"\n[ \t]*\n+", "\n", part.text().strip()))
    stated = parameter(view.fields.get("content-type"), "report-type").lower()
    if stated != "feedback-report":
        return None if view.status_parts else _inline_fields(view)
    for part in view.own:
        text = part.text()
        if _INLINE.search(text[:5000]):
            return fields_of(re.sub(r"\n[ \t]*\n+", "\n", text.strip()))
    return Fields(())


def _inline_fields(view: View) -> Fields | None:
    """Return the fields that stand in running text above a returned message (gateways that rebuild reports)."""
    words = view.words[:5000]
    found = _INLINE.search(words) if view.returns_message else None
    if found is None or view.is_list_mail():
        return None
    block = words[: words.find("\n\n", found.end()) if "\n\n" in words[found.end() :] else None]
    block = block[block.rfind("\n\n", 0, found.start()) + 1 :].strip()
    return fields_of(block) if _INLINE_FIELD.search(block) else None


def _report(view: View, fields: Fields, kind: str) -> DeliveryReport:
    original = view.original
    message_id = message_id_of(original.get("message-id"))
    said = joined(view.words[:2000]) or None
    when = date_of(fields.get("arrival-date") or fields.get("received-date"))
    statuses = tuple(
        DeliveryStatus(
            recipient=recipient,
            action=Action.DELIVERED,
            diagnostic=said,
            sender=typed_address(fields.get("original-mail-from")),
            message_id=message_id,
            arrival_date=when,
            reporting_mta=unfolded(fields.get("reporting-mta") or "").rpartition(";")[2].strip() or None,
            source=Source.REPORT,
        )
        for recipient in _recipients(view, fields, kind)[:RECIPIENTS_LIMIT]
    )
    return DeliveryReport(
        kind=Kind.FEEDBACK,
        statuses=statuses,
        reader="arf" if len(fields) else "complaint",
        message_id=message_id,
        envelope_id=unfolded(fields.get("original-envelope-id") or "") or None,
        subject=decoded(original.get("subject")) or None,
        arrival_date=when,
        original_headers=tuple(original.pairs),
        feedback_type=kind,
        defects=tuple(view.defects),
    )


def _recipients(view: View, fields: Fields, kind: str) -> list[str]:
    """Return who complained: as the report says, else as the returned message's fields show."""
    stated = [
        a for name in ("original-rcpt-to", "removal-recipient") for v in fields.all(name) for a in addresses_in(v)
    ]
    if stated:
        return list(dict.fromkeys(stated))
    original = view.original
    to = addresses_in(decoded(original.get("to")))
    if len(to) == 1 and not any(original.get(name) for name in view.readers.complained_recipient[:2]):
        return to
    for name in view.readers.complained_recipient:
        found = addresses_in(original.get(name) or "")
        if found:
            return found[:1]
    if kind == "opt-out" and view.sender_address:
        return [view.sender_address]
    for received in original.all("received"):
        named = _FOR.search(received[:2000])
        if named:
            return [named[1]]
    return to
