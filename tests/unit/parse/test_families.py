"""Families with a layout of their own: every record of a report is read, and each ends where the next begins."""

import time

import pytest

from milter_bounce.parse.report import parse_report
from milter_bounce.system.readers import load_readers

READERS = load_readers().readers
FROM = "MAILER-DAEMON@mx.example.net"
BY_ZOHO = "This message was created automatically by mail delivery software.\nA message that you sent could not be delivered.\n\n"
BY_DOMINO = "Your message\n\n  Subject: Spring letter\n\n"


def bounce(words, returned=""):
    """Return a report in words, with a returned message where its fields are given."""
    original = f"\n\n   ----- Original message follows -----\n\n{returned}\n" if returned else "\n"
    fields = f"Return-Path: <>\nFrom: {FROM}\nTo: news@example.org\nSubject: Undeliverable: Spring letter\n\n"
    return f"{fields}{words}{original}".encode()


def told(words, returned=""):
    """Return recipient, status, reply and diagnostic of each recipient."""
    report = parse_report(bounce(words, returned), READERS)
    return [
        (s.recipient, str(s.status) if "status-derived" not in s.defects else None, s.reply_code, s.diagnostic)
        for s in report.statuses
    ]


def reasons(words, returned=""):
    """Return recipient and diagnostic of each recipient."""
    return [(recipient, diagnostic) for recipient, _, _, diagnostic in told(words, returned)]


DOMINO = [
    pytest.param(
        "was not delivered to:\n\n  a@example.com\n\nbecause:\n\n  Database is full\n\n"
        "and was not delivered to:\n\n  b@example.com\n\nbecause:\n\n  User b (b@example.com) not listed in Domino Directory\n",
        [("a@example.com", "Database is full"), ("b@example.com", "User b (b@example.com) not listed in Domino Directory")],
        id="two",
    ),
    pytest.param(
        "was not delivered to:\n\n  a@example.com\n  b@example.com\n\nbecause:\n\n  No route\n\n"
        "was not delivered to:\n\n  c@example.com\n\nbecause:\n\n  Quota\n",
        [("a@example.com", "No route"), ("b@example.com", "No route"), ("c@example.com", "Quota")],
        id="several-share-one-reason",
    ),
    pytest.param(
        "was not delivered to:\n\n  a@example.com\n\nbecause:\n\n  Quota\n\n"
        "was not delivered to:\n\n  Ann Example/Firm\n\nbecause:\n\n  User not unique\n",
        [("a@example.com", "Quota")],
        id="no-address",
    ),
    pytest.param(
        "wurde nicht zugestellt an:\n\n  a@example.com\n\nweil:\n\n  Datenbank voll\n\n"
        "wurde nicht zugestellt an:\n\n  b@example.com\n\nGrund:\n\n  Nicht verzeichnet\n",
        ["a@example.com", "b@example.com"],
        id="another-label",
    ),
    pytest.param(
        "------- Failure Reasons  --------\n\nUser not listed in public Name & Address Book\na@example.com\nb@example.com\n\n"
        "------- Failure Reasons  --------\n\nDisk full\nc@example.com\n\n------- Returned Message --------\n",
        [("a@example.com", "User not listed in public Name & Address Book"),
         ("b@example.com", "User not listed in public Name & Address Book"), ("c@example.com", "Disk full")],
        id="sections",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("words", "expected"), DOMINO)
def test_domino_record_ends_at_the_next(words, expected):
    """Each recipient has its own reason, in "was not delivered to" records as in sections."""
    found = reasons(BY_DOMINO + words)
    assert (found if isinstance(expected[0], tuple) else [recipient for recipient, _ in found]) == expected


ZOHO = [
    pytest.param(
        "a@example.com, ERROR CODE :550 - 5.1.1 User unknown\nb@example.com, ERROR CODE :552 - 5.2.2 Mailbox full\n",
        [("a@example.com", "550 5.1.1 User unknown"), ("b@example.com", "552 5.2.2 Mailbox full")],
        id="two-lines",
    ),
    pytest.param(
        "a@example.com Invalid Address, ERROR_CODE :550, ERROR_CODE :5.1.1\n<a@example.com>... User unknown\n"
        "b@example.com Error, ERROR_CODE :421, ERROR_CODE :, Host not\nreachable.\n\nGoodbye\n",
        [("a@example.com", "550 5.1.1 <a@example.com>... User unknown (Invalid Address)"),
         ("b@example.com", "421 Host not reachable. (Error)")],
        id="reply-goes-on",
    ),
    pytest.param(
        "a@example.com, ERROR CODE :550 - 5.1.1 User unknown\nb@example.com, Host not reachable\n",
        [("a@example.com", "550 5.1.1 User unknown"), ("b@example.com", "Host not reachable")],
        id="one-without-code",
    ),
    pytest.param(
        "a@example.com, b@example.com, ERROR CODE :550 - 5.1.1 User unknown\n",
        [("a@example.com", "550 5.1.1 User unknown"), ("b@example.com", "550 5.1.1 User unknown")],
        id="shared-line",
    ),
    pytest.param(
        "a@example.com, ERROR CODE :550 - 5.1.1 User unknown\n[Status: Error, Address: <b@example.com>, ResponseCode 421, , Host not reachable.]\n",
        [("a@example.com", "550 5.1.1 User unknown"), ("b@example.com", "421 Host not reachable.")],
        id="status-line-below",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("words", "expected"), ZOHO)
def test_zoho_recipient_ends_at_the_next(words, expected):
    """A line is a recipient, unless it goes on with the reply of the line above."""
    assert reasons(BY_ZOHO + words) == expected


HOSTILE = {
    "domino": BY_DOMINO + "was not delivered to:\n" * 20_000 + "because:\n a@example.com",
    "domino-because": BY_DOMINO + "was not delivered to:\na@example.com\nbecause:\n" * 4000,
    "domino-sections": "------- Failure Reasons -------\n" * 5000 + "a@example.com",
    "zoho": BY_ZOHO + "a@example.com, ERROR CODE :" * 20_000,
    "zoho-lines": BY_ZOHO + "a@example.com, ERROR CODE :550\nb@example.com, x\n" * 10_000,
    "zoho-blanks": BY_ZOHO + "a@example.com" + " " * 60_000 + "ERROR CODE :",
}


@pytest.mark.parametrize("words", [pytest.param(words, id=name) for name, words in HOSTILE.items()])
def test_hostile_words_are_read_in_time(words):
    """Repeating a layout's marks costs no more than reading it: well below a second, where quadratic search takes many."""
    start = time.process_time()
    parse_report(bounce(words), READERS)
    assert time.process_time() - start < 2
