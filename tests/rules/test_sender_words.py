"""Who is refused, in many languages, and which of two reasons in one reply decides."""

from __future__ import annotations

import tomllib
from functools import lru_cache
from pathlib import Path

import pytest

from milter_bounce.system.rulefiles import load_rules, status_of

GROUPS = tomllib.loads(Path(__file__).with_name("sender_words.toml").read_text(encoding="utf-8"))["group"]
CASES = [
    pytest.param(
        *((reply, None) if isinstance(reply, str) else (reply["text"], reply["mx"])), group, id=f"{number}-{index}"
    )
    for number, group in enumerate(GROUPS)
    for index, reply in enumerate(group["replies"])
]


@lru_cache(maxsize=1)
def shipped():
    return load_rules()


@pytest.mark.parametrize(("text", "host", "group"), CASES)
def test_reply_is_read_of_whom_it_speaks(text, host, group):
    """The category, where one is given, and the advice are right ones; a sender's refusal never suppresses."""
    verdict = shipped().classify(status_of(text, host))
    assert verdict.category in group.get("category", [verdict.category]), verdict
    for advice in group["advice"]:
        if advice.startswith("!"):
            assert verdict.advice != advice[1:], verdict
    assert str(verdict.advice) in group["advice"] or all(a.startswith("!") for a in group["advice"]), verdict
