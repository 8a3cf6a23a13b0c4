"""The reader of Sendmail's log lines."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milter_bounce.delivery import Action, Source
from milter_bounce.parse.log import LogReader
from milter_bounce.parse.logline import Delivery, Expired, Ignored, LogLine, MessageId, Removed
from milter_bounce.parse.sendmail_log import MEMO_LIMIT
from tests.conftest import SHARED

NOW = datetime(2026, 11, 20, 20, 0, tzinfo=UTC)
HEAD = "Nov 20 17:52:53 mx sm-mta[30273]: 6AKHqrQ6030271: "
TAIL = ", delay=00:00:13, xdelay=00:00:00, mailer=esmtp, pri=30107, relay=mx.example.net. [192.0.2.5]"


def read(*texts: str) -> list:
    """Return all events of lines that are given without their envelope."""
    reader = LogReader(NOW)
    return [event for text in texts for event in reader.feed(HEAD + text)]


def one(*texts: str) -> Delivery:
    """Return the only delivery that the lines tell of."""
    found = [event for event in read(*texts) if isinstance(event, Delivery)]
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize(
    ("rest", "action", "status", "code", "diagnostic"),
    [
        pytest.param(
            "dsn=5.1.1, reply=550 5.1.1 <a@b>: no, stat=User unknown",
            "failed", "5.1.1", 550, "550 5.1.1 <a@b>: no", id="rcpt-550",
        ),
        pytest.param(
            "dsn=5.7.26, reply=550-5.7.26 This mail has been blocked, stat=User unknown",
            "failed", "5.7.26", 550, "550-5.7.26 This mail has been blocked", id="first-line-of-many",
        ),
        pytest.param(
            "dsn=5.0.0, reply=554 5.7.1 Spam message rejected, stat=Service unavailable",
            "failed", "5.7.1", 554, "554 5.7.1 Spam message rejected", id="data-554-dsn-is-made-up",
        ),
        pytest.param(
            "dsn=5.7.32, reply=421 5.7.32 not aligned, stat=Deferred: 421 5.7.32 not aligned",
            "delayed", "5.7.32", 421, "421 5.7.32 not aligned", id="code-and-status-disagree",
        ),
        pytest.param(
            "dsn=4.0.0, reply=421 4.7.0 [TSS04] later, stat=Deferred: Connection reset by mx.example.net.",
            "delayed", "4.7.0", 421, "421 4.7.0 [TSS04] later", id="closed-after-421",
        ),
        pytest.param(
            "dsn=4.2.0, reply=450 4.2.0 a, b; c, stat=Deferred: 450 4.2.0 a, b; c",
            "delayed", "4.2.0", 450, "450 4.2.0 a, b; c", id="commas",
        ),
        pytest.param(
            "dsn=4.2.0, reply=450 4.2.0 a, stat=Sent (ok), stat=Deferred: 450 4.2.0 a, stat=Sent (ok)",
            "delayed", "4.2.0", 450, "450 4.2.0 a, stat=Sent (ok)", id="reply-forges-stat-deferred",
        ),
        pytest.param(
            "dsn=5.1.1, reply=550 5.1.1 a, stat=Sent (ok), stat=User unknown",
            "failed", "5.1.1", 550, "550 5.1.1 a, stat=Sent (ok)", id="reply-forges-stat",
        ),
        pytest.param(
            "dsn=4.7.0, stat=Deferred: 451 4.7.1 wait", "delayed", "4.7.1", 451, "451 4.7.1 wait",
            id="older-release-without-reply",
        ),
        pytest.param("dsn=5.1.1, stat=User unknown", "failed", "5.1.1", None, None, id="older-release-refusal"),
        pytest.param(
            "dsn=5.7.1, reply=550 5.7.1 very long and cut by sysl", "failed", "5.7.1", 550,
            "550 5.7.1 very long and cut by sysl", id="cut-line",
        ),
        pytest.param("reply=550 5.2.2 full, stat=x", "failed", "5.2.2", 550, "550 5.2.2 full", id="no-dsn"),
        pytest.param("dsn=2.0.0, stat=Sent (Ok: queued as 7)", "delivered", "2.0.0", None, "Ok: queued as 7", id="sent"),
        pytest.param(
            "dsn=2.0.0, reply=250 2.0.0 ok, stat=Sent (ok)", "delivered", "2.0.0", 250, "250 2.0.0 ok", id="sent-reply",
        ),
        pytest.param("dsn=2.0.0, stat=Sent", "delivered", "2.0.0", None, None, id="sent-without-words"),
    ],
)  # fmt: skip
def test_reply_decides_then_dsn_never_stat(rest, action, status, code, diagnostic):
    """What a server said is its reply; dsn= stands in for a status that it did not state; stat= says nothing."""
    found = one(f"to=<a@example.net>{TAIL}, {rest}")
    told = found.status
    assert (str(told.action), str(told.status), told.reply_code, told.diagnostic) == (action, status, code, diagnostic)
    assert (told.diagnostic_type, told.local, told.source) == ("smtp", False, Source.LOG)
    assert (told.remote_mta, told.remote_ip, told.nexthop) == ("mx.example.net", "192.0.2.5", None)
    assert not found.ours
    assert not found.suspended


@pytest.mark.parametrize(
    ("rest", "action", "status", "diagnostic", "spoke"),
    [
        pytest.param(
            f"{TAIL}, dsn=4.4.1, stat=Deferred: Connection refused by mx.example.net.",
            "delayed", "4.4.1", "Connection refused by mx.example.net.", "x-unix", id="refused",
        ),
        pytest.param(
            f"{TAIL}, dsn=4.0.0, stat=Deferred: 403 4.7.0 TLS handshake failed.",
            "delayed", "4.0.0", "403 4.7.0 TLS handshake failed.", "x-unix", id="own-tls-engine",
        ),
        pytest.param(
            f"{TAIL}, dsn=4.4.2, stat=Deferred: Connection timed out with mx.example.net.",
            "delayed", "4.4.2", "Connection timed out with mx.example.net.", "x-unix", id="timeout",
        ),
        pytest.param(
            f"{TAIL}, dsn=4.4.2, reply=421 4.4.1 Connection reset by mx.example.net., stat=Deferred",
            "delayed", "4.4.2", "421 4.4.1 Connection reset by mx.example.net.", "x-unix", id="own-reply-buffer",
        ),
        pytest.param(
            ", delay=00:00:00, xdelay=00:00:00, mailer=esmtp, pri=1, relay=example.net., dsn=5.1.2, "
            "stat=Host unknown (Name server: example.net.: host not found)",
            "failed", "5.1.2", "Host unknown (Name server: example.net.: host not found)", "dns", id="no-such-host",
        ),
        pytest.param(
            ", delay=1+02:00:00, xdelay=00:00:00, mailer=esmtp, pri=1, relay=example.net., dsn=4.4.3, "
            "stat=Deferred: Name server: example.net.: host name lookup failure",
            "delayed", "4.4.3", "Name server: example.net.: host name lookup failure", "dns", id="resolver",
        ),
        pytest.param(f"{TAIL}, dsn=4.4.2, stat=Deferred", "delayed", "4.4.2", None, "x-unix", id="lost-at-end-of-data"),
        pytest.param(
            ", delay=00:00:00, mailer=esmtp, pri=30106, dsn=4.4.3, stat=queued", "delayed", "4.4.3", None, "x-unix",
            id="queued-for-a-map",
        ),
        pytest.param(
            ", delay=00:00:00, xdelay=00:00:00, mailer=local, pri=1, dsn=5.1.1, stat=User unknown",
            "failed", "5.1.1", "User unknown", "x-unix", id="local-mailer",
        ),
        pytest.param(
            ", delay=00:00:00, xdelay=00:00:00, mailer=local, pri=1, dsn=5.5.0, reply=69, stat=Service unavailable",
            "failed", "5.5.0", "Service unavailable", "x-unix", id="exit-status-is-no-reply",
        ),
    ],
)  # fmt: skip
def test_trouble_of_our_own_side_is_no_remote_word(rest, action, status, diagnostic, spoke):
    """Connection, resolver and local mailer trouble is local, whatever it looks like."""
    told = one(f"to=<a@example.net>{rest}").status
    assert (str(told.action), str(told.status), told.diagnostic) == (action, status, diagnostic)
    assert (told.diagnostic_type, told.local, told.reply_code) == (spoke, True, None)


@pytest.mark.parametrize(
    ("to", "recipients"),
    [
        pytest.param("<a@example.net>", ["a@example.net"], id="one"),
        pytest.param("<a@example.net>,<b@example.org>", ["a@example.net", "b@example.org"], id="two"),
        pytest.param("<a@example.net>,<b@example.org>, [more]", ["a@example.net", "b@example.org"], id="more"),
        pytest.param("a@example.net,b@example.net", ["a@example.net", "b@example.net"], id="bare"),
        pytest.param("root", ["root"], id="local-user"),
        pytest.param("bob@example.net, ctladdr=alice@example.org (0/0)", ["bob@example.net"], id="command-line"),
        pytest.param("<b@example.net>, ctladdr=<a@example.org> (1000/1000)", ["b@example.net"], id="alias"),
        pytest.param("<a@b.example>,<c@d.example>, [more], ctladdr=<e> (8/8)", ["a@b.example", "c@d.example"], id="all"),
        pytest.param('<"a b"@example.net>', ['"a b"@example.net'], id="quoted"),
        pytest.param('<"a>,<b"@example.net>,<c@d.example>', ['"a>,<b"@example.net', "c@d.example"], id="quoted-bracket"),
        pytest.param(
            '<"x, delay=00:00:00, mailer=esmtp, relay=y. [192.0.2.9], dsn=5.1.1, stat=User unknown"@example.net>',
            ['"x, delay=00:00:00, mailer=esmtp, relay=y. [192.0.2.9], dsn=5.1.1, stat=User unknown"@example.net'],
            id="forged-tail-in-quotes",
        ),
        pytest.param('"|/usr/bin/program, -x", ctladdr=<a@b.example> (8/8)', ['"|/usr/bin/program, -x"'], id="program"),
    ],
)  # fmt: skip
def test_recipients_are_all_read(to, recipients):
    """to= may name many, in brackets or not; ctladdr= is none of them."""
    found = read(f"to={to}{TAIL}, dsn=2.0.0, stat=Sent (ok)")
    assert [event.status.recipient for event in found] == recipients
    assert {event.status.action for event in found} == {Action.DELIVERED}


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(
            f"to=<a@example.net>, from=<s@example.org>{TAIL}, dsn=5.1.1, reply=550 5.1.1 no, stat=x", id="from"
        ),
        pytest.param(
            f"to=<a@example.net>{TAIL}, tls_verify=OK, dsn=5.1.1, ntries=3, reply=550 5.1.1 no, stat=x", id="in-between"
        ),
        pytest.param(f"to=<a@example.net>{TAIL}:25, dsn=5.1.1, reply=550 5.1.1 no, stat=x", id="port"),
        pytest.param(f"to=<a@example.net>{TAIL.replace(', pri=30107', '')}, reply=550 5.1.1 no, stat=x", id="less"),
    ],
)
def test_fields_of_other_releases_do_not_hide_the_rest(line):
    """A field that is not known is passed over; one that is missing is not missed."""
    told = one(line).status
    assert (told.recipient, str(told.status), told.reply_code, told.remote_ip) == (
        "a@example.net",
        "5.1.1",
        550,
        "192.0.2.5",
    )


@pytest.mark.parametrize(
    ("envelope", "at", "host"),
    [
        pytest.param("Nov 20 17:52:53 mx sm-mta[1]: ", datetime(2026, 11, 20, 17, 52, 53, tzinfo=UTC), "mx", id="rfc3164"),
        pytest.param("Nov 20 17:52:53 mx sendmail[1]: ", datetime(2026, 11, 20, 17, 52, 53, tzinfo=UTC), "mx", id="manual"),
        pytest.param(
            "2026-11-20T18:52:53.123456+01:00 mx sm-msp-queue[1]: ",
            datetime(2026, 11, 20, 17, 52, 53, 123456, tzinfo=UTC), "mx", id="rfc3339",
        ),
        pytest.param(
            "Nov 20 17:52:53 mx sendmail[1]: [ID 801593 mail.info] ",
            datetime(2026, 11, 20, 17, 52, 53, tzinfo=UTC), "mx", id="solaris",
        ),
        pytest.param("1795199220.344421 ", datetime(2026, 11, 20, 18, 27, 0, 344421, tzinfo=UTC), None, id="-d89.10"),
        pytest.param("", None, None, id="-d89.8"),
    ],
)  # fmt: skip
def test_all_forms_of_the_envelope(envelope, at, host):
    """Both forms of syslog and both of sendmail -D are read alike."""
    text = f"{envelope}6AKHqrQ6030271: to=<a@example.net>{TAIL}, dsn=5.1.1, reply=550 5.1.1 no, stat=User unknown"
    (event,) = LogReader(NOW).feed(text)
    assert (event.status.recipient, event.status.at, event.status.reporting_mta) == ("a@example.net", at, host)
    assert event.status.queue_id == "6AKHqrQ6030271"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        pytest.param("from=<a@example.org>, relay=x", "other", id="from-of-another-form"),
        pytest.param("from=<a@example.org>, size=1, class=0, nrcpts=0, proto=ESMTP, relay=x [192.0.2.1]", "other", id="from"),
        pytest.param("to=<c@example.net>, delay=00:00:02, pri=30112, stat=Command rejected", "refused-on-submission", id="milter"),
        pytest.param("to=<c@example.net>, delay=00:00:00, mailer=esmtp, pri=1, stat=queued", "queued", id="queue-only"),
        pytest.param(
            "to=<a@example.net>, delay=00:00:00, mailer=local, pri=1, quarantine=some words, stat=quarantined",
            "quarantine", id="quarantined",
        ),
        pytest.param("milter=milter-bounce, quarantine=words", "quarantine", id="milter-quarantine"),
        pytest.param("quarantine=milter_bounce hold", "quarantine", id="hold"),
        pytest.param("unquarantine", "quarantine", id="release"),
        pytest.param("6AKHqrR5030317: DSN: User unknown", "report", id="dsn"),
        pytest.param("6AKHqrR5030317: sender notify: Warning: could not send message for past 4 hours", "report", id="warning"),
        pytest.param("6AKHqrR5030317: return to sender: Service unavailable", "report", id="report-bounced"),
        pytest.param("6AKHqrR5030317: postmaster notify: User unknown", "report", id="postmaster"),
        pytest.param("ruleset=check_compat, arg1=<a>, arg2=<b>, relay=x, discard", "other", id="discard"),
        pytest.param("ruleset=check_rcpt, arg1=<a>, relay=x, reject=550 5.7.1 no", "other", id="other-ruleset"),
        pytest.param("SYSERR(root): socket_map_lookup(x): read timeout", "other", id="syserr"),
        pytest.param("Milter (milter-bounce): to error state", "other", id="milter-error"),
        pytest.param("timeout waiting for input from mx.example.net. during client RCPT", "other", id="timeout"),
        pytest.param("<b@example.net>... destination blocked", "other", id="words"),
        pytest.param("to=<a@example.net>, delay=soon, stat=Sent", "other", id="not-this-form"),
        pytest.param("to=<a@example.net>, delay=00:00:00, mailer=x, pri=1", "other", id="no-end"),
    ],
)  # fmt: skip
def test_line_that_tells_of_no_delivery_is_known(text, why):
    """Held, queued, refused on submission, reports made: none is a delivery."""
    assert read(text) == [Ignored(why)]


@pytest.mark.parametrize(
    "line",
    [
        pytest.param("Nov 20 17:52:53 mx sm-mta[1]: starting daemon (8.17.1.9): SMTP", id="start"),
        pytest.param("Nov 20 17:52:53 mx sendmail[1]: alias database /etc/mail/aliases rebuilt by root", id="aliases"),
        pytest.param("Nov 20 17:52:53 mx sendmail[1]: NOQUEUE: SYSERR(a): can not chdir(/x/): Permission denied", id="noqueue"),
        pytest.param("Nov 20 17:52:53 mx sm-mta[1]: AUTH=server, relay=x [192.0.2.1], authid=a, mech=CRAM-MD5, bits=0", id="auth"),
        pytest.param("", id="empty"),
    ],
)  # fmt: skip
def test_line_without_queue_id_tells_nothing(line):
    """Start, aliases, authentication: nothing."""
    assert LogReader(NOW).feed(line) == [Ignored()]


def test_sender_and_message_id_come_from_the_first_line():
    """from= is remembered for the attempts of that queue ID; the null reverse-path stays <>."""
    tail = f"to=<a@example.net>{TAIL}, dsn=2.0.0, stat=Sent"
    head = "size=1, class=0, nrcpts=1, msgid=<m@example.org>, proto=ESMTP, daemon=MTA, relay=localhost [127.0.0.1]"
    named = read(f"from=<s@example.org>, {head}", tail)
    assert named[0] == MessageId("6AKHqrQ6030271", "m@example.org")
    assert (named[1].status.sender, named[1].status.message_id) == ("s@example.org", "m@example.org")
    assert one(f"from=<>, {head}", tail).status.sender == "<>"
    assert (
        one("from=s@example.org, size=1, class=0, nrcpts=1, relay=root@localhost", tail).status.sender
        == "s@example.org"
    )
    assert one(tail).status.sender is None


def test_report_of_ours_has_the_null_sender():
    """The queue ID behind ``DSN:`` is a report: its sender is <>."""
    reader = LogReader(NOW)
    reader.feed(HEAD + "6AKHqrR5030317: DSN: User unknown")
    (event,) = reader.feed(
        f"Nov 20 17:52:53 mx sm-mta[1]: 6AKHqrR5030317: to=<s@example.org>{TAIL}, dsn=2.0.0, stat=Sent"
    )
    assert event.status.sender == "<>"


@pytest.mark.parametrize("kind", ["DSN", "sender notify", "postmaster notify"])
def test_message_given_up_is_an_event(kind):
    """``Cannot send message for ...`` ends all that waits, whoever is told."""
    head = "size=1, class=0, nrcpts=1, proto=ESMTP, relay=x [192.0.2.1]"
    events = read(f"from=<s@example.org>, {head}", f"6AKHqrR5030317: {kind}: Cannot send message for 5 days")
    assert events[1] == Expired("6AKHqrQ6030271", "s@example.org", datetime(2026, 11, 20, 17, 52, 53, tzinfo=UTC))


def test_message_done_is_an_event():
    """At LogLevel 10 and above ``done;`` tells that the message left the queue."""
    (event,) = read("done; delay=00:00:01, ntries=2")
    assert isinstance(event, Removed)


def test_stage_of_a_timeout_is_the_command():
    """The line before a timeout names the command; the next attempt does not inherit it."""
    tail = f"to=<a@example.net>{TAIL}, dsn=4.4.2, stat=Deferred: Connection timed out with mx.example.net."
    stage = "timeout waiting for input from mx.example.net. during client "
    assert one(f"{stage}greeting", tail).status.command == "CONNECT"
    assert one(f"{stage}RCPT", tail).status.command == "RCPT"
    assert one(f"{stage}DATA status", tail).status.command == "EOD"
    first, second = [e for e in read(f"{stage}RCPT", tail, tail) if isinstance(e, Delivery)]
    assert (first.status.command, second.status.command) == ("RCPT", None)


def test_our_own_demand_for_tls_is_no_remote_word():
    """tls_server refuses in words that look like a reply; the server said nothing. The next message is not touched."""
    reader = LogReader(NOW)
    head = "Nov 20 17:52:53 mx sm-mta[30273]: "
    word = "454 4.7.0 encryption too weak 0 less than 112"
    assert reader.feed(f"{head}ruleset=tls_server, arg1=NONE, relay=mx.example.net, reject={word}") == [Ignored()]
    line = f"{head}6AKHqrQ6030271: to=<a@example.net>{TAIL}, dsn=4.7.0, stat=Deferred: {word}"
    (first,), (second,) = reader.feed(line), reader.feed(line)
    assert (first.status.local, first.status.diagnostic, first.status.diagnostic_type) == (True, word, "x-unix")
    assert (second.status.local, second.status.diagnostic_type) == (False, "smtp")


GATE = ", delay=00:00:00, xdelay=00:00:00, mailer=esmtp, pri=30107, relay=mx.example.net., dsn=4.2.0, stat=Deferred"


def test_gate_is_ours_and_keeps_its_word():
    """check_compat's word comes on a line before; the delivery line that follows is no failure."""
    found = one(
        "ruleset=check_compat, arg1=<s@example.org>, arg2=<a@example.net>, relay=localhost [127.0.0.1], "
        "reject=451 4.7.1 milter-bounce:held until 20:00,rule x",
        f"to=<a@example.net>{GATE}",
    )
    assert found.ours
    assert (found.status.diagnostic, str(found.status.status), found.status.local) == (
        "451 4.7.1 milter-bounce: held until 20:00,rule x", "4.7.1", True,
    )  # fmt: skip


def test_gate_is_ours_without_its_word():
    """A log that was rotated in between still does not turn the gate into a failure."""
    found = one(f"to=<a@example.net>{GATE}")
    assert found.ours
    assert (found.status.diagnostic, str(found.status.status)) == (None, "4.2.0")


def test_gate_word_is_for_its_recipient_only():
    """Another recipient of the same message, delivered or refused, is not taken for gated."""
    events = read(
        "ruleset=check_compat, arg1=<s@example.org>, arg2=<a@example.net>, relay=x, reject=451 4.7.1 wait",
        f"to=<b@example.net>{TAIL}, dsn=5.1.1, reply=550 5.1.1 no, stat=User unknown",
        f"to=<a@example.net>{GATE}",
        f"to=<a@example.net>{TAIL}, dsn=5.1.1, reply=550 5.1.1 no, stat=User unknown",
    )
    assert [event.ours for event in events[1:]] == [False, True, False]


def test_host_status_without_connection_is_suspended():
    """Within one queue run a host that refused is not tried again: the same words, no attempt."""
    found = one(
        "to=<a@example.net>, delay=00:00:25, xdelay=00:00:00, mailer=esmtp, pri=1, relay=mx.example.net., dsn=4.4.1, "
        "stat=Deferred: Connection refused by mx.example.net."
    )
    assert found.suspended
    assert (found.status.remote_mta, found.status.nexthop) == (None, "mx.example.net")


@pytest.mark.parametrize(
    ("relay", "name", "address"),
    [
        pytest.param("mx.example.net. [192.0.2.5]", "mx.example.net", "192.0.2.5", id="name"),
        pytest.param("mx.example.net. [IPv6:2001:db8::5]", "mx.example.net", "2001:db8::5", id="ipv6"),
        pytest.param("[192.0.2.5] [192.0.2.5]", "192.0.2.5", "192.0.2.5", id="literal"),
    ],
)
def test_relay_is_name_and_address(relay, name, address):
    """relay= names the host as asked for and the address that took the connection."""
    told = one(f"to=<a@b.example>, delay=00:00:00, mailer=esmtp, pri=1, relay={relay}, dsn=2.0.0, stat=Sent").status
    assert (told.remote_mta, told.remote_ip) == (name, address)


def test_delay_gives_the_arrival():
    """delay= counts from arrival; days come before a plus sign."""
    tail = TAIL.replace("00:00:13", "1+02:03:04")
    told = one(f"to=<a@example.net>{tail}, dsn=4.2.0, reply=450 4.2.0 x, stat=Deferred: 450 4.2.0 x").status
    assert told.arrival_date == datetime(2026, 11, 19, 15, 49, 49, tzinfo=UTC)


def test_delay_beyond_the_calendar_is_no_arrival():
    """A stamp of the year 1 and a long delay: nothing is stated, nothing raised."""
    text = f"to=<a@b.example>{TAIL.replace('00:00:13', '99999+00:00:00')}, dsn=4.2.0, reply=450 4.2.0 x, stat=Deferred"
    line = f"0001-01-02T00:00:00+00:00 mx sm-mta[1]: 6AKHqrQ6030271: {text}"
    (event,) = LogReader(NOW).feed(line)
    assert event.status.arrival_date is None


def test_recipients_end_where_they_cannot_be_read():
    """A list that is broken off gives those before the break."""
    found = read(f'to=<a@example.net>,<"b@example.net{TAIL}, dsn=2.0.0, stat=Sent')
    assert [event.status.recipient for event in found] == ["a@example.net"]


def test_defects_are_named():
    """A status that Sendmail made up, one that contradicts the code, and a cut line are told."""
    assert one(f"to=<a@b.example>{TAIL}, dsn=5.1.1, reply=550 no, stat=User unknown").status.defects == (
        "status-by-mta",
    )
    assert one(f"to=<a@b.example>{TAIL}, dsn=4.7.0, reply=421 5.7.32 no, stat=Deferred").status.defects == (
        "status-contradicts-reply",
    )
    assert one(f"to=<a@b.example>{TAIL}, dsn=5.7.1, reply=550 5.7.1 no").status.defects == ("cut-line",)


def test_memory_is_bounded():
    """However many messages pass, only the last ones are remembered."""
    reader = LogReader(NOW)
    inner = reader._sendmail
    for number in range(MEMO_LIMIT + 10):
        inner._remember(f"{number:014d}", "s@example.org", None)
        inner._gate_word(f"{number:014d}", "a", "b")
        inner._timeout(None, f"{number:014d}", "timeout waiting for input from a during client RCPT")
        inner._tls_refusal(
            LogLine(None, None, "sm-mta", str(number), "ruleset=tls_server, arg1=A, relay=b, reject=454 no")
        )
    assert len(inner._senders) == len(inner._gate) == MEMO_LIMIT
    assert 0 < len(inner._stages) <= MEMO_LIMIT
    assert 0 < len(inner._tls) <= MEMO_LIMIT
    assert f"{MEMO_LIMIT + 9:014d}" in inner._senders


_PIECES = st.lists(
    st.sampled_from(
        [
            "to=",
            "<",
            ">",
            '"',
            ",",
            "\\",
            ", delay=00:00:00",
            ", mailer=x",
            ", pri=1",
            ", relay=a. [1]",
            ", dsn=5.1.1",
            ", reply=",
            ", stat=",
            "550 ",
            "Deferred: ",
            "Deferred",
            "from=",
            "ruleset=check_compat, ",
            "[more]",
            "a@b",
            ": DSN: ",
            ", ctladdr=",
            "\udc80",
            "\n",
            "٥",
            ", delay=99999+99:99:99",
            "Sent (",
            ", quarantine=",
        ]
    ),
    max_size=40,
).map("".join)


@given(_PIECES)
def test_no_line_raises(text):
    """Any mixture of the log's own pieces is read without an exception."""
    reader = LogReader(NOW)
    for head in (HEAD, "6AKHqrQ6030271: ", ""):
        assert reader.feed(head + text)


def test_hostile_line_is_read_in_linear_steps():
    """Lines that repeat one piece up to the limit come to an end (a quadratic reader would hang here)."""
    reader = LogReader(NOW)
    for piece in ('"', "<", ",", ", delay=00:00:00", '<"', "a@b,", ", stat=", ", reply=550 ", "[more], ", ", ctladdr="):
        assert reader.feed(HEAD + "to=" + piece * (200_000 // len(piece)))
        assert reader.feed(HEAD + "to=<a@b>" + TAIL + ", dsn=5.0.0, reply=550 " + piece * (200_000 // len(piece)))


def test_own_line_of_another_program_is_not_sendmails():
    """A program that is not Sendmail and writes ``word: to=`` is not read for one."""
    assert LogReader(NOW).feed("Nov 20 17:52:53 mx cron[1]: error: to=<a@b>, delay=00:00:00, stat=Sent") == [Ignored()]


@pytest.mark.skipif(not (SHARED / "sendmail").exists(), reason="../shared/sendmail is not there")
class TestRealLog:
    """Real lines of Sendmail 8.17.1."""

    def events(self, name: str) -> list[tuple[str, list]]:
        reader = LogReader(NOW)
        lines = (SHARED / "sendmail" / name).read_text(encoding="utf-8", errors="replace").splitlines()
        return [(line, reader.feed(line)) for line in lines]

    @pytest.mark.parametrize("name", ["sendmail.log", "sendmail-samples.log"])
    def test_every_delivery_line_is_read_and_no_other(self, name):
        """A line with to= and stat= is a delivery or known to be none; no other line makes one."""
        for line, events in self.events(name):
            delivery = any(isinstance(event, Delivery) for event in events)
            known = any(isinstance(event, Ignored) and event.why != "other" for event in events)
            assert (delivery or known) if ": to=" in line else not delivery, line

    @pytest.mark.parametrize("name", ["sendmail.log", "sendmail-samples.log"])
    def test_rest_is_of_known_forms(self, name):
        """What is left unread is of forms that tell of no delivery."""
        known = (
            "Milter", "milter_sys_read", "SYSERR", "starting daemon", "restarting", "alias database", "AUTH=", "aliases",
            "timeout waiting", "NOQUEUE", "rejecting server", "did not issue", "user 5 attempted", "Losing", " from=",
            "discard", "suspended until", "... ",
        )  # fmt: skip
        left = [line for line, events in self.events(name) if events == [Ignored()]]
        assert left
        assert [line for line in left if not any(word in line for word in known)] == []


def test_one_file_with_both_mtas_is_read():
    """Each line is known by its own form: Postfix's and Sendmail's take turns in one log."""
    reader = LogReader(NOW)
    lines = [
        (
            "Nov 20 17:00:00 mx postfix/smtp[1]: 4cXyz1234: to=<p@example.net>, relay=mx.example.net[192.0.2.5]:25, delay=1, "
            "delays=0/0/0/1, dsn=5.1.1, status=bounced (host mx.example.net[192.0.2.5] said: 550 5.1.1 no (in reply to RCPT "
            "TO command))"
        ),
        f"{HEAD}to=<s@example.net>{TAIL}, dsn=5.1.1, reply=550 5.1.1 no, stat=User unknown",
    ]
    found = [event.status for line in lines * 2 for event in reader.feed(line)]
    assert [status.recipient for status in found] == ["p@example.net", "s@example.net"] * 2
    assert {(str(s.status), s.reply_code, s.diagnostic, s.remote_mta, s.local) for s in found} == {
        ("5.1.1", 550, "550 5.1.1 no", "mx.example.net", False)
    }
