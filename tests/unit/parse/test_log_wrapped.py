"""Lines of a mail log inside Docker's, Kubernetes' and the journal's own forms."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milter_bounce.parse.log import LogReader
from milter_bounce.parse.log_scan import scan, unix
from milter_bounce.parse.log_wrapped import JSON_LIMIT
from milter_bounce.parse.logline import Delivery

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
WHEN = datetime(2026, 3, 4, 3, 12, 9, tzinfo=UTC)
MICROSECONDS = str(int(WHEN.timestamp() * 1_000_000))
SAID = "host mx.example.com[203.0.113.9] said: 550 5.1.1 <ann@example.com>: no such user (in reply to RCPT TO command)"
TEXT = (
    "4bNc2d3Xyzz1Qk: to=<ann@example.com>, relay=mx.example.com[203.0.113.9]:25, delay=0.7, delays=0.1/0/0.6/0, "
    f"dsn=5.1.1, status=bounced ({SAID})"
)
TAGGED = f"postfix/smtp[7]: {TEXT}"
PLAIN = f"Mar  4 03:12:09 mx {TAGGED}"
NANO = "2026-03-04T03:12:09.000000123Z"
SENDMAIL = (
    "5AKC0a1b000802: to=<bob@example.com>, delay=00:00:05, xdelay=00:00:05, mailer=esmtp, pri=31000, "
    "relay=mx.example.com. [203.0.113.9], dsn=2.0.0, stat=Sent (ok)"
)
FIELDS = {"SYSLOG_IDENTIFIER": "postfix/smtp", "SYSLOG_PID": "7", "_HOSTNAME": "mx"}


def deliveries(*lines: str) -> list[Delivery]:
    """Return what a reader finds line by line, as logd reads."""
    return [event for event in LogReader(NOW).feed_all(lines) if isinstance(event, Delivery)]


@pytest.mark.parametrize(
    ("line", "at"),
    [
        pytest.param(f"{NANO} stdout F {PLAIN}", WHEN, id="cri"),
        pytest.param(f"{NANO} stderr F {TAGGED}", WHEN, id="cri-tag-only"),
        pytest.param(f"{NANO} {PLAIN}", WHEN, id="docker-logs-t"),
        pytest.param("2026-03-04T05:12:09.5+02:00 stdout F " + PLAIN, WHEN.replace(microsecond=500000), id="cri-zone"),
        pytest.param(json.dumps({"log": PLAIN + "\n", "stream": "stdout", "time": NANO}), WHEN, id="docker-json-file"),
        pytest.param(json.dumps({"log": TAGGED + "\n", "time": NANO}), WHEN, id="docker-json-file-no-stamp"),
        pytest.param(f'{NANO} stdout F {json.dumps({"message": PLAIN})}', WHEN, id="json-in-cri"),
        pytest.param(f"mail-1      | {PLAIN}", WHEN, id="compose"),
        pytest.param(f"[pod/mail-0/postfix] {PLAIN}", WHEN, id="kubectl-prefix"),
        pytest.param(f"mail-1      | 2026-03-04T04:12:09+01:00 mx {TAGGED}", WHEN, id="compose-iso"),
        pytest.param(f"\x1b[36mmail-1  |\x1b[0m {PLAIN}", WHEN, id="compose-in-colours"),
        pytest.param(f"stack_mail.1.x7k2@node1    | {PLAIN}", WHEN, id="swarm"),
        pytest.param(f"/var/log/mail.log.1:{PLAIN}", WHEN, id="grep"),
        pytest.param(f"mail.log-20260305.gz:12:2026-03-04T03:12:09Z mx {TAGGED}", WHEN, id="zgrep-n"),
        pytest.param(f"1234:{PLAIN}", WHEN, id="grep-n"),
        pytest.param(f"Mar  4 03:12:09 {TAGGED}", WHEN, id="no-host"),
        pytest.param(
            f'<22>1 {NANO} mx postfix/smtp 7 - [timeQuality tzKnown="1"][meta sequenceId="29"] {TEXT}', WHEN,
            id="rfc5424-elements",
        ),
        pytest.param(f'<22>1 {NANO} mx postfix/smtp 7 - [a@1 b="x\\]y"] {TEXT}', WHEN, id="rfc5424-escaped-bracket"),
        pytest.param(f"412 <22>1 {NANO} mx postfix/smtp 7 - - {TEXT}", WHEN, id="rfc6587-octets"),
        pytest.param(
            "2026-03-04T03:12:09+00:00\tmail.info\t" + json.dumps({"ident": "postfix/smtp", "message": TEXT}), WHEN,
            id="fluentd",
        ),
        pytest.param("\x1e" + json.dumps(FIELDS | {"MESSAGE": TEXT}), None, id="json-seq"),
        pytest.param("data: " + json.dumps(FIELDS | {"MESSAGE": TEXT}), None, id="json-sse"),
        pytest.param(json.dumps({"log": f"{NANO} stdout F {PLAIN}"}), WHEN, id="cri-in-json"),
        pytest.param(f"Mar  4 03:12:09 mx mail.info {TAGGED}", WHEN, id="busybox"),
        pytest.param(f"Mar  4 03:12:09 <mail.info> mx {TAGGED}", WHEN, id="freebsd-v"),
        pytest.param(f"Mar  4 03:12:09 <2.6> mx {TAGGED}", WHEN, id="freebsd-v-numbers"),
        pytest.param(f"Wed Mar  4 03:12:09 2026 mail.info {TAGGED}", WHEN, id="openwrt"),
        pytest.param(f"Wed 2026-03-04 03:12:09 UTC mx {TAGGED}", WHEN, id="journal-short-full"),
        pytest.param(f"{WHEN.timestamp():.6f} mx {TAGGED}", WHEN, id="journal-short-unix"),
        pytest.param(f"[ 1234.567890] mx {TAGGED}", None, id="journal-short-monotonic"),
        pytest.param(f"Wed 2026-03-04 03:12:09 UTC mx postfix@-.service[7]: {TEXT}", WHEN, id="journal-with-unit"),
        pytest.param(TEXT, None, id="journal-cat"),
        pytest.param(TAGGED, None, id="tag-only"),
        pytest.param(
            json.dumps(FIELDS | {"MESSAGE": TEXT, "__REALTIME_TIMESTAMP": MICROSECONDS}), WHEN, id="journal-json"
        ),
        pytest.param(
            json.dumps(FIELDS | {"MESSAGE": list(TEXT.encode()), "__REALTIME_TIMESTAMP": MICROSECONDS}),
            WHEN,
            id="journal-json-bytes",
        ),
        pytest.param(
            json.dumps({"@timestamp": NANO, "host": {"name": "mx"}, "message": PLAIN}), WHEN, id="filebeat"
        ),
        pytest.param(
            json.dumps({"timereported": NANO, "syslogtag": "postfix/smtp[7]:", "msg": TEXT}), WHEN, id="rsyslog-json"
        ),
        pytest.param(
            json.dumps({"PROGRAM": "postfix/smtp", "PID": 7, "HOST": "mx", "MESSAGE": TEXT}), None, id="syslog-ng-json"
        ),
        pytest.param(
            json.dumps({"SYSLOG_IDENTIFIER": "0a1b", "CONTAINER_NAME": "mail", "MESSAGE": PLAIN}), WHEN,
            id="docker-to-the-journal",
        ),
    ],
)  # fmt: skip
def test_wrapped_line_is_read(line, at):
    """Each wrapping gives the line inside, with the time of who knows it best."""
    (found,) = deliveries(line)
    status = found.status
    assert (status.recipient, status.remote_mta, str(status.status), status.reply_code, status.at, status.defects) == (
        "ann@example.com", "mx.example.com", "5.1.1", 550, at, (),
    )  # fmt: skip


def entry(message: bytes, **fields: str) -> bytes:
    """Return an entry of the journal's export form."""
    head = f"__CURSOR=s=1\n__REALTIME_TIMESTAMP={MICROSECONDS}\n"
    rest = "".join(f"{name}={value}\n" for name, value in (FIELDS | fields).items())
    plain = message.isascii() and b"\n" not in message
    text = b"MESSAGE=" + message if plain else b"MESSAGE\n" + len(message).to_bytes(8, "little") + message
    return head.encode() + rest.encode() + text + b"\n\n"


@pytest.mark.parametrize("padding", [0, 10, 60, 61, 62, 90, 120, 200, 250, 400])
def test_export_entries_are_read_whatever_their_length(padding):
    """A text with umlauts comes as bytes behind their number, whose own bytes may be anything."""
    odd = TEXT.replace("no such user", "Empfänger gibt es nicht " + "x" * padding)
    log = (entry(odd.encode()) + entry(TEXT.encode())).decode("utf-8", "replace")
    found = deliveries(*log.split("\n"))
    assert [(event.status.recipient, event.status.at) for event in found] == [("ann@example.com", WHEN)] * 2
    assert "Empfänger gibt es nicht" in (found[0].status.diagnostic or "")


def test_export_field_of_several_lines_forges_no_entry():
    """What looks like an entry inside the text of another program is none."""
    forged = b"hello\n\n" + entry(TEXT.encode())
    log = entry(forged, SYSLOG_IDENTIFIER="login").decode("utf-8", "replace") + entry(TEXT.encode()).decode()
    assert len(deliveries(*log.split("\n"))) == 1


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(json.dumps({"SYSLOG_IDENTIFIER": "sshd", "MESSAGE": PLAIN}), id="json-of-another-program"),
        pytest.param(json.dumps({"program": "sshd", "message": TEXT}), id="bare-in-another-program"),
        pytest.param(f"Mar  4 03:12:09 mx mail.info login[7]: {TAGGED}", id="busybox-of-another-program"),
        pytest.param(json.dumps({"log": "x" * JSON_LIMIT + PLAIN}), id="json-too-long"),
        pytest.param("[" * 30_000, id="nested"),
        pytest.param('{"log":' * 9_000, id="nested-objects"),
        pytest.param('{"log": 17, "time": 4}', id="json-of-numbers"),
        pytest.param('{"MESSAGE": [300], "__REALTIME_TIMESTAMP": "x"}', id="no-bytes"),
        pytest.param("[1, 2]", id="json-list"),
        pytest.param(f"Mar  4 03:12:09 mx sshd[7]: postfix/smtp[7]: {TEXT}", id="another-program"),
        pytest.param(f"Mar  4 03:12:09 sshd[7]: {TAGGED}", id="another-program-without-host"),
        pytest.param(f"Mar  4 03:12:09 mx sshd: mail.log:{PLAIN}", id="another-program-quotes-grep"),
    ],
)
def test_other_lines_are_none(line):
    """Another program's text, JSON of any other kind and a bomb of brackets tell of no delivery."""
    assert deliveries(line) == []
    sent: list[tuple[str, ...]] = []
    success = line.replace("status=bounced", "status=sent").replace("dsn=5.1.1", "dsn=2.0.0")
    assert (list(scan(line, LogReader(NOW), sent)), list(scan(success, LogReader(NOW), sent)), sent) == ([], [], [])


def test_untagged_lines_go_to_the_mta_that_writes_their_form():
    """Without tags, Postfix's and Sendmail's lines are told apart, the queue manager's and cleanup's too."""
    found = deliveries(
        "4bNc2d3Xyzz1Qk: message-id=<1@example.org>",
        "4bNc2d3Xyzz1Qk: from=<news@example.org>, size=1, nrcpt=1 (queue active)",
        TEXT,
        "4bNc2d3Xyzz1Qk: removed",
        "5AKC0a1b000802: from=<list@example.org>, size=1, class=0, nrcpts=1, msgid=<2@example.org>, proto=ESMTP",
        SENDMAIL,
    )
    assert [(event.log_status, event.status.sender, event.status.message_id) for event in found] == [
        ("bounced", "news@example.org", "1@example.org"),
        ("Sent", "list@example.org", "2@example.org"),
    ]


@pytest.mark.parametrize("line", [pytest.param(TEXT, id="bare"), pytest.param(TAGGED, id="tag-only")])
def test_line_without_time_and_host_is_none_among_lines_that_have_them(line):
    """The rest of a broken line, or what a program wrote past syslogd, must not pass for a delivery."""
    assert len(deliveries(line)) == 1
    assert len(deliveries(PLAIN, line, line)) == 1


@pytest.mark.parametrize("line", [PLAIN, f"Mar  4 03:12:09 mx sm-mta[8]: {SENDMAIL}"])
def test_line_end_of_windows_is_no_part_of_the_line(line):
    """A log that went through Windows reads as before."""
    found = [list(scan(f"{line}{end}", LogReader(NOW), [])) for end in ("\n", "\r\n")]
    assert found[0] == found[1]
    assert len(found[0]) == 1
    assert deliveries(*unix(f"{line}\r\n{line}\r\n").split("\n")) == deliveries(line, line)


def test_scan_finds_what_the_reader_finds():
    """Counting whole logs passes none of the wrapped forms over."""
    json_bytes = json.dumps(FIELDS | {"MESSAGE": list(TEXT.encode())}, separators=(",", ":"))
    logs = [f"{NANO} stdout F {PLAIN}\n", entry(TEXT.encode()).decode(), json_bytes + "\n", f"{TEXT}\n"]
    assert [len(list(scan(log, LogReader(NOW), []))) for log in logs] == [1, 1, 1, 1]


def test_question_for_the_time_leaves_an_entry_alone():
    """Asking when a line was written changes nothing for the lines that follow."""
    reader, found = LogReader(NOW), []
    for line in entry(TEXT.encode()).decode().split("\n"):
        assert reader.time_of("") is None
        found += [event for event in reader.feed(line) if isinstance(event, Delivery)]
    assert len(found) == 1


@given(st.text(max_size=200), st.sampled_from(["", "{", "MESSAGE\n", f"{NANO} stdout F ", "[pod/", "a | ", "MESSAGE="]))
def test_reader_raises_nothing(text, start):
    """Any text behind any beginning is read without an error."""
    reader = LogReader(NOW)
    assert all(reader.feed(line) for line in [*(start + text).split("\n"), "", PLAIN])
