"""What we write about hostile text: one line in the log, one field in the header, one row in the table of suppressions."""

from __future__ import annotations

import csv
import io
import json
import re
from datetime import UTC, datetime

from hypothesis import given, settings
from hypothesis import strategies as st

from milter_bounce.cli._suppressions import COLUMNS, read_suppressions, write_csv
from milter_bounce.delivery import DeliveryReport, DeliveryStatus, Kind
from milter_bounce.escape import harmless, json_line
from milter_bounce.system.desk import header_value
from milter_bounce.verdict import (
    Advice,
    AdviceKind,
    Classification,
    FailureClass,
    Notice,
    NoticeKind,
    Outcome,
    Scope,
    Suppression,
    event,
    log_line,
    notice_line,
    printable,
)

FEW = settings(max_examples=150, deadline=None)
NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
ACTED_ON = "[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
HOSTILE = st.text(
    st.one_of(st.sampled_from("\n\r\t\0\x1b\x7f\x9b\u2028\u202e\ufeff\udcff\"'\\<>,;=[](){} "), st.characters(exclude_categories=())),
    min_size=1, max_size=40,
)  # fmt: skip
VERDICT = Classification(FailureClass.HARD, "invalid-recipient", AdviceKind.SUPPRESS, Scope.RECIPIENT, "rule", "x")


def outcome(text: str, address: str, host: str) -> Outcome:
    status = DeliveryStatus(address, original_recipient=host, diagnostic=text, remote_mta=host, remote_ip=text)
    return Outcome(status, VERDICT, Advice(AdviceKind.SUPPRESS, block=host))


@FEW
@given(HOSTILE, HOSTILE, HOSTILE)
def test_log_line_is_one_line_with_its_fields_in_place(text, address, host):
    """Nothing in an address, host or reply ends a field early, begins a line or steers a terminal."""
    line = log_line(outcome(text, address, host))
    assert line.isprintable()
    assert re.fullmatch(
        r'NOQUEUE: to=<[^<> ]*>, (?:orig_to=<[^<> ]*>, )?operator=none, relay=[^ ,]*.*, attempt=1, blocklist=none, text="[^"]*"',
        line,
    ), line
    assert line.count("class=hard, category=invalid-recipient, rule=rule, advice=suppress") >= 1


@FEW
@given(HOSTILE, HOSTILE)
def test_notice_is_one_line(text, key):
    """The same for what began and ended."""
    for kind in (NoticeKind.SUPPRESSED, NoticeKind.BLOCK_BEGAN):
        line = notice_line(Notice(kind, key, NOW, text=text, by="probe"))
        assert line.isprintable()
        assert re.fullmatch(r'.*, text="[^"]*"', line), line


@FEW
@given(HOSTILE, HOSTILE)
def test_header_field_is_ascii_and_one_line(text, address):
    """X-Milter-Bounce holds nothing from outside but the address, and that cannot leave its brackets."""
    value = header_value(DeliveryReport(Kind.DSN), outcome(text, address, text))
    assert value.isascii()
    assert value.isprintable()
    assert re.fullmatch(r"(?:[a-z]+=[^;<> ]+; ){8}recipient=<[^<>; ]*>", value), value


@FEW
@given(HOSTILE, HOSTILE)
def test_table_of_suppressions_keeps_its_rows(text, address):
    """A row stays a row, whatever stands in its cells; JSON lines stay lines."""
    out = io.StringIO()
    write_csv([Suppression(address, NOW, "x", "y", text)] * 2, out)
    assert "".join(out.getvalue().split("\n")).isprintable()
    rows = list(csv.reader(io.StringIO(out.getvalue(), newline="")))
    assert [len(row) for row in rows] == [len(COLUMNS)] * 3
    assert not [cell for row in rows for cell in row if cell.startswith(("=", "+", "@", "-", "\t", "\r", "\n"))]


@FEW
@given(HOSTILE, HOSTILE, st.booleans())
def test_json_is_one_line_that_no_terminal_acts_on(text, key, ascii_only):
    """No control character of C0 or C1, DEL, line separator or control of the direction of writing stands in it raw."""
    line = json_line({key: [text, {"recipient": text}]}, ascii_only=ascii_only)
    assert not re.search(ACTED_ON, line)
    assert line.encode("ascii" if ascii_only else "utf-8")
    words = [re.sub("[\ud800-\udfff]", lambda half: f"\\u{ord(half[0]):04x}", word) for word in (key, text)]
    assert json.loads(line) == {words[0]: [words[1], {"recipient": words[1]}]}


@FEW
@given(HOSTILE)
def test_event_is_the_same_json(text):
    """What ``--events jsonl`` prints."""
    line = json_line(event(outcome(text, text, text)), ascii_only=True)
    assert line.isascii()
    assert line.isprintable()


@FEW
@given(HOSTILE)
def test_harmless_is_printable_and_settled(text):
    """Text that is harmless stays as it is, backslashes and all, so that it can be made so twice."""
    made = harmless(text)
    assert made.isprintable()
    assert harmless(made) == made
    if text.isprintable():
        assert made == text


@FEW
@given(st.text(st.characters(exclude_categories=()), max_size=300), st.integers(10, 200))
def test_printable_is_printable_and_bounded(text, limit):
    """The one place where outside text is made safe: printable, within its limit, and unchanged where it was harmless."""
    made = printable(text, limit)
    assert made.isprintable()
    assert len(made) <= limit
    if text.isprintable() and "\\" not in text and len(text) <= limit:
        assert made == text


@FEW
@given(st.text("+-=@'|!ax\n", min_size=1, max_size=8))
def test_table_of_suppressions_is_read_as_it_was(user):
    """What is exported is imported again, formula or not."""
    out = io.StringIO()
    address = user.replace("@", "").replace("\n", "") + "x@example.net"
    write_csv([Suppression(address, NOW, "mailbox-full", "r", "=" + user, "import")], out)
    told = []
    found = [
        s
        for page in read_suppressions(io.StringIO(out.getvalue()), "csv", NOW, lambda *bad: told.append(bad))
        for s in page
    ]
    assert told == []
    assert [(s.recipient, s.reason) for s in found] == [(address, "=" + user)]
