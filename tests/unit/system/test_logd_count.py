"""Counts of whole logs: the same however the log is cut, packed or shared among processes."""

from __future__ import annotations

import gzip
import io
from collections import Counter
from types import SimpleNamespace

import pytest

from milter_bounce.config import ConfigError
from milter_bounce.delivery import Action
from milter_bounce.system import logcount
from milter_bounce.system.logcount import count_logs, deliveries
from milter_bounce.system.logtally import Failed, Tally
from milter_bounce.system.rulefiles import load_rules
from milter_bounce.system.thresholds import Threshold, load_thresholds
from tests.bench.make_log import lines
from tests.conftest import SHARED

RULES = load_rules()
STAMP = "2026-11-20T10:00:00+00:00 mx"
TO = f"{STAMP} postfix/smtp[1]: {{}}: to=<{{}}>, relay=mx[192.0.2.1]:25, delay=1, delays=0/0/0/1, "
SENT = TO + "dsn=2.0.0, status=sent (250 Ok)\n"
FULL = (
    TO + "dsn=4.2.2, status=deferred (host mx[192.0.2.1] said: 452 4.2.2 mailbox full (in reply to RCPT TO command))\n"
)


def never(fault):
    pytest.fail(fault)


def summary(tally):
    """Return what two tallies of the same log must share."""
    return (
        tally.attempts,
        tally.delivered,
        Counter(tally.failed.values()),
        {key: (r.count, r.operators, r.category, r.rule) for key, r in tally.refusals.items()},
        tally.blocklists,
        tally.rules,
        tally.first,
        tally.last,
    )


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "mail.log"
    path.write_text("".join(lines(3000)))
    return path


def test_tally_is_that_of_the_deliveries(log):
    """The fast walk counts what the careful reader reads."""
    tally = count_logs([log], RULES, never)
    found = list(deliveries([log], never))
    sent = sum(1 for one in found if one.status.action is Action.DELIVERED)
    assert sum(tally.delivered.values()) == sent
    assert sum(tally.attempts.values()) == len(found)
    verdicts = Counter(
        RULES.classify(one.status).category for one in found if one.status.action is not Action.DELIVERED
    )
    counted = Counter()
    for (_, category), number in tally.attempts.items():
        counted[category] += number
    del counted["delivered"]
    assert counted == verdicts


@pytest.mark.parametrize("size", [1_000, 77_777, 500_000])
@pytest.mark.parametrize("processes", [1, 2])
def test_pieces_and_processes_change_nothing(log, monkeypatch, size, processes):
    """A log cut anywhere, by one process or two, comes to the same tally."""
    whole = count_logs([log], RULES, never)
    monkeypatch.setattr(logcount, "PIECE_BYTES", size)
    monkeypatch.setattr(logcount, "ONE_PROCESS_BYTES", 0)
    assert summary(count_logs([log], RULES, never, processes=processes)) == summary(whole)


@pytest.mark.skipif(not SHARED.exists(), reason="../shared is absent: Sendmail's real log")
@pytest.mark.parametrize("size", [3_000, 20_000])
def test_log_of_both_mtas_may_be_cut_anywhere(log, monkeypatch, size):
    """Sendmail's lines, which lean on one another, come to the same tally in pieces."""
    with log.open("a") as file:
        file.write((SHARED / "sendmail" / "sendmail.log").read_text())
    whole = count_logs([log], RULES, never)
    monkeypatch.setattr(logcount, "PIECE_BYTES", size)
    assert summary(count_logs([log], RULES, never, processes=1)) == summary(whole)
    assert whole.attempts["ok.test", "delivered"] > 10


@pytest.mark.parametrize("processes", [1, 2])
def test_packed_log_is_the_same_log(log, processes):
    """A .gz comes to the tally of what is packed in it."""
    packed = log.with_name("mail.log.1.gz")
    packed.write_bytes(gzip.compress(log.read_bytes()))
    assert summary(count_logs([packed], RULES, never, processes=processes)) == summary(count_logs([log], RULES, never))


def test_standard_input_is_a_log(log, monkeypatch):
    """- reads standard input."""
    monkeypatch.setattr(logcount.sys, "stdin", SimpleNamespace(buffer=io.BytesIO(log.read_bytes())))
    assert summary(count_logs([None], RULES, never, processes=1)) == summary(count_logs([log], RULES, never))


@pytest.mark.parametrize("size", [60, 4 << 20])
def test_delivered_after_failures_is_no_failure(tmp_path, monkeypatch, size):
    """A message counts as delivered if any attempt was, in one piece or over several."""
    monkeypatch.setattr(logcount, "PIECE_BYTES", size)
    log = tmp_path / "mail.log"
    log.write_text(
        FULL.format("AAAAA1", "a@x.example")
        + FULL.format("AAAAA1", "b@x.example")
        + FULL.format("AAAAA1", "a@x.example")
        + SENT.format("AAAAA1", "a@x.example")
    )
    tally = count_logs([log], RULES, never, processes=1)
    assert tally.attempts == {("x.example", "mailbox-full"): 3, ("x.example", "delivered"): 1}
    assert list(tally.failed.values()) == [Failed("x.example", "soft", "mailbox-full")]


def test_older_log_is_read_first(tmp_path):
    """Whatever the order of the arguments, a failure in the old log is settled by the delivery in the new one."""
    new, old = tmp_path / "mail.log", tmp_path / "mail.log.1"
    old.write_text(FULL.format("AAAAA1", "a@x.example"))
    new.write_text(SENT.format("AAAAA1", "a@x.example"))
    for age, path in enumerate((new, old)):
        logcount.os.utime(path, (1_800_000_000 - age * 1000,) * 2)
    assert count_logs([new, old], RULES, never).failed == {}


def test_log_that_cannot_be_read_is_told_and_the_rest_counted(log, tmp_path):
    """One line for each fault; the other logs are counted."""
    (tmp_path / "bad.gz").write_bytes(b"no gzip")
    faults = []
    tally = count_logs([tmp_path / "missing", tmp_path / "bad.gz", log], RULES, faults.append)
    assert sum(tally.attempts.values()) == 3000
    assert sorted(fault.partition(":")[0].rpartition("/")[2] for fault in faults) == ["bad.gz", "missing"]


def test_own_gate_is_counted_apart(tmp_path):
    """Recipients that our gate held back are no attempts."""
    log = tmp_path / "mail.log"
    log.write_text(
        f"{STAMP} postfix/error[1]: AAAAA1: to=<a@b>, relay=none, delay=1, delays=0/0/0/1, dsn=4.7.1, "
        "status=deferred (milter-bounce: held)\n"
    )
    tally = count_logs([log], RULES, never)
    assert (tally.held, tally.attempts) == (1, {})


def test_empty_tallies_add_up_to_nothing():
    """A log without deliveries has no times and no counts."""
    total = Tally()
    total.add(Tally())
    assert (total.first, total.last, total.failed, total.attempts) == (None, None, {}, {})


@pytest.mark.parametrize(
    ("rate", "mark"), [(0.0, "fine"), (0.02, "fine"), (0.021, "warn"), (0.05, "warn"), (0.051, "bad"), (1.0, "bad")]
)
def test_threshold_marks_what_exceeds_it(rate, mark):
    """At the threshold is fine, above it is not."""
    assert Threshold("x", "x", 0.02, 0.05).mark(rate) == mark


def test_rate_counts_classes_and_categories():
    """A rate is the share of the messages that failed in what counts; none of none is none."""
    failed = [
        Failed("x", "hard", "invalid-recipient"),
        Failed("x", "soft", "mailbox-full"),
        Failed("x", "policy", "virus"),
    ]
    by_id = {threshold.id: threshold for threshold in load_thresholds()}
    assert {name: by_id[name].rate(failed, 10) for name in by_id} == {
        "hard-bounces": 0.1,
        "all-bounces": 0.2,
        "unknown-users": 0.1,
    }
    assert by_id["hard-bounces"].rate([], 0) == 0.0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param("nonsense", "thresholds", id="no-toml"),
        pytest.param("", "thresholds", id="empty"),
        pytest.param(
            '[[threshold]]\nid="x"\nlabel="x"\nwarn=0.5\nbad=0.1', "x: needs 0 < warn <= bad <= 1", id="order"
        ),
        pytest.param('[[threshold]]\nid="x"\nlabel="x"\nwarn=0.1\nbad=0.2\nclasses=["soff"]', "soff", id="class"),
        pytest.param('[[threshold]]\nid="x"\nwarn=0.1\nbad=0.2', "label", id="missing"),
    ],
)
def test_wrong_thresholds_are_told(tmp_path, text, said):
    """File, threshold and reason stand in one line."""
    path = tmp_path / "thresholds.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=said):
        load_thresholds(path)


@pytest.mark.parametrize("how", ["tally", "deliveries"])
def test_standard_input_without_line_ends_is_read_in_pieces(monkeypatch, how):
    """No newline for 40 MB: what is held does not grow with what came."""
    chunks, longest = [b"\0" * logcount.PIECE_BYTES] * 10 + [FULL.format("4cXyzz", "a@example.net").encode()], []
    monkeypatch.setattr(
        "sys.stdin", SimpleNamespace(buffer=SimpleNamespace(read=lambda _: chunks.pop(0) if chunks else b""))
    )
    whole = logcount.whole_lines
    monkeypatch.setattr(logcount, "whole_lines", lambda *given: (longest.append(len(p)) or p for p in whole(*given)))
    found = count_logs([None], RULES, never, processes=1) if how == "tally" else list(deliveries([None], never))
    assert len(longest) == 11
    assert max(longest) == logcount.PIECE_BYTES
    assert found.attempts.total() == 1 if how == "tally" else len(found) == 1
