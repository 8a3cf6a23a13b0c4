"""Whom a report in words means, and which of its lines are about whom; a list, a sentence or a transcript tells."""

import pytest

from milter_bounce.parse.report import parse_report
from milter_bounce.system.readers import load_readers

READERS = load_readers().readers
DAEMON = "Return-Path: <>\nFrom: MAILER-DAEMON@mx.example.net\nTo: news@example.org\nSubject: Undelivered mail\n"


def told(words: str, fields: str = "") -> dict[str | None, str | None]:
    """Return what a report in words tells: the diagnostic by recipient."""
    report = parse_report(f"{DAEMON}{fields}\n{words}".encode(), READERS)
    return {status.recipient: status.diagnostic for status in report.statuses}


@pytest.mark.parametrize(
    "words",
    [
        pytest.param("could not be delivered:\n\n  ann@a.example\n    550 5.1.1 unknown\n  info@b.example\n    Connection timed out\n", id="set-in"),
        pytest.param("could not be delivered:\n\nann@a.example:\n550 5.1.1 unknown\n\ninfo@b.example:\nConnection timed out\n", id="colon"),
        pytest.param("could not be delivered:\n\n<ann@a.example>: 550 5.1.1 unknown\n\n<info@b.example>: Connection timed out\n", id="brackets"),
        pytest.param("could not be delivered:\n\nann@a.example\n550 5.1.1 unknown\n\ninfo@b.example\nConnection timed out\n", id="alike"),
        pytest.param("could not be delivered:\n\n1. ann@a.example\n550 5.1.1 unknown\n\n2. info@b.example\nConnection timed out\n", id="numbered"),
        pytest.param("Failed to deliver to 'ann@a.example'\nhost says:\n550 5.1.1 unknown\n\nFailed to deliver to 'info@b.example'\nhost says:\nConnection timed out\n", id="sentences"),
    ],
)  # fmt: skip
def test_mailbox_named_for_help_is_a_recipient_where_it_stands_as_one(words):
    """info@ and support@ are whom mail is sent to, too; its lines are not its neighbour's."""
    found = told(words)
    assert set(found) == {"ann@a.example", "info@b.example"}
    assert "5.1.1" in found["ann@a.example"]
    assert "timed out" not in found["ann@a.example"]
    assert "timed out" in found["info@b.example"]


@pytest.mark.parametrize(
    "contact",
    ["For help contact support@b.example", "Questions: support@b.example", "support@b.example for assistance"],
)
def test_mailbox_that_is_offered_is_no_recipient(contact):
    assert set(told(f"could not be delivered:\n\n<ann@a.example>: 550 5.1.1 unknown\n\n{contact}\n")) == {
        "ann@a.example"
    }


def test_mailbox_named_for_help_alone_with_its_reason():
    found = told(
        "the address could not be reached:\n\n    info@a.example\n        550 5.1.1 unknown\n\nQuestions: bob@b.example\n"
    )
    assert list(found) == ["info@a.example"]


def test_failed_recipient_that_the_words_leave_out_gets_nobody_elses_reply():
    """X-Failed-Recipients names two, the words explain one: nothing is known of the other."""
    words = "The following address(es) failed:\n\n  ann@a.example\n    550 5.1.1 No such recipient here\n"
    found = told(words, "X-Failed-Recipients: ann@a.example, bob@b.example\n")
    assert "550" in found["ann@a.example"]
    assert "550" not in (found["bob@b.example"] or "")


@pytest.mark.parametrize(
    ("ask", "say"),
    [
        pytest.param(">>> RCPT TO:<{}>", "<<< {}", id="sendmail"),
        pytest.param("Sent <<< RCPT TO:<{}>", "Received >>> {}", id="interscan"),
        pytest.param(" Tue 2019-05-14 09:21:32: --> RCPT To:<{}>", " Tue 2019-05-14 09:21:32: <-- {}", id="mdaemon"),
    ],
)
def test_each_recipient_of_a_transcript_has_its_own_reply(ask, say):
    transcript = "\n".join(
        [ask.format("ann@a.example"), say.format("550 5.1.1 No such user"), ask.format("bob@a.example"), say.format("552 5.2.2 Mailbox full")]
    )  # fmt: skip
    found = told(
        f"was not delivered to:\n\nFailed address: ann@a.example\nFailed address: bob@a.example\n\nTranscript\n{transcript}\n"
    )
    assert found == {"ann@a.example": "550 5.1.1 No such user", "bob@a.example": "552 5.2.2 Mailbox full"}


def test_recipient_that_a_transcript_accepts_has_the_reply_to_data():
    words = (
        "was not delivered to:\n\nFailed address: bob@a.example\n\n>>> RCPT TO:<ann@a.example>\n<<< 550 5.1.1 No such user\n"
        ">>> RCPT TO:<eve@a.example>\n<<< 550 5.1.1 No such user\n>>> RCPT TO:<bob@a.example>\n<<< 250 ok\n>>> DATA\n<<< 554 5.7.1 spam\n"
    )
    assert told(words) == {"bob@a.example": "554 5.7.1 spam"}


def test_reply_above_that_names_the_recipient_is_the_reason():
    """MailMarshal and others: the reply first, then who was affected."""
    words = "could not be delivered because of\n\n550 5.1.1 <ann@a.example> User unknown\n\nThe following recipients were affected:\n\n   ann@a.example\n\nOriginal Sender: <news@example.org>\n"
    assert told(words) == {"ann@a.example": "550 5.1.1 <ann@a.example> User unknown"}


def test_labels_that_tell_reasons_stand_in_one_list():
    words = (
        "User mailbox exceeds allowed size: ann@a.example\nUnknown user: bob@a.example\n\nOriginal message follows.\n\n"
    )
    found = told(words)
    assert "exceeds allowed size" in found["ann@a.example"]
    assert "Unknown user" in found["bob@a.example"]
    assert "exceeds" not in found["bob@a.example"]


def test_sentence_with_the_codes_is_the_reason_though_it_begins_as_boilerplate_does():
    words = "Your message to ann@a.example could not be delivered: the user is unknown (550 5.1.1).\nIt reached bob@a.example.\n"
    assert "the user is unknown" in told(words)["ann@a.example"]


def test_recipient_that_a_transcript_does_not_ask_for_gets_no_reply():
    """Of two that it asks for both are refused; what became of the third is not known."""
    asked = "".join(f">>> RCPT TO:<{who}@a.example>\n<<< 550 5.1.1 No such user\n" for who in ("ann", "bob"))
    listed = "".join(f"Failed address: {who}@a.example\n" for who in ("ann", "bob", "eve"))
    for words in (f"was not delivered to:\n\n{listed}\n{asked}", f"was not delivered\n\n{asked}\n{listed}"):
        found = told(words)
        assert found["ann@a.example"] == found["bob@a.example"] == "550 5.1.1 No such user"
        assert "550" not in (found["eve@a.example"] or "")


def test_words_that_stand_before_each_address_make_a_list():
    """Tables in HTML lose the colon behind the label; whatever the language, the same word before each is a label."""
    words = "邮件被退回。\n\n收件人 ann@a.example\n退信原因 550 5.1.1 User unknown\n\n收件人 info@b.example\n退信原因 552 5.2.2 mailbox full\n"
    found = told(words)
    assert set(found) == {"ann@a.example", "info@b.example"}
    assert "5.1.1" in found["ann@a.example"]
    assert "5.2.2" in found["info@b.example"]
