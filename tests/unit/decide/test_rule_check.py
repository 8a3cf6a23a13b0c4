"""The checker finds what an author of rules gets wrong."""

from __future__ import annotations

import pytest

from milter_bounce.decide.check import findings
from milter_bounce.decide.ruleset import RuleSet
from milter_bounce.system.rulefiles import status_of

HEAD = 'source = "made for a test, 2026"\n'


def rule(name, *lines, category="policy-rejection"):
    return "\n".join(["[[rule]]", f'id = "{name}"', f'category = "{category}"', *lines]) + "\n"


FIRST = rule("first", "text = 'blocked'", 'examples = ["550 blocked"]')
CASES = [
    ("fine", FIRST, []),
    ("misses", rule("x", "text = 'blocked'", 'examples = ["550 allowed"]'), ["does not match its example"]),
    ("taken", FIRST + rule("x", "text = 'blocked here'", 'examples = ["550 blocked here"]'), ["first in text/t.toml takes its example first"]),
    ("same-conditions", FIRST + rule("x", "text = 'blocked'", 'examples = ["550 blocked"]'), ["never fire", "takes its example"]),
    ("shadowed", FIRST + rule("x", "text = 'blocked'", "reply = '421'", 'examples = ["421 blocked"]'), ["never fire", "takes its example"]),
    ("dead-boundary", rule("x", "text = ['blocked', 'нет\\b']", 'examples = ["550 blocked"]'), ["ASCII words only"]),
    ("dead-boundary-before", rule("x", "text = 'blocked'", "unless = '\\bнет'", 'examples = ["550 blocked"]'), ["ASCII words only"]),
    ("suppressing", rule("x", "text = 'a'", 'class = "hard"', 'advice = "suppress"', 'examples = ["550 a"]', category="relay-denied"), ["must not suppress"]),
]  # fmt: skip


@pytest.mark.parametrize(("text", "reasons"), [pytest.param(*row[1:], id=row[0]) for row in CASES])
def test_rule_check_names_what_is_wrong(text, reasons):
    """Each finding names file, rule and reason."""
    found = findings(RuleSet.load({"text/t.toml": HEAD + text}), status_of)
    assert len(found) == len(reasons)
    for item, reason in zip(found, reasons, strict=True):
        assert item.file == "text/t.toml"
        assert reason in item.reason


def test_rule_check_tries_operator_rules_at_their_operator():
    """An example in an operator's file comes from his MX; one marked anywhere must hold without it too."""
    files = {
        "operators/big.toml": HEAD + '[operator]\nid = "big"\nname = "Big"\nmx = ["mx.big.example"]\n'
        + rule("big", "text = 'slow'", 'examples = ["450 slow"]')
        + rule("big-tag", "text = 'slow tag'", "anywhere = true", 'examples = ["450 slow tag"]'),
    }  # fmt: skip
    found = findings(RuleSet.load(files), status_of)
    assert [item.reason for item in found] == ["big in operators/big.toml takes its example first: '450 slow tag'"]


def test_rule_check_tries_blocklists_and_times():
    """Examples of lists and of waiting times are tried as well."""
    files = {
        "blocklists.toml": HEAD + '[[blocklist]]\nid = "bl"\nzone = "bl.example.org"\noperator = "BL"\nlists = ["ip"]\ntext = ["bl[.]example"]\nexamples = ["550 nothing"]\n',
        "text/times.toml": HEAD + '[units]\nmin = 60\n[[time]]\nid = "t"\ntext = "in (?P<n>[0-9]+) (?P<unit>[a-z]+)"\nexamples = [{ text = "450 in 5 min", seconds = 5 }]\n',
    }  # fmt: skip
    found = findings(RuleSet.load(files), status_of)
    assert [item.rule for item in found] == ["blocklist-bl", "t"]
