"""The store: what is remembered, and what ends with what."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from milter_bounce.decide.advise import Adviser, Limits
from milter_bounce.decide.schedule import Schedules
from milter_bounce.delivery import Action, DeliveryStatus, Source
from milter_bounce.pipeline import judge
from milter_bounce.system import sqlite_admin
from milter_bounce.system.sqlite_rows import folded, to_ms
from milter_bounce.system.sqlite_store import SqliteStore
from milter_bounce.system.store import Due, LogPosition, Retention
from milter_bounce.verdict import (
    CATEGORIES,
    AdviceKind,
    Block,
    BlocklistMention,
    BlockState,
    Classification,
    NoticeKind,
    Scope,
    Suppression,
    log_line,
    notice_line,
)
from tests.conftest import ROOT

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
HOUR, MINUTE, DAY = timedelta(hours=1), timedelta(minutes=1), timedelta(days=1)
SCHEDULES = Schedules.from_toml((ROOT / "rules/schedules.toml").read_text(encoding="utf-8"))
WHO = "user@example.net"


class Log:
    """A log that tells a store of attempts; remembers the notices."""

    def __init__(self, store, limits=None):
        self.store, self.limits = store, limits or Limits()
        self.adviser = Adviser(SCHEDULES, self.limits, random.Random(7).random)
        self.notices = []

    def fails(self, category, at=NOW, recipient=WHO, queue_id="4cA", action=Action.DELAYED, batch=None, **more):
        """Tell of one failed attempt; return its outcome."""
        verdict_changes = {k: more.pop(k) for k in ("operator", "blocklists", "scope", "gate") if k in more}
        genuine = more.pop("genuine", None)
        plain = DeliveryStatus(
            recipient, action, reply_code=450, queue_id=queue_id, at=at, source=Source.LOG, sender="news@example.com"
        )
        status = replace(plain, **({"at": None} if more.pop("timeless", False) else {}), **more)
        target = batch or self.store
        rules = Rules(category, verdict_changes)
        outcome = judge(status, rules, target.recall, self.adviser, at, genuine=genuine)
        self.notices += target.record(outcome, at)
        return outcome

    def sent(self, at=NOW, recipient=WHO, **more):
        """Tell of one delivery."""
        self.notices += self.store.delivered(recipient, at, **more)

    def told(self):
        """Return the kinds of the notices since the last question."""
        kinds, self.notices = [n.kind for n in self.notices], []
        return kinds


class Rules:
    def __init__(self, category, changes):
        default = CATEGORIES[category]
        plain = Classification(default.class_, category, default.advice, default.scope, f"test-{category}")
        self.verdict = replace(plain, **changes)

    def classify(self, _status):
        return self.verdict


@pytest.fixture
def store(tmp_path):
    opened = SqliteStore(tmp_path / "state.db")
    yield opened
    opened.close()


@pytest.fixture
def log(store):
    return Log(store)


def count_of(store, category):
    return sum(c.number for c in store.counts(NOW - DAY) if c.category == category)


# recipients


def test_store_first_contact_is_empty(store):
    """Of a stranger nothing is known and nothing stands in his way."""
    record = store.recipient(WHO)
    assert (record.episode, record.suppression, record.bounces, record.waiting) == (None, None, (), ())
    assert store.gate_lookup(WHO, NOW).kind is AdviceKind.NONE


def test_store_full_mailbox_follows_the_schedule_and_delivers(store, log):
    """Tries in time double the wait; a delivery ends the episode with its count, and leaves a clean state."""
    at, waits = NOW, []
    for _ in range(3):
        outcome = log.fails("mailbox-full", at)
        waits.append(outcome.advice.not_before - at)
        assert store.gate_lookup(WHO.upper(), at + MINUTE).until == outcome.advice.not_before
        at = outcome.advice.not_before
    assert 2 * HOUR <= waits[0] <= 4 * HOUR
    assert waits[1:] == [2 * waits[0], 4 * waits[0]]
    assert store.gate_lookup(WHO, at).kind is AdviceKind.NONE
    log.sent(at, queue_id="4cA")
    (ended,) = log.notices
    assert (ended.kind, ended.attempts, ended.since) == (NoticeKind.DELIVERED, 3, NOW)
    assert "notice=delivered" in notice_line(ended)
    record = store.recipient(WHO)
    assert (record.episode, record.bounces, record.waiting) == (None, (), ())


def test_store_gives_up_once_and_counts_one_soft_bounce(store, log):
    """The end of the schedule is told once, however often the MTA goes on trying."""
    at = NOW
    for _ in range(8):
        outcome = log.fails("mailbox-full", at)
        at = outcome.advice.not_before or at + HOUR
    assert log.told() == [NoticeKind.GAVE_UP]
    assert [kind for _, kind, _ in store.recipient(WHO).bounces] == ["soft"]


def test_store_used_up_schedule_returns_what_waits_and_no_more(store, log):
    """While its messages are in the queue the gate returns them; afterwards the recipient is free."""
    at = NOW
    while (outcome := log.fails("mailbox-full", at)).advice.not_before:
        at = outcome.advice.not_before
    assert store.gate_lookup(WHO, at).kind is AdviceKind.GIVE_UP
    assert store.due(at) == [Due("4cA", WHO)]
    with store.batch() as batch:
        batch.gone("4cA", WHO)
    assert store.gate_lookup(WHO, at).kind is AdviceKind.NONE
    assert log.fails("mailbox-full", at + HOUR, queue_id="4cNEW").advice.attempt == 1


def used_up(log, young="4cYOUNG"):
    """Let 4cA fail until its schedule is used up, and `young` once before its last try; return when both failed last."""
    at = came = NOW
    while until := log.fails("mailbox-full", at).advice.not_before:
        if until - at > 16 * HOUR:
            came = at + HOUR
            log.fails("mailbox-full", came, queue_id=young)
        at = until
    assert came > NOW
    return at, came


def test_store_gives_a_message_up_by_its_own_age(store, log):
    """The one that used the schedule up goes back; one that came later is tried on, one that never failed is free."""
    at, _ = used_up(log)
    kinds = {q: store.gate_lookup(WHO, at, queue_id=q).kind for q in ("4cA", "4cYOUNG", "4cFRESH")}
    assert kinds == {"4cA": AdviceKind.GIVE_UP, "4cYOUNG": AdviceKind.RETRY, "4cFRESH": AdviceKind.NONE}


def test_store_gives_an_address_up_when_all_its_messages_are_used_up(store, log):
    """Where the message is not known the youngest speaks; each is due when its own time comes."""
    at, came = used_up(log)
    span = at - NOW
    assert store.gate_lookup(WHO, at).kind is AdviceKind.RETRY
    assert store.due(came + span - MINUTE) == [Due("4cA", WHO)]
    assert set(store.due(came + span)) == {Due("4cA", WHO), Due("4cYOUNG", WHO)}
    assert store.gate_lookup(WHO, came + span).kind is AdviceKind.GIVE_UP
    with store.batch() as batch:
        batch.gone("4cYOUNG", WHO)
    assert store.gate_lookup(WHO, at).kind is AdviceKind.GIVE_UP


def test_store_soft_limit_counts_messages_not_attempts(store, log):
    """Three messages undelivered, whatever the attempts: the address stays; the fourth suppresses it."""
    for i in range(3):
        for _ in range(5):
            log.fails("mailbox-full", NOW + i * HOUR, queue_id=f"4c{i}", action=Action.FAILED)
    assert store.suppressed(WHO) is None
    outcome = log.fails("mailbox-full", NOW + 3 * HOUR, queue_id="4c3", action=Action.FAILED)
    assert outcome.advice.kind is AdviceKind.SUPPRESS
    assert store.suppressed(WHO).reason.startswith("soft limit 4 in 30 d")
    assert log.told() == [NoticeKind.SUPPRESSED]
    assert store.gate_lookup(WHO, NOW + 3 * HOUR).kind is AdviceKind.SUPPRESS


def test_store_soft_limit_forgets_after_its_window(store, log):
    """Bounces older than 30 days do not count."""
    for days in (0, 1, 2, 31.5):
        log.fails("mailbox-full", NOW + days * DAY, queue_id=f"4c{days}", action=Action.FAILED)
    assert store.suppressed(WHO) is None


def test_store_delivery_resets_the_soft_limit(store, log):
    """Three undelivered, one delivered, one undelivered: one counts."""
    for i in range(3):
        log.fails("mailbox-full", NOW + i * HOUR, queue_id=f"4c{i}", action=Action.FAILED)
    log.sent(NOW + 4 * HOUR)
    log.fails("mailbox-full", NOW + 5 * HOUR, queue_id="4c9", action=Action.FAILED)
    assert len(store.recipient(WHO).bounces) == 1
    assert store.suppressed(WHO) is None


def test_store_delivery_ends_a_suppression_of_the_soft_limit_only(store, log):
    """A mailbox that takes mail again is no longer full; a complaint stands."""
    for i in range(4):
        log.fails("mailbox-full", NOW + i * HOUR, queue_id=f"4c{i}", action=Action.FAILED)
    log.fails("feedback", NOW, recipient="angry@example.net", source=Source.REPORT)
    log.told()
    log.sent(NOW + 5 * HOUR)
    log.sent(NOW + 5 * HOUR, recipient="angry@example.net")
    assert log.told() == [NoticeKind.DELIVERED, NoticeKind.UNSUPPRESSED]
    assert store.suppressed(WHO) is None
    assert store.suppressed("angry@example.net").origin == "feedback"


def test_store_hard_failure_suppresses(store, log):
    """One unknown user by a remote MTA's word is enough; the reason is its words."""
    log.fails("invalid-recipient", action=Action.FAILED, diagnostic="550 5.1.1 no such user")
    suppression = store.suppressed(WHO)
    assert (suppression.category, suppression.since, suppression.origin) == ("invalid-recipient", NOW, "log")
    assert "no such user" in suppression.reason


def test_store_local_failure_never_suppresses(store, log):
    """Our own word convicts nobody, however often."""
    for i in range(9):
        log.fails("invalid-recipient", NOW + i * HOUR, queue_id=f"4c{i}", action=Action.FAILED, local=True)
    assert store.suppressed(WHO) is None


@pytest.mark.parametrize(
    "more",
    [
        pytest.param({"genuine": False}, id="forged-report"),
        pytest.param({"gate": True}, id="own-text"),
        pytest.param({"recipient": None}, id="nobody"),
    ],
)
def test_store_remembers_nothing_of(store, log, more):
    """A report that is not genuine, our own text and a status of nobody leave no trace."""
    log.fails("invalid-recipient", action=Action.FAILED, **more)
    assert list(store.export()) == []


def test_store_complaint_is_no_failed_attempt(store, log):
    """Feedback suppresses and leaves no episode behind."""
    log.fails("feedback", source=Source.REPORT)
    assert (store.suppressed(WHO).origin, store.recipient(WHO).episode) == ("feedback", None)
    assert log.told() == [NoticeKind.SUPPRESSED]


def test_store_refusals_are_kept_up_to_a_bound(store):
    """Thousands of refusals that deliveries outweigh do not pile up."""
    log = Log(store, Limits(block_threshold=10**6))
    for i in range(300):
        log.fails("poor-reputation", NOW, f"u{i}@big.example", f"4c{i}", operator="big")
    assert sum(row["table"] == "refusals" for row in store.export()) <= 2 * Limits().block_threshold + 16


def test_store_time_of_a_status_that_states_none(store, log):
    """Without a time of its own a status counts its windows back from the store's last, else from now."""
    for i in range(4):
        log.fails("mailbox-full", queue_id=f"4c{i}", action=Action.FAILED, timeless=True)
    assert store.suppressed(WHO) is not None


def test_store_expired_message_counts_for_all_who_waited(store, log):
    """The queue manager's word ends the message for each of its recipients, once."""
    for who in ("a@example.net", "b@example.net"):
        log.fails("mailbox-full", recipient=who)
    log.fails("network-error", recipient="c@example.net", local=True)
    for _ in range(2):
        with store.batch() as batch:
            log.notices += batch.expired("4cA", NOW + 5 * DAY)
    assert log.told() == [NoticeKind.GAVE_UP] * 3
    assert [len(store.recipient(f"{u}@example.net").bounces) for u in "abc"] == [1, 1, 0]


@pytest.mark.parametrize("leaves", ["delivered", "bounced", "gone"])
@pytest.mark.parametrize("one_batch", [False, True], ids=["since", "in-one-batch"])
def test_store_expired_message_leaves_out_who_left_before(store, log, leaves, one_batch):
    """Whom the same batch saw leave is not given up with the message: neither notice nor bounce."""
    log.fails("mailbox-full", recipient="stays@example.net")
    if not one_batch:
        log.fails("mailbox-full", recipient="left@example.net")
    with store.batch() as batch:
        if one_batch:
            log.fails("mailbox-full", recipient="left@example.net", batch=batch)
        if leaves == "delivered":
            batch.delivered("left@example.net", NOW + HOUR, queue_id="4cA")
            log.fails("mailbox-full", NOW + 2 * HOUR, recipient="left@example.net", queue_id="4cB", batch=batch)
        elif leaves == "bounced":
            log.fails("network-error", NOW + HOUR, recipient="left@example.net", action=Action.FAILED, batch=batch)
        else:
            batch.gone("4cA", "left@example.net")
        log.notices.clear()
        log.notices += batch.expired("4cA", NOW + 5 * DAY)
    assert [(notice.kind, notice.key) for notice in log.notices] == [(NoticeKind.GAVE_UP, "stays@example.net")]
    assert store.recipient("left@example.net").episode.given_up is None


def test_store_expired_messages_reach_the_soft_limit(store, log):
    """Four expired messages suppress like four bounces."""
    for i in range(4):
        at = NOW + i * 6 * DAY
        log.fails("mailbox-full", at, queue_id=f"4c{i}")
        with store.batch() as batch:
            log.notices += batch.expired(f"4c{i}", at + 5 * DAY)
    assert store.suppressed(WHO).category == "mailbox-full"
    assert log.told().count(NoticeKind.SUPPRESSED) == 1


def test_store_message_of_two_recipients_keeps_them_apart(store, log):
    """Each recipient of one message has an episode of its own; one leaves, the other waits."""
    log.fails("mailbox-full", recipient="a@example.net")
    log.fails("greylisted", recipient="b@example.net")
    log.sent(NOW + HOUR, recipient="b@example.net", queue_id="4cA")
    assert store.recipient("a@example.net").waiting == (("4cA", NOW),)
    assert store.recipient("b@example.net").waiting == ()


# due


def test_store_due_when_the_time_comes_and_once(store, log):
    """A message is due at its time, and after it was flushed not before its next failure."""
    until = log.fails("greylisted").advice.not_before
    assert store.due(until - MINUTE) == []
    assert store.due(until) == [Due("4cA", WHO)]
    store.flushed(store.due(until), until)
    assert store.due(until + HOUR) == []
    again = log.fails("greylisted", until).advice.not_before
    assert store.due(again) == [Due("4cA", WHO)]


def test_store_flushed_keeps_a_time_that_was_set_since(store, log):
    """A message that failed again before it was noted as tried keeps its new time."""
    until = log.fails("greylisted").advice.not_before
    due = store.due(until)
    again = log.fails("greylisted", until).advice.not_before
    store.flushed(due, until + timedelta(seconds=2))
    assert store.due(again) == [Due("4cA", WHO)]


def test_store_due_follows_a_recovery(store, log):
    """When one message of a recipient is delivered the others are due at once."""
    log.fails("mailbox-full", queue_id="4cA")
    log.fails("mailbox-full", queue_id="4cB")
    log.sent(NOW + MINUTE, queue_id="4cA")
    assert store.due(NOW + MINUTE) == [Due("4cB", WHO)]


def test_store_due_is_limited(store, log):
    """No more come than are asked for, the longest due first."""
    for i in range(5):
        log.fails("greylisted", NOW + i * MINUTE, recipient=f"u{i}@example.net", queue_id=f"4c{i}")
    assert len(store.due(NOW + DAY, 3)) == 3


# blocks


def refuse(log, number, at=NOW, operator="big", category="poor-reputation", **more):
    return [
        log.fails(category, at, f"u{i}@big.example", f"4c{i}", operator=operator, remote_mta="mx.big.example", **more)
        for i in range(number)
    ]


def test_store_large_operator_is_blocked_at_the_threshold(store, log):
    """Nine refusals hold nine recipients, the tenth holds everybody."""
    refuse(log, 9)
    assert (store.blocks(), log.told()) == ([], [])
    assert store.gate_lookup("other@big.example", NOW).kind is AdviceKind.NONE
    refuse(log, 10)
    (block,) = store.blocks()
    assert (block.key, block.state, block.refusals, log.told()) == (
        "big",
        BlockState.HELD,
        10,
        [NoticeKind.BLOCK_BEGAN],
    )
    standing = store.gate_lookup("other@big.example", NOW + MINUTE)
    assert (standing.kind, standing.block) == (AdviceKind.HOLD, "big")
    assert store.gate_lookup("other@example.net", NOW + MINUTE).kind is AdviceKind.NONE


@pytest.mark.parametrize(("command", "blocked"), [("EOD", False), ("MAIL", False), ("CONNECT", False), ("RCPT", True)])
def test_store_reply_to_a_whole_message_is_one_refusal(store, log, command, blocked):
    """The MTA logs it for each recipient: a tenant of a large operator refuses one message to ten of his mailboxes."""
    for i in range(10):
        log.fails("poor-reputation", NOW, f"u{i}@big.example", "4cA", operator="big", command=command)
    assert bool(store.blocks()) is blocked
    for i in range(9):
        log.fails("poor-reputation", NOW, f"v{i}@big.example", f"4cB{i}", operator="big", command=command)
    (block,) = store.blocks()
    assert (block.key, block.refusals) == ("big", 10 if not blocked else block.refusals)


def test_store_retries_of_one_message_do_not_reach_the_threshold(store, log):
    """A reply that comes again and again to one message is still one refusal."""
    for i in range(50):
        log.fails("poor-reputation", NOW + i * MINUTE, operator="big")
    assert store.blocks() == []


def test_store_deliveries_in_between_take_refusals_off(store, log):
    """An operator that takes most of our mail does not block us."""
    for i in range(30):
        log.fails("poor-reputation", NOW + i * MINUTE, f"u{i}@big.example", f"4c{i}", operator="big")
        log.sent(NOW + i * MINUTE, recipient=f"v{i}@big.example", operator="big")
    assert store.blocks() == []


def test_store_refusals_outside_the_window_do_not_count(store, log):
    """Nine refusals yesterday and one today are no block."""
    refuse(log, 9, NOW - DAY)
    log.fails("poor-reputation", NOW, "u99@big.example", "4c99", operator="big")
    assert store.blocks() == []


def test_store_small_domain_is_blocked_at_once(store, log):
    """A domain that runs its own mail is held with the first refusal; its lists are noted."""
    lists = (BlocklistMention("list.example.org", "x"), BlocklistMention("hint.example.org", "x", weight="advise"))
    log.fails("blocklisted", blocklists=lists)
    (block,) = store.blocks()
    assert (block.key, block.zones) == ("example.net", ("list.example.org",))


def test_store_sender_block_holds_only_that_sender(store, log):
    """What is refused for one sender's domain is held for it alone, where the sender is known."""
    log.fails("auth-failure")
    assert [b.key for b in store.blocks()] == ["example.net/example.com"]
    other = "other@example.net"
    assert store.gate_lookup(other, NOW + MINUTE).kind is AdviceKind.NONE
    assert store.gate_lookup(other, NOW + MINUTE, sender="x@example.org").kind is AdviceKind.NONE
    assert store.gate_lookup(other, NOW + MINUTE, sender="x@example.com").kind is AdviceKind.HOLD
    log.sent(NOW + 5 * HOUR, recipient=other, sender="x@example.com")
    assert store.blocks()[0].state is BlockState.RAMP


def test_store_lift_probe_ramp_end(store, log):
    """Lifted by hand: one probe, then a share, then all; each message once."""
    refuse(log, 40)
    log.told()
    lifted = store.lift("big", "admin", NOW + HOUR)
    assert (lifted.kind, lifted.by) == (NoticeKind.BLOCK_LIFTED, "admin")
    assert store.lift("big", "admin", NOW + HOUR) is None
    at = NOW + HOUR
    assert store.gate_lookup("u5@big.example", at).probe == "big"
    assert [store.claim_probe("big", at), store.claim_probe("big", at)] == [True, False]
    (probe,) = store.due(at)
    store.flushed([probe], at)
    assert store.due(at) == []
    log.sent(at, recipient=probe.recipient, queue_id=probe.queue_id, operator="big")
    assert log.told() == [NoticeKind.BLOCK_EASED, NoticeKind.DELIVERED]
    first = store.due(at + MINUTE)
    assert 0 < len(first) < 20
    assert all(store.gate_lookup(d.recipient, at + MINUTE).kind is AdviceKind.NONE for d in first)
    store.flushed(first, at + MINUTE)
    assert not set(first) & set(store.due(at + 2 * MINUTE))
    ended = store.expire(at + HOUR)
    assert [n.kind for n in ended] == [NoticeKind.BLOCK_ENDED]
    assert (store.blocks(), [b.lifted_by for b in store.blocks(closed=True)]) == ([], ["admin"])
    assert len(store.due(at + HOUR)) == 39


def test_store_refusal_after_a_lift_brings_the_block_back(store, log):
    """On trial one refusal is enough."""
    refuse(log, 10)
    store.lift("big", "admin", NOW + HOUR)
    log.told()
    log.fails("poor-reputation", NOW + 2 * HOUR, "u3@big.example", "4c3", operator="big")
    (block,) = store.blocks()
    assert (block.state, block.lifted_by, log.told()) == (BlockState.HELD, None, [NoticeKind.BLOCK_RENEWED])


def test_store_probe_of_a_held_block(store, log):
    """After 4 h one message may go; its delivery lifts the block, its refusal moves the next probe."""
    refuse(log, 10)
    probe_at = store.blocks()[0].probe_at
    assert not store.claim_probe("big", NOW + HOUR)
    assert [d.block for d in store.due(probe_at)] == ["big"]
    assert store.claim_probe("big", probe_at)
    log.fails("poor-reputation", probe_at, "u3@big.example", "4c3", operator="big")
    assert store.blocks()[0].probe_at == probe_at + 4 * HOUR
    log.sent(probe_at + 4 * HOUR, recipient="u3@big.example", operator="big")
    assert (store.blocks()[0].state, store.blocks()[0].lifted_by) == (BlockState.RAMP, "probe")


def test_store_delivery_under_way_does_not_lift(store, log):
    """A message that went out before the block began proves nothing."""
    refuse(log, 10)
    log.sent(NOW + MINUTE, recipient="v@big.example", operator="big")
    assert store.blocks()[0].state is BlockState.HELD


def test_store_block_expires(store, log):
    """A block nobody lifts ends on its last day, and what waited is due."""
    refuse(log, 10)
    last = NOW + Limits().block_most
    assert store.gate_lookup("u1@big.example", last).kind is AdviceKind.NONE
    assert [n.by for n in store.expire(last)] == ["expired"]
    assert len(store.due(last)) == 10


def test_store_block_by_hand(store):
    """The administrator may begin a block, and it holds at once."""
    block = Block("example.net", "example.net", Scope.SENDING_HOST, "policy-rejection", "admin", NOW, None, NOW + DAY)
    assert store.add_block(block).kind is NoticeKind.BLOCK_BEGAN
    assert store.gate_lookup(WHO, NOW).kind is AdviceKind.HOLD
    assert store.blocks() == [block]


# back-off


def test_store_backs_a_domain_off_and_frees_it(store, log):
    """The third message that a domain fails backs it off; a delivery ends that."""
    for i in range(3):
        log.fails("network-error", NOW, f"u{i}@example.net", f"4c{i}", local=True)
    assert log.told() == [NoticeKind.BACKED_OFF]
    standing = store.gate_lookup("new@example.net", NOW + MINUTE)
    assert (standing.kind, standing.backoff, standing.until) == (AdviceKind.RETRY, "example.net", NOW + 10 * MINUTE)
    log.sent(NOW + 11 * MINUTE, recipient="u9@example.net")
    assert store.gate_lookup("new@example.net", NOW + MINUTE).kind is AdviceKind.NONE


# operators, counts, positions


def test_store_learns_who_runs_a_domain(store, log):
    """The relay in the log names the operator; the gate knows it for every recipient of the domain."""
    refuse(log, 10)
    assert store.recipient("any@big.example").operator == "big"
    with store.batch() as batch:
        batch.learn_operator("big.example", None, NOW)
    assert store.recipient("any@big.example").operator is None


def test_store_counts_by_hour_operator_and_category(store, log):
    """Every status counts once in its hour."""
    refuse(log, 3)
    log.sent(NOW + HOUR, operator="big")
    log.sent(NOW + HOUR)
    found = {(c.hour, c.operator, c.category): c.number for c in store.counts(NOW)}
    assert found == {
        (NOW, "big", "poor-reputation"): 3,
        (NOW + HOUR, "big", "delivered"): 1,
        (NOW + HOUR, "other", "delivered"): 1,
    }


def test_store_position_commits_with_what_was_learnt(store, log):
    """Either both are there or neither."""
    position = LogPosition("/var/log/mail.log", "cursor")
    batch = store.batch()
    log.fails("mailbox-full", batch=batch)
    batch.position(position)
    batch.__exit__(RuntimeError, RuntimeError(), None)
    batch.commit()
    assert (store.log_position(position.name), store.recipient(WHO).episode) == (None, None)
    with store.batch() as batch:
        log.fails("mailbox-full", batch=batch)
        batch.position(position)
    assert store.log_position(position.name) == position
    assert store.recipient(WHO).episode.attempts == 1


def test_store_batch_sees_its_own_changes(store, log):
    """Attempts, bounces and deliveries inside one batch follow one another as in the log."""
    batch = store.batch()
    for _ in range(3):
        outcome = log.fails("mailbox-full", batch=batch)
    assert outcome.advice.attempt == 3
    for i in range(3):
        log.fails("mailbox-full", queue_id=f"4c{i}", action=Action.FAILED, batch=batch)
    log.notices += batch.delivered(WHO, NOW)
    assert log.fails("mailbox-full", queue_id="4c9", action=Action.FAILED, batch=batch).advice.attempt == 1
    batch.gone("4cA")
    batch.commit()
    record = store.recipient(WHO)
    assert (record.episode.attempts, len(record.bounces), record.waiting) == (1, 1, ())


def test_store_batch_gives_the_same_as_single_steps(tmp_path):
    """A random log ends in the same state by one batch and by a transaction for each line."""
    draw = random.Random(11)
    work = [
        (
            draw.choice(["mailbox-full", "greylisted", "invalid-recipient", "blocklisted", "network-error", "sent"]),
            NOW + i * MINUTE,
            f"u{draw.randrange(6)}@d{draw.randrange(3)}.example",
            f"4c{draw.randrange(40)}",
            draw.choice([Action.DELAYED, Action.FAILED]),
        )
        for i in range(400)
    ]
    ends = []
    for batched in (True, False):
        store = SqliteStore(tmp_path / f"{batched}.db")
        log = Log(store)
        batch = store.batch() if batched else None
        for category, at, who, queue_id, action in work:
            if category == "sent":
                log.notices += (batch or store).delivered(who, at, queue_id=queue_id)
            else:
                log.fails(category, at, who, queue_id, action, batch=batch)
        if batch:
            batch.commit()
        ends.append((list(store.export()), [notice_line(n) for n in log.notices]))
    assert ends[0] == ends[1]
    assert len(ends[0][0]) > 30


# suppressions and upkeep


def test_store_suppressions_by_hand(store):
    """Added ones are new once, the older stays, removal forgets the bounces too."""
    first = Suppression("A@Example.NET", NOW - DAY, "invalid-recipient", "admin", "asked", "admin")
    assert store.suppress([first]) == 1
    assert store.suppress([replace(first, since=NOW), replace(first, recipient="b@example.net")]) == 1
    assert [(s.recipient, s.since) for s in store.suppressions()] == [
        ("a@example.net", NOW - DAY),
        ("b@example.net", NOW - DAY),
    ]
    assert store.unsuppress(["a@EXAMPLE.net", "c@example.net"]) == 1
    assert store.suppressed("a@example.net") is None


def test_store_suppressions_come_in_pages(store):
    """More than one page comes complete and in order."""
    people = [f"u{i:05}@example.net" for i in range(2500)]
    store.suppress(Suppression(p, NOW, "invalid-recipient", "admin", "") for p in reversed(people))
    assert [s.recipient for s in store.suppressions()] == people


def test_store_prune_keeps_what_matters(store, log):
    """Old episodes, counts and queue IDs go; suppressions, standing blocks and bounces that count stay."""
    log.fails("mailbox-full", recipient="old@example.net", queue_id="4cO")
    log.fails("mailbox-full", recipient="counts@example.net", queue_id="4cC", action=Action.FAILED)
    log.fails("invalid-recipient", recipient="gone@example.net", action=Action.FAILED)
    refuse(log, 10)
    assert store.prune(NOW + HOUR) == 0
    store.prune(NOW + 20 * DAY)
    store.prune(NOW + 20 * DAY)
    assert store.recipient("old@example.net").episode is None
    assert len(store.recipient("counts@example.net").bounces) == 1
    assert store.suppressed("gone@example.net") is not None
    assert len(store.blocks()) == 1
    store.expire(NOW + 20 * DAY)
    store.prune(NOW + 200 * DAY)
    assert (store.blocks(closed=True), store.counts(NOW)) == ([], [])


def test_store_prune_goes_in_steps(store, log):
    """No step removes more than its rows, and all steps together remove what one would."""
    for i in range(5):
        log.fails("mailbox-full", recipient=f"u{i}@example.net", queue_id=f"4c{i}", action=Action.FAILED)
        log.fails("greylisted", recipient=f"w{i}@example.net", queue_id=f"4w{i}")
    steps = list(store.pruning(NOW + 400 * DAY, 2))
    assert max(steps) == 2
    assert sum(steps) == 5 + 5 + 10 + 1 + 1, "waiting, bounces, recipients, counts of two categories"
    assert [row["table"] for row in store.export()] == []


def test_store_prune_looks_at_a_stated_number_of_rows_in_a_step(store, log):
    """Rows that may not go are passed over a step at a time, and what lies behind them is reached."""
    for i in range(9):
        at = NOW + i * MINUTE
        log.fails("mailbox-full", at, recipient=f"u{i}@example.net", queue_id=f"4c{i}", action=Action.FAILED)
    log.fails("greylisted", NOW + HOUR, recipient="last@example.net")
    now, statements = NOW + 20 * DAY, []
    store.connection().set_trace_callback(statements.append)
    steps = list(store.pruning(now, 3))
    store.connection().set_trace_callback(None)
    looks = [text for text in statements if text.startswith("SELECT last_failure")]
    assert len(looks) == 4
    assert all(text.endswith("LIMIT 3") for text in looks)
    assert sum(steps) == 2, "one message that waits, one recipient"
    assert store.recipient("last@example.net").episode is None
    assert all(store.recipient(f"u{i}@example.net").episode for i in range(9))


def test_store_prune_keeps_who_fails_again_meanwhile(store, log, monkeypatch):
    """Others write between the look and the removal: what is young again stays."""
    for i in range(4):
        log.fails("greylisted", recipient=f"u{i}@example.net", queue_id=f"4c{i}")
        with store.batch() as batch:
            batch.gone(f"4c{i}")
    other, writing = Log(SqliteStore(store.path)), store.writing

    def others_first():
        other.fails("greylisted", NOW + 20 * DAY, recipient="u1@example.net", queue_id="4cX")
        return writing()

    monkeypatch.setattr(store, "writing", others_first)
    assert list(store._walk(sqlite_admin._RECIPIENTS, to_ms(NOW + DAY), 2)) == [1, 2, 0]
    assert [bool(store.recipient(f"u{i}@example.net").episode) for i in range(4)] == [False, True, False, False]
    other.store.close()


def test_store_vacuum_and_check(store):
    """A sound file is sound, and smaller after much was removed."""
    store.suppress(Suppression(f"u{i}@example.net", NOW, "c", "r", "x" * 200) for i in range(3000))
    store.unsuppress([f"u{i}@example.net" for i in range(3000)])
    before, after = store.vacuum()
    assert after < before
    assert store.check() == []


def test_store_takes_any_text(store, log):
    """Bytes that are no UTF-8, control characters and endless words are kept without an error."""
    odd = "b\udcff\x00\n" + "x" * 5000 + "@example.net"
    log.fails("invalid-recipient", recipient=odd, action=Action.FAILED, diagnostic="550 \udcfe\x00" + "y" * 9000)
    log.fails("blocklisted", recipient="u\udcff@example.org", diagnostic="\udcff" * 900, queue_id="\udcff")
    assert store.suppressed(odd) is not None
    assert len(store.blocks()) == 1
    assert log_line(log.fails("mailbox-full", recipient=odd))


def test_store_retention_is_the_administrators(tmp_path):
    """A shorter retention removes earlier."""
    store = SqliteStore(tmp_path / "state.db", retention=Retention(episodes=DAY, waiting=DAY))
    log = Log(store)
    log.fails("mailbox-full")
    store.prune(NOW + 2 * DAY)
    assert store.recipient(WHO).episode is None


def test_look_alike_letter_convicts_nobody_else():
    """U+212A KELVIN SIGN and U+0130 are no k and no i, whatever they are in lower case."""
    assert folded("\u212aATE@gmail.com") == "\u212aate@gmail.com"
    assert folded("\u0130DA@gmail.com") == "\u0130da@gmail.com"
    assert folded("<J\u00dcRG@Example.Net>") == "j\u00fcrg@example.net"
