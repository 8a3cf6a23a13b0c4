"""Advice: every figure of DESIGN.md section 6 against a table."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from milter_bounce.decide.advise import Adviser, Limits, backoff_key, block_key, next_episode
from milter_bounce.decide.schedule import Schedules
from milter_bounce.delivery import Action, DeliveryStatus, EnhancedStatus
from milter_bounce.verdict import (
    CATEGORIES,
    AdviceKind,
    Backoff,
    Block,
    Classification,
    Episode,
    FailureClass,
    History,
    Scope,
    Suppression,
)
from tests.conftest import ROOT

SHIPPED = (ROOT / "rules/schedules.toml").read_text(encoding="utf-8")
NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
HOUR, MINUTE, SECOND = timedelta(hours=1), timedelta(minutes=1), timedelta(seconds=1)
LIMITS = Limits()
RETRY, HOLD, SUPPRESS, FIX = AdviceKind.RETRY, AdviceKind.HOLD, AdviceKind.SUPPRESS, AdviceKind.FIX
GIVE_UP, NONE = AdviceKind.GIVE_UP, AdviceKind.NONE


def adviser(name="guide", limits=LIMITS, jitter=0.5):
    return Adviser(Schedules.from_toml(SHIPPED, name), limits, lambda: jitter)


def verdict(category, **changes):
    default = CATEGORIES[category]
    plain = Classification(default.class_, category, default.advice, default.scope, f"test-{category}")
    return replace(plain, **changes)


def status(**changes):
    plain = DeliveryStatus(
        "user@example.net", Action.DELAYED, reply_code=450, sender="news@example.com", queue_id="4cA"
    )
    return replace(plain, **changes)


def episode(**changes):
    plain = Episode(NOW - 3 * HOUR, NOW - 3 * HOUR, 1, NOW, 3 * HOUR, "mailbox-full", "test-mailbox-full")
    return replace(plain, **changes)


def block(**changes):
    plain = Block("example", "example", Scope.SENDING_HOST, "blocklisted", "r", NOW - HOUR, NOW + HOUR, NOW + 99 * HOUR)
    return replace(plain, **changes)


@pytest.mark.parametrize(
    ("name", "category", "least", "most"),
    [
        pytest.param("guide", "mailbox-full", 2 * HOUR, 4 * HOUR, id="guide"),
        pytest.param("guide", "greylisted", 5 * MINUTE, 15 * MINUTE, id="greylisted"),
        pytest.param("prompt", "network-error", 5 * MINUTE, 30 * MINUTE, id="prompt"),
        pytest.param("prompt", "mailbox-full", 2 * HOUR, 4 * HOUR, id="prompt-other"),
    ],
)
def test_advise_soft_first_retry_lies_in_the_range(name, category, least, most):
    """The first retry is drawn from the schedule's range, its ends included."""
    times = [adviser(name, jitter=j).advise(status(), verdict(category), History(), NOW).not_before for j in (0, 1)]
    assert times == [NOW + least, NOW + most]


def test_advise_soft_next_wait_is_twice_the_last():
    """A try in time that fails again waits twice as long."""
    advice = adviser().advise(status(), verdict("mailbox-full"), History(episode=episode()), NOW)
    assert (advice.kind, advice.not_before, advice.delay, advice.attempt) == (RETRY, NOW + 6 * HOUR, 6 * HOUR, 2)


@pytest.mark.parametrize(
    ("until", "doubled"),
    [
        pytest.param(NOW + HOUR, False, id="early"),
        pytest.param(NOW + 2 * SECOND, False, id="two-seconds-early"),
        pytest.param(NOW + SECOND, True, id="cut-time-stamp"),
        pytest.param(NOW - HOUR, True, id="late"),
    ],
)
def test_advise_soft_early_attempt_keeps_the_time_that_stands(until, doubled):
    """An attempt before its time is no try of the schedule; log time stamps are cut to seconds."""
    advice = adviser().advise(status(), verdict("mailbox-full"), History(episode=episode(not_before=until)), NOW)
    assert (advice.not_before == NOW + 6 * HOUR) is doubled
    assert (advice.not_before == until) is not doubled


def test_advise_soft_other_schedule_starts_anew():
    """A greylisting after a full mailbox waits minutes, and does not go on doubling hours."""
    history = History(episode=episode(not_before=NOW + HOUR))
    advice = adviser(jitter=0).advise(status(), verdict("greylisted"), history, NOW)
    assert advice.not_before == NOW + 5 * MINUTE


@pytest.mark.parametrize(
    ("began", "kind"),
    [
        pytest.param(NOW - 42 * HOUR, RETRY, id="ends-at-48"),
        pytest.param(NOW - 42 * HOUR - SECOND, GIVE_UP, id="beyond-48"),
    ],
)
def test_advise_soft_gives_up_when_the_next_try_comes_after_48_hours(began, kind):
    """The next wait is 6 h: it fits to the second, or the schedule is used up."""
    advice = adviser().advise(status(), verdict("mailbox-full"), History(episode=episode(first_failure=began)), NOW)
    assert advice.kind is kind
    assert (advice.counts is FailureClass.SOFT) is (kind is GIVE_UP)


def test_advise_message_younger_than_the_used_up_schedule_starts_anew():
    """A message that first fails after the give-up of an older one gets a schedule of its own."""
    over = episode(first_failure=NOW - 60 * HOUR, given_up=NOW - 10 * HOUR, not_before=None)
    advice = adviser(jitter=0).advise(status(), verdict("mailbox-full"), History(episode=over), NOW)
    assert (advice.kind, advice.not_before, advice.attempt) == (RETRY, NOW + 2 * HOUR, 1)


def test_advise_message_older_than_48_hours_is_given_up_alone():
    """An old message ends by its own age; the younger episode of its recipient goes on."""
    history = History(episode=episode(), message_since=NOW - 47 * HOUR)
    advice = adviser().advise(status(), verdict("mailbox-full"), history, NOW)
    assert advice.kind is GIVE_UP
    after = next_episode(history, verdict("mailbox-full"), advice, NOW)
    assert (after.given_up, after.not_before, after.attempts) == (None, NOW, 2)


@pytest.mark.parametrize(
    ("stated", "given"),
    [
        pytest.param(30 * MINUTE, 30 * MINUTE, id="as-stated"),
        pytest.param(timedelta(0), MINUTE, id="at-once"),
        pytest.param(72 * HOUR, 24 * HOUR, id="too-long"),
    ],
)
@pytest.mark.parametrize("category", ["mailbox-full", "greylisted", "poor-reputation"])
def test_advise_stated_time_is_honoured_within_bounds(category, stated, given):
    """What the reply itself states goes before every schedule, between a minute and a day."""
    advice = adviser().advise(status(), verdict(category, retry_after=stated), History(), NOW)
    assert advice.not_before == NOW + given


@pytest.mark.parametrize(
    ("bounces", "action", "kind"),
    [
        pytest.param(2, Action.FAILED, RETRY, id="third"),
        pytest.param(3, Action.FAILED, SUPPRESS, id="fourth"),
        pytest.param(3, Action.DELAYED, RETRY, id="not-undelivered-yet"),
    ],
)
def test_advise_soft_limit_is_four_undelivered_messages(bounces, action, kind):
    """The fourth undelivered message suppresses, an attempt that is retried does not."""
    advice = adviser().advise(status(action=action), verdict("mailbox-full"), History(soft_bounces=bounces), NOW)
    assert advice.kind is kind
    assert ("soft limit 4 in 30 d" in advice.reason) is (kind is SUPPRESS)


@pytest.mark.parametrize(
    ("category", "changes"),
    [
        pytest.param("mailbox-full", {"local": True}, id="local"),
        pytest.param("rate-limited", {}, id="refusal-of-us"),
        pytest.param("too-many-recipients", {}, id="of-the-message"),
    ],
)
def test_advise_soft_limit_counts_only_what_is_about_the_mailbox(category, changes):
    """Our own trouble, our rate and our message never suppress a recipient, however often."""
    given = status(action=Action.FAILED, **changes)
    advice = adviser().advise(given, verdict(category), History(soft_bounces=99), NOW)
    assert (advice.kind, advice.counts) == (RETRY, FailureClass.NONE)


@pytest.mark.parametrize(
    ("limit", "before", "kind"),
    [
        pytest.param(1, 0, SUPPRESS, id="first-of-1"),
        pytest.param(2, 0, GIVE_UP, id="first-of-2"),
        pytest.param(2, 1, SUPPRESS, id="second-of-2"),
    ],
)
def test_advise_hard_limit(limit, before, kind):
    """A hard failure suppresses at the limit; below it the message is returned and the bounce counts."""
    given = status(action=Action.FAILED, reply_code=550)
    history = History(hard_bounces=before)
    advice = adviser(limits=Limits(hard_limit=limit)).advise(given, verdict("invalid-recipient"), history, NOW)
    assert (advice.kind, advice.counts, advice.not_before) == (kind, FailureClass.HARD, None)


@pytest.mark.parametrize(
    ("action", "kind"),
    [pytest.param(Action.FAILED, FIX, id="failed"), pytest.param(Action.DELAYED, RETRY, id="delayed")],
)
@pytest.mark.parametrize("category", ["invalid-recipient", "invalid-domain", "inactive-mailbox", "recipient-moved"])
def test_advise_local_status_never_suppresses(category, action, kind):
    """Where no remote MTA spoke the address stays: fix what is returned, retry what is not."""
    advice = adviser().advise(status(local=True, action=action), verdict(category), History(hard_bounces=9), NOW)
    assert advice.kind is kind


def test_advise_feedback_suppresses():
    """A complaint is a wish not to be mailed."""
    assert adviser().advise(status(), verdict("feedback"), History(), NOW).kind is SUPPRESS


def test_advise_policy_never_suppresses():
    """TAXONOMY: the receiver's refusal of us never suppresses, even if a rule says so."""
    odd = verdict("blocklisted", advice=SUPPRESS)
    assert adviser().advise(status(), odd, History(), NOW).kind is HOLD


@pytest.mark.parametrize(
    ("changes", "delay"),
    [
        pytest.param({"reply_code": 421}, 4 * HOUR, id="4xx"),
        pytest.param({"reply_code": 554}, 24 * HOUR, id="5xx"),
        pytest.param({"reply_code": None, "status": EnhancedStatus(5, 7, 1)}, 24 * HOUR, id="5.7.1-alone"),
        pytest.param({"reply_code": 421, "status": EnhancedStatus(5, 7, 32)}, 4 * HOUR, id="disagreeing"),
    ],
)
def test_advise_hold_until_the_next_probe(changes, delay):
    """A refusal with 4xx is probed after 4 h, one with 5xx after 24 h."""
    advice = adviser().advise(status(**changes), verdict("poor-reputation"), History(), NOW)
    assert (advice.kind, advice.not_before) == (HOLD, NOW + delay)


@pytest.mark.parametrize(
    ("operator", "refusals", "key"),
    [
        pytest.param("yahoo", 0, None, id="large-single"),
        pytest.param("yahoo", 8, None, id="large-ninth"),
        pytest.param("yahoo", 9, "yahoo", id="large-tenth"),
        pytest.param(None, 0, "example.net", id="small-at-once"),
    ],
)
def test_advise_block_begins_at_the_threshold(operator, refusals, key):
    """A large operator is blocked from the tenth refusal in the window on, a domain of its own by the first."""
    advice = adviser().advise(status(), verdict("blocklisted", operator=operator), History(refusals=refusals), NOW)
    assert (advice.kind, advice.block) == (HOLD, key)


@pytest.mark.parametrize(
    ("probe_at", "not_before"),
    [pytest.param(NOW + HOUR, NOW + HOUR, id="stands"), pytest.param(NOW, NOW + 4 * HOUR, id="probe-refused")],
)
def test_advise_block_that_stands_sets_the_time(probe_at, not_before):
    """A refusal under a block waits for its next probe; a refused probe moves it on."""
    history = History(block=block(probe_at=probe_at))
    advice = adviser().advise(status(), verdict("blocklisted", operator="example"), history, NOW)
    assert (advice.not_before, advice.block) == (not_before, "example")


def test_advise_hold_of_one_recipient_stands_when_tried_early():
    """Below the threshold too an attempt before its time moves nothing."""
    held = episode(category="blocklisted", delay=None, not_before=NOW + HOUR)
    advice = adviser().advise(status(), verdict("blocklisted", operator="yahoo"), History(episode=held), NOW)
    assert (advice.not_before, advice.block) == (NOW + HOUR, None)


@pytest.mark.parametrize(
    ("category", "changes", "verdict_changes", "key"),
    [
        pytest.param("poor-reputation", {}, {"operator": "yahoo"}, "yahoo", id="host-at-operator"),
        pytest.param("poor-reputation", {}, {}, "example.net", id="host-at-domain"),
        pytest.param("auth-failure", {}, {"operator": "yahoo"}, "yahoo/example.com", id="sender-domain"),
        pytest.param("policy-rejection", {}, {}, "example.net/news@example.com", id="sender"),
        pytest.param("auth-failure", {"sender": None}, {}, None, id="sender-unknown"),
        pytest.param("auth-failure", {"sender": "<>"}, {}, None, id="null-reverse-path"),
        pytest.param("poor-reputation", {"local": True}, {}, None, id="own-side"),
        pytest.param("poor-reputation", {"hearsay": True}, {"operator": "yahoo"}, None, id="told-by-another"),
        pytest.param("poor-reputation", {"recipient": None}, {}, None, id="nobody"),
        pytest.param("policy-rejection", {}, {"scope": Scope.RECIPIENT}, None, id="recipients-own-list"),
        pytest.param("spam-content", {}, {"operator": "yahoo"}, None, id="message"),
    ],
)
def test_block_key_names_destination_and_sender(category, changes, verdict_changes, key):
    """A block is as wide as what is refused: our host, a sender's domain, a sender."""
    assert block_key(status(**changes), verdict(category, **verdict_changes)) == key


@pytest.mark.parametrize(
    ("category", "operator", "key"),
    [
        pytest.param("rate-limited", "yahoo", "yahoo", id="operator"),
        pytest.param("network-error", None, "example.net", id="domain"),
        pytest.param("mailbox-full", None, None, id="recipient"),
    ],
)
def test_backoff_key_names_the_destination(category, operator, key):
    """Only failures of a destination back it off."""
    assert backoff_key(status(), verdict(category, operator=operator)) == key


def test_hearsay_holds_its_own_recipient_only():
    """What only somebody else's report tells of an operator puts off that recipient, and nobody besides."""
    told = status(hearsay=True, action=Action.FAILED)
    advice = adviser().advise(told, verdict("poor-reputation", operator="yahoo"), History(refusals=99), NOW)
    assert (advice.kind, advice.block) == (HOLD, None)
    assert backoff_key(told, verdict("rate-limited", operator="yahoo")) is None


@pytest.mark.parametrize(
    ("operator", "refusals", "until"),
    [
        pytest.param(None, 1, None, id="domain-second"),
        pytest.param(None, 2, NOW + 10 * MINUTE, id="domain-third"),
        pytest.param("yahoo", 2, None, id="operator-third"),
        pytest.param("yahoo", 9, NOW + 10 * MINUTE, id="operator-tenth"),
    ],
)
def test_advise_backoff_begins_at_its_threshold(operator, refusals, until):
    """One connection that fails leaves a destination alone; several back it off for minutes."""
    advice = adviser().advise(status(), verdict("network-error", operator=operator), History(refusals=refusals), NOW)
    assert advice.backoff_until == until


def test_advise_backoff_doubles_up_to_its_bound():
    """A destination that fails after its pause rests twice as long, an hour at most; within it nothing moves."""
    advise, given = adviser().advise, verdict("network-error")
    paused = Backoff("example.net", NOW - HOUR, NOW, 10 * MINUTE, "network-error")
    assert advise(status(), given, History(backoff=paused), NOW).backoff_until == NOW + 20 * MINUTE
    paused = replace(paused, delay=50 * MINUTE)
    assert advise(status(), given, History(backoff=paused), NOW).backoff_until == NOW + HOUR
    paused = replace(paused, not_before=NOW + MINUTE)
    within = advise(status(), given, History(backoff=paused), NOW)
    assert (within.backoff, within.backoff_until) == ("example.net", None)


@pytest.mark.parametrize(
    ("category", "changes", "kind"),
    [
        pytest.param("spam-content", {}, FIX, id="spam"),
        pytest.param("message-too-large", {}, FIX, id="size"),
        pytest.param("expired", {}, GIVE_UP, id="expired"),
        pytest.param("auto-reply", {}, NONE, id="auto-reply"),
        pytest.param("delivered", {}, NONE, id="delivered"),
        pytest.param("mailbox-full", {"gate": True}, NONE, id="own-text"),
    ],
)
def test_advise_other_advice_comes_through(category, changes, kind):
    """What is neither retried, held nor suppressed keeps the category's advice, and nothing to wait for."""
    advice = adviser().advise(status(), verdict(category, **changes), History(), NOW)
    assert (advice.kind, advice.not_before) == (kind, None)


def test_advise_suppressed_recipient_is_not_retried():
    """A message that was queued before its recipient was suppressed is not tried on."""
    history = History(suppression=Suppression("user@example.net", NOW, "invalid-recipient", "r", "x"))
    assert adviser().advise(status(), verdict("mailbox-full"), history, NOW).kind is SUPPRESS


def test_limits_scaled_shrinks_times_only():
    """Seconds for hours: every time shrinks, every count stays, a switched-off probe stays off."""
    scaled = Limits(probe_after_4xx=None).scaled(1 / 3600)
    assert (scaled.probe_after_5xx, scaled.probe_after_4xx) == (24 * SECOND, None)
    assert (scaled.soft_limit, scaled.block_threshold) == (4, 10)
    assert scaled.soft_window == timedelta(seconds=720)


def test_advise_without_probes_holds_for_good():
    """With probes off a refusal names no time: it is lifted by hand, by the list, or by its last day."""
    limits = Limits(probe_after_4xx=None, probe_after_5xx=None)
    advice = adviser(limits=limits).advise(status(), verdict("blocklisted"), History(), NOW)
    assert (advice.kind, advice.not_before, advice.block) == (HOLD, None, "example.net")


def test_advise_retry_after_a_hold_starts_a_fresh_schedule():
    """The hours of a hold are no wait of the schedule that could double."""
    history = History()
    held = adviser().advise(status(), verdict("blocklisted"), history, NOW)
    after = next_episode(history, verdict("blocklisted"), held, NOW)
    advice = adviser(jitter=0).advise(status(), verdict("mailbox-full"), History(episode=after), NOW + 4 * HOUR)
    assert (after.delay, advice.delay) == (None, 2 * HOUR)
