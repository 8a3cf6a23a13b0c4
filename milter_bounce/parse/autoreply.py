"""Reader of automatic answers: vacation, out of office, "we have received your mail".

Goes in: `View`. Comes out: a `DeliveryReport` of kind auto-reply, or None.
Does not: read a report of failure, which comes with the same header fields:
the readers of reports are asked first.

Section: RFC 3834 5 (Auto-Submitted).
Raises: nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from milter_bounce.delivery import Action, DeliveryReport, DeliveryStatus, Kind, Source

from .header import decoded, message_id_of
from .reply import joined

if TYPE_CHECKING:
    from .view import View


def read_auto_reply(view: View) -> DeliveryReport | None:
    """Return the automatic answer that a message is; None for anything else."""
    if not is_auto_reply(view):
        return None
    recipient = view.sender_address
    answered = message_id_of(view.fields.get("in-reply-to")) or message_id_of(view.fields.get("references"))
    status = DeliveryStatus(
        recipient=recipient,
        action=Action.DELIVERED,
        diagnostic=joined(view.words[:2000]) or None,
        message_id=answered,
        source=Source.REPORT,
    )
    return DeliveryReport(
        kind=Kind.AUTO_REPLY,
        statuses=(status,) if recipient else (),
        reader="rfc3834",
        message_id=answered,
        original_headers=tuple(view.original.pairs),
        defects=tuple(view.defects),
    )


def is_auto_reply(view: View) -> bool:
    """Tell whether header fields, or the subject with an empty reverse-path, say that nobody wrote this."""
    readers, fields = view.readers, view.fields
    submitted = decoded(fields.get("auto-submitted")).lower()
    if submitted.startswith("auto-replied"):
        return True
    subject = view.subject.lower().lstrip("[( ")
    if submitted.startswith("auto-generated"):
        # notices of trackers and calendars are generated too: the subject must begin as an answer's does
        return subject.startswith(readers.auto_certain) and not view.is_list_mail()
    if any(
        fields.get(name) and decoded(fields.get(name)).lower() not in {"no", "false", "0"}
        for name in readers.auto_headers
    ):
        return True
    if decoded(fields.get("precedence")).lower() in readers.auto_precedence:
        return True
    if any(part in decoded(fields.get(name)).lower() for name, part in readers.auto_values):
        return True
    if not _subject_says(view) or view.is_list_mail():
        return False
    if (
        view.null_sender
        or fields.get("x-auto-response-suppress")
        or "bulk" in decoded(fields.get("precedence")).lower()
    ):
        return True
    # no field tells: the subject begins with the mark and, unless it is unmistakable, the words bear it out
    if subject.startswith(readers.auto_certain):
        return True
    begins = subject.startswith(readers.auto_subjects)
    answers = bool(fields.get("in-reply-to") or fields.get("references") or ":" in view.subject)
    return begins and answers and any(text in view.low for text in readers.auto_texts)


def _subject_says(view: View) -> bool:
    low = view.subject.lower()
    return any(phrase in low for phrase in view.readers.auto_subjects)
