"""Some 850 replies written without an eye on the rules: each gets a category and an advice that are right for it."""

from __future__ import annotations

import re
import tomllib
from functools import lru_cache
from pathlib import Path

import pytest

from milter_bounce.system.rulefiles import load_rules, status_of

DATA = Path(__file__).with_name("replies.toml")
GROUPS = tomllib.loads(DATA.read_text(encoding="utf-8"))["group"]
REFUSALS = {
    "auth-failure", "blocklisted", "policy-rejection", "poor-reputation", "rdns-missing", "relay-denied",
    "sender-rejected", "spam-content", "virus",
}  # fmt: skip


def _row(reply):
    return (reply, None) if isinstance(reply, str) else (reply["text"], reply["mx"])


CASES = [
    pytest.param(*_row(reply), group, id=f"{group['category'][0]}-{number}-{index}")
    for number, group in enumerate(GROUPS)
    for index, reply in enumerate(group["replies"])
]


@lru_cache(maxsize=1)
def shipped():
    return load_rules()


@pytest.mark.parametrize(("text", "host", "group"), CASES)
def test_reply_gets_a_right_verdict(text, host, group):
    """Category and advice are among the right ones."""
    verdict = shipped().classify(status_of(text, host))
    assert (verdict.category in group["category"], str(verdict.advice) in group["advice"]) == (True, True), verdict


def test_verdict_is_the_same_however_a_reply_is_broken_into_lines():
    """``550-No such`` and ``550 user here`` say what ``550 No such user here`` says, with and without repeated statuses."""
    rules, differ, tried = shipped(), [], 0
    for case in CASES:
        text, host, _ = case.values
        found = re.fullmatch(r"([45][0-9]{2}) ([45]\.[0-9]+\.[0-9]+ )?(.*)", text)
        words = found[3].split(" ") if found else []
        if "550-" in text:
            continue  # broken already
        for size in (2, 3) if len(words) > 3 else ():
            lines = [" ".join(words[at : at + size]) for at in range(0, len(words), size)]
            codes = [f"{found[1]}-"] * (len(lines) - 1) + [f"{found[1]} "]
            broken = "\r\n".join(code + (found[2] or "") + line for code, line in zip(codes, lines, strict=True))
            tried += 1
            if rules.classify(status_of(broken, host)).category != rules.classify(status_of(text, host)).category:
                differ.append(broken)
    assert tried > 1500
    assert differ == []


@pytest.mark.parametrize(("text", "host", "group"), [c for c in CASES if set(c.values[2]["category"]) <= REFUSALS])
def test_refusal_of_the_sender_never_suppresses(text, host, group):
    """Whatever the receiver holds against us, the address stays."""
    assert shipped().classify(status_of(text, host)).advice not in {"suppress", *group.get("never", ())}
