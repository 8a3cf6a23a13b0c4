"""Reader of delivery-status fields, where they stand alone and where they stand in running text.

Goes in: the text of a ``message/delivery-status`` part (or of a text part
that has such fields in it). Comes out: `StatusFields`, one `Draft` per
recipient. Does not: look at the rest of the message.

What real reports do, and is read: blank lines inside and missing between the
recipients' groups, several recipients in one group, continuation lines that
are not indented, indented and quoted fields, the address type absent,
``Original-Recipient`` or ``X-Actual-Recipient`` alone.

Section: RFC 3464 2, RFC 6533 (``utf-8`` addresses), RFC 3834.
Limits: `LINES_LIMIT`, `RECIPIENTS_LIMIT`.
Raises: nothing, on any text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from milter_bounce import limits
from milter_bounce.delivery import Action, EnhancedStatus

from .address import bare_recipient, typed_address
from .draft import Draft
from .header import date_of

if TYPE_CHECKING:
    from datetime import datetime

LINES_LIMIT: Final = limits.STATUS_LINES
RECIPIENTS_LIMIT: Final = limits.STATUS_RECIPIENTS

WIDEST_MARGIN: Final = 40
"""Characters of indentation or quoting that a gateway may have put before every field."""

_NAMES: Final = (
    "final-recipient|original-recipient|x-actual-recipient|action|status|diagnostic-code|remote-mta|reporting-mta"
    "|received-from-mta|arrival-date|last-attempt-date|will-retry-until|final-log-id|original-envelope-id"
    "|dsn-gateway|x-original-message-id|x-display-name|x-supplementary-info|x-postfix-[a-z-]+|x-powermta-[a-z-]+"
    "|x-outbound-mail-relay-[a-z-]+"
)
_FIELD = re.compile(r"([A-Za-z][A-Za-z0-9-]{1,60})[ \t]*:(.*)", re.DOTALL)
_INLINE_FIELD = re.compile(rf"[ \t>|]{{0,8}}({_NAMES})[ \t]*:(.*)", re.IGNORECASE | re.DOTALL)
# "Status: 550 5.1.1" too: a whole reply where only its status belongs
_STATUS = re.compile(r"\s*\"?(?:([245][0-9]{2})[ -])?([245])\.([0-9]{1,3})\.([0-9]{1,3})\b\s*(.*)", re.DOTALL)
# an atom (RFC 5322 3.2.3): Barracuda calls itself X-Spam-&-Virus-Firewall
_DIAGNOSTIC_TYPE = re.compile(r"\s*([A-Za-z][A-Za-z0-9._+&!#$%'*/-]{0,40})\s*;\s*(.*)", re.DOTALL)
# Exchange 2000 and 2003: "<mail.example.com #5.1.1 smtp;550 5.1.1 User unknown>"
_SUPPLEMENTARY = re.compile(r"#[0-9.]{5,11}\s{1,4}([A-Za-z-]{1,20};[^>]{1,2000})")
_HOST_TYPE = re.compile(r"\s*(?:[A-Za-z][A-Za-z0-9-]{0,20}\s*;\s*)?(.*)", re.DOTALL)
_RECIPIENT: Final = frozenset({"final-recipient", "original-recipient", "x-actual-recipient"})
_PER_MESSAGE: Final = frozenset({"reporting-mta", "received-from-mta", "arrival-date", "original-envelope-id"})
_ACTIONS: Final = (
    ("fail", Action.FAILED),
    ("delay", Action.DELAYED),
    ("deliver", Action.DELIVERED),
    ("relay", Action.RELAYED),
    ("expand", Action.EXPANDED),
    ("error", Action.FAILED),
    ("transient", Action.DELAYED),
)


@dataclass(slots=True)
class StatusFields:
    """What the delivery-status fields say, per message and per recipient."""

    reporting_mta: str | None = None
    envelope_id: str | None = None
    message_id: str | None = None
    arrival_date: datetime | None = None
    sender: str | None = None
    recipients: list[Draft] = field(default_factory=list)
    names: set[str] = field(default_factory=set)
    """Every field name seen, in lower case: some of them tell who wrote the report."""


def read_status(text: str, *, inline: bool = False) -> StatusFields:
    """Return what the fields in `text` say; `inline` = there is other text around them."""
    report = StatusFields()
    group: dict[str, str] = {}
    for name, value in _fields(text, inline=inline):
        report.names.add(name)
        if name == "":
            # every line with a blank one behind it: what comes without a recipient is still about the last one
            if _is_complete(group) or (report.recipients and not _RECIPIENT & group.keys()):
                _close(report, group)
                group = {}
            continue
        if name in group and name in {"final-recipient", "action", "status"} and _RECIPIENT & group.keys():
            _close(report, group)
            group = {}
        group.setdefault(name, value.strip())
    _close(report, group)
    report.names.discard("")
    return report


def _fields(text: str, *, inline: bool) -> list[tuple[str, str]]:
    """Return (lower-case name, value) of every field, and ("", "") for a blank line."""
    found: list[tuple[str, str]] = []
    pattern = _INLINE_FIELD if inline else _FIELD
    if not inline and text[:1] in {" ", "\t", "\n", "\ufeff", ">", "|"}:
        text = _at_margin(text.lstrip("\ufeff"))
    for line in text.split("\n", LINES_LIMIT)[:LINES_LIMIT]:
        stripped = line.strip()
        if not stripped:
            found.append(("", ""))
            continue
        matched = None if line[0] in " \t" and not inline else pattern.match(line)
        if matched:
            found.append((matched[1].lower(), matched[2]))
        elif (
            found
            and found[-1][0]
            and (line[0] in " \t" or (found[-1][0] == "diagnostic-code" and stripped[:2] != "--"))
        ):
            name, value = found[-1]
            if len(value) < 8000:
                found[-1] = (name, f"{value}\n{stripped}")
    return found


def _at_margin(text: str) -> str:
    """Return fields that a gateway indented or quoted as a whole without that; continuation lines keep their own."""
    first = next((line for line in text.split("\n", LINES_LIMIT) if line.strip()), "")
    margin = first[: min(len(first) - len(first.lstrip(" \t>|")), WIDEST_MARGIN)]
    bare = re.escape(margin.rstrip())
    return re.sub(rf"^(?:{re.escape(margin)}|{bare}[ \t]*$)", "", text, flags=re.MULTILINE) if margin else text


def _is_complete(group: dict[str, str]) -> bool:
    """Tell whether a blank line may end the group: it names a recipient and what became of the mail."""
    if not _RECIPIENT & group.keys():
        return "reporting-mta" in group
    return "status" in group or "action" in group


def _close(report: StatusFields, group: dict[str, str]) -> None:
    """Take in one group of fields: the message's, a recipient's, or (by mistake of the writer) both."""
    if not group:
        return
    if _PER_MESSAGE & group.keys():
        report.reporting_mta = report.reporting_mta or host_of(group.get("reporting-mta"))
        report.envelope_id = report.envelope_id or group.get("original-envelope-id") or None
        report.arrival_date = report.arrival_date or date_of(group.get("arrival-date"))
    report.message_id = report.message_id or group.get("x-original-message-id")
    report.sender = report.sender or typed_address(
        group.get("x-postfix-sender") or group.get("x-outbound-mail-relay-sender")
    )
    if _RECIPIENT & group.keys():
        if len(report.recipients) < RECIPIENTS_LIMIT:
            report.recipients.append(_recipient(group))
    elif report.recipients and not _PER_MESSAGE & group.keys():
        _complete(report.recipients[-1], group)


def _recipient(group: dict[str, str]) -> Draft:
    """Return one recipient's group as a draft."""
    final, original = group.get("final-recipient"), group.get("original-recipient")
    actual = group.get("x-actual-recipient")
    draft = Draft(
        recipient=typed_address(final) or typed_address(actual) or typed_address(original),
        original_recipient=typed_address(original),
    )
    if draft.recipient is None:
        draft.recipient = bare_recipient(final) or bare_recipient(original)
        draft.defects.append("recipient-without-domain" if draft.recipient else "no-recipient")
    elif not final:
        draft.defects.append("no-final-recipient")
    _complete(draft, group)
    return draft


def _complete(draft: Draft, group: dict[str, str]) -> None:
    """Fill in what `group` tells and the draft does not know yet."""
    action = group.get("action", "").lower().lstrip()
    if draft.action is None:
        draft.action = next((a for word, a in _ACTIONS if action.startswith(word)), None)
    found = _STATUS.match(group.get("status", ""))
    if found and draft.status is None:
        draft.status = EnhancedStatus(*(int(n) for n in found.groups()[1:4]))
        draft.remark = " ".join(filter(None, (found[1], found[5].strip().strip("()"))))
    if not draft.diagnostic and "diagnostic-code" in group:
        draft.diagnostic_type, draft.diagnostic = diagnostic_of(group["diagnostic-code"])
    supplied = _SUPPLEMENTARY.search(group.get("x-supplementary-info", "")) if not draft.diagnostic else None
    if supplied:
        draft.diagnostic_type, draft.diagnostic = diagnostic_of(supplied[1])
    draft.remote_mta = draft.remote_mta or host_of(group.get("remote-mta"))
    draft.last_attempt = draft.last_attempt or date_of(group.get("last-attempt-date"))
    draft.will_retry_until = draft.will_retry_until or date_of(group.get("will-retry-until"))


def diagnostic_of(value: str) -> tuple[str | None, str]:
    """Return type (lower case) and text of a Diagnostic-Code; no type where none is stated.

    Section: RFC 3464 2.3.6.
    """
    found = _DIAGNOSTIC_TYPE.match(value)
    if not found:
        return None, value.strip()
    return found[1].lower(), found[2].strip()


def host_of(value: str | None) -> str | None:
    """Return the name of a ``type; name`` MTA field, remarks included; None for none."""
    if not value:
        return None
    found = _HOST_TYPE.match(value[:1000])
    return ((found[1] if found else value).strip().rstrip(";")) or None
