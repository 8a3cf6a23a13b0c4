"""Reader of disposition notifications: which are read receipts, and which refuse a message.

Goes in: `View`. Comes out: what a notification is, and its fields as text.
Does not: read what became of the message: that is the readers of reports.

A mailbox that refuses a message after taking it in may say so in a
disposition notification instead of a report: Dovecot's delivery agent (full
mailbox) and Sieve's ``reject`` (RFC 5429 2.2) write "automatic-action;
deleted" as a person's mail program does, but in the mail system's name.

Section: RFC 8098 3.2.6 (disposition), RFC 5429 2.2.
Raises: nothing.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from .header import decoded, parameter

if TYPE_CHECKING:
    from .view import View

_TYPES: Final = frozenset({"message/disposition-notification", "message/global-disposition-notification"})
_REFUSED = re.compile(
    r"^Disposition[ \t]*:[ \t]*automatic-action[^\n;]{0,80};\s{0,8}(?:deleted|failed|denied|error)",
    re.IGNORECASE | re.MULTILINE,
)
_REJECTED = re.compile(r"\breject", re.IGNORECASE)


def is_receipt(view: View) -> bool:
    """Tell whether a message is a disposition notification (RFC 8098)."""
    stated = parameter(view.fields.get("content-type"), "report-type").lower()
    return stated == "disposition-notification" or any(part.type in _TYPES for part in view.own)


def refusal_in(view: View) -> str | None:
    """Return the fields of a notification by which a mail system refuses a message; None for a read receipt."""
    part = next((part for part in view.own if part.type in _TYPES), None)
    if part is None or not view.from_daemon:
        return None
    told = (decoded(view.fields.get("auto-submitted")), view.subject, view.first_text[:2000])
    text = part.text()
    return text if _REFUSED.search(text) and any(map(_REJECTED.search, told)) else None
