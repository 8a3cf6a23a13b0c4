"""A person who shows somebody else's report, in whatever way their mail program does it, reports nothing."""

import html

import pytest

from milter_bounce.delivery import Kind
from milter_bounce.parse.report import parse_report
from milter_bounce.system.readers import load_readers

READERS = load_readers().readers
WORDS = (
    "This is the mail system at host mx.example.net.\n\nI'm sorry to have to inform you that your message could not\n"
    "be delivered to one or more recipients. It's attached below.\n\n"
    "<a@example.com>: host mail.example.com[198.51.100.4] said: 550 5.1.1 User unknown (in reply to RCPT TO command)\n"
)
FIELDS = (
    "Reporting-MTA: dns; mx.example.net\n\nFinal-Recipient: rfc822; a@example.com\nAction: failed\nStatus: 5.1.1\n"
    "Diagnostic-Code: smtp; 550 5.1.1 User unknown\n"
)
SUBJECT = "Undelivered Mail Returned to Sender"
QUOTED = "".join(f"> {line}\n" for line in WORDS.splitlines())


def parts(*pieces):
    return "".join(f"--w\n{piece}\n" for piece in pieces) + "--w--\n"


SHOWN = {
    "quoted": ("text/plain", f"What does this mean?\n\n{QUOTED}"),
    "apple": ("text/plain", f"Begin forwarded message:\n\n> From: Mail Delivery System <MAILER-DAEMON@mx.example.net>\n>\n{QUOTED}"),
    "gmail": ("text/plain", f"---------- Forwarded message ---------\nFrom: Mail Delivery Subsystem <mailer-daemon@example.net>\nDate: Mon, Oct 12, 2026\nSubject: x\n\n{WORDS}"),
    "outlook-german": ("text/plain", f"Hallo,\n\nwas ist das?\n\nVon: Microsoft Outlook <postmaster@example.net>\nGesendet: Montag\nAn: Ute\n\n{WORDS}"),
    "outlook-japanese": ("text/plain", f"確認してください。\n\n差出人： Mail Delivery System\n日付： 2026/10/12\n\n{WORDS}"),
    "outlook-html": ("text/html", f"<p>Please check.</p><p><b>From:</b> Mail Delivery System<br><b>Sent:</b> Monday<br></p>{html.escape(WORDS)}"),
    "message-attached": ('multipart/mixed; boundary="w"', parts("\nSee attachment.", f"Content-Type: message/rfc822\n\nFrom: MAILER-DAEMON@mx.example.net\nSubject: {SUBJECT}\n\n{WORDS}")),
    "status-attached": ('multipart/mixed; boundary="w"', parts("\nSee attachment.", f"Content-Type: message/delivery-status\nContent-Disposition: attachment\n\n{FIELDS}")),
}  # fmt: skip


def message(subject, kind, body):
    return (
        f"Return-Path: <ute@example.com>\nFrom: Ute <ute@example.com>\nTo: help@example.org\nSubject: {subject}\n"
        f"Content-Type: {kind}\n\n{body}"
    ).encode()


@pytest.mark.parametrize("subject", ["Help please", f"Fwd: {SUBJECT}", f"[helpdesk] WG: {SUBJECT}", SUBJECT])
@pytest.mark.parametrize("form", [pytest.param(form, id=name) for name, form in SHOWN.items()])
def test_shown_report_is_none(subject, form):
    """Neither the subject nor the words of a report make one where a person's program copied its header or quoted it."""
    assert parse_report(message(subject, *form), READERS).kind is Kind.NOT_BOUNCE


def test_status_part_beside_an_answered_subject_is_none():
    """A status part without Content-Disposition counts by the subject: an answer's is a person's."""
    body = parts("\nSee attachment.", f"Content-Type: message/delivery-status\n\n{FIELDS}")
    kinds = [
        parse_report(message(subject, 'multipart/mixed; boundary="w"', body), READERS).kind
        for subject in (f"Re: {SUBJECT}", SUBJECT)
    ]
    assert kinds == [Kind.NOT_BOUNCE, Kind.DSN]


def test_ticket_system_that_quotes_a_bounce_is_no_report():
    """An automatic answer with an empty reverse-path and the report's subject behind its own tag stays an answer."""
    mail = (
        "Return-Path: <>\nFrom: Support <support@example.com>\nTo: news@example.org\nAuto-Submitted: auto-replied\n"
        f"Subject: [Ticket#1] Fwd: {SUBJECT}\n\nWe have received your request.\n\n> <a@example.com>: 550 5.1.1 User unknown\n"
    )
    assert parse_report(mail.encode(), READERS).kind is Kind.AUTO_REPLY
