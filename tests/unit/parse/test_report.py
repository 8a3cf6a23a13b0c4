"""What is a report and what is not, and how its pieces fit together; whole mails are in tests/corpus."""

import pytest

from milter_bounce.delivery import Action, Kind
from milter_bounce.parse.dsn import read_status
from milter_bounce.parse.report import parse_report
from milter_bounce.system.readers import load_readers

READERS = load_readers().readers


def mail(fields: str, body: str) -> bytes:
    return f"{fields.strip()}\n\n{body}".encode()


def dsn(status: str, words: str = "Undelivered.") -> bytes:
    return (
        "Return-Path: <>\nFrom: MAILER-DAEMON@mx.example.net\nTo: news@example.org\n"
        'Content-Type: multipart/report; report-type=delivery-status; boundary="b"\n\n'
        f"--b\n\n{words}\n--b\nContent-Type: message/delivery-status\n\n{status}\n--b--\n"
    ).encode()


def only(message: bytes):
    report = parse_report(message, READERS)
    assert len(report.statuses) == 1
    return report.statuses[0]


@pytest.mark.parametrize(
    ("fields", "body"),
    [
        pytest.param("From: ann@example.net\nSubject: Undelivered Mail Returned to Sender", "see <a@example.net>: 550 5.1.1 unknown", id="person"),
        pytest.param("From: postmaster@example.net\nSubject: Re: undeliverable", "> <a@example.net>: user unknown\nwe look into it", id="postmaster-answers"),
        pytest.param("From: users@lists.example.com\nList-Post: <mailto:x>\nSubject: delivery failed", "a@example.net\n 550 no such user", id="list"),
        pytest.param("From: MAILER-DAEMON@example.net\nSubject: hello", "nothing to say", id="daemon-alone"),
        pytest.param("Return-Path: <>\nFrom: shop@example.com\nSubject: Your order", "it was delivered to you@example.org", id="null-sender-alone"),
        pytest.param("From: root@example.net\nSubject: Cron <root@h> x\nAuto-Submitted: auto-generated", "mail could not be delivered a@example.net", id="cron"),
        pytest.param("", "", id="empty"),
    ],
)  # fmt: skip
def test_ordinary_mail_is_no_report(fields, body):
    """Neither who wrote it nor what it says makes a report alone."""
    assert parse_report(mail(fields, body), READERS).kind is Kind.NOT_BOUNCE


def test_status_of_the_reply_stands_before_the_field():
    """Sendmail and Exim put 5.0.0 or 5.1.1 into Status whatever the remote MTA said."""
    status = only(
        dsn(
            "Final-Recipient: rfc822; a@example.net\nAction: failed\nStatus: 5.1.1\nDiagnostic-Code: smtp; 550 5.7.1 blacklisted"
        )
    )
    assert (str(status.status), status.reply_code, status.diagnostic_type) == ("5.7.1", 550, "smtp")


def test_field_stands_before_a_status_that_says_nothing():
    """x.0.0 in the reply says no more than its class."""
    status = only(
        dsn(
            "Final-Recipient: rfc822; a@example.net\nAction: failed\nStatus: 5.1.1\nDiagnostic-Code: smtp; 550 5.0.0 user unknown"
        )
    )
    assert str(status.status) == "5.1.1"


def test_contradiction_is_kept_and_noted():
    """A 4.x.x status beside a 554 stays, with a defect."""
    status = only(
        dsn("Final-Recipient: rfc822; a@example.net\nAction: failed\nStatus: 4.0.0\nDiagnostic-Code: smtp; 554 blocked")
    )
    assert (str(status.status), status.reply_code, status.defects) == ("4.0.0", 554, ("status-contradicts-reply",))


def test_missing_status_is_derived_and_noted():
    """No code anywhere: the action gives the class, and the defect tells that nobody stated it."""
    status = only(dsn("Final-Recipient: rfc822; a@example.net\nAction: delayed\n"))
    assert (str(status.status), status.action, status.defects) == ("4.0.0", Action.DELAYED, ("status-derived",))


def test_words_complete_a_cut_diagnostic():
    """Sendmail keeps the first line of a long reply in Diagnostic-Code; the transcript has the rest."""
    words = "   ----- Transcript of session follows -----\n... while talking to mx.example.net.:\n>>> DATA\n<<< 550-5.7.26 first line\n<<< 550 5.7.26 second line\n"
    status = only(
        dsn(
            "Final-Recipient: rfc822; a@example.net\nAction: failed\nStatus: 5.7.26\nDiagnostic-Code: SMTP; 550-5.7.26 first line",
            words,
        )
    )
    assert status.diagnostic == "550-5.7.26 first line 550 5.7.26 second line"


@pytest.mark.parametrize(
    ("fields", "recipient"),
    [
        pytest.param("Final-Recipient: rfc822;a@example.net", "a@example.net", id="plain"),
        pytest.param("Final-Recipient: RFC822; <a@example.net>", "a@example.net", id="brackets"),
        pytest.param("Final-Recipient: a@example.net", "a@example.net", id="no-type"),
        pytest.param("final-recipient : rfc822;a@example.net", "a@example.net", id="blank-before-colon"),
        pytest.param("Original-Recipient: rfc822;a@example.net", "a@example.net", id="original-only"),
        pytest.param(
            "X-Actual-Recipient: rfc822; a@example.net\nFinal-Recipient: rfc822; @mx.example.net",
            "a@example.net",
            id="actual",
        ),
        pytest.param("Final-Recipient: utf-8; 用户@example.net", "用户@example.net", id="utf-8"),
        pytest.param('Final-Recipient: rfc822; "a..b"@example.net', '"a..b"@example.net', id="quoted-local-part"),
        pytest.param("Final-Recipient: rfc822; reader", "reader", id="no-domain"),
    ],
)
def test_recipient_fields(fields, recipient):
    """RFC 3464, 2.3.1 and 2.3.2, and what is sent in their place."""
    assert read_status(f"{fields}\nAction: failed\nStatus: 5.1.1\n").recipients[0].recipient == recipient


def test_groups_without_blank_line_and_with_too_many():
    """Recipients' groups are told apart by a repeated Final-Recipient; a blank line inside a group ends nothing."""
    text = "Final-Recipient: rfc822;a@example.net\n\nAction: failed\nStatus: 5.1.1\nFinal-Recipient: rfc822;b@example.net\nAction: delayed\nStatus: 4.2.2\n"
    assert [(d.recipient, str(d.status)) for d in read_status(text).recipients] == [
        ("a@example.net", "5.1.1"),
        ("b@example.net", "4.2.2"),
    ]


def test_verp_address_names_the_recipient():
    """Where the report names nobody, our own VERP address does."""
    report = parse_report(
        mail("Return-Path: <>\nFrom: MAILER-DAEMON@x.example\nTo: bounces+ann=example.net@example.org\nSubject: failure notice", "552 5.2.2 Mailbox full"), READERS
    )  # fmt: skip
    assert report.verp_recipient == "ann@example.net"
    assert [s.recipient for s in report.statuses] == ["ann@example.net"]


def test_list_reports_do_not_share_replies():
    """Each recipient keeps its own reply."""
    body = "Hi. This is the qmail-send program at x.\n\n<a@example.net>:\n550 5.1.1 no\n\n<b@example.net>:\nuser is over quota\n"
    report = parse_report(
        mail("Return-Path: <>\nFrom: MAILER-DAEMON@x.example\nSubject: failure notice", body), READERS
    )
    assert [(s.recipient, s.reply_code, s.diagnostic) for s in report.statuses] == [
        ("a@example.net", 550, "550 5.1.1 no"),
        ("b@example.net", None, "user is over quota"),
    ]


def test_report_that_a_person_attaches_to_a_letter_is_none():
    """The same report wrapped by a mail system counts: only who wrote the wrapper differs."""
    wrapped = (
        "--w\n\nWhat is this?\n--w\nContent-Type: message/rfc822\n\n"
        + dsn("Final-Recipient: rfc822; a@example.net\nAction: failed\nStatus: 5.1.1").decode()
    )
    kinds = [
        parse_report(
            mail(f'Return-Path: <x@example.org>\nFrom: {who}\nContent-Type: multipart/mixed; boundary="w"', wrapped),
            READERS,
        ).kind
        for who in ("Ann <ann@example.org>", "mailman-bounces@example.org", "Postmaster <postmaster@example.org>")
    ]
    assert kinds == [Kind.NOT_BOUNCE, Kind.NOT_BOUNCE, Kind.DSN]


@pytest.mark.parametrize(
    ("who", "kind"),
    [pytest.param("ann@example.org", Kind.NOT_BOUNCE, id="person"), pytest.param("postmaster@example.org", Kind.DSN, id="daemon")],
)  # fmt: skip
def test_attached_delivery_status_counts_by_its_sender(who, kind):
    """A file of type message/delivery-status that a person sends round is not a report of theirs."""
    body = (
        "--w\n\nAs asked.\n--w\nContent-Type: message/delivery-status\nContent-Disposition: attachment\n\n"
        "Final-Recipient: rfc822; a@example.net\nAction: failed\nStatus: 5.1.1\n--w--\n"
    )
    message = mail(f'Return-Path: <x@example.org>\nFrom: {who}\nContent-Type: multipart/mixed; boundary="w"', body)
    assert parse_report(message, READERS).kind is kind


@pytest.mark.parametrize(
    ("field", "recipient"),
    [
        pytest.param("utf-8; j\\x{F6}rg@example.com", "jörg@example.com", id="utf-8-addr-xtext"),
        pytest.param("rfc822; ann+2Bnews@example.com", "ann+news@example.com", id="xtext-plus"),
        pytest.param("rfc822; ann+A1@example.com", "ann+A1@example.com", id="tag-that-looks-like-xtext"),
    ],
)
def test_encoded_recipient_is_read(field, recipient):
    """What RFC 3461 and RFC 6533 encode in an address comes out as the address; a user's own +tag stays."""
    found = only(dsn(f"Final-Recipient: {field}\nAction: failed\nStatus: 5.1.1")).recipient
    assert found == recipient


def test_type_of_a_diagnostic_is_any_atom():
    """Barracuda's X-Spam-&-Virus-Firewall is a type and no part of the text, which would read as a virus."""
    status = only(
        dsn(
            "Final-Recipient: rfc822; a@example.net\nAction: failed\nStatus: 5.0.0\n"
            "Diagnostic-Code: X-Spam-&-Virus-Firewall; host mx said: 554 rejected due to spam content"
        )
    )
    assert (status.diagnostic_type, status.reply_code) == ("x-spam-&-virus-firewall", 554)


@pytest.mark.parametrize(
    ("action", "status"), [pytest.param("failed", "5.0.0", id="failed"), pytest.param("delayed", "4.0.0", id="delayed")]
)
def test_success_code_of_a_failure_is_no_status(action, status):
    """Action and Status contradict each other: the class that the action implies stands, and the defect is noted."""
    found = only(dsn(f"Final-Recipient: rfc822; a@example.net\nAction: {action}\nStatus: 2.0.0"))
    assert (str(found.action), str(found.status)) == (action, status)
    assert "status-contradicts-action" in found.defects


def test_supplementary_info_stands_in_for_a_diagnostic():
    """Exchange 2000 and 2003 wrote the remote MTA's reply into a field of their own."""
    found = only(
        dsn(
            "Final-Recipient: rfc822; a@example.net\nAction: failed\nStatus: 5.0.0\n"
            "X-Supplementary-Info: <mx.example.net #5.1.1 smtp;550 5.1.1 User unknown>"
        )
    )
    assert (found.reply_code, str(found.status), found.diagnostic_type) == (550, "5.1.1", "smtp")


def test_who_handed_the_message_in_is_no_recipient():
    """Sendmail's second line names the sender; where nobody else is named, nobody is."""
    words = (
        b"From: MAILER-DAEMON@mx.example.net (Mail Delivery Subsystem)\nSubject: Returned mail: see transcript for details\n\n"
        b"The original message was received at Thu, 19 Nov 2026 08:00:00 +0100\nfrom ann@localhost\n\n"
        b"   ----- Transcript of session follows -----\n550 5.1.1 User unknown\n"
    )
    assert [status.recipient for status in parse_report(words, READERS).statuses if status.recipient] == []


def test_reason_behind_a_label_above_the_recipient_counts_before_fields_below_it():
    words = (
        "Error:        Invalid recipient address\n  From:       news@example.org\n  To:         5550100@gw.example\n"
        "  Subject:    hello\n  Message date: Mar 2, 2015 10:00:00 AM EST\n"
    )
    status = only(mail("From: post_master@gw.example\nTo: news@example.org\nSubject: Undeliverable Message", words))
    assert (status.recipient, status.diagnostic) == ("5550100@gw.example", "Error: Invalid recipient address")


def test_status_field_of_another_class_than_the_replys_own_status_is_noted():
    """What the remote MTA said decides; that the reporting MTA says otherwise is not lost."""
    status = only(
        dsn(
            "Final-Recipient: rfc822; a@example.net\nAction: failed\nStatus: 4.2.2\nDiagnostic-Code: smtp; 550 5.1.1 unknown"
        )
    )
    assert str(status.status) == "5.1.1"
    assert "status-contradicts-diagnostic" in status.defects
