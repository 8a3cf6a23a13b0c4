"""What is held is listed, explained and released: ``blocks`` and ``recipient``."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from milter_bounce.delivery import Action, DeliveryStatus, Source
from milter_bounce.system.sqlite_store import SqliteStore
from milter_bounce.verdict import (
    CATEGORIES,
    Advice,
    AdviceKind,
    Block,
    Classification,
    Outcome,
    Scope,
)

NOW = datetime.now(UTC).replace(microsecond=0)
HOUR = timedelta(hours=1)
REFUSED = "421 4.7.0 [TSS04] deferred due to user complaints"


@pytest.fixture
def mode():
    return "enforce"


def record(store, category, advice, who, queue_id, operator=None):
    default = CATEGORIES[category]
    verdict = Classification(default.class_, category, default.advice, default.scope, "rule-1", operator=operator)
    status = DeliveryStatus(
        who, Action.DELAYED, queue_id=queue_id, at=NOW, source=Source.LOG, diagnostic=REFUSED, remote_mta="mx.example"
    )
    store.record(Outcome(status, verdict, advice), NOW)


def refused(store, who="a@yahoo.test", queue_id="4cA", operator="yahoo"):
    """Let an operator refuse one recipient, below its threshold."""
    record(store, "poor-reputation", Advice(AdviceKind.HOLD, NOW + HOUR, delay=HOUR), who, queue_id, operator)


def backed_off(store, who="u@small.test", queue_id="4cB"):
    """Let a destination be backed off, its recipient's own time long over."""
    over = NOW - timedelta(seconds=1)
    advice = Advice(AdviceKind.RETRY, over, delay=HOUR, backoff="small.test", backoff_until=NOW + HOUR)
    record(store, "network-error", advice, who, queue_id)


def holding(store, key="small.test", **more):
    block = Block(key, key, Scope.SENDING_HOST, "blocklisted", "r", NOW, None, NOW + 9 * HOUR, text=REFUSED, **more)
    store.add_block(block)


def held(store, who, queue_id):
    """Let our gate hold a message from its first attempt."""
    with store.batch() as batch:
        said = "4.7.1 milter-bounce: held until lifted, block small.test"
        batch.held(DeliveryStatus(who, Action.DELAYED, queue_id=queue_id, source=Source.LOG, diagnostic=said), NOW)


def queue_ids(store):
    return [due.queue_id for due in SqliteStore(store.path).due(datetime.now(UTC))]


def standing(store, who):
    """Return what stands in the way, asked anew: a gate may believe for 0.2 s what it read last."""
    return SqliteStore(store.path).gate_lookup(who, NOW)


def rows(run, *words):
    return [json.loads(line) for line in run(*words, "--json").output.splitlines()]


@pytest.mark.parametrize("name", ["a@yahoo.test", "A@Yahoo.TEST", "yahoo.test", "yahoo"])
def test_recipient_held_by_itself_is_listed_and_released(run, store, tmp_path, name):
    """Below the threshold no block stands: it is listed, named in what `lift` answers, and free after `release`."""
    refused(store)
    (listed,) = rows(run, "blocks", "list", "--held")
    assert (listed["kind"], listed["key"], listed["recipients"], listed["text"]) == ("recipients", "yahoo", 1, REFUSED)
    assert rows(run, "blocks", "list") == []
    table = run("blocks", "list").output
    assert "Recipients held by themselves" in table
    assert "Mode" not in table
    told = run("blocks", "lift", "yahoo")
    assert (told.exit_code, "`milter-bounce recipient release yahoo`" in told.output) == (1, True)
    assert queue_ids(store) == []
    assert run("recipient", "release", name, "--by", "eve").exit_code == 0
    assert standing(store, "a@yahoo.test").kind is AdviceKind.NONE
    assert queue_ids(store) == ["4cA"]
    assert rows(run, "blocks", "list", "--held") == []
    assert "notice=released, by=eve" in (tmp_path / "mail.log").read_text()
    assert run("recipient", "release", name).exit_code == 1


def test_release_leaves_others_alone(run, store):
    """One address, one domain: nobody else, and no attempt is forgotten."""
    refused(store)
    refused(store, "b@yahoo.test", "4cC")
    refused(store, "c@other.test", "4cD", operator=None)
    assert run("recipient", "release", "a@yahoo.test").exit_code == 0
    assert queue_ids(store) == ["4cA"]
    assert store.recipient("a@yahoo.test").episode.attempts == 1
    assert run("recipient", "release", "test").exit_code == 1
    assert run("recipient", "release", "--all").exit_code == 0
    assert sorted(queue_ids(store)) == ["4cA", "4cC", "4cD"]
    assert (run("recipient", "release").exit_code, run("recipient", "release", "x", "--all").exit_code) == (2, 2)


def test_release_gives_a_used_up_schedule_one_more_attempt(run, store):
    """The gate returns it no longer."""
    record(store, "mailbox-full", Advice(AdviceKind.GIVE_UP), "a@full.test", "4cA")
    assert standing(store, "a@full.test").kind is AdviceKind.GIVE_UP
    assert run("recipient", "release", "a@full.test").exit_code == 0
    assert standing(store, "a@full.test").kind is AdviceKind.NONE


@pytest.mark.parametrize(
    "order",
    [("blocks", "lift", "small.test"), ("recipient", "release", "small.test"), ("recipient", "release", "--all")],
    ids=" ".join,
)
def test_backoff_is_listed_shown_and_ended(run, store, order):
    """What waits for nothing but the back-off is due, a recipient before its own time is not."""
    backed_off(store)
    held(store, "v@small.test", "4cH")
    assert standing(store, "v@small.test").backoff == "small.test"
    (listed,) = rows(run, "blocks", "list", "--held")
    assert (listed["kind"], listed["key"]) == ("backoff", "small.test")
    assert "Backed off" in run("blocks", "list").output
    (shown,) = rows(run, "blocks", "show", "small.test")
    assert {one["queue_id"] for one in shown["waiting"]} == {"4cB", "4cH"}
    assert queue_ids(store) == ["4cB"]
    assert run(*order).exit_code == 0
    assert standing(store, "v@small.test").kind is AdviceKind.NONE
    assert sorted(queue_ids(store)) == ["4cB", "4cH"]
    assert rows(run, "blocks", "list", "--held") == []


def test_suppressions_remove_leaves_alone_what_is_not_suppressed(run, store):
    """Its episode stands, and the answer names the command that would release it."""
    refused(store)
    told = run("suppressions", "remove", "a@yahoo.test", "nobody@x.test")
    assert told.exit_code == 1
    assert "a@yahoo.test: not suppressed, but held: `milter-bounce recipient release a@yahoo.test`" in told.output
    assert "nobody@x.test: not suppressed" in told.output
    assert store.recipient("a@yahoo.test").episode is not None


def test_blocks_show_tells_who_waits(run, store):
    """The oldest with queue ID and attempts, the others counted."""
    holding(store)
    for number in range(25):
        held(store, f"u{number}@small.test", f"4cH{number:03}")
    (shown,) = rows(run, "blocks", "show", "small.test")
    assert (shown["waiting_total"], len(shown["waiting"])) == (25, 20)
    assert shown["waiting"][0] == {
        "queue_id": "4cH000",
        "recipient": "u0@small.test",
        "since": shown["waiting"][0]["since"],
        "attempts": 0,
    }
    table = run("blocks", "show", "small.test").output
    assert "25 waiting, the oldest 20:" in table
    assert "u19@small.test" in table


@pytest.mark.parametrize("name", ["a@yahoo.test", "4cA", "yahoo.test", "yahoo"])
def test_recipient_show_tells_why_and_what_releases(run, store, name):
    """By address, queue ID, domain or operator: last reply, rule, category, command."""
    refused(store)
    (shown,) = rows(run, "recipient", "show", name)
    assert (shown["recipient"], shown["standing"], shown["rule"]) == ("a@yahoo.test", "hold", "rule-1")
    assert (shown["category"], shown["text"], shown["mode"]) == ("poor-reputation", REFUSED, "enforce")
    assert shown["release"] == "milter-bounce recipient release a@yahoo.test"
    assert REFUSED in run("recipient", "show", name).output


def test_recipient_show_names_the_command_for_each_kind(run, store):
    """A block, a back-off, a suppression: each has its own."""
    holding(store, "block.test")
    backed_off(store)
    run("suppressions", "add", "s@x.test")
    commands = [
        rows(run, "recipient", "show", who)[0]["release"] for who in ("a@block.test", "a@small.test", "s@x.test")
    ]
    assert commands == [
        "milter-bounce blocks lift block.test",
        "milter-bounce blocks lift small.test",
        "milter-bounce suppressions remove s@x.test",
    ]
    assert run("recipient", "show", "nothing.test").exit_code == 1
    told = run("recipient", "release", "a@block.test")
    assert (told.exit_code, "`milter-bounce blocks lift block.test`" in told.output) == (1, True)


def test_advise_mode_says_that_nothing_is_held(run, store, conf):
    """In `recipient show` and `blocks list`, and an administrator's block says so as well."""
    refused(store)
    conf.write_text(conf.read_text().replace("enforce", "advise"))
    only = "advise: nothing is held by us, only said"
    assert only in run("recipient", "show", "a@yahoo.test").output
    assert only in run("blocks", "list").output
    assert rows(run, "blocks", "list", "--held")[0]["only_said"] == only
    assert only in run("blocks", "add", "small.test").output


@pytest.mark.parametrize(
    ("word", "says"),
    [
        pytest.param("gogle", "did you mean google", id="typing-error"),
        pytest.param("foo bar", "neither an operator", id="blank"),
        pytest.param("x@y.z", "is an address", id="address"),
        pytest.param("192.0.2.1", "neither an operator", id="ip"),
        pytest.param("a..b", "neither an operator", id="empty-label"),
    ],
)
def test_blocks_add_takes_operators_and_domains_only(run, store, word, says):
    """Anything else would hold nobody, unseen."""
    told = run("blocks", "add", word)
    assert (told.exit_code, says in told.output) == (2, True)
    assert store.blocks() == []


@pytest.mark.parametrize("word", ["google", "Example.COM", "xn--bcher-kva.example", "bücher.example"])
def test_blocks_add_takes_what_the_rules_know_and_domains(run, store, word):
    """An operator by its name, and any domain, in whatever case."""
    assert run("blocks", "add", word).exit_code == 0
    assert [block.key for block in store.blocks()] == [word.lower()]


def test_block_by_hand_ends_at_once_when_lifted(run, store):
    """Nobody refused anything: no probe, no ramp; what waits is due."""
    run("blocks", "add", "small.test")
    held(store, "a@small.test", "4cA")
    assert queue_ids(store) == []
    assert run("blocks", "lift", "small.test").exit_code == 0
    assert (store.blocks(), queue_ids(store)) == ([], ["4cA"])


def test_lift_now_ends_a_block_that_refusals_began(run, store):
    """Without --now it goes on trial; --now ends it then, too."""
    holding(store)
    held(store, "a@small.test", "4cA")
    assert run("blocks", "lift", "small.test").exit_code == 0
    assert [str(block.state) for block in store.blocks()] == ["trial"]
    told = run("blocks", "lift", "small.test")
    assert (told.exit_code, "blocks lift --now small.test" in told.output) == (1, True)
    assert run("blocks", "lift", "--now", "small.test").exit_code == 0
    assert (store.blocks(), queue_ids(store)) == ([], ["4cA"])
