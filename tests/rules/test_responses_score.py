"""The score on the labelled real replies that lie beside the project; skipped where they do not."""

from __future__ import annotations

import json
from functools import lru_cache

import pytest

from milter_bounce.system.rulefiles import load_rules, status_of
from tests.conftest import SHARED

RESPONSES = SHARED / "corpus" / "responses.jsonl"
pytestmark = pytest.mark.skipif(not RESPONSES.exists(), reason="the labelled replies are not here")
SAME = {"mailbox-unavailable": {"mailbox-unavailable", "undetermined", "inactive-mailbox", "system-error"}}


@lru_cache(maxsize=1)
def judged():
    rules = load_rules()
    rows = [json.loads(line) for line in RESPONSES.read_text(encoding="utf-8").splitlines()]
    return [(row, rules.classify(status_of(row["text"]))) for row in rows]


def test_responses_are_suppressed_or_not_as_labelled():
    """At least 98 of 100 clear labels agree on suppress or not."""
    clear = [(row["hard"], verdict.advice == "suppress") for row, verdict in judged() if row["hard"] is not None]
    assert sum(want == got for want, got in clear) >= 0.98 * len(clear)


def test_responses_get_an_accepted_category():
    """At least 93 of 100 categories agree."""
    right = sum(bool(SAME.get(v.category, {v.category}) & set(row["accept"])) for row, v in judged())
    assert right >= 0.93 * len(judged())


def test_responses_refusing_the_sender_never_suppress():
    """No reply labelled a refusal of the sender takes an address off the list."""
    refusals = {
        "blocklisted",
        "poor-reputation",
        "auth-failure",
        "rdns-missing",
        "rate-limited",
        "spam-content",
        "virus",
    }
    wrong = [row["id"] for row, v in judged() if row["accept"][0] in refusals and v.advice == "suppress"]
    assert wrong == []
