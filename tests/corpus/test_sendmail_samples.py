"""What Sendmail's lines mean, log beside expectations.

``sendmail.log``: a Sendmail 8.17.1 of our own facing every remote behaviour of the
integration tests, names and addresses exchanged for documentation ones.
``sendmail-samples.log`` (../shared): one real line of each kind.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from milter_bounce.parse.log import LogReader
from milter_bounce.parse.logline import Delivery, Expired
from milter_bounce.system.rulefiles import load_rules
from tests.conftest import SHARED

HERE = Path(__file__).parent
SAMPLES = SHARED / "sendmail" / "sendmail-samples.log"
needs_shared = pytest.mark.skipif(not SAMPLES.exists(), reason="../shared/sendmail is not there")


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


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        pytest.param(HERE / "sendmail.log", HERE / "sendmail.tsv", id="own"),
        pytest.param(SAMPLES, HERE / "sendmail_samples.tsv", id="shared-samples", marks=needs_shared),
    ],
)
def test_sendmail_lines_mean_what_is_written_down(log, expected):
    """Every delivery: recipient, action, codes, who spoke, class, category, advice."""
    rules, reader = load_rules(), LogReader(datetime(2026, 11, 20, 22, tzinfo=UTC))
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    found = [told(n, event, rules) for n, line in enumerate(lines, 1) for event in reader.feed(line)]
    wanted = [line for line in expected.read_text().splitlines() if not line.startswith("#")]
    assert [line for line in found if line] == wanted
