"""Rules in order: which one wins, what a verdict carries, what loading refuses."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milter_bounce.decide.rule_toml import RulesError
from milter_bounce.decide.ruleset import RuleSet
from milter_bounce.delivery import Action
from milter_bounce.system.rulefiles import load_rules, status_of
from milter_bounce.verdict import GATE_MARK, annotation


def rule(name, text=None, category="policy-rejection", example="550 example", **keys):
    lines = ["[[rule]]", f'id = "{name}"', f'category = "{category}"', f'examples = ["{example}"]']
    lines += [f"text = '{text}'"] if text else []
    lines += [f"{key} = {value!r}".replace("True", "true") for key, value in keys.items()]
    return "\n".join(lines) + "\n"


HEAD = 'source = "made for a test, 2026"\n'
FILES = {
    "text/a.toml": HEAD + "rank = 10\n" + rule("text-blocked", "blocked", example="550 blocked") + rule("text-spam", "spam", "spam-content", unless="no spam"),
    "text/b.toml": HEAD + "rank = 5\n" + rule("text-first", "blocked by first"),
    "text/faults.toml": HEAD + 'tier = "guard"\n' + rule("guard", "open resolver", "system-error"),
    "text/times.toml": HEAD + '[units]\nminutes = 60\n[[time]]\nid = "t"\ntext = \'in (?P<n>[0-9]{1,3}) (?P<unit>[a-z]+)\'\nexamples = [{ text = "450 in 5 minutes", seconds = 300 }]\n',
    "operators/big.toml": HEAD + '[operator]\nid = "big"\nname = "Big"\nmx = ["mx.big.example"]\nlarge = true\nmarks = ["see big\\\\.example/help"]\n' + rule("big-blocked", "blocked", "poor-reputation") + rule("big-tag", "TAG7", "rate-limited", anywhere=True) + rule("big-code", status="5.7.9", category="auth-failure"),
    "blocklists.toml": HEAD + '[[blocklist]]\nid = "bl"\nzone = "bl.example.org"\noperator = "BL"\nlists = ["ip"]\nlookup = "https://bl.example.org/{listed}"\ntext = [\'bl\\.example\\.org\']\n[[blocklist]]\nid = "dbl"\nzone = "dbl.example.org"\noperator = "BL"\nlists = ["domain"]\nnamed = [\'the BL lists\']\n',
    "status.toml": HEAD + rule("s-522", status="x.2.2", category="mailbox-full") + rule("s-511", status="x.1.1", category="invalid-recipient") + rule("s-000", status="x.0.0", category="undetermined"),
    "replies.toml": HEAD + rule("r-552", reply="552", category="mailbox-full") + rule("r-2xx", reply="2xx", category="delivered"),
}  # fmt: skip
BIG = "in.mx.big.example"


@pytest.fixture(scope="module")
def made():
    return RuleSet.load(FILES)


def judged(rules, text, host=None, **keys):
    return rules.classify(replace(status_of(text, host), **keys))


PRECEDENCE = [
    ("guard-before-all", "554 blocked using bl.example.org: open resolver TAG7", BIG, "guard"),
    ("operator-before-list", "554 blocked using bl.example.org", BIG, "big-blocked"),
    ("operator-code-before-text", "554 5.7.9 spam", BIG, "big-code"),
    ("tag-anywhere", "421 TAG7 blocked", None, "big-tag"),
    ("mark-brings-own-rules", "554 blocked, see big.example/help", None, "big-blocked"),
    ("mark-brings-own-codes", "554 5.7.9 spam, see big.example/help", "relay.other.example", "big-code"),
    ("list-before-text", "554 blocked using bl.example.org", None, "blocklist-bl"),
    ("rank-before-name", "554 blocked by first", None, "text-first"),
    ("text-before-status", "552 5.2.2 blocked", None, "text-blocked"),
    ("unless", "554 no spam", None, "default-5xx"),
    ("status-before-reply", "552 5.1.1", None, "s-511"),
    ("reply-before-silent-status", "552 5.0.0", None, "r-552"),
    ("silent-status", "559 5.0.0", None, "s-000"),
    ("first-digit-5", "559 what", None, "default-5xx"),
    ("first-digit-4", "459 what", None, "default-4xx"),
    ("no-digit", "what", None, "default-none"),
    ("other-operator", "554 blocked", "mx.small.example", "text-blocked"),
    ("suffix-is-a-label", "554 blocked", "mx.notmx.big.example.com", "text-blocked"),
    ("success", "250 blocked", None, "r-2xx"),
]


@pytest.mark.parametrize(("text", "host", "expected"), [pytest.param(*row[1:], id=row[0]) for row in PRECEDENCE])
def test_ruleset_takes_the_first_rule_in_order(made, text, host, expected):
    """Guard, operator, list, text, status, reply, digit: the order of rules/README.md."""
    assert judged(made, text, host).rule == expected


TEMPERED = [
    ("user-unknown-5xx", "550 5.1.1", {}, ("hard", "suppress")),
    ("user-unknown-4xx", "450 4.1.1", {}, ("soft", "retry")),
    ("user-unknown-own-side", "550 5.1.1", {"local": True}, ("hard", "fix")),
    ("user-unknown-delayed-without-code", "5.1.1", {"action": Action.DELAYED}, ("soft", "retry")),
    ("full-5xx", "552 5.2.2", {}, ("soft", "retry")),
    ("undetermined-5xx", "559", {}, ("hard", "fix")),
    ("undetermined-4xx", "459", {}, ("soft", "retry")),
    ("refused-4xx", "450 blocked", {}, ("policy", "hold")),
]


@pytest.mark.parametrize(("text", "keys", "expected"), [pytest.param(*row[1:], id=row[0]) for row in TEMPERED])
def test_ruleset_tempers_by_digit_and_speaker(made, text, keys, expected):
    """A 4xx does not convict a recipient, nor does our own side; a block stays a block at any digit."""
    verdict = judged(made, text, **keys)
    assert (verdict.class_, verdict.advice) == expected


def test_ruleset_success_by_action_needs_no_code(made):
    """A report of a delivery is a success whatever its words."""
    assert judged(made, "blocked", action=Action.DELIVERED).category == "delivered"


def test_ruleset_mentions_carry_what_is_listed(made):
    """Each reply has its own address though the words are judged once."""
    for address in ("192.0.2.1", "198.51.100.77"):
        (found,) = judged(made, f"554 {address} is listed at bl.example.org").blocklists
        assert (found.zone, found.listed, found.lookup) == (
            "bl.example.org",
            address,
            f"https://bl.example.org/{address}",
        )


def test_ruleset_mentions_an_operator_only_where_no_list_is_named(made):
    """A list named outright makes the mere name of its operator say nothing more."""
    both = judged(made, "554 the BL lists you: bl.example.org").blocklists
    alone = judged(made, "554 the BL lists example.com").blocklists
    assert [found.zone for found in both] == ["bl.example.org"]
    assert [(found.zone, found.listed) for found in alone] == [("dbl.example.org", "example.com")]


def test_ruleset_guard_flags_no_list(made):
    """A look-up that failed is no listing."""
    assert judged(made, "554 listed at bl.example.org: open resolver").blocklists == ()


def test_ruleset_reads_a_stated_time(made):
    """The reply's own waiting time comes with the verdict."""
    assert judged(made, "450 later, in 5 minutes").retry_after == timedelta(minutes=5)


@pytest.mark.parametrize("text", ["450 in 5 parsecs", "450 in 0 minutes", "450 soon"])
def test_ruleset_states_no_time_that_is_none(made, text):
    """An unknown unit, nothing, and no number are no waiting time."""
    assert judged(made, text).retry_after is None


def test_ruleset_knows_its_own_gate(made):
    """The gate's text that comes back in the log is no failure of anybody."""
    verdict = judged(made, f"4.7.1 {GATE_MARK}held, blocked by big")
    assert (verdict.gate, verdict.advice) == (True, "none")


def test_ruleset_judges_what_stands_behind_an_annotation(made):
    """The status filter's annotation is taken off; the original decides."""
    first = judged(made, "552 5.2.2 full")
    again = judged(made, f"{annotation(first)} 552 5.2.2 full")
    assert again.rule == first.rule


def test_ruleset_local_rule_comes_first(made):
    """The administrator's rules precede operators and guards."""
    local = RuleSet.load(FILES, {"/etc/x/own.toml": HEAD + rule("own", "blocked", "greylisted")})
    assert judged(local, "554 blocked using bl.example.org", BIG).rule == "own"
    assert judged(made, "554 blocked using bl.example.org", BIG).rule == "big-blocked"


def test_ruleset_local_rule_of_the_same_id_keeps_the_place():
    """Replacing a rule of the codes does not put it before the texts."""
    local = RuleSet.load(
        FILES, {"own.toml": HEAD + rule("s-511", status="x.1.1", category="undetermined", advice="hold")}
    )
    assert judged(local, "550 5.1.1 blocked").rule == "text-blocked"
    assert judged(local, "550 5.1.1").advice == "hold"


def test_ruleset_local_rule_may_be_an_operators(made):
    """A local file may add to an operator by naming it."""
    own = HEAD + rule("own-big", "slow", "rate-limited", operator="big")
    local = RuleSet.load(FILES, {"own.toml": own})
    assert judged(local, "450 slow", BIG).rule == "own-big"
    assert judged(local, "450 slow").rule == "default-4xx"
    assert "own-big" not in {r.id for r in made.rules}


def test_ruleset_explains_in_order(made):
    """Every rule that matches is shown, the one that decides first."""
    rows = made.explain(status_of("554 5.2.2 blocked using bl.example.org", BIG))
    assert [row.rule.id for row in rows] == ["big-blocked", "blocklist-bl", "text-blocked", "s-522", "default-5xx"]
    assert [row.decides for row in rows] == [True, False, False, False, False]


REFUSED = [
    ("not-toml", {"x.toml": "[["}, "is not TOML"),
    ("double", {"text/x.toml": HEAD + "rank = 11\n" + rule("text-spam", "y")}, "stands in text/a.toml already"),
    ("re2-cannot", {"text/x.toml": HEAD + rule("x", "a(?=b)")}, "RE2 cannot take the pattern"),
    ("no-source", {"text/x.toml": rule("x", "a")}, "has no source"),
    ("no-example", {"text/x.toml": HEAD + '[[rule]]\nid = "x"\ncategory = "virus"\ntext = "a"'}, "has no example"),
    ("category", {"text/x.toml": HEAD + rule("x", "a", "nonsense")}, "category"),
    ("class", {"text/x.toml": HEAD + rule("x", "a", **{"class": "firm"})}, "hard, soft, policy, none"),
    ("unknown-key", {"text/x.toml": HEAD + rule("x", "a", txet="b")}, "unknown key 'txet'"),
    ("reply", {"text/x.toml": HEAD + rule("x", "a", reply="5y0")}, "three digits"),
    ("status", {"text/x.toml": HEAD + rule("x", "a", status="5.1")}, "class.subject.detail"),
    ("command", {"text/x.toml": HEAD + rule("x", "a", command="NOOP")}, "one of"),
    ("operator", {"text/x.toml": HEAD + rule("x", "a", operator="nobody")}, "has no file in operators/"),
    ("suppressing-refusal", {"text/x.toml": HEAD + rule("x", "a", advice="suppress")}, "never suppresses"),
    ("nothing-to-match", {"text/x.toml": HEAD + rule("x")}, "needs text, status or reply"),
    ("operator-id", {"operators/x.toml": HEAD + '[operator]\nid = "y"\nname = "Y"\nmx = []\n'}, "must be the file's name"),
    ("time-groups", {"text/x.toml": HEAD + '[[time]]\nid = "x"\ntext = "in 5"\nexamples = ["450 in 5"]'}, "groups n and unit"),
    ("list-weight", {"y.toml": HEAD + '[[blocklist]]\nid = "x"\nzone = "x"\noperator = "X"\nlists = ["ip"]\nweight = "heavy"'}, "block or advise"),
    ("head", {"text/x.toml": HEAD + "rnak = 5"}, "unknown key 'rnak'"),
]  # fmt: skip


@pytest.mark.parametrize(("files", "reason"), [pytest.param(*row[1:], id=row[0]) for row in REFUSED])
def test_ruleset_refuses_broken_rules(files, reason):
    """Loading fails with one line that names file and reason."""
    with pytest.raises(RulesError) as error:
        RuleSet.load({**FILES, **files})
    assert reason in str(error.value)
    assert next(iter(files)) in str(error.value)
    assert "\n" not in str(error.value)


SHIPPED = load_rules()


@given(st.text(max_size=2500))
def test_ruleset_judges_any_text(text):
    """No text makes the shipped rules fail, and none but a known one suppresses."""
    verdict = SHIPPED.classify(status_of(text))
    assert verdict.rule
    assert verdict.class_ != "policy" or verdict.advice != "suppress"


HOSTILE = [
    pytest.param("550 " + "a" * 100_000, id="one-word"),
    pytest.param("550 " + "user@" * 20_000, id="addresses"),
    pytest.param("550 " + "blocked by " * 9_000, id="half-phrases"),
    pytest.param("550 " + "1.2.3." * 16_000, id="numbers"),
    pytest.param("550 " + "\u4e2d" * 100_000, id="wide"),
    pytest.param("host " + "x " * 50_000 + "said: ", id="quoting"),
]


@pytest.mark.parametrize("text", HOSTILE)
def test_ruleset_looks_at_the_first_part_of_a_hostile_text_only(text):
    """What stands beyond the limit changes nothing, so no length costs more than the limit does."""
    assert SHIPPED.words(status_of(text)) == SHIPPED.words(status_of(text[:4096]))
    assert len(SHIPPED.words(status_of(text))) <= 1024


@pytest.mark.parametrize(("host", "operator"), [(None, "big"), (BIG, "big"), ("relay.other.example", None)])
def test_ruleset_mark_names_its_operator_only_where_no_other_host_spoke(made, host, operator):
    """A mark chooses the rules; the verdict names the operator unless another host said the words."""
    verdict = judged(made, "554 blocked, see big.example/help", host)
    assert (verdict.rule, verdict.operator) == ("big-blocked", operator)
