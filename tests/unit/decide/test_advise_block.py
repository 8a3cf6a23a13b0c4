"""The life of a block, and what stands in the way of a recipient."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from milter_bounce.decide import block as blocks
from milter_bounce.decide.advise import Limits
from milter_bounce.decide.block import Known, open_share, standing, within_share
from milter_bounce.delivery import DeliveryStatus
from milter_bounce.verdict import (
    FREE,
    Advice,
    AdviceKind,
    Backoff,
    BlocklistMention,
    BlockState,
    Classification,
    Episode,
    FailureClass,
    NoticeKind,
    Scope,
    Suppression,
)

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
LIMITS = Limits()
WHO = "user@example.net"
STATUS = DeliveryStatus(WHO, reply_code=554, diagnostic="554 5.7.1 refused, see list.example.org")
LISTS = (
    BlocklistMention("list.example.org", "list"),
    BlocklistMention("hint.example.org", "hint", weight="advise"),
)
VERDICT = Classification(
    FailureClass.POLICY, "blocklisted", AdviceKind.HOLD, Scope.SENDING_HOST, "r", operator="big", blocklists=LISTS
)
ADVICE = Advice(AdviceKind.HOLD, NOW + 24 * HOUR, delay=24 * HOUR, block="big")


def begun():
    return blocks.begin("big", STATUS, VERDICT, ADVICE, 10, NOW, LIMITS)[0]


def test_begin_states_operator_probe_end_and_lists():
    """A block names who, why, when it is probed, when it ends - and no list that merely advises."""
    block, notice = blocks.begin("big", STATUS, VERDICT, ADVICE, 10, NOW, LIMITS)
    assert (block.operator, block.refusals, block.probe_at, block.ends) == (
        "big",
        10,
        NOW + 24 * HOUR,
        NOW + LIMITS.block_most,
    )
    assert block.zones == ("list.example.org",)
    assert (notice.kind, notice.key, notice.text) == (NoticeKind.BLOCK_BEGAN, "big", STATUS.diagnostic)


@pytest.mark.parametrize(
    ("after", "probe_at"),
    [pytest.param(HOUR, 24 * HOUR, id="not-the-probe"), pytest.param(24 * HOUR, 48 * HOUR, id="the-probe")],
)
def test_refused_moves_the_probe_only_when_it_was_one(after, probe_at):
    """Refusals of messages that were under way leave the next probe where it is."""
    advice = replace(ADVICE, not_before=NOW + after + 24 * HOUR)
    block, notice = blocks.refused(begun(), STATUS, VERDICT, advice, NOW + after)
    assert (block.probe_at, block.refusals, notice) == (NOW + probe_at, 11, None)


@pytest.mark.parametrize("state", [BlockState.TRIAL, BlockState.RAMP])
def test_refused_after_a_lift_holds_again(state):
    """A renewed refusal needs no threshold; who lifted it is forgotten, since when it stands is not."""
    lifted = replace(begun(), state=state, lifted_at=NOW, lifted_by="admin", ramp_from=NOW)
    block, notice = blocks.refused(lifted, STATUS, VERDICT, ADVICE, NOW + HOUR)
    assert (block.state, block.lifted_at, block.lifted_by, block.ramp_from) == (BlockState.HELD, None, None, None)
    assert (block.began, notice.kind) == (NOW, NoticeKind.BLOCK_RENEWED)


def test_delivered_opens_the_ramp_on_trial_and_for_a_due_probe():
    """One delivery proves a lift; while held only that of a probe does."""
    trial, _ = blocks.lifted(begun(), "admin", NOW + HOUR)
    eased, notice = blocks.delivered(trial, NOW + HOUR)
    assert (eased.state, eased.lifted_by, notice.kind) == (BlockState.RAMP, "admin", NoticeKind.BLOCK_EASED)
    probed, notice = blocks.delivered(begun(), NOW + 24 * HOUR)
    assert (probed.state, probed.lifted_by, notice.kind) == (BlockState.RAMP, "probe", NoticeKind.BLOCK_LIFTED)
    assert blocks.delivered(begun(), NOW + HOUR) == (begun(), None)
    assert blocks.delivered(probed, NOW + 25 * HOUR) == (probed, None)


def test_aged_ends_every_block():
    """The last day closes whatever state; the ramp closes when it is complete; nothing else by time."""
    last = NOW + LIMITS.block_most
    for state in (BlockState.HELD, BlockState.TRIAL, BlockState.RAMP):
        closed, notice = blocks.aged(replace(begun(), state=state), last, LIMITS)
        assert (closed.state, closed.lifted_by, notice.kind) == (BlockState.CLOSED, "expired", NoticeKind.BLOCK_ENDED)
    ramp = replace(begun(), state=BlockState.RAMP, ramp_from=NOW, lifted_at=NOW, lifted_by="probe")
    assert blocks.aged(ramp, NOW + LIMITS.ramp, LIMITS)[0].state is BlockState.CLOSED
    for young in (ramp, begun(), replace(begun(), state=BlockState.CLOSED)):
        assert blocks.aged(young, NOW + LIMITS.ramp / 2, LIMITS) == (young, None)


def test_added_says_so():
    """A block by hand begins with the same notice as any other."""
    assert blocks.added(begun()).kind is NoticeKind.BLOCK_BEGAN


@pytest.mark.parametrize(
    ("changes", "after", "over"),
    [
        pytest.param({}, 0 * HOUR, False, id="held"),
        pytest.param({}, LIMITS.block_most, True, id="last-day"),
        pytest.param({"state": BlockState.CLOSED}, 0 * HOUR, True, id="closed"),
    ],
)
def test_is_over(changes, after, over):
    """A block holds until it is closed or its last day comes."""
    assert blocks.is_over(replace(begun(), **changes), NOW + after) is over


def test_open_share_rises_from_a_sixteenth_to_all():
    """The share doubles four times over the ramp; without a ramp everybody passes at once."""
    shares = [open_share(NOW, NOW + HOUR * quarter / 4, HOUR) for quarter in range(6)]
    assert shares == [1 / 16, 1 / 8, 1 / 4, 1 / 2, 1, 1]
    assert open_share(NOW, NOW, timedelta(0)) == 1


def test_within_share_is_even_and_never_takes_back():
    """Who passed goes on passing, and a share of recipients is about that share."""
    people = [f"user{i}@example.net" for i in range(4000)]
    first = {p for p in people if within_share(p, 1 / 8)}
    assert first <= {p for p in people if within_share(p, 1 / 4)}
    assert 400 < len(first) < 600
    assert all(within_share(p, 1) for p in people)


@pytest.mark.parametrize(
    ("early", "state"),
    [
        pytest.param(timedelta(0), BlockState.RAMP, id="on-time"),
        pytest.param(timedelta(milliseconds=999), BlockState.RAMP, id="cut-to-whole-seconds"),
        pytest.param(timedelta(milliseconds=1001), BlockState.HELD, id="before-the-probe"),
    ],
)
def test_delivery_at_the_probe_time_lifts_though_the_log_cuts_seconds(early, state):
    """A log line of the second in which the probe went bears a time up to a second before the probe's."""
    block = replace(begun(), probe_at=NOW + HOUR)
    assert blocks.delivered(block, NOW + HOUR - early)[0].state is state


EPISODE = Episode(NOW - HOUR, NOW - HOUR, 2, NOW + HOUR, 2 * HOUR, "mailbox-full", "r")
SUPPRESSION = Suppression(WHO, NOW - HOUR, "invalid-recipient", "r", "gone")
PAUSE = Backoff("example.net", NOW - HOUR, NOW + HOUR, HOUR, "rate-limited")
HELD = replace(begun(), probe_at=NOW + HOUR)
USED_UP = replace(EPISODE, given_up=NOW - HOUR, not_before=None)
LONG = replace(USED_UP, first_failure=NOW - 48 * HOUR, delay=12 * HOUR)
"""Used up an hour ago, after 47 hours."""


@pytest.mark.parametrize(
    ("known", "kind", "until"),
    [
        pytest.param(Known(), AdviceKind.NONE, None, id="stranger"),
        pytest.param(Known(SUPPRESSION, EPISODE, block=HELD), AdviceKind.SUPPRESS, None, id="suppressed-first"),
        pytest.param(Known(episode=EPISODE), AdviceKind.RETRY, NOW + HOUR, id="before-its-time"),
        pytest.param(Known(episode=replace(EPISODE, not_before=NOW)), AdviceKind.NONE, None, id="due"),
        pytest.param(Known(episode=replace(EPISODE, delay=None)), AdviceKind.HOLD, NOW + HOUR, id="held-alone"),
        pytest.param(Known(episode=EPISODE, block=HELD), AdviceKind.HOLD, HELD.probe_at, id="block-before-own-time"),
        pytest.param(Known(episode=replace(EPISODE, block="big")), AdviceKind.NONE, None, id="its-block-is-over"),
        pytest.param(Known(episode=USED_UP, waits_since=NOW - HOUR), AdviceKind.GIVE_UP, None, id="used-up"),
        pytest.param(Known(episode=USED_UP), AdviceKind.NONE, None, id="used-up-and-returned"),
        pytest.param(Known(episode=LONG, waits_since=NOW - 48 * HOUR), AdviceKind.GIVE_UP, None, id="as-old"),
        pytest.param(Known(episode=LONG, waits_since=NOW - 50 * HOUR), AdviceKind.GIVE_UP, None, id="older"),
        pytest.param(Known(episode=LONG, waits_since=NOW - 47 * HOUR), AdviceKind.GIVE_UP, None, id="as-old-by-now"),
        pytest.param(Known(episode=LONG, waits_since=NOW - 46 * HOUR), AdviceKind.RETRY, NOW + 11 * HOUR, id="younger"),
        pytest.param(
            Known(episode=replace(LONG, delay=None), waits_since=NOW - HOUR), AdviceKind.NONE, None, id="no-wait-known"
        ),
        pytest.param(
            Known(episode=replace(LONG, last_failure=NOW - 12 * HOUR), waits_since=NOW - 40 * HOUR),
            AdviceKind.NONE,
            None,
            id="younger-and-due",
        ),
        pytest.param(
            Known(episode=LONG, waits_since=NOW - HOUR, block=HELD),
            AdviceKind.HOLD,
            HELD.probe_at,
            id="younger-blocked",
        ),
        pytest.param(
            Known(episode=replace(USED_UP, given_up=NOW - 3 * HOUR), waits_since=NOW - HOUR),
            AdviceKind.NONE,
            None,
            id="long-ago",
        ),
        pytest.param(Known(backoff=PAUSE), AdviceKind.RETRY, NOW + HOUR, id="backed-off"),
        pytest.param(Known(backoff=replace(PAUSE, not_before=NOW)), AdviceKind.NONE, None, id="pause-over"),
    ],
)
def test_standing_order(known, kind, until):
    """Suppression, used-up schedule, block, own time, back-off: the first that stands speaks."""
    found = standing(WHO, known, NOW, LIMITS)
    assert (found.kind, found.until) == (kind, until)


def test_standing_offers_the_probe_when_it_is_due():
    """The key of a block whose probe is due comes with the answer, for whoever claims it."""
    assert standing(WHO, Known(block=HELD), NOW, LIMITS).probe is None
    assert standing(WHO, Known(block=HELD), NOW + HOUR, LIMITS).probe == "big"
    trial, _ = blocks.lifted(begun(), "admin", NOW)
    assert standing(WHO, Known(block=trial), NOW, LIMITS).probe == "big"
    assert standing(WHO, Known(block=replace(HELD, probe_at=None)), NOW, LIMITS).probe is None


def test_standing_on_the_ramp_lets_the_share_pass():
    """Who is in the share is free, who is not waits for the ramp's end without being a probe."""
    ramp = replace(begun(), state=BlockState.RAMP, ramp_from=NOW)
    people = [f"user{i}@example.net" for i in range(200)]
    found = [standing(p, Known(block=ramp), NOW, LIMITS) for p in people]
    held = [s for s in found if s.kind is AdviceKind.HOLD]
    assert all(s == FREE for s in found if s not in held)
    assert 0 < len(held) < 200
    assert {(s.until, s.probe) for s in held} == {(NOW + LIMITS.ramp, None)}
