"""Any bytes at all: the readers of reports raise nothing, keep their limits, and stay linear."""

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milter_bounce.delivery import DeliveryReport, Kind
from milter_bounce.parse.draft import DIAGNOSTIC_LIMIT
from milter_bounce.parse.dsn import read_status
from milter_bounce.parse.header import date_of, decoded, parameter
from milter_bounce.parse.mime import PART_LIMIT, decode_text, read_message
from milter_bounce.parse.plaintext import text_of_html
from milter_bounce.parse.reply import codes_in, reply_start
from milter_bounce.system.readers import load_readers
from tests.corpus.expected import MAILS

OWN = [mail.read_bytes() for mail in MAILS]
PIECES = [
    b"Content-Type: multipart/report; boundary=a\n", b"Content-Type: message/delivery-status\n\n", b"--a\n", b"--a--\n", b"\n", b"\r", b"\0",
    b"Content-Type: message/rfc822\n\n", b"Content-Transfer-Encoding: base64\n", b"Final-Recipient: rfc822; a@example.net\n", b"Status: 5.1.1\n",
    b"Diagnostic-Code: smtp; 550 5.1.1 x\n", b"<<< 550 x\n", b">>> RCPT TO:<a@example.net>\n", b"From: MAILER-DAEMON\n", b"Subject: =?utf-8?B?", b"?=\n", b"550-",
    b"<a@example.net>:\n", b'{"notificationType":"Bounce"}', b"Feedback-Type: abuse\n", b"----- Original message -----\n", b"=?x?q?=FF?=", b"\xff\xfe", b"\x1b$B",
]  # fmt: skip


def holds(message: bytes) -> DeliveryReport:
    report = load_readers().read(message)
    assert report.kind in Kind
    for status in report.statuses:
        assert status.recipient != ""
        assert status.diagnostic != ""
        assert len(status.diagnostic or "") <= DIAGNOSTIC_LIMIT
        assert "\n" not in (status.diagnostic or "")
        assert status.reply_code is None or 200 <= status.reply_code <= 599
    return report


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=3000))
def test_any_bytes_are_read(message):
    """Random bytes give some report."""
    assert holds(message).kind in Kind


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=60).map(b"".join))
def test_any_heap_of_report_pieces_is_read(message):
    """Pieces of reports in any order give some report."""
    assert holds(message).kind in Kind


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(OWN), st.data())
def test_any_damaged_mail_is_read(message, data):
    """Own mails that are cut, spliced or changed anywhere give some report."""
    begin = data.draw(st.integers(0, len(message)))
    end = data.draw(st.integers(begin, len(message)))
    patch = data.draw(st.one_of(st.binary(max_size=8), st.sampled_from(PIECES), st.just(message[begin:end] * 3)))
    assert holds(message[:begin] + patch + message[end:]).kind in Kind


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=400), st.binary(max_size=200), st.text(max_size=20))
def test_the_small_readers_take_any_text(text, raw, name):
    """Fields, dates, codes, charsets and HTML: any text, no exception."""
    date_of(text), decoded(text), parameter(text, "boundary"), text_of_html(text), reply_start(text), read_status(text)
    assert isinstance(decode_text(raw, name), str)
    found = codes_in(text)
    assert found.reply is None or 400 <= found.reply <= 599


def nested(depth: int) -> bytes:
    head = b"".join(b"Content-Type: multipart/mixed; boundary=b%d\n\n--b%d\n" % (n, n) for n in range(depth))
    return b"From: MAILER-DAEMON@example.net\n" + head + b"\nend\n"


HOSTILE = {
    "30-mb": b"From: MAILER-DAEMON\nSubject: failure notice\n\n" + b"x" * 30_000_000,
    "30-mb-of-dashes": b"Content-Type: multipart/mixed; boundary=a\n\n" + b"--\n" * 10_000_000,
    "10000-parts": b"Content-Type: multipart/mixed; boundary=a\n\n" + b"--a\n\nx\n" * 10_000,
    "10000-multiparts": b"Content-Type: multipart/mixed; boundary=a\n\n" + b"--a\nContent-Type: multipart/mixed; boundary=zz\n\n" * 10_000,
    "depth-1000": nested(1000),
    "messages-in-messages": b"Content-Type: message/rfc822\n\n" * 10_000,
    "nuls": b"\0" * 1_000_000,
    "one-long-header": b"Subject: " + b"=?utf-8?B?" * 100_000 + b"\n\n",
    "many-headers": b"X-A: b\n" * 100_000 + b"\n",
    "many-folds": b"Content-Type: multipart/report;\n" + b" a=b;\n" * 20_000 + b"\n",
    "addresses": b"From: MAILER-DAEMON\nSubject: failure notice\nReturn-Path: <>\n\n" + b"<a@b.example>: " * 60_000,
    "address-lines": b"From: MAILER-DAEMON\nSubject: failure notice\nReturn-Path: <>\n\nundeliverable\n" + b"a@b.example\n" * 60_000,
    "at-signs": b"From: MAILER-DAEMON\nSubject: failure notice\nReturn-Path: <>\n\n" + b"a@" * 400_000,
    "codes": b"From: MAILER-DAEMON\nSubject: failure notice\nReturn-Path: <>\n\na@example.net: " + b"550 5.1.1 " * 90_000,
    "open-brackets": b"From: MAILER-DAEMON\nSubject: undeliverable\nReturn-Path: <>\nContent-Type: text/html\n\n" + b"<" * 900_000,
    "quoted-words": b"Subject: " + b"=?a?q?" + b"=" * 7000 + b"?=\nReturn-Path: <>\n\nx",
    "transcript": b"From: MAILER-DAEMON\nSubject: failure\nReturn-Path: <>\n\nTranscript of session follows\n" + b"<<< 550 a\n" * 90_000,
    "blank-lines": b"From: MAILER-DAEMON\nSubject: failure\nReturn-Path: <>\n\n" + b" \n" * 400_000,
    "status-fields": b"Content-Type: message/delivery-status\n\n" + b"Final-Recipient: rfc822; a@example.net\n" * 25_000,
    "cut-base64": b"Content-Transfer-Encoding: base64\n\n" + b"QQ" * 400_001,
}  # fmt: skip
CPU_LIMIT_S = 4.0
"""A sieve for exponential or quadratic time, wide enough for a busy machine: each takes well under a second."""


@pytest.mark.parametrize("message", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_mail_is_read_within_bounds(message):
    """Size, part count, depth and repetition are cut at the stated limits."""
    begun = time.process_time()
    assert holds(message).kind in Kind
    assert len(read_message(message).parts) <= PART_LIMIT * 2
    assert time.process_time() - begun < CPU_LIMIT_S


def test_charsets_that_nobody_knows_are_read():
    """A charset of nonsense, of binary codecs or with path marks leaves the text readable."""
    for charset in (
        "x-unknown",
        "hex",
        "base64",
        "../../etc/passwd",
        "rot13",
        "unicode-1-1-utf-7",
        "\0",
        "utf-16-xx",
        "idna",
        "mbcs",
    ):
        assert re.search("abc", decode_text(b"abc", charset))


LONG_LINES = [
    b" ",
    b"a",
    b"a ",
    b"-",
    b"- ",
    b"a@",
    b"a@b.",
    b"(",
    b"<",
    b"550 ",
    b"550-",
    b"5.1.1 ",
    b": ",
    b"'",
    b'"',
    b"[1",
    b"a:",
    b"=?a?q?",
]


@pytest.mark.parametrize("unit", LONG_LINES, ids=repr)
@pytest.mark.parametrize("mail", MAILS[:: len(MAILS) // 12], ids=lambda path: path.stem)
def test_a_long_line_anywhere_costs_no_more_than_its_length(mail, unit):
    """A line of 20,000 repetitions in place of any third line is read at once: no pattern backtracks without bound."""
    lines = mail.read_bytes().split(b"\n")
    lines[2::3] = [unit * 20_000 if n == len(lines) // 6 else line for n, line in enumerate(lines[2::3])]
    begun = time.process_time()
    assert holds(b"\n".join(lines)).kind in Kind
    assert time.process_time() - begun < CPU_LIMIT_S


def test_many_indented_lines_cost_no_more_than_their_length():
    """Continuation lines under a header field in running text: this took a minute before the pattern was bounded."""
    head = b"From: mailer-daemon@googlemail.com\nSubject: Delivery Status Notification (Failure)\n\nfailed permanently: a@example.net\n\n"
    begun = time.process_time()
    assert holds(head + b"DKIM-Signature: v=1;\n" + b"        a=b;\n" * 5000).kind in Kind
    assert time.process_time() - begun < CPU_LIMIT_S
