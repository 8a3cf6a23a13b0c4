"""One report reads the same whatever gateways, filters and mailboxes did to it on its way."""

import base64
import html
import quopri
import re

import pytest

from milter_bounce.delivery import Kind
from milter_bounce.parse.report import parse_report
from milter_bounce.system.readers import load_readers

READERS = load_readers().readers
TYPE = 'multipart/report; report-type=delivery-status; boundary="b7"'
HEADER = (
    "Return-Path: <>\nFrom: Mail Delivery Subsystem <MAILER-DAEMON@mx.example.net>\nTo: bounces@example.org\n"
    f"Subject: Returned mail: see transcript for details\nMIME-Version: 1.0\nContent-Type: {TYPE}\n"
)
WORDS = (
    "   ----- The following addresses had permanent fatal errors -----\n"
    "<a@example.com>\n    (reason: 550 5.1.1 <a@example.com>... User unknown)\n"
    "<b@example.net>\n    (reason: 552 5.2.2 Mailbox full)\n"
)
STATUS = (
    "Reporting-MTA: dns; mx.example.net\nArrival-Date: Mon, 12 Oct 2026 10:15:31 +0200\n\n"
    "Final-Recipient: RFC822; a@example.com\nAction: failed\nStatus: 5.1.1\nRemote-MTA: DNS; mx.example.com\n"
    "Diagnostic-Code: SMTP; 550 5.1.1 <a@example.com>...\n User unknown\n\n"
    "Final-Recipient: RFC822; b@example.net\nAction: failed\nStatus: 5.2.2\nRemote-MTA: DNS; mx.example.net\n"
    "Diagnostic-Code: SMTP; 552 5.2.2 Mailbox full\n"
)
ORIGINAL = "Message-ID: <letter-7@example.org>\nFrom: news@example.org\nTo: a@example.com, b@example.net\n\nHello.\n"
TOLD = [("a@example.com", "failed", "5.1.1", 550), ("b@example.net", "failed", "5.2.2", 552)]


def divided(words=WORDS, status=STATUS, original=ORIGINAL, kind="message/delivery-status", coding=""):
    """Return the body with its three parts."""
    return (
        f"--b7\nContent-Type: text/plain\n\n{words}\n--b7\nContent-Type: {kind}\n{coding}\n{status}\n"
        f"--b7\nContent-Type: message/rfc822\n\n{original}\n--b7--\n"
    )


def whole(**changed):
    return f"{HEADER}\n{divided(**changed)}"


def wrapped(kind, before="", after=""):
    """Return the report as a part of another message from the same sender."""
    inner = f"--out\nContent-Type: {TYPE}\n\n{divided()}"
    return HEADER.replace(TYPE, f'{kind}; boundary="out"') + f"\n{before}{inner}{after}\n--out--\n"


def coded(name):
    return f"Content-Transfer-Encoding: {name}\n"


DAMAGED = {
    "as-sent": whole(),
    "crlf": whole().replace("\n", "\r\n"),
    "cr": whole().replace("\n", "\r"),
    "line-ends-given-twice": whole().replace("\n", "\r\r\n"),
    "empty-lines-padded": whole().replace("\n\n", "\n \n"),
    "every-line-padded": whole().replace("\n", " \n"),
    "mbox-line-first": "From MAILER-DAEMON Mon Oct 12 10:15:42 2026\n" + whole(),
    "byte-order-mark": "\ufeff" + whole(),
    "boundary-lost": whole().replace('; boundary="b7"', "", 1),
    "boundary-other": whole().replace('boundary="b7"', 'boundary="x"', 1),
    "type-lost": whole().replace(f"Content-Type: {TYPE}\n", "", 1),
    "mixed": whole().replace("multipart/report; report-type=delivery-status", "multipart/mixed", 1),
    "status-base64": whole(status=base64.encodebytes(STATUS.encode()).decode(), coding=coded("base64")),
    "status-base64-undeclared": whole(status=base64.encodebytes(STATUS.encode()).decode()),
    "status-plain-called-base64": whole(coding=coded("base64")),
    "status-quoted-printable": whole(status=quopri.encodestring(STATUS.encode()).decode(), coding=coded("quoted-printable")),
    "status-as-text": whole(kind="text/plain"),
    "status-as-file": whole(kind='application/octet-stream; name="details.txt"'),
    "status-indented": whole(status="\n".join(f"  {line}" for line in STATUS.split("\n"))),
    "status-quoted": whole(status="\n".join(f"> {line}" for line in STATUS.split("\n"))),
    "status-empty-lines-between": whole(status=STATUS.replace("\n", "\n\n").replace("\n\n ", "\n ")),
    "status-empty-lines-lost": whole(status=STATUS.replace("\n\n", "\n")),
    "status-groups-swapped": whole(status="\n\n".join([*STATUS.strip().split("\n\n")[1:], STATUS.split("\n\n", maxsplit=1)[0]]) + "\n"),
    "status-unfolded-badly": whole(status=STATUS.replace("\n User", "\nUser")),
    "status-codes-lost": whole(status=re.sub(r"Status: 5.*", "Status: 5.0.0", STATUS)),
    "diagnostics-lost": whole(status=re.sub(r"Diagnostic-Code:.*\n(?: .*\n)?", "", STATUS)),
    "codes-and-diagnostics-lost": whole(status=re.sub(r"(?:Status|Diagnostic-Code):.*\n(?: .*\n)?", "", STATUS)),
    "recipients-lost": whole(status=re.sub(r"Final-Recipient:.*\n", "", STATUS)),
    "cut-in-original": whole()[: whole().index("From: news") + 3],
    "footer-behind": whole() + "\n____\nThis mail is confidential.\n",
    "footer-as-part": wrapped("multipart/mixed", after="\n--out\nContent-Type: text/plain\n\nThis mail is confidential.\n"),
    "warning-as-part": wrapped("multipart/mixed", before="--out\nContent-Type: text/plain\n\nCAUTION: from outside.\n\n"),
    "signed": wrapped('multipart/signed; protocol="application/pkcs7-signature"', after="\n--out\nContent-Type: application/pkcs7-signature\n\nAAAA\n"),
    "all-in-one-text": HEADER.replace(TYPE, "text/plain") + f"\n{WORDS}\n{STATUS}\n{ORIGINAL}",
    "all-in-html": HEADER.replace(TYPE, "text/html") + f"\n<html><pre>{html.escape(WORDS + chr(10) + STATUS)}</pre></html>",
    "original-tells-of-others": whole(original=ORIGINAL + STATUS.replace("@example", "@victim")),
}  # fmt: skip


@pytest.mark.parametrize("name", [pytest.param(name, id=name) for name in DAMAGED])
def test_damaged_report_tells_the_same(name):
    """Recipients, actions, statuses and replies are those of the report as it was sent."""
    report = parse_report(DAMAGED[name].encode(), READERS)
    told = [(s.recipient, str(s.action), str(s.status), s.reply_code) for s in report.statuses]
    assert report.kind in {Kind.DSN, Kind.BOUNCE}
    assert told == TOLD


def test_blanks_that_continue_a_field_end_no_header():
    """A line of blanks followed by another field is folding (RFC 5322 4.2), not the end of the header."""
    message = whole().replace("Subject: Returned", "X-Folded: a\n \nSubject: Returned")
    assert parse_report(message.encode(), READERS).kind is Kind.DSN
