"""What Sendmail's own lines mean: one real line of each kind (../shared/sendmail), and the written expectations."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from milter_bounce.parse.log import LogReader
from milter_bounce.parse.logline import Delivery, Expired
from milter_bounce.system.rulefiles import load_rules
from tests.conftest import SHARED

LOG = SHARED / "sendmail" / "sendmail-samples.log"
EXPECTED = Path(__file__).with_suffix("").with_name("sendmail_samples.tsv")

pytestmark = pytest.mark.skipif(not LOG.exists(), reason="../shared/sendmail is not there")


def told(number: int, event: object, rules) -> str | None:
    """Return one line of the expectations for one event."""
    if isinstance(event, Expired):
        return f"{number}\texpired"
    if not isinstance(event, Delivery):
        return None
    status, verdict = event.status, rules.classify(event.status)
    head = (number, status.recipient, status.action, status.status or "-", status.reply_code or "-")
    if event.ours:
        return "\t".join(map(str, (*head, "gate", "-", "-", "-")))
    tail = (status.diagnostic_type, verdict.class_, verdict.category, verdict.advice)
    return "\t".join(map(str, (*head, *tail)))


def test_sendmail_lines_mean_what_is_written_down():
    """Every delivery of the samples: recipient, action, codes, who spoke, class, category, advice."""
    rules, reader = load_rules(), LogReader(datetime(2026, 11, 20, 20, tzinfo=UTC))
    lines = LOG.read_text(encoding="utf-8", errors="replace").splitlines()
    found = [told(n, event, rules) for n, line in enumerate(lines, 1) for event in reader.feed(line)]
    expected = [line for line in EXPECTED.read_text().splitlines() if not line.startswith("#")]
    assert [line for line in found if line] == expected
