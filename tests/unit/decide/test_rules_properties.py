"""Rule files of any values: rules that classify, or one RulesError on one line."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milter_bounce.decide.rule_toml import RulesError
from milter_bounce.decide.ruleset import RuleSet
from milter_bounce.delivery import DeliveryStatus
from milter_bounce.verdict import CATEGORIES

FEW = settings(max_examples=150, deadline=None)
SCALARS = st.one_of(
    st.none().map(lambda _: ""), st.booleans(), st.integers(-5, 10**12), st.floats(allow_nan=True), st.text(max_size=12), st.datetimes(),
    st.sampled_from(["spam-content", "hard", "soft", "policy", "suppress", "ip", "5.1.1", "x.7.*", "55x", "RCPT", "(?P<n>[0-9]+)", "(", "a\nb", "2026", "own"]),
)  # fmt: skip
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=6), inner, max_size=3)),
    max_leaves=5,
)
KEYS = st.sampled_from([
    "id", "category", "class", "advice", "scope", "text", "unless", "reply", "status", "command", "operator", "anywhere", "source", "examples",
    "zone", "lists", "codes", "bits", "not_listed", "refused", "named", "weight", "name", "mx", "marks", "large", "delist_h", "key",
])  # fmt: skip
RIGHT = {
    "id": "own-rule", "category": "spam-content", "text": "x", "source": "x, 2026", "examples": ["550 x"], "zone": "bl.example.net", "operator": "own",
    "lists": ["ip"],
}  # fmt: skip
TABLES = st.builds(
    lambda odd, keep: {k: v for k, v in RIGHT.items() if k in keep} | odd,
    st.dictionaries(KEYS, VALUES, max_size=3),
    st.sets(st.sampled_from(sorted(RIGHT)), min_size=4),
)
HEADS = st.sampled_from(["rule", "blocklist", "time", "operator", "units", "rank", "source", "tier", "x\ny"])
FILES = st.dictionaries(HEADS, st.one_of(TABLES, st.lists(TABLES, max_size=2), VALUES), max_size=3)
STATUS = DeliveryStatus(
    "a@example.net", reply_code=550, diagnostic="550 5.1.1 x, try again in 5 minutes", remote_mta="mx.own.example"
)


@FEW
@given(FILES)
def test_any_local_file_gives_rules_or_one_line(values):
    """Hostile values of a local rule file end in RulesError, printable, or in rules that classify."""
    said, rules = "own.toml: ", None
    try:
        rules = RuleSet.from_values({}, {"own.toml": values})
    except RulesError as error:
        said = str(error)
    assert said.startswith("own.toml: ")
    assert said.isprintable()
    assert rules is None or rules.classify(STATUS).category in CATEGORIES


RULE_HEAD = {"id": "own-rule", "source": "x, 2026", "examples": ["550 x"]}
RULE = {**RULE_HEAD, "category": "spam-content", "text": "x"}
LIST = {**RULE_HEAD, "id": "bl", "zone": "bl.example.net", "operator": "x", "lists": ["ip"]}
BROKEN = ("a{8,7}", "x{5,1001}", "(?:(?:a{500,1000}){20,900})", "(?=x)y", "(")


@pytest.mark.parametrize("pattern", BROKEN)
@pytest.mark.parametrize(
    "place",
    [
        pytest.param({"rule": [{**RULE, "text": "{}"}]}, id="text"),
        pytest.param({"rule": [{**RULE, "unless": "{}"}]}, id="unless"),
        pytest.param({"rule": [{**RULE, "text": "{}", "operator": "google"}]}, id="operator-met-later"),
        pytest.param({"operator": {"id": "own", "name": "Own", "mx": ["mx.own.example"], "marks": "{}"}}, id="marks"),
        pytest.param({"blocklist": [{**LIST, "text": "{}"}]}, id="blocklist"),
        pytest.param({"time": [{**RULE_HEAD, "text": "(?P<n>[0-9]+){}"}]}, id="time"),
    ],
)
def test_pattern_that_re2_does_not_take_shows_at_once(pattern, place):
    """A local file with a broken pattern is refused when it is read, never when a reply comes."""
    values = json.loads(json.dumps(place).replace("{}", pattern))
    google = {"operator": {"id": "google", "name": "Google", "mx": ["google.com"]}}
    with pytest.raises(RulesError, match=r"own\.toml: .*RE2 cannot take"):
        RuleSet.from_values({"operators/google.toml": google}, {"own.toml": values})
