"""Postfix's delivery lines: who spoke, about what, with which codes."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from milter_bounce.delivery import Action
from milter_bounce.parse.log import LogReader
from milter_bounce.parse.log_scan import Failed, Sent, events, scan
from milter_bounce.parse.logline import Delivery, Expired, Ignored, MessageId, Removed

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
STAMP = "Nov 20 10:00:00 mx"


def read(*lines):
    """Return the events of `lines`, those that tell nothing left out."""
    return list(LogReader(NOW).feed_all(lines))


def delivery(
    text,
    status="bounced",
    dsn="5.1.1",
    relay="mx.example.net[192.0.2.9]:25",
    agent="postfix/smtp",
    to="bob@example.net",
):
    """Return the one delivery of a line that is put together of these."""
    line = f"{STAMP} {agent}[7]: 4cXyz: to=<{to}>, relay={relay}, delay=2, delays=1/0/0.5/0.5, dsn={dsn}, status={status} ({text})"
    (found,) = read(line)
    assert isinstance(found, Delivery)
    return found


HOST = "host mx.example.net[192.0.2.9]"
SAID = f"{HOST} said: "
WORDS = [
    # text, reply code, command, who spoke, what is left as diagnostic (None = all)
    pytest.param(
        f"{SAID}550 5.1.1 <bob@example.net>: User unknown (in reply to RCPT TO command)",
        (550, "RCPT", "smtp", "550 5.1.1 <bob@example.net>: User unknown"),
        id="rcpt",
    ),
    pytest.param(
        f"{SAID}552-5.3.4 too big 552 5.3.4 really (in reply to MAIL FROM command)",
        (552, "MAIL", "smtp", "552-5.3.4 too big 552 5.3.4 really"),
        id="mail-many-lines",
    ),
    pytest.param(
        f"{SAID}554 5.7.1 no (in reply to end of DATA command)", (554, "EOD", "smtp", "554 5.7.1 no"), id="eod"
    ),
    pytest.param(f"{SAID}503 no (in reply to DATA command)", (503, "DATA", "smtp", "503 no"), id="data"),
    pytest.param(f"{SAID}550 no (in reply to EHLO command)", (550, "EHLO", "smtp", "550 no"), id="ehlo"),
    pytest.param(f"{SAID}550 no (in reply to HELO command)", (550, "HELO", "smtp", "550 no"), id="helo"),
    pytest.param(f"{SAID}550 no (in reply to LHLO command)", (550, "EHLO", "smtp", "550 no"), id="lhlo"),
    pytest.param(f"{SAID}550 what (a) mess) here", (550, None, "smtp", "550 what (a) mess) here"), id="unbalanced"),
    pytest.param(
        f"{HOST} refused to talk to me: 421 4.7.0 [TSS04] later",
        (421, "CONNECT", "smtp", "421 4.7.0 [TSS04] later"),
        id="banner",
    ),
    pytest.param(
        "SASL authentication failed; server mx.example.net[192.0.2.9] said: 535 5.7.8 bad",
        (535, "AUTH", "smtp", "535 5.7.8 bad"),
        id="auth",
    ),
    pytest.param(
        f"TLS is required, but {HOST} refused to start TLS: 454 4.7.0 not now",
        (454, "STARTTLS", "smtp", "454 4.7.0 not now"),
        id="starttls-refused",
    ),
    pytest.param(
        f"TLS is required, but was not offered by {HOST}", (None, "STARTTLS", "x-postfix", None), id="tls-missing"
    ),
    pytest.param("Cannot start TLS: handshake failure", (None, "STARTTLS", "x-postfix", None), id="tls-handshake"),
    pytest.param("Server certificate not verified", (None, "STARTTLS", "x-postfix", None), id="tls-certificate"),
    pytest.param(
        "lost connection with mx.example.net[192.0.2.9] while receiving the initial server greeting",
        (None, "CONNECT", "x-postfix", None),
        id="lost-greeting",
    ),
    pytest.param(
        "lost connection with mx.example.net[192.0.2.9] while sending RCPT TO",
        (None, "RCPT", "x-postfix", None),
        id="lost-rcpt",
    ),
    pytest.param(
        "lost connection with mx.example.net[192.0.2.9] while sending end of data -- message may be sent more than once",
        (None, "EOD", "x-postfix", None),
        id="lost-eod",
    ),
    pytest.param(
        "conversation with mx.example.net[192.0.2.9] timed out while performing the EHLO handshake",
        (None, "EHLO", "x-postfix", None),
        id="timeout-ehlo",
    ),
    pytest.param(
        "conversation with mx.example.net[192.0.2.9] timed out while sending message body",
        (None, "EOD", "x-postfix", None),
        id="timeout-body",
    ),
    pytest.param(
        "connect to mx.example.net[192.0.2.9]:25: Connection refused",
        (None, "CONNECT", "x-postfix", None),
        id="refused",
    ),
    pytest.param(
        "Host or domain name not found. Name service error for name=x.example type=MX: Host not found, try again",
        (None, None, "x-postfix", None),
        id="dns-later",
    ),
    pytest.param("mail for x.example loops back to myself", (None, None, "x-postfix", None), id="loop"),
    pytest.param('unknown user: "bob"', (None, None, "x-postfix", None), id="local-unknown"),
    pytest.param('Command died with status 1: "/bin/false"', (None, None, "x-unix", None), id="command"),
    pytest.param("mail transport unavailable", (None, None, "x-postfix", None), id="no-transport"),
]


@pytest.mark.parametrize(("text", "wanted"), WORDS)
def test_text_tells_who_spoke(text, wanted):
    """Reply code, command, speaker and the speaker's words alone come out of every kind of text."""
    status = delivery(text).status
    code, command, speaker, words = wanted
    assert (status.reply_code, status.command, status.diagnostic_type) == (code, command, speaker)
    assert status.diagnostic == (words or text)
    assert status.local is (speaker != "smtp")


def test_delivery_has_everything_the_line_says():
    """A line with all fields, after qmgr's and cleanup's, fills the whole noun."""
    (known, found) = read(
        f"{STAMP} postfix/cleanup[1]: 4cXyz: message-id=<1.2@example.com>",
        f"{STAMP} postfix/qmgr[1]: 4cXyz: from=<list@example.com>, size=500, nrcpt=1 (queue active)",
        f"{STAMP} postfix/smtp[1]: 4cXyz: to=<bob@example.net>, orig_to=<b@example.org>, relay=mx.example.net[2001:db8::9]:587, "
        f"conn_use=3, delay=90.5, delays=90/0/0.5/0, dsn=4.2.2, status=deferred ({SAID}452 4.2.2 full (in reply to RCPT TO command))",
    )
    assert known == MessageId("4cXyz", "1.2@example.com")
    status = found.status
    assert (status.recipient, status.original_recipient) == ("bob@example.net", "b@example.org")
    assert (status.remote_mta, status.remote_ip, status.remote_port) == ("mx.example.net", "2001:db8::9", 587)
    assert (status.sender, status.message_id, status.queue_id) == ("list@example.com", "1.2@example.com", "4cXyz")
    assert (status.action, str(status.status), found.log_status) == (Action.DELAYED, "4.2.2", "deferred")
    assert status.at == datetime(2026, 11, 20, 10, 0, tzinfo=UTC)
    assert status.arrival_date == datetime(2026, 11, 20, 9, 58, 29, 500000, tzinfo=UTC)
    assert status.defects == ()


@pytest.mark.parametrize(
    ("tag", "relay"),
    [
        pytest.param("postfix/smtp", "mx.example.net[192.0.2.9]:25", id="smtp"),
        pytest.param("postfix/relay/smtp", "mx.example.net[192.0.2.9]:25", id="relay-service"),
        pytest.param("postfix-out/smtp", "mx.example.net[192.0.2.9]:25", id="instance"),
        pytest.param("mta/transport_3/smtp", "mx.example.net[192.0.2.9]:25", id="own-syslog-name"),
        pytest.param("postfix/lmtp", "mx.example.net[private/dovecot-lmtp]", id="lmtp-socket"),
        pytest.param("postfix/local", "local", id="local"),
        pytest.param("postfix/virtual", "virtual", id="virtual"),
        pytest.param("postfix/pipe", "dovecot", id="pipe"),
        pytest.param("postfix/error", "none", id="error"),
        pytest.param("postfix/retry", "none", id="retry"),
        pytest.param("postfix/discard", "none", id="discard"),
        pytest.param("postfix/qmgr", "none", id="qmgr"),
        pytest.param("postfix/cleanup", "none", id="cleanup"),
    ],
)
def test_every_agent_is_read(tag, relay):
    """Each delivery agent's line is a delivery, whatever syslog_name stands before it."""
    assert delivery("nobody home", agent=tag, relay=relay).status.recipient == "bob@example.net"


def test_reply_over_a_unix_socket_is_our_own_side():
    """What our own mailbox store says over LMTP is quoted as its reply, but convicts nobody."""
    status = delivery(
        "host mx.example.net[private/dovecot-lmtp] said: 552 5.2.2 <bob> Quota exceeded (in reply to end of DATA command)",
        relay="mx.example.net[private/dovecot-lmtp]",
        agent="postfix/lmtp",
    ).status
    assert (status.reply_code, status.diagnostic_type, status.local, status.remote_ip) == (552, "smtp", True, None)


def test_connection_failure_names_the_host_it_was_about():
    """With relay=none the host in the text says whose server it was."""
    status = delivery("connect to mta5.am0.yahoodns.net[192.0.2.74]:25: Connection timed out", relay="none").status
    assert (status.remote_mta, status.remote_ip, status.remote_port) == ("mta5.am0.yahoodns.net", "192.0.2.74", 25)


@pytest.mark.parametrize(
    ("to", "recipient"),
    [
        pytest.param('"a b"@example.net', '"a b"@example.net', id="quoted"),
        pytest.param('"a>, relay=x, "@example.net', '"a>, relay=x, "@example.net', id="quoted-with-a-field"),
        pytest.param('"a\\"b"@example.net', '"a\\"b"@example.net', id="quoted-quote"),
        pytest.param("a b@example.net", "a b@example.net", id="internal-form"),
        pytest.param("a>b@example.net", "a>b@example.net", id="internal-bracket"),
        pytest.param("jos\u00e9@b\u00fccher.example", "jos\u00e9@b\u00fccher.example", id="utf-8"),
        pytest.param("", None, id="none"),
    ],
)
def test_recipient_is_read_whole(to, recipient):
    """Quoted and unquoted local parts come out as they stand."""
    assert delivery("x", to=to).status.recipient == recipient


@pytest.mark.parametrize(
    ("word", "action"),
    [
        pytest.param("sent", Action.DELIVERED, id="sent"),
        pytest.param("deferred", Action.DELAYED, id="deferred"),
        pytest.param("bounced", Action.FAILED, id="bounced"),
        pytest.param("SOFTBOUNCE", Action.DELAYED, id="soft-bounce"),
        pytest.param("undeliverable", Action.FAILED, id="undeliverable"),
        pytest.param("deliverable", Action.DELIVERED, id="deliverable"),
    ],
)
def test_log_status_becomes_an_action(word, action):
    """Postfix's word decides the action; probes are marked as such."""
    found = delivery("250 2.0.0 Ok", status=word, dsn="2.0.0")
    assert (found.status.action, found.probe) == (action, "deliverable" in word)


def test_success_tells_the_reply():
    """A delivery carries the remote's words; a local one is our own side."""
    remote = delivery("250 2.0.0 Ok: queued as X", status="sent", dsn="2.0.0").status
    local = delivery("delivered to mailbox", status="sent", dsn="2.0.0", relay="local", agent="postfix/local").status
    assert (remote.reply_code, remote.diagnostic_type, remote.local) == (250, "smtp", False)
    assert (local.reply_code, local.diagnostic_type, local.local) == (None, "x-postfix", True)


@pytest.mark.parametrize(
    ("dsn", "reply", "status", "defects"),
    [
        pytest.param("5.1.1", "550 5.1.1 no", "5.1.1", (), id="same"),
        pytest.param("5.0.0", "550 no such user", "5.0.0", (), id="made-up-by-postfix"),
        pytest.param("5.0.0", "550 no 5.7.1 here", "5.7.1", (), id="stated-further-on"),
        pytest.param("4.7.32", "421 5.7.32 no", "4.7.32", ("status-contradicts-reply",), id="contradiction"),
    ],
)
def test_codes_come_from_where_they_are_stated(dsn, reply, status, defects):
    """The log's dsn= counts unless Postfix made it up and the reply states one; contradictions are noted."""
    found = delivery(f"{SAID}{reply} (in reply to RCPT TO command)", dsn=dsn).status
    assert (str(found.status), found.defects) == (status, defects)


def test_line_without_dsn_is_read():
    """Postfix before 2.3 logged neither delays= nor dsn=."""
    (found,) = read(
        f"{STAMP} postfix/smtp[1]: ABC123: to=<b@example.net>, relay=mx[192.0.2.1], delay=3, status=bounced ({SAID}550 no)"
    )
    assert (found.status.status, found.status.reply_code) == (None, 550)


@pytest.mark.parametrize(
    ("tail", "words"),
    [
        pytest.param("550 5.1.1 User unkn", "550 5.1.1 User unkn", id="in-the-reply"),
        pytest.param("550 5.1.1 no (in reply to RC", "550 5.1.1 no", id="in-the-command"),
        pytest.param("550 5.1.1 no (in reply to RCPT TO command", "550 5.1.1 no", id="before-the-brackets"),
    ],
)
def test_cut_line_is_read_as_far_as_it_goes(tail, words):
    """A line cut at the syslog limit keeps its reply and is noted as cut."""
    line = f"{STAMP} postfix/smtp[1]: ABC123: to=<b@example.net>, relay=mx[192.0.2.1]:25, delay=3, delays=0/0/0/3, dsn=5.1.1, status=bounced ({SAID}{tail}"
    (found,) = read(line)
    assert (found.status.diagnostic, found.status.defects) == (words, ("cut-line",))


def test_line_cut_before_its_status_tells_nothing():
    """Half a line is no delivery."""
    assert read(f"{STAMP} postfix/smtp[1]: ABC123: to=<b@example.net>, relay=mx[192.0.2.1]:25, del") == []


def test_suspended_delivery_convicts_nobody():
    """The retry agent repeats an old reason: the words are read, but no attempt was made."""
    found = delivery(
        f"delivery temporarily suspended: {HOST} refused to talk to me: 421 4.7.0 [TSS04] later",
        status="deferred",
        dsn="4.7.0",
        relay="none",
        agent="postfix/error",
    )
    assert (found.suspended, found.status.local, found.status.reply_code) == (True, True, 421)
    assert found.status.diagnostic == "421 4.7.0 [TSS04] later"


def test_own_gate_is_no_failure():
    """A recipient that our gate held back is known by our mark."""
    found = delivery("milter-bounce: held until 2026-11-21", status="deferred", relay="none", agent="postfix/error")
    assert found.ours


def test_remote_cannot_pass_for_our_gate():
    """A remote's reply that begins with our mark is a reply like any other."""
    assert not delivery(f"{SAID}550 milter-bounce: ha (in reply to RCPT TO command)").ours


def test_own_annotation_is_taken_off():
    """What our status filter put in front is kept apart; the remote's own codes count, not our corrected ones."""
    mark = "[class=policy category=blocklisted advice=hold rule=zen was=5.7.1]"
    found = delivery(f"{mark} {SAID}554 5.7.1 listed (in reply to RCPT TO command)", status="deferred", dsn="4.7.1")
    assert (found.annotation, found.ours) == (mark, False)
    assert (found.status.diagnostic, str(found.status.status)) == ("554 5.7.1 listed", "5.7.1")


def test_annotation_states_the_code_before_a_correction():
    """Where the reply has no enhanced status, the annotation remembers what Postfix had made of it."""
    mark = "[class=soft category=mailbox-full advice=retry rule=full was=5.0.0]"
    found = delivery(f"{mark} {SAID}550 mailbox full (in reply to RCPT TO command)", status="deferred", dsn="4.2.2")
    assert (str(found.status.status), found.status.defects) == ("5.0.0", ())


TAIL = "relay=mx.evil.example[203.0.113.6]:25, delay=1, delays=0/0/0/1, dsn=5.1.1, status=bounced (550 no)"


@pytest.mark.parametrize(
    "reply",
    [
        pytest.param("550 5.1.1 to=<victim@example.org> is dead", id="to"),
        pytest.param("550 5.1.1 no (in reply to RCPT TO command) status=sent (250 ok)", id="status"),
        pytest.param("550 5.1.1 QQQQQQ: to=<victim@example.org>, status=bounced (x", id="half-a-line"),
        pytest.param(
            r"550 5.1.1 x\nNov 20 10:00:00 mx postfix/smtp[1]: AAAAAA: to=<victim@example.org>, status=bounced (x)",
            id="newline",
        ),
    ],
)
def test_reply_cannot_forge_fields(reply):
    """Recipient, status and relay are Postfix's own, whatever the reply imitates."""
    found = delivery(f"{SAID}{reply} (in reply to RCPT TO command)")
    assert (found.status.recipient, found.log_status) == ("bob@example.net", "bounced")
    assert found.status.remote_ip == "192.0.2.9"
    assert found.status.diagnostic == reply


@pytest.mark.parametrize(
    "to",
    [
        pytest.param(f"victim@example.org>, {TAIL}@evil.example", id="internal-form"),
        pytest.param(f"victim@example.org>, orig_to=<x>, {TAIL}@evil.example", id="with-orig-to"),
    ],
)
def test_recipient_that_holds_a_line_convicts_nobody(to):
    """A hostile recipient in the unquoted form cannot be told from a line: it is noted, and our own side's."""
    status = delivery("550 no", to=to).status
    assert "ambiguous-line" in status.defects
    assert status.local


FORGED = f"victim@ok.example>, {TAIL}"


@pytest.mark.parametrize("size", [1024, 2000])
@pytest.mark.parametrize(
    "told",
    [
        pytest.param('to=<"{}"@evil.example>, relay=', id="quoted"),
        pytest.param("to=<{}@evil.example>, relay=", id="internal-form"),
        pytest.param('to=<boss@ok.example>, orig_to=<"{}"@evil.example>, relay=', id="quoted-alias"),
        pytest.param("to=<boss@ok.example>, orig_to=<{}@evil.example>, relay=", id="internal-form-alias"),
    ],
)
@pytest.mark.parametrize("words", ["status=bounced (host mx said: 550 5.1.1 User unknown", "status=sent (250 ok"])
def test_address_that_fills_a_line_up_to_its_cut_tells_nothing(size, told, words):
    """An address as long as the line: what it holds instead of Postfix's own words convicts and clears nobody.

    Postfix 3.7.11 takes a quoted local part of 1,950 characters and cuts its line at 2,000.
    """
    forged = FORGED.partition("status=")[0] + words
    line = f"{STAMP} postfix/smtp[1]: ABC123: {told.format(forged + 'A' * size)}"[:size]
    assert not [e for e in read(line) if isinstance(e, Delivery) and not e.status.local]
    sent: list[tuple[str, ...]] = []
    assert not [d for d in scan(line + "\n", LogReader(NOW), sent) if isinstance(d, Failed) or not d.status.local]
    assert sent == []
    assert not [e for e in events([line], LogReader(NOW)) if isinstance(e, Sent) or not e.status.local]


@pytest.mark.parametrize("words", ["status=expired, returned to sender", "size=300, nrcpt=1 (queue active)"])
def test_sender_that_holds_the_end_of_its_line_tells_nothing(words):
    """``"x>, status=expired, returned to sender"@evil.example`` is a sender like any other."""
    sender = f'"x>, {words}"@evil.example'
    reader = LogReader(NOW)
    line = f"{STAMP} postfix/qmgr[1]: ABC123: from=<{sender}>, size=300, nrcpt=1 (queue active)"
    assert not [e for e in reader.feed(line) if isinstance(e, Expired)]
    (found,) = reader.feed(f"{STAMP} postfix/smtp[1]: ABC123: to=<b@example.net>, {TAIL}")
    assert found.status.sender == sender
    ended = line.replace("size=300, nrcpt=1 (queue active)", "status=expired, returned to sender")
    assert [type(e) for e in reader.feed(ended)] == [Expired]
    bare = f"{STAMP} postfix/qmgr[1]: ABC123: from=<x>, {words}@evil.example>, size=300, nrcpt=1 (queue active)"
    assert not [e for e in reader.feed(bare) if isinstance(e, Expired)]


def test_quoted_recipient_that_holds_a_line_is_seen_through():
    """In the quoted form, Postfix's default since 3.5, the true recipient comes out."""
    hostile = f'"victim@example.org>, {TAIL}"@evil.example'
    assert delivery("550 no", to=hostile).status.recipient == hostile


@pytest.mark.parametrize(
    ("line", "event"),
    [
        pytest.param("postfix/qmgr[1]: 4cXyz: removed", Removed("4cXyz", NOW.replace(hour=10)), id="removed"),
        pytest.param("postfix/postsuper[1]: 4cXyz: removed", Removed("4cXyz", NOW.replace(hour=10)), id="postsuper"),
        pytest.param(
            "postfix/qmgr[1]: 4cXyz: from=<a@example.com>, status=expired, returned to sender",
            Expired("4cXyz", "a@example.com", NOW.replace(hour=10)),
            id="expired",
        ),
        pytest.param(
            "postfix/qmgr[1]: 4cXyz: from=<>, status=force-expired, returned to sender",
            Expired("4cXyz", "<>", NOW.replace(hour=10)),
            id="force-expired",
        ),
        pytest.param("postfix/cleanup[1]: 4cXyz: message-id=<a@b>", MessageId("4cXyz", "a@b"), id="message-id"),
        pytest.param("postfix/cleanup[1]: 4cXyz: resent-message-id=<a@b>", MessageId("4cXyz", "a@b"), id="resent"),
        pytest.param("postfix/cleanup[1]: 4cXyz: message-id=a@b", MessageId("4cXyz", "a@b"), id="unbracketed"),
    ],
)
def test_queue_events(line, event):
    """What qmgr, postsuper and cleanup tell comes out as events."""
    assert read(f"{STAMP} {line}") == [event]


@pytest.mark.parametrize(
    "line",
    [
        pytest.param("postfix/smtpd[1]: connect from x[192.0.2.1]", id="smtpd"),
        pytest.param(
            "postfix/smtpd[1]: NOQUEUE: reject: RCPT from x[192.0.2.1]: 554 5.7.1 <b@c>: Relay access denied; from=<a@b> to=<b@c>",
            id="smtpd-reject",
        ),
        pytest.param(f"postfix/smtpd[1]: 4cXyz: to=<b@example.net>, {TAIL}", id="smtpd-imitates"),
        pytest.param("postfix/smtp[1]: connect to mx[192.0.2.1]:25: Connection refused", id="smtp-next-mx"),
        pytest.param(f"postfix/smtp[1]: 4cXyz: {SAID}450 later (in reply to RCPT TO command)", id="smtp-next-mx-said"),
        pytest.param("postfix/bounce[1]: 4cXyz: sender non-delivery notification: 4cXy0", id="bounce"),
        pytest.param("postfix/qmgr[1]: warning: connect to transport private/x: No such file", id="qmgr-warning"),
        pytest.param("postfix/cleanup[1]: 4cXyz: message-id=<>", id="no-message-id"),
        pytest.param(f"milter-bounce/logd[1]: 4cXyz: to=<b@example.net>, {TAIL}", id="own"),
        pytest.param("dovecot: lmtp(bob): saved mail", id="dovecot"),
        pytest.param("postfix/smtp[1]: ", id="empty"),
    ],
)
def test_other_lines_tell_nothing(line):
    """Lines that are no delivery, our own among them, are ignored."""
    events = LogReader(NOW).feed(f"{STAMP} {line}")
    assert [type(e) for e in events] == [Ignored]


def test_removed_queue_id_is_forgotten():
    """A queue ID that is used again does not inherit the sender of its former message."""
    to = f"{STAMP} postfix/smtp[1]: 4cXyz: to=<bob@example.net>, {TAIL}"
    sender = f"{STAMP} postfix/qmgr[1]: 4cXyz: from=<a@example.com>, size=1, nrcpt=1 (queue active)"
    first, _, second = read(sender, to, f"{STAMP} postfix/qmgr[1]: 4cXyz: removed", to)
    assert (first.status.sender, second.status.sender) == ("a@example.com", None)


@pytest.mark.parametrize("fields", ["conn_use=3, ", "tls=verify, ", "conn_use=3, tls=dane:encrypt, x_y=z, "])
def test_fields_of_later_releases_are_passed_over(fields):
    """What a release or a patch puts between relay= and delay= does not cost the delivery."""
    line = (
        f"{STAMP} postfix/smtp[7]: 4cXyz: to=<bob@example.net>, relay=mx.example.net[192.0.2.9]:25, {fields}delay=2, "
    )
    (found,) = read(line + f"delays=1/0/0.5/0.5, dsn=5.1.1, status=bounced ({SAID}550 5.1.1 no)")
    assert isinstance(found, Delivery)
    assert (found.status.recipient, found.status.remote_ip, found.status.reply_code) == (
        "bob@example.net", "192.0.2.9", 550,
    )  # fmt: skip
