"""decide.answer: what the MTA is told, and how it is spelled."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milter_bounce.decide import answer as answers
from milter_bounce.decide.answer import AllowList, CompatQuestion, CorrectSwitches, GateSwitches
from milter_bounce.delivery import DeliveryStatus, EnhancedStatus
from milter_bounce.verdict import (
    CATEGORIES,
    GATE_MARK,
    KEEP,
    AdviceKind,
    Answer,
    Classification,
    Standing,
    strip_annotation,
)
from tests.answering import SINCE, STANDINGS, UNTIL


def verdict_of(category: str, rule: str = "some-rule", **changes) -> Classification:
    """Return a classification with the category's defaults."""
    return replace(Classification(*_ordered(category), rule), **changes)


def _ordered(category):
    class_, advice, scope = CATEGORIES[category]
    return class_, category, advice, scope


@pytest.mark.parametrize(
    ("name", "off", "value"),
    [
        pytest.param("full@example.net", {"hold_early": False}, "retry:4.2.2 ", id="early"),
        pytest.param("busy@slow.example", {"hold_early": False}, "retry:4.4.5 ", id="backed-off"),
        pytest.param("one@blocked.example", {"hold_blocks": False, "hold_early": False}, "retry:4.7.1 ", id="blocked"),
        pytest.param("gone@example.com", {"refuse_suppressed": False}, "error:5.1.1 ", id="suppressed"),
        pytest.param("tired@example.net", {"give_up": False}, "error:5.4.7 ", id="given-up"),
    ],
)
def test_gate_holds_with_the_capability_and_passes_without(name, off, value):
    """Each capability can be switched off by itself; what is held says so in our own words."""
    on = answers.gate(STANDINGS[name], GateSwitches())
    assert answers.gate_value(on).startswith(value + GATE_MARK)
    assert answers.gate(STANDINGS[name], GateSwitches(**off)) == KEEP


def test_gate_says_until_when_why_and_since_when():
    """The text that stands in postqueue -p answers the administrator's three questions."""
    text = answers.gate(STANDINGS["full@example.net"], GateSwitches()).text
    assert text == (
        "milter-bounce: not before 2026-11-20T21:34Z, mailbox-full since 2026-11-19T08:10Z, rule over-quota, attempt 3"
    )


def test_gate_bounces_blocked_mail_when_told_to():
    """on_policy_block = "bounce" returns the message instead of holding it."""
    answer = answers.gate(STANDINGS["one@blocked.example"], GateSwitches(bounce_blocked=True))
    assert answers.gate_value(answer).startswith("error:5.7.1 milter-bounce: not sent, blocked by blocked.example")


def test_gate_lets_a_stranger_pass():
    """Nothing known, nothing said."""
    assert answers.gate(Standing(), GateSwitches()) == KEEP
    assert answers.gate_value(KEEP) is None


def test_hold_of_one_recipient_without_a_block_waits_for_its_time():
    """A single refusal of a large operator holds its recipient, not the operator."""
    standing = Standing(AdviceKind.HOLD, until=UNTIL, since=SINCE, category="poor-reputation", rule="r")
    assert answers.gate_value(answers.gate(standing, GateSwitches())).startswith("retry:4.7.1 milter-bounce: not bef")


@given(
    text=st.text(max_size=600),
    kind=st.sampled_from(list(AdviceKind)),
    category=st.sampled_from(sorted(CATEGORIES)),
)
def test_gate_text_is_one_printable_line_whatever_was_remembered(text, kind, category):
    """What a remote server said cannot break a line, a value or a terminal."""
    standing = Standing(kind, UNTIL, SINCE, category, "rule", text, block=text or None, backoff=text or None)
    value = answers.gate_value(answers.gate(standing, GateSwitches()))
    assert value is None or (value.isprintable() and len(value) < answers.TEXT_LIMIT + 40)


@pytest.mark.parametrize(
    ("code", "category", "wanted"),
    [
        pytest.param("5.2.2", "mailbox-full", "4.2.2", id="full-mailbox"),
        pytest.param("5.2.1", "mailbox-unavailable", "4.2.1", id="temporary-suspension"),
        pytest.param("5.7.1", "rate-limited", "4.7.1", id="rate"),
        pytest.param("4.2.1", "inactive-mailbox", "5.2.1", id="disabled"),
        pytest.param("4.1.1", "invalid-recipient", "5.1.1", id="unknown-user"),
        pytest.param("5.7.1", "blocklisted", "4.7.1", id="block"),
        pytest.param("4.2.2", "mailbox-full", None, id="full-mailbox-right"),
        pytest.param("5.1.1", "invalid-recipient", None, id="unknown-user-right"),
        pytest.param("4.7.1", "blocklisted", None, id="block-right"),
        pytest.param("4.3.4", "message-too-large", None, id="message-must-change"),
        pytest.param("5.7.1", "spam-content", None, id="content"),
        pytest.param("5.4.7", "expired", None, id="given-up"),
        pytest.param("2.0.0", "mailbox-full", None, id="success"),
        pytest.param("2.0.0", "invalid-recipient", None, id="success-hard"),
    ],
)
def test_correct_exchanges_only_four_and_five_and_only_where_wrong(code, category, wanted):
    """Subject and detail stay; a success is never touched."""
    status = DeliveryStatus("a@example.net", reply_code=550, diagnostic="text")
    answer = answers.correct(EnhancedStatus.from_text(code), status, verdict_of(category), CorrectSwitches())
    assert answer.status == wanted
    assert answer.keep is (wanted is None)


@given(
    code=st.builds(EnhancedStatus, st.sampled_from([2, 4, 5]), st.integers(0, 7), st.integers(0, 99)),
    category=st.sampled_from(sorted(CATEGORIES)),
    advice=st.sampled_from(list(AdviceKind)),
)
def test_correct_never_makes_or_touches_a_success(code, category, advice):
    """Never 2.x.x, whatever a rule says."""
    status = DeliveryStatus(None, reply_code=450, diagnostic="text")
    answer = answers.correct(code, status, verdict_of(category, advice=advice), CorrectSwitches())
    assert answer.keep or (code.class_ != 2 and answer.status[0] in "45")


@pytest.mark.parametrize(
    "switches",
    [
        pytest.param(CorrectSwitches(soften=False), id="capability"),
        pytest.param(CorrectSwitches(off_categories=frozenset({"mailbox-full"})), id="category"),
        pytest.param(CorrectSwitches(off_rules=frozenset({"some-rule"})), id="rule"),
    ],
)
def test_correction_can_be_switched_off(switches):
    """By capability, by category, by rule."""
    status = DeliveryStatus(None, reply_code=552, diagnostic="full")
    assert answers.correct(EnhancedStatus(5, 2, 2), status, verdict_of("mailbox-full"), switches) == KEEP


@pytest.mark.parametrize(
    "status",
    [
        pytest.param(DeliveryStatus(None, reply_code=552, diagnostic="full", local=True), id="our-own-side"),
        pytest.param(DeliveryStatus(None, diagnostic="full"), id="no-reply"),
    ],
)
def test_correct_leaves_what_no_remote_mta_said(status):
    """Our own side's trouble stays as Postfix judged it."""
    assert answers.correct(EnhancedStatus(5, 2, 2), status, verdict_of("mailbox-full"), CorrectSwitches()) == KEEP


def test_filtered_annotation_is_taken_off_again_by_the_reader():
    """What the filter puts in front, with and without a correction, the log reader takes off."""
    code, text, verdict = EnhancedStatus(5, 2, 2), "host mx[192.0.2.1] said: 552 full", verdict_of("mailbox-full")
    kept = answers.filtered(code, text, verdict, KEEP, annotate=True)
    assert kept.startswith("5.2.2 [class=soft category=mailbox-full advice=retry rule=some-rule] host")
    fixed = answers.filtered(code, text, verdict, Answer(keep=False, status="4.2.2"), annotate=False)
    assert fixed.startswith("4.2.2 [class=soft category=mailbox-full advice=retry rule=some-rule was=5.2.2] host")
    assert [strip_annotation(value)[6:] for value in (kept, fixed)] == [text, text]


def test_filtered_says_nothing_when_there_is_nothing_to_say():
    """No annotation, no correction: code and text stay."""
    assert answers.filtered(EnhancedStatus(4, 2, 2), "t", verdict_of("mailbox-full"), KEEP, annotate=False) is None
    assert answers.filtered(EnhancedStatus(2, 0, 0), "t", verdict_of("delivered"), KEEP, annotate=True) is None


@pytest.mark.parametrize(
    ("address", "listed"),
    [
        pytest.param("boss@example.com", True, id="address"),
        pytest.param("<Boss@Example.COM>", True, id="folded"),
        pytest.param("other@example.com", False, id="other-user"),
        pytest.param("a@example.net", True, id="domain"),
        pytest.param("a@sub.example.net", False, id="domain-only"),
        pytest.param("a@deep.sub.example.org", True, id="subdomain"),
        pytest.param("a@example.org", False, id="dot-means-below"),
        pytest.param("", False, id="nobody"),
        pytest.param("a@" + "x." * 5000 + "org", False, id="hostile-length"),
    ],
)
def test_allow_list_names_addresses_domains_and_subdomains(address, listed):
    """Three spellings, no case."""
    assert (address in AllowList.of(["Boss@example.com", "example.net", ".example.org"])) is listed


def test_policy_refuses_only_what_is_permanent():
    """A submission waits for nothing: a recipient before its time is accepted and queued."""
    gone = answers.gate(STANDINGS["gone@example.com"], GateSwitches())
    full = answers.gate(STANDINGS["full@example.net"], GateSwitches())
    assert answers.policy_action(gone, "gone@example.com").startswith("550 5.1.1 <gone@example.com>: milter-bounce: ")
    assert answers.policy_action(full, "full@example.net") is None
    assert answers.policy_action(KEEP, "a@example.net") is None


@given(text=st.text(max_size=300))
def test_compat_answer_is_plain_words(text):
    """Sendmail takes the text apart: no quotes, parentheses, commas."""
    value = answers.compat_value(Answer(keep=False, status="4.7.1", text=text))
    assert value.startswith("DEFER 4.7.1")
    assert set(value) <= set(" .:_@/+-") | set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")


@pytest.mark.parametrize(
    ("text", "exempt"),
    [
        pytest.param("6AKI1;0;a@example.org;b@example.net", False, id="ordinary"),
        pytest.param("6AKI1;0;<a@example.org>;<b@example.net>", False, id="brackets"),
        pytest.param("6AKI1;0;;b@example.net", True, id="report"),
        pytest.param("6AKI1;0;<>;b@example.net", True, id="report-in-brackets"),
        pytest.param("6AKI1;0;a@example.org;bob", True, id="local"),
        pytest.param("6AKI1;;a@example.org;b;c@example.net", False, id="semicolon-in-recipient"),
    ],
)
def test_compat_question_knows_whom_to_leave_alone(text, exempt):
    """Reports and local recipients are exempt."""
    assert CompatQuestion.from_text(text).exempt is exempt


def test_compat_question_is_none_for_anything_else():
    """A key with too few parts is no question."""
    assert CompatQuestion.from_text("a;b;c") is None
