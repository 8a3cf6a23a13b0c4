"""Reader of whatever mail systems send back: one message becomes one `DeliveryReport`.

Goes in: the bytes of a message and the phrases of rules/readers/reports.toml. Comes
out: what kind of message it is and, for a report, one `DeliveryStatus` per
recipient. Does not: judge a status, or prove that the report is genuine.

Order: complaints, delivery-status parts (RFC 3464), reports in words,
automatic answers, and last a complete report wrapped in another message.

Section: RFC 3464, RFC 6522, RFC 6533, RFC 3834, RFC 5965, RFC 8098 (read receipts are no bounces).
Limits: those of `mime`, `dsn`, `blocks`, `view`; a message beyond them is read as far as they go and says so in `defects`.
Raises: nothing, on any bytes.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from milter_bounce.delivery import Action, DeliveryReport, DeliveryStatus, Kind

from .address import addresses_in, same
from .autoreply import is_auto_reply, read_auto_reply
from .blocks import before, read_blocks
from .draft import Draft, finished
from .dsn import StatusFields, read_status
from .families import OWN_LAYOUT, notes
from .families.sendmail import whole_reply
from .families.ses import read_notification
from .feedback import read_feedback
from .header import decoded, message_id_of, parameter
from .mime import read_message
from .readers import Readers
from .receipts import is_receipt, refusal_in
from .reply import reply_start
from .told import REASON_LIMIT, Told, drafted, host_in, own_part, reason_in, refused_command, told_by
from .view import View

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .readers import Family

__all__ = ["Readers", "parse_report"]

ORIGINAL_RECIPIENTS_LIMIT: Final = 1
"""Recipients that the returned message's To may supply where the report names none: with two nobody knows which failed."""

SOFT: Final = 4
"""The class of a status that may still be delivered (RFC 3463, 2)."""

NOT_TOLD: Final = Told()
NOTHING: Final = DeliveryReport(Kind.NOT_BOUNCE)
_INLINE_STATUS = re.compile(r"^[ \t>|]{0,8}(?:Final|Original)-Recipient[ \t]*:", re.IGNORECASE | re.MULTILINE)
# VERP: bounces+user=example.net@our.example and list-bounce-user=example.net@our.example
_VERP = re.compile(r"(?:[+-]|\b)([A-Za-z0-9._%+-]{1,64})=([A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63}){1,8})@")
_VERP_PREFIX = re.compile(r"^.*?(?:bounces?|return|errors?|verp|b|ret)[+-]+(?=.)", re.IGNORECASE)
_NEVER_PERSONS: Final = ("mailer-daemon@", "mailerdaemon@", "mdaemon@")
_DAEMON_ADDRESSES: Final = (*_NEVER_PERSONS, "postmaster@")
_LABEL_LINE: Final = r"[ \t*]{0,4}[^\s:：<>*]{1,20}[ \t*\u00a0]{0,3}[:：][^\n]{1,200}\n"
_COPIED_HEADER = re.compile(rf"^(?:{_LABEL_LINE}){{2,8}}", re.MULTILINE)
_QUOTED_LINE = re.compile(r"^> ?[^>\n]", re.MULTILINE)
_WRAPPERS: Final = frozenset({"multipart/digest", "multipart/encrypted"})


def parse_report(message: bytes, readers: Readers) -> DeliveryReport:
    """Return what a message tells about deliveries; kind ``not-bounce`` for ordinary mail."""
    mail = read_message(message)
    view = View(mail, readers)
    report = _read(view)
    if report is None:
        report = _forwarded(view)
    if report is None:
        return DeliveryReport(Kind.NOT_BOUNCE, defects=tuple(view.defects)) if view.defects else NOTHING
    return report


def _read(view: View) -> DeliveryReport | None:
    """Return the report that a message itself is."""
    feedback = read_feedback(view)
    if feedback:
        return feedback
    if view.status_parts:
        if not _is_declared(view):
            return None
        return _standard(view, "\n\n".join(part.text() for part in view.status_parts), inline=False)
    if is_receipt(view):
        return _refusal(view)
    if view.words.lstrip()[:1] == "{":
        notification = read_notification(view.whole_text)
        if notification:
            return notification
    return _in_words(view) or read_auto_reply(view)


def _is_declared(view: View) -> bool:
    """Tell whether delivery-status parts are a message's own word, not what a person attached to a letter."""
    declared = view.type_of_wrapper() == "multipart/report" or any(
        part.parent == "multipart/report" for part in view.status_parts
    )
    if declared or view.from_daemon or view.null_sender or view.fields.get("x-failed-recipients"):
        return True
    attached = (view.status_parts[0].fields.get("content-disposition") or "").lower().startswith("attachment")
    return (view.has_failure_subject() or view.has_failure_words()) and not attached and not _is_answer(view)


def _is_answer(view: View) -> bool:
    """Tell whether the subject is that of an answered or forwarded message."""
    return any(pattern.match(view.subject) for pattern in view.readers.reply_subjects)


def _is_shown(view: View) -> bool:
    """Tell whether a person's words show somebody else's report: quoted, or under the header that mail programs copy.

    Such a header is two lines ``label: value`` of which one names a mail system, in whatever language.
    """
    words = view.words[:6000]
    daemons = view.readers.daemons
    return bool(_QUOTED_LINE.search(words)) or any(
        any(daemon in found[0].lower() for daemon in daemons) for found in _COPIED_HEADER.finditer(words)
    )


def _refusal(view: View) -> DeliveryReport | None:
    """Return the refusal that a disposition notification is; None for a read receipt."""
    fields = refusal_in(view)
    report = _standard(view, fields, inline=False) if fields else None
    if report is None:
        return None
    # Sieve's words name nobody: all of them are the reason
    reason = reason_in("\n" + view.words, view.readers) or None
    statuses = tuple(replace(status, diagnostic=status.diagnostic or reason) for status in report.statuses)
    return replace(report, kind=Kind.BOUNCE, reader="mdn", statuses=statuses)


def _forwarded(view: View) -> DeliveryReport | None:
    """Return the complete report that a mail system wraps: filters and postmasters' mailboxes pass reports on so.

    A person who attaches one to a letter, and a list manager who shows one to the list's owner, report nothing.
    """
    parts = view.mail.parts
    if view.type_of_wrapper() in _WRAPPERS or view.is_list_mail() or not (view.from_daemon or view.null_sender):
        return None
    for number, part in enumerate(parts):
        if part.type == "message/rfc822" and part.depth == 1 and part.parent not in _WRAPPERS:
            inner = View(view.mail, view.readers, 1, number)
            if inner.status_parts:
                text = "\n\n".join(p.text() for p in inner.status_parts)
                inner.defects.append("forwarded")
                return _standard(inner, text, inline=False)
    return None


def _standard(view: View, text: str, *, inline: bool) -> DeliveryReport | None:
    """Return the report of delivery-status fields, completed by what the words tell."""
    fields = read_status(text, inline=inline)
    drafts = fields.recipients
    if not drafts and inline:
        return None
    if len(drafts) == 1 and drafts[0].diagnostic_type == "x-notes":
        notes.corrected(drafts[0], view)
    if any(_wants_words(draft) for draft in drafts) or not drafts:
        drafts = _with_words(drafts, view)
    elif len(drafts) == 1 and drafts[0].command is None:
        drafts[0].command = refused_command(view.first_text[:4000], view.readers)
    for draft in drafts:
        if draft.action is None and (draft.status is None or draft.status.class_ == SOFT) and view.is_delay():
            draft.action = Action.DELAYED
    return _report(view, Kind.DSN, drafts, fields, _author(fields))


def _author(fields: StatusFields) -> str:
    """Return who wrote a standard report, where its extension fields tell."""
    for name, reader in (("x-postfix-queue-id", "postfix"), ("x-powermta-virtualmta", "powermta")):
        if name in fields.names:
            return reader
    return "rfc3464"


def _wants_words(draft: Draft) -> bool:
    """Tell whether the fields leave something open that the words may tell."""
    if draft.action in {Action.DELIVERED, Action.RELAYED, Action.EXPANDED}:
        return draft.recipient is None
    text = draft.diagnostic
    if draft.recipient is None or "@" not in draft.recipient or not text or _gave_up(text):
        return True
    found = re.match(r"[245][0-9]{2}([- ])", text)
    if found is None:
        return not re.search(r"[45][0-9]{2}[- ]", text)
    # "550-5.7.26 first line only": the reply goes on in the transcript
    return found[1] == "-" and re.search(rf"{text[:3]} ", text[4:]) is None


def _with_words(drafts: list[Draft], view: View) -> list[Draft]:
    """Return the drafts completed from the words; the words' own recipients where the fields name none."""
    told = _drafts_told(view, family_of(view))
    if not [d for d in drafts if d.recipient and "@" in d.recipient]:
        return _adopted(drafts, told, view)
    for draft in drafts:
        match = next(
            (t for t in told if same(t.recipient, draft.recipient) or same(t.recipient, draft.original_recipient)), None
        )
        if match is None and len(drafts) == 1 and len(told) == 1:
            match = told[0]
        if match is not None:
            _complete(draft, match, view)
        elif len(drafts) == 1:
            _complete(draft, _from_all_words(view), view)
    return drafts


def _adopted(drafts: list[Draft], told: list[Draft], view: View) -> list[Draft]:
    """Return the words' recipients with what the fields say, for fields that name no usable recipient."""
    told = told or [Draft(recipient=a) for a in _outside(view)]
    if not told:
        return drafts
    if len(drafts) == 1 and len(told) == 1:
        drafts[0].recipient = told[0].recipient
        _complete(drafts[0], told[0], view)
        return drafts
    return told if not drafts or len(told) >= len(drafts) else drafts


def _from_all_words(view: View) -> Draft:
    """Return what the words tell as a whole, about the one recipient that the fields name."""
    told = told_by("\n" + view.words, view.readers)
    return Draft(
        diagnostic=told.diagnostic if told.quoted else "",
        diagnostic_type="smtp" if told.quoted else None,
        command=told.command,
        remote_mta=told.host,
    )


def _complete(draft: Draft, told: Draft, view: View) -> None:
    """Fill a draft's gaps with what the words tell about the same recipient."""
    text = draft.diagnostic
    if not text or not re.search(r"[45][0-9]{2}[- ]|[45]\.[0-9]\.[0-9]", text):
        quoted = bool(re.match(r"[45][0-9]{2}", told.diagnostic))
        if quoted or not (text or draft.remark):
            draft.diagnostic = (
                f"{told.diagnostic} ({text})"
                if text and text not in told.diagnostic and not text.isdigit()
                else told.diagnostic
            )
            draft.diagnostic_type = told.diagnostic_type or draft.diagnostic_type
    elif re.match(r"[45][0-9]{2}-", text):
        draft.diagnostic = whole_reply(view.words, text.split("\n", 1)[0]) or text
    elif _gave_up(text) and not _gave_up(told.diagnostic):
        draft.diagnostic = f"{text} ({told.diagnostic})" if told.diagnostic else text
    elif _gave_up(text) and len(told.diagnostic) > len(text):
        draft.diagnostic = told.diagnostic
    draft.command = draft.command or told.command
    draft.remote_mta = draft.remote_mta or told.remote_mta


def _gave_up(text: str) -> bool:
    return bool(re.search(r"[45]\.4\.7\b", text))


def _in_words(view: View) -> DeliveryReport | None:
    """Return the report that the words are; None for mail that is none."""
    family = family_of(view)
    declared = parameter(view.fields.get("content-type"), "report-type").lower() == "delivery-status"
    if not declared and not _is_report(view, family):
        return None
    report = _inline(view, view.words)
    if report:
        return report
    drafts = _drafts_told(view, family)
    if not drafts:
        report = _inline(view, view.whole_text)
        if report:
            return report
        wrapped = _forwarded(view)
        if wrapped:
            return wrapped
    failed = _failed_recipients(view)
    known = {(d.recipient or "").lower() for d in drafts}
    if len(failed) > len(drafts):
        rest = [address for address in failed if address.lower() not in known]
        drafts += _of_all(rest, view, _about_nobody(view.words) if len(failed) > 1 else view.words)
    if not drafts:
        drafts = _of_all(_outside(view), view, view.words)
    if not drafts:
        if not (view.from_daemon and view.null_sender and (family or view.has_failure_subject())):
            return None
        drafts = _of_all([None], view, view.words)
    if family is None and _to_holder(drafts, view):
        return None
    if view.is_delay():
        for draft in drafts:
            draft.action = draft.action or Action.DELAYED
    elif view.is_success():
        for draft in drafts:
            draft.action = draft.action or (None if draft.diagnostic_type else Action.DELIVERED)
    return _report(view, Kind.BOUNCE, drafts, StatusFields(), family.name if family else "words")


def _inline(view: View, text: str) -> DeliveryReport | None:
    """Return the report of delivery-status fields that stand in running text; None without such fields."""
    return _standard(view, text, inline=True) if _INLINE_STATUS.search(text) else None


def _to_holder(drafts: list[Draft], view: View) -> bool:
    """Tell whether a notice speaks of the mailbox it is sent to (quota warnings), not of a message sent from it."""
    return (
        not view.returns_message
        and all((draft.recipient or "").lower() in {"", *view.addressees} for draft in drafts)
        and any(phrase in view.low for phrase in view.readers.own_mailbox)
    )


def family_of(view: View) -> Family | None:
    """Return the family whose phrases the message has; None for none."""
    return next((family for family in view.readers.families if _belongs(view, family)), None)


def _belongs(view: View, family: Family) -> bool:
    """Tell whether a message has a family's phrases, and its sender and subject where those are given."""
    # the short texts first: most families are told apart by them
    if family.sender and not any(phrase in view.sender for phrase in family.sender):
        return False
    if family.subject and not any(phrase in view.subject.lower() for phrase in family.subject):
        return False
    low = view.low
    marked = any(phrase in low for phrase in family.text) or any(
        part in decoded(view.fields.get(name)).lower() for name, part in family.header
    )
    return marked and all(phrase in low for phrase in family.also)


def _is_report(view: View, family: Family | None) -> bool:
    """Tell whether a message without standard fields is a report of delivery.

    Who wrote it (a daemon, an empty reverse-path, X-Failed-Recipients) and
    what it says (a family's phrase, the subject, the words) must agree: either
    alone is no report. A person's answer or a list's mail is none.
    """
    readers = view.readers
    if any(phrase in view.subject.lower() for phrase in readers.notices):
        return False
    failed_field = view.fields.get("x-failed-recipients") is not None
    if not (view.null_sender or failed_field or family or view.returns_message) and _is_typed(view):
        return False
    system = view.from_daemon or view.null_sender or failed_field
    answer = _is_answer(view)
    if answer and not view.null_sender and _is_written(view, family):
        return False
    if not system and (answer or view.is_list_mail() or view.personal_path or _is_shown(view)):
        return False
    subject, words = view.has_failure_subject(), view.has_failure_words()
    quotes = view.null_sender and subject and not answer and reply_start(view.words[:6000]) is not None
    if not view.from_daemon and not failed_field and is_auto_reply(view):
        return subject and words and (quotes or family is not None) and _opens_as_report(view, family)
    if not system:
        return bool(family) and subject and words
    if not (family or view.null_sender or failed_field or view.has_daemon_address):
        # only the display name says "mail delivery": so does phishing ("you have 5 undelivered messages")
        return subject and words and (view.returns_message or reply_start(view.words[:6000]) is not None)
    if view.wants_answers and not (family or failed_field or view.returns_message):
        return False  # a postmaster's letter
    both = view.null_sender and view.from_daemon
    plainly = both or (view.sender_address or "").startswith(_DAEMON_ADDRESSES)
    daemon = (view.sender_address or "").startswith(_NEVER_PERSONS)
    return (
        bool(family)
        # whatever its language: nobody else writes so
        or (daemon and view.null_sender and not view.is_list_mail())
        or (subject and (words or plainly or quotes))
        or (words and (both or (view.from_daemon and view.returns_message)))
        # a daemon that quotes a refusal reports it, in whatever language
        or (plainly and not view.is_list_mail() and reply_start(view.words[:6000]) is not None)
    )


def _opens_as_report(view: View, family: Family | None) -> bool:
    """Tell whether a message begins as a report does: an automatic answer says first what it is, then quotes."""
    opening = view.low.strip().partition("\n\n")[0]
    if family is not None and any(phrase in opening for phrase in family.text):
        return True
    return any(phrase in opening for phrase in view.readers.failure_phrases) or reply_start(opening) is not None


def _is_typed(view: View) -> bool:
    """Tell whether a mail from postmaster's address comes from a person's mail program: an answer, with his return path."""
    program = any(view.fields.get(name) is not None for name in ("in-reply-to", "user-agent"))
    return program and view.fields.get("return-path") is not None


def _is_written(view: View, family: Family | None) -> bool:
    """Tell whether an answer from a mail system's address is a postmaster's own: it quotes, or it answers and returns nothing."""
    if _QUOTED_LINE.search(view.words):
        return True
    daemon = (view.sender_address or "").startswith(_NEVER_PERSONS)
    return not (daemon or family or view.returns_message)


def _drafts_told(view: View, family: Family | None) -> list[Draft]:
    """Return the recipients of the family's own layout; of any words where it has none."""
    own = OWN_LAYOUT[family.name](view) if family and family.name in OWN_LAYOUT else []
    return own or _drafts_in_words(view, reason_before=family is not None and family.reason_before)


def _drafts_in_words(view: View, *, reason_before: bool) -> list[Draft]:
    """Return the recipients that the words name, with what they tell about each."""
    drafts = []
    ours = view.addressees | {view.sender_address or ""}
    blocks = read_blocks(view.words, view.readers, ours, {a.lower() for a in _meant(view)} - ours)
    preface = before(view.words, blocks[0]) if blocks else ""
    said: dict[str, Told] = {}
    for block in blocks:
        stretch = f"\n{preface}\n{block.lines}" if reason_before else block.lines
        if stretch not in said:
            said[stretch] = told_by(stretch, view.readers)
        told = own_part(said[stretch], stretch, block.recipient) or NOT_TOLD
        draft = drafted(told, block.recipient, block.alias)
        if len(blocks) > 1 and view.readers.delivered.match(block.lines):
            draft.action = Action.DELIVERED
        elif told is not NOT_TOLD and not (told.quoted or reason_before):
            above = said.get(preface) or said.setdefault(preface, told_by("\n" + preface, view.readers))
            _look_before(draft, view, own_part(above, preface, block.recipient), preface, alone=len(blocks) == 1)
        drafts.append(draft)
    return drafts


def _look_before(draft: Draft, view: View, told: Told | None, preface: str, *, alone: bool) -> None:
    """Take the reply or the reason that stands before the recipients, where a recipient's own lines tell none.

    `told` is what the lines before tell; None where they are about others.
    """
    if told is None:
        return
    aside = _is_aside(draft.diagnostic)
    labelled = view.readers.reason_label
    if alone and aside and not told.quoted and not labelled.search(draft.diagnostic):
        # "Error: Invalid recipient" above "To: <a@b>" and the message's other fields (Verizon)
        given = labelled.search(preface)
        draft.diagnostic = preface[given.start() :].partition("\n")[0].strip() if given else draft.diagnostic
    if (told.quoted and (alone or aside)) or not draft.diagnostic:
        # words of which every line begins as boilerplate does are all that there is
        draft.diagnostic = told.diagnostic or reason_in("\n" + view.words, view.readers) or view.words[:REASON_LIMIT]
        draft.diagnostic_type = "smtp" if told.quoted else None
        draft.command = draft.command or told.command
        draft.remote_mta = draft.remote_mta or told.host


def _is_aside(text: str) -> bool:
    """Tell whether lines behind a recipient give no reason: fields of the message (James), not words."""
    return bool(re.match(r"[A-Z][A-Za-z -]{1,20}:\s", text))


def _of_all(recipients: Sequence[str | None], view: View, words: str) -> list[Draft]:
    """Return a draft for each recipient that the words do not name: all that `words` say is about it."""
    told = told_by("\n" + words, view.readers)
    return [drafted(told, recipient) for recipient in recipients]


def _about_nobody(words: str) -> str:
    """Return the paragraphs that name no address: where several recipients failed, what is said about one is not about all."""
    return "\n\n".join(paragraph for paragraph in words.split("\n\n") if not addresses_in(paragraph))


def _failed_recipients(view: View) -> list[str]:
    """Return the recipients of X-Failed-Recipients (Exim, Gmail)."""
    return [a for value in view.fields.all("x-failed-recipients") for a in addresses_in(value)]


def _meant(view: View) -> list[str]:
    """Return whom the mail was for, as fields tell: X-Failed-Recipients, and the returned message's To."""
    to = view.original.get("x-rcpt-to") or view.original.get("to")
    return [*_failed_recipients(view), *addresses_in(decoded(to))]


def _outside(view: View) -> list[str]:
    """Return the recipient that other fields show: X-Failed-Recipients, the returned message's To, a VERP address."""
    failed = _failed_recipients(view)
    if failed:
        return failed
    to = addresses_in(decoded(view.original.get("x-rcpt-to") or view.original.get("to")))
    if 0 < len(to) <= ORIGINAL_RECIPIENTS_LIMIT:
        return to
    verp = _verp_recipient(view)
    return [verp] if verp else []


def _verp_recipient(view: View) -> str | None:
    """Return the recipient that a VERP address among the report's addressees names."""
    for address in view.addressees:
        found = _VERP.search(_VERP_PREFIX.sub("", address))
        if found:
            return f"{found[1]}@{found[2]}"
    return None


def _report(view: View, kind: Kind, drafts: list[Draft], fields: StatusFields, reader: str) -> DeliveryReport:
    """Return the finished report."""
    original = view.original
    message_id = message_id_of(original.get("message-id")) or message_id_of(fields.message_id)
    returned = message_id_of(original.get("return-path"))
    sender = fields.sender or (returned if returned and "@" in returned else None)
    statuses: list[DeliveryStatus] = []
    seen: set[tuple[str | None, str]] = set()
    for draft in drafts:
        draft.arrival_date = draft.arrival_date or fields.arrival_date
        status = finished(draft, _mta_name(fields.reporting_mta), message_id, sender)
        key = ((status.recipient or "").lower() or None, str(status.action))
        if key not in seen:
            seen.add(key)
            statuses.append(status)
    return DeliveryReport(
        kind=kind,
        statuses=tuple(statuses),
        reader=reader,
        reporting_mta=_mta_name(fields.reporting_mta),
        message_id=message_id,
        envelope_id=fields.envelope_id,
        subject=decoded(original.get("subject")) or None,
        verp_recipient=_verp_recipient(view),
        arrival_date=fields.arrival_date,
        original_headers=tuple(original.pairs),
        defects=tuple(dict.fromkeys(view.defects)),
    )


def _mta_name(value: str | None) -> str | None:
    if not value:
        return None
    return re.split(r"[\s(]", value, maxsplit=1)[0].lower() or host_in(value)[0]
