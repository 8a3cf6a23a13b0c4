"""Who wrote it and to whom it belongs: letters that paste a report, answers that quote one, reports that return one."""

import pytest

from milter_bounce.delivery import Action, Kind
from milter_bounce.parse.report import parse_report
from milter_bounce.system.readers import load_readers
from tests.reports import dsn

READERS = load_readers().readers
EXIM = (
    "This message was created automatically by mail delivery software.\n\nA message that you sent could not be delivered\n"
    "to one or more of its recipients. This is a permanent error. The following address(es) failed:\n\n"
    "  lost@example.com\n    host mx.example.com [192.0.2.4]\n"
    "    SMTP error from remote mail server after RCPT TO:<lost@example.com>:\n    550 5.1.1 User unknown\n"
)
QMAIL = (
    "Hi. This is the qmail-send program at mx.example.net.\nI'm afraid I wasn't able to deliver your message to the following"
    " addresses.\nThis is a permanent error; I've given up. Sorry it didn't work out.\n\n<lost@example.com>:\n"
    "192.0.2.4 does not like recipient.\nRemote host said: 550 5.1.1 User unknown\nGiving up on 192.0.2.4.\n"
)


def read(
    words,
    *,
    sender="Mail Delivery System <MAILER-DAEMON@mx.example.net>",
    path="",
    subject="Mail delivery failed",
    fields="",
):
    head = f"Return-Path: <{path}>\nFrom: {sender}\nTo: news@home.example\nSubject: {subject}\n{fields}"
    return parse_report(f"{head}\n{words}".encode(), READERS)


@pytest.mark.parametrize("words", [EXIM, QMAIL], ids=["exim", "qmail"])
@pytest.mark.parametrize(
    "subject", ["Question about a bounce", "Delivery problem", "Undeliverable", "[Ticket 17] Mail delivery failed"]
)
def test_letter_that_pastes_a_report_is_none(words, subject):
    """A reverse-path to a person and a person in From: whatever the words, somebody asks for help."""
    letter = f"Hello,\n\nsince Monday I get this, can you help?\n\n{words}\nBest regards, Ute\n"
    assert read(letter, sender="Ute <ute@example.org>", path="ute@example.org", subject=subject).kind is Kind.NOT_BOUNCE
    assert read(words, subject=subject).kind is Kind.BOUNCE


def test_list_mail_that_pastes_a_report_is_none():
    """List-Id (RFC 2919) alone tells a list."""
    report = read(f"Hello all,\n\nwho knows this?\n\n{QMAIL}", sender="Ops <ops@example.org>", path="ops-bounces@example.org",
                  subject="[ops] qmail failure", fields="List-Id: <ops.example.org>\n")  # fmt: skip
    assert report.kind is Kind.NOT_BOUNCE


@pytest.mark.parametrize("words", [EXIM, QMAIL], ids=["exim", "qmail"])
@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("", "Auto-Submitted: auto-replied\nX-Autoreply: yes\n"),
        ("support@example.org", "Auto-Submitted: auto-replied\nIn-Reply-To: <1@home.example>\n"),
        ("support@example.org", "X-Auto-Response-Suppress: All\nAuto-Submitted: auto-generated\n"),
    ],
)
def test_automatic_answer_that_quotes_a_report_is_an_answer(words, path, fields):
    """It says first what it is, and then what it answers."""
    answer = f"Thank you, we have received your request:\n\n{words}"
    report = read(
        answer,
        sender="Support <support@example.org>",
        path=path,
        fields=fields,
        subject="Automatic reply: Mail delivery failed",
    )
    assert report.kind is Kind.AUTO_REPLY


@pytest.mark.parametrize(
    "words",
    [
        "Dear all,\n\nyour mail to <ute@example.org> was refused with 554 5.7.1 (blocklist). I let it through now, send it again.\n",
        "Your server sends to <old@example.org>, which does not exist (550 5.1.1). Please remove it.\n",
    ],
)
@pytest.mark.parametrize("subject", ["Your mail to us", "Mail delivery problem"])
def test_postmasters_letter_is_none(words, subject):
    """Whoever can be answered writes letters, even as postmaster; the same words from nowhere are a report."""
    assert (
        read(words, sender="Postmaster <postmaster@example.org>", path="postmaster@example.org", subject=subject).kind
        is Kind.NOT_BOUNCE
    )
    assert read(words, sender="Postmaster <postmaster@example.org>", subject="Undelivered mail").kind is Kind.BOUNCE


@pytest.mark.parametrize("words", [EXIM, QMAIL], ids=["exim", "qmail"])
def test_report_that_returns_a_report_names_its_own_recipient(words):
    """Delivery-status fields of a returned message are another report's."""
    inner = "Return-Path: <>\nReceived: from a by b; Mon, 23 Nov 2026 10:12:02 +0100\n" + dsn("inner@example.net")
    copy = (
        "\n------ This is a copy of the message, including all the headers. ------\n\n"
        if words is EXIM
        else "\n--- Below this line is a copy of the message.\n\n"
    )
    (status,) = read(words + copy + inner).statuses
    assert (status.recipient, str(status.status)) == ("lost@example.com", "5.1.1")


def test_status_fields_in_running_text_count_where_the_words_name_nobody():
    """A bare report without its multipart: the fields follow the words, X-Actual-Recipient among them."""
    fields = "Reporting-MTA: dns; mx.example.net\n\nFinal-Recipient: rfc822; lost@example.com\nX-Actual-Recipient: rfc822; lost@in.example.com\nAction: failed\nStatus: 5.2.1\n"
    (status,) = read(f"Your message could not be delivered.\n\n{fields}").statuses
    assert (status.recipient, str(status.status)) == ("lost@example.com", "5.2.1")


@pytest.mark.parametrize("end", ["--w--\n", "--w--\n\nepilogue\n", ""])
def test_last_part_of_a_multipart_knows_its_parent(end):
    """Fields under a type that says nothing are read as the last part, too."""
    fields = "Reporting-MTA: dns; mx.example.net\n\nFinal-Recipient: rfc822; lost@example.com\nAction: failed\nStatus: 5.2.2\nDiagnostic-Code: smtp; 552 5.2.2 full\n"
    body = f"--w\nContent-Type: text/plain\n\nYour mail failed.\n\n--w\nContent-Type: application/octet-stream; name=details.txt\n\n{fields}\n{end}"
    (status,) = read(body, fields='Content-Type: multipart/mixed; boundary="w"\n').statuses
    assert (status.recipient, str(status.status)) == ("lost@example.com", "5.2.2")


@pytest.mark.parametrize(
    "said", ["delivered", "was successfully delivered.", "250 2.1.5 ok", "delivery via mx: 250 2.0.0 queued"]
)
def test_recipient_that_was_reached_has_not_failed(said):
    """One report on two recipients: the reached one is told as delivered."""
    statuses = read(
        f"Delivery report:\n\n  good@example.com: {said}\n  lost@example.com: 550 5.1.1 unknown user\n"
    ).statuses
    assert [(s.recipient, s.action) for s in statuses] == [
        ("good@example.com", Action.DELIVERED),
        ("lost@example.com", Action.FAILED),
    ]


def test_delay_that_has_ended_is_a_failure():
    """Words of a delay and of its end: the end counts."""
    late = "Your message to <lost@example.com> has been delayed for 3 days"
    (status,) = read(f"{late} and finally could not be delivered.\n").statuses
    assert status.action is Action.FAILED
    (status,) = read(f"{late}. We will keep trying.\n").statuses
    assert status.action is Action.DELAYED


def test_message_from_one_to_the_other_names_the_other():
    """Even a mailbox that is mostly named for help."""
    (status,) = read(
        "Message from news@home.example to info@example.com was rejected.\n\nReason: 550 5.1.1 user unknown\n"
    ).statuses
    assert status.recipient == "info@example.com"
