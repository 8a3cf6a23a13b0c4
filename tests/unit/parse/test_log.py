"""Envelopes of log lines: stamps, tags, and which reader gets what."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milter_bounce.parse.log import LogReader
from milter_bounce.parse.log_scan import Failed, Sent, events, scan
from milter_bounce.parse.logline import LINE_LIMIT, Delivery, Stamps, split_line

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
CET = timezone(timedelta(hours=1))
POSTFIX = (
    "postfix/smtp[7]: 4cXyz: to=<bob@example.net>, relay=mx.example.net[192.0.2.9]:25, delay=2, delays=1/0/0/1, "
    "dsn=5.1.1, status=bounced (host mx.example.net[192.0.2.9] said: 550 5.1.1 no (in reply to RCPT TO command))"
)


@pytest.mark.parametrize(
    ("stamp", "at"),
    [
        pytest.param("Nov 20 10:00:01", datetime(2026, 11, 20, 9, 0, 1, tzinfo=UTC), id="traditional"),
        pytest.param("Nov  3 10:00:01", datetime(2026, 11, 3, 9, 0, 1, tzinfo=UTC), id="one-digit-day"),
        pytest.param("Nov 20 10:00:01.123456", datetime(2026, 11, 20, 9, 0, 1, tzinfo=UTC), id="traditional-fraction"),
        pytest.param("Dec 31 23:59:59", datetime(2025, 12, 31, 22, 59, 59, tzinfo=UTC), id="last-year"),
        pytest.param("Nov 21 10:00:00", datetime(2026, 11, 21, 9, 0, tzinfo=UTC), id="slightly-ahead"),
        pytest.param("Nov 22 10:00:00", datetime(2025, 11, 22, 9, 0, tzinfo=UTC), id="too-far-ahead"),
        pytest.param("Feb 29 10:00:00", datetime(2024, 2, 29, 9, 0, tzinfo=UTC), id="leap-day"),
        pytest.param("Jun 30 23:59:60", datetime(2026, 6, 30, 22, 59, 59, tzinfo=UTC), id="leap-second"),
        pytest.param("Nov 31 10:00:00", None, id="no-such-day"),
        pytest.param("Nix 20 10:00:00", None, id="no-such-month"),
        pytest.param("Nov 20 25:00:00", None, id="no-such-hour"),
        pytest.param("2026-11-20T10:00:01Z", datetime(2026, 11, 20, 10, 0, 1, tzinfo=UTC), id="rfc3339-z"),
        pytest.param(
            "2026-11-20T10:00:01.5+02:00", datetime(2026, 11, 20, 8, 0, 1, 500000, tzinfo=UTC), id="rfc3339-offset"
        ),
        pytest.param("2026-11-20T10:00:01+0200", datetime(2026, 11, 20, 8, 0, 1, tzinfo=UTC), id="short-iso"),
        pytest.param("2026-11-20 10:00:01", datetime(2026, 11, 20, 9, 0, 1, tzinfo=UTC), id="no-zone"),
        pytest.param("Nov 20 99:99:99.9", None, id="no-time-at-all"),
        pytest.param("2026-13-20T10:00:01Z", None, id="rfc3339-no-such-month"),
        pytest.param("0001-01-01T00:00:00+23:59", None, id="before-the-calendar"),
    ],
)
def test_stamp_becomes_utc(stamp, at):
    """Every form of time stamp becomes an aware UTC time; the year is the latest that is not ahead."""
    assert split_line(f"{stamp} mx x[1]: y", Stamps(NOW, CET)).at == at


def test_stamp_follows_summer_time():
    """A zone with rules is applied with the offset of the day."""
    stamps = Stamps(NOW, ZoneInfo("Europe/Berlin"))
    assert [split_line(f"{day} 12:00:00 mx x: y", stamps).at.hour for day in ("Jul  1", "Nov  1")] == [10, 11]


BERLIN = ZoneInfo("Europe/Berlin")
CLOCKS_BACK = datetime(2026, 10, 25, 1, tzinfo=UTC)
"""02:00 comes a second time in Berlin; it came first an hour ago."""


@pytest.mark.parametrize(
    ("minutes", "stamp", "at"),
    [
        pytest.param(-30, "Oct 25 02:30:00", -30, id="first-time"),
        pytest.param(-1, "Oct 25 02:59:00", -1, id="end-of-the-first"),
        pytest.param(0, "Oct 25 02:00:00", 0, id="second-time-begins"),
        pytest.param(30, "Oct 25 02:30:00", 30, id="second-time"),
        pytest.param(30, "2026-10-25T02:30:00", 30, id="without-a-zone"),
        pytest.param(30, "Oct 25 02:34:00", 34, id="a-little-ahead"),
        pytest.param(30, "Oct 25 02:36:00", -24, id="too-far-ahead"),
        pytest.param(59, "Oct 25 02:10:00", 10, id="late"),
        pytest.param(90, "Oct 25 03:30:00", 90, id="after-both"),
        pytest.param(90, "Oct 25 01:30:00", -90, id="before-both"),
    ],
)
def test_hour_that_comes_twice_is_the_latest_that_has_come(minutes, stamp, at):
    """A line is not an hour old when it is written, and not of a time to come."""
    stamps = Stamps(CLOCKS_BACK + timedelta(minutes=minutes), BERLIN)
    assert stamps.read(stamp) == CLOCKS_BACK + timedelta(minutes=at)


def test_same_stamp_an_hour_later_is_another_time():
    """The reader lives on through the hour that comes twice."""
    stamps = Stamps(CLOCKS_BACK - timedelta(minutes=30), BERLIN)
    assert stamps.read("Oct 25 02:30:00") == stamps.now
    stamps.now = CLOCKS_BACK + timedelta(minutes=30)
    assert stamps.read("Oct 25 02:30:00") == stamps.now


def test_old_log_goes_through_both_hours_in_order():
    """Read a week later, the hour is the first one until the stamps step back, lines a little out of order or not."""
    stamps = Stamps(CLOCKS_BACK + timedelta(days=7), BERLIN)
    told = ["01:59:00", "02:00:00", "02:30:00", "02:29:58", "02:59:00", "02:00:00", "02:00:01", "02:30:00", "03:00:00"]
    wanted = [-61, -60, -30, -30 - 2 / 60, -1, 0, 1 / 60, 30, 60]
    found = [stamps.read(f"Oct 25 {clock}") for clock in told]
    assert found == [CLOCKS_BACK + timedelta(minutes=minutes) for minutes in wanted]


def test_hour_that_never_comes_is_read_all_the_same():
    """At the beginning of summer time a wrong clock's stamp is still a time."""
    stamps = Stamps(datetime(2027, 4, 1, tzinfo=UTC), BERLIN)
    assert stamps.read("Mar 28 02:30:00") == datetime(2027, 3, 28, 1, 30, tzinfo=UTC)


def test_stamp_follows_the_turn_of_the_year():
    """A line of New Year's Eve that is read on New Year's Day is of the old year; then `now` goes on."""
    stamps = Stamps(datetime(2027, 1, 1, 0, 0, 1, tzinfo=UTC))
    assert stamps.read("Dec 31 23:59:59").year == 2026
    assert stamps.read("Jan  1 00:00:01").year == 2027


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        pytest.param("Nov 20 10:00:00 mx a/b[12]: text", ("mx", "a/b", "12", "text"), id="usual"),
        pytest.param("Nov 20 10:00:00 a/b[12]: text", (None, "a/b", "12", "text"), id="no-host"),
        pytest.param("Nov 20 10:00:00 mx a/b: text", ("mx", "a/b", None, "text"), id="no-pid"),
        pytest.param("<22>Nov 20 10:00:00 mx a/b[12]: text", ("mx", "a/b", "12", "text"), id="priority"),
        pytest.param("<22>1 2026-11-20T10:00:00Z mx a/b[12]: text", ("mx", "a/b", "12", "text"), id="rfc5424-ish"),
        pytest.param(
            "Nov 20 10:00:00 mx a/b[12]: [ID 197553 mail.info] text", ("mx", "a/b", "12", "text"), id="solaris"
        ),
        pytest.param("Nov 20 10:00:00 2001:db8::1 a/b[12]: text", ("2001:db8::1", "a/b", "12", "text"), id="ipv6-host"),
        pytest.param("4cXyzABCDE: to=<a@b>", (None, "", None, "4cXyzABCDE: to=<a@b>"), id="sendmail-D"),
        pytest.param("1795199220.344421 6AKHqrQ6030271: x", (None, "", None, "6AKHqrQ6030271: x"), id="sendmail-epoch"),
    ],
)
def test_envelope_is_taken_off(line, wanted):
    """Host, tag, process and text come apart in every form."""
    assert split_line(line, Stamps(NOW))[1:] == wanted


@pytest.mark.parametrize(
    "line", ["", "\0", "garbage", "Nov 20", "20 Nov 10:00:00 mx a[1]: b", "Nov 20 10:00:00 no colon here"]
)
def test_other_text_has_no_envelope(line):
    """What is no log line is told apart."""
    assert split_line(line, Stamps(NOW)) is None


def test_line_is_looked_at_up_to_a_limit():
    """Text beyond the limit is cut, not scanned."""
    assert len(split_line("Nov 20 10:00:00 mx a[1]: " + "x" * 10**6, Stamps(NOW)).text) < LINE_LIMIT


def test_both_mtas_in_one_log():
    """Postfix's and Sendmail's lines are told apart by themselves."""
    sendmail = (
        "sm-mta[3]: 6AKHqrQ6030271: to=<a@example.org>, delay=00:00:01, xdelay=00:00:00, mailer=esmtp, pri=30107, "
        "relay=mx.example.org. [192.0.2.5], dsn=5.1.1, reply=550 5.1.1 no, stat=User unknown"
    )
    found = LogReader(NOW).feed_all(f"Nov 20 10:00:00 mx {text}" for text in (POSTFIX, sendmail))
    assert [event.status.recipient for event in found] == ["bob@example.net", "a@example.org"]


def test_memory_for_tags_is_bounded():
    """A log with ever new tags does not fill the memory."""
    reader = LogReader(NOW)
    for number in range(3000):
        reader.feed(f"Nov 20 10:00:00 mx t{number}/smtp[1]: x")
    assert len(reader._by_tag) <= 1000


@given(st.text(max_size=300))
def test_reader_takes_any_text(text):
    """Any text at all: events, no exception."""
    assert LogReader(NOW).feed(text)


_PIECES = st.sampled_from([
    "to=<", ">, ", "relay=", "orig_to=<", "mx[192.0.2.1]:25, ", "delay=1, ", "delays=0/0/0/1, ", "dsn=5.1.1, ", "status=",
    "bounced ", "sent ", "(", ")", "host mx[192.0.2.1] said: ", "550 5.1.1 ", "(in reply to ", "RCPT TO command)", '"', "\\",
    "[class=", "] ", "4cXyz: ", "from=<", "message-id=<", "removed", "delivery temporarily suspended: ", " ", "@", "\0", "é",
])  # fmt: skip


@given(st.sampled_from(["smtp", "qmgr", "cleanup", "local"]), st.lists(_PIECES, max_size=40))
def test_reader_takes_any_pieces(program, pieces):
    """Postfix's own words in any order: events, no exception, and no recipient that the line does not hold."""
    line = f"Nov 20 10:00:00 mx postfix/{program}[1]: " + "".join(pieces)
    for event in LogReader(NOW).feed(line):
        if isinstance(event, Delivery) and event.status.recipient:
            assert f"to=<{event.status.recipient}>" in line


@pytest.mark.parametrize(
    "piece",
    [
        pytest.param("a>", id="brackets"),
        pytest.param('"', id="quotes"),
        pytest.param('\\"', id="escapes"),
        pytest.param(">, relay=x, delay=1, ", id="fields"),
        pytest.param("(in reply to ", id="replies"),
        pytest.param("[class=soft ", id="annotations"),
        pytest.param("host a[b] said: ", id="said"),
        pytest.param(">, orig_to=<", id="orig-to"),
    ],
)
def test_hostile_line_is_read_in_one_pass(piece):
    """A line of 16 KiB made of any one piece ends, in the recipient as in the text."""
    long = piece * (16_000 // len(piece))
    head = "Nov 20 10:00:00 mx postfix/smtp[1]: 4cXyz: to=<"
    reader = LogReader(NOW)
    assert reader.feed(f"{head}{long}")
    assert reader.feed(f'{head}"{long}')
    assert reader.feed(f"{head}a@b>, relay=x, delay=1, delays=0/0/0/1, dsn=5.1.1, status=bounced ({long}")


@pytest.mark.parametrize(("seconds", "year"), [("99999999999.1", 5138), ("00000000000.0", 1970)])
def test_epoch_at_the_edges(seconds, year):
    """The first and the last second that eleven digits can state are times."""
    assert split_line(f"{seconds} 6AKHqrQ6030271: x", Stamps(NOW)).at.year == year


def test_delay_longer_than_the_calendar_is_left_out():
    """A message cannot have come in before year one."""
    (found,) = LogReader(NOW).feed("0001-01-02T00:00:00Z mx " + POSTFIX.replace("delay=2,", "delay=999999999,"))
    assert found.status.arrival_date is None


def test_memory_for_messages_is_bounded(monkeypatch):
    """The oldest queue IDs are forgotten."""
    monkeypatch.setattr("milter_bounce.parse.postfix_log.MEMO_LIMIT", 10)
    reader = LogReader(NOW)
    for number in range(100):
        reader.feed(
            f"Nov 20 10:00:00 mx postfix/qmgr[1]: ABCDE{number:03}: from=<a{number}@x>, size=1, nrcpt=1 (queue active)"
        )
    assert [reader.sender_of(f"ABCDE{number:03}") for number in (0, 89, 90, 99)] == [None, None, "a90@x", "a99@x"]


def test_scan_takes_what_is_no_delivery_in_its_stride():
    """Text with the mark of a delivery that is none, with and without an end of line."""
    text = "Nov 20 10:00:00 mx x[1]: a status of things\n\nNov 20 10:00:00 mx " + POSTFIX
    sent = []
    (found,) = scan(text, LogReader(NOW), sent)
    assert (found.recipient, found.template[0]) == ("bob@example.net", "mx.example.net[192.0.2.9]:25")
    assert list(scan("", LogReader(NOW), sent)) == list(scan(" stat", LogReader(NOW), sent)) == sent == []


@given(
    st.lists(
        st.sampled_from(
            [POSTFIX, POSTFIX.replace("bounced", "sent").replace("(host", "(250 host"), "x: y", " stat", ""]
        )
    )
)
def test_scan_finds_what_the_reader_finds(texts):
    """The fast walk and the careful reader agree on every mixture of lines."""
    lines = [f"Nov 20 10:00:00 mx {text}" for text in texts]
    read = [(e.status.queue_id, e.status.recipient) for e in LogReader(NOW).feed_all(lines) if isinstance(e, Delivery)]
    sent = []
    found = [
        (f.queue_id, f.recipient) if isinstance(f, Failed) else (f.status.queue_id, f.status.recipient)
        for f in scan("\n".join(lines), LogReader(NOW), sent)
    ]
    assert sorted(found + [(queue_id, recipient) for _, queue_id, recipient, _ in sent]) == sorted(read)
    again = [
        (e.queue_id, e.recipient) if isinstance(e, Sent) else (e.status.queue_id, e.status.recipient)
        for e in events(lines, LogReader(NOW))
    ]
    assert again == read
