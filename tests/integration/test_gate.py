"""The queue follows the advice, on a real Postfix with seconds for hours."""

from __future__ import annotations

import json
import re
import smtplib
import time
from collections import Counter

import pytest

from tests.integration.enforcing import Enforced, times_of
from tests.integration.postfix import needs_postfix
from tests.integration.sink import Script, Sinks

pytestmark = [pytest.mark.integration, needs_postfix]

# no queue run but those that the test or our own flush begins: none comes before logd has read of the refusal before it
ORDERED = {"queue_run_delay": "1h", "minimal_backoff_time": "1h", "maximal_backoff_time": "1h"}
FULL = "452 4.2.2 <full@full.test>: The email account that you tried to reach is over quota"
BLOCKED = "554 5.7.1 Service unavailable; Client host [192.0.2.1] blocked using bl.example"


def test_full_mailbox_is_tried_as_the_schedule_allows_and_then_delivered(tmp_path):
    """Refused five times, an early queue run makes no connection, tried when due, delivered once; then the state is clean."""
    # 2-4 h and doubling: five waits take 62 to 124 h, so the schedule must go on for longer than its 48 h
    over = {"advice": {"time_scale": 1 / 14400, "give_up_after_h": 240.0}}
    with Sinks() as sinks:
        full = sinks.add("full.test", Script(rcpt=[FULL] * 5 + ["250 2.1.5 ok"]))
        ok = sinks.add("ok.test")
        routes = {"full.test": full, "ok.test": ok}
        with Enforced(tmp_path / "p", over, routes=routes, main=ORDERED) as postfix:
            with postfix.traffic("other@ok.test"):
                postfix.send("me@home.example", "full@full.test")
                # the fifth wait is 8 to 16 s: time enough on any machine for a run that comes too early
                postfix.wait_for(lambda: "attempt 6" in postfix.postmap("full@full.test"), 60)
                assert postfix.postmap("full@full.test").startswith("retry:4.2.2 milter-bounce: not before ")
                postfix.flush()
                held = "to=<full@full.test>.*relay=none.*milter-bounce: not before .*, mailbox-full since .*attempt 6"
                postfix.wait_log(held, 20)
                assert "milter-bounce: not before" in postfix.deferrals()["full@full.test"]
                assert full.attempts["full@full.test"] == 5
                sent = postfix.wait_log("to=<full@full.test>.*status=sent", 60)
            refused = [line for line in postfix.lines() if "to=<full@full.test>" in line and "said: 452" in line]
            assert full.attempts["full@full.test"] == len(refused) + 1 == 6
            # half a second at least on this scale, doubled at each try; the log counts whole seconds
            moments = times_of([*refused, *sent])
            assert (moments[-1] - moments[-2]) % 86_400 >= 0.5 * 2**4 - 1
            assert (moments[-2] - moments[-3]) % 86_400 >= 0.5 * 2**3 - 1
            assert full.delivered("full@full.test") == 1
            postfix.wait_for(lambda: postfix.postmap("full@full.test") == "")


def test_used_up_schedule_returns_its_message_and_tries_a_fresh_one(tmp_path):
    """The message that was tried for the whole schedule goes back with 5.4.7; one that enters meanwhile is tried first."""
    over = {"advice": {"time_scale": 1 / 3600, "give_up_after_h": 10}}
    with Sinks() as sinks:
        full = sinks.add("full.test", Script(rcpt=FULL))
        ok = sinks.add("ok.test")
        routes = {"full.test": full, "ok.test": ok}
        with Enforced(tmp_path / "p", over, routes=routes, main=ORDERED) as postfix, postfix.traffic("other@ok.test"):
            postfix.send("me@home.example", "full@full.test")
            (returned,) = postfix.wait_log("to=<full@full.test>.*status=bounced", 60)
            assert re.search(r"dsn=5\.4\.7, status=bounced \(milter-bounce: given up after [2-5] attempts", returned)
            tried = full.attempts["full@full.test"]
            assert tried >= 2
            postfix.send("me@home.example", "full@full.test")
            postfix.wait_for(lambda: full.attempts["full@full.test"] > tried)
            postfix.wait_log("to=<full@full.test>.*said: 452", count=tried + 1)


def test_block_holds_one_operator_and_nobody_else(tmp_path):
    """From the refusal on no connection; others flow; submission is accepted; lifted by hand, a probe, then the rest."""
    refusing = [True]
    with Sinks() as sinks:
        hard = sinks.add("hard.test", Script(rcpt=lambda _: BLOCKED if refusing[0] else ""))
        ok = sinks.add("ok.test")
        over = {"block": {"ramp_m": 600.0, "probe_after_5xx_h": 240}}
        with Enforced(tmp_path / "p", over, routes={"hard.test": hard, "ok.test": ok}) as postfix:
            postfix.send("me@home.example", "first@hard.test")
            postfix.wait_for(lambda: "hard.test" in postfix.ours("blocks", "list"))
            corrected = [line for line in postfix.lines() if "to=<first@hard.test>" in line]
            assert re.search(r"dsn=4\.7\.1, status=deferred \(\[class=policy .* was=5\.7\.1\] host", corrected[0])
            postfix.send(
                "me@home.example", "other@ok.test"
            )  # qmgr forgets its last resolver answer (resolve_clnt, 30 s)
            postfix.wait_log("to=<other@ok.test>.*status=sent")
            postfix.wait_log("to=<first@hard.test>.*relay=none", 30)
            made = hard.connections
            for number in range(20):
                assert postfix.send("me@home.example", [f"u{number}@hard.test", f"u{number}@ok.test"]) == {}
            postfix.wait_log(r"to=<u[0-9]+@ok.test>.*status=sent", count=20)
            postfix.wait_log(r"to=<u[0-9]+@hard.test>.*relay=none.*held until lifted, block hard\.test", 20, count=20)
            postfix.flush()
            assert hard.connections == made
            refusing[0] = False
            postfix.ours("blocks", "lift", "hard.test")
            postfix.wait_log("@hard.test>.*status=sent", 20)
            postfix.wait_for(lambda: len(hard.taken) == 21, 60)
            assert sorted(r for taken in hard.taken for r in taken.recipients) == sorted(
                ["first@hard.test", *(f"u{number}@hard.test" for number in range(20))]
            )
            postfix.wait_for(lambda: postfix.queued() == 0)


def test_every_recipient_follows_its_own_advice(tmp_path):
    """Two destinations, three categories, one message: one held, one delayed, one returned, one delivered."""
    replies = {
        "full@one.test": FULL,
        "gone@one.test": "450 4.2.1 <gone@one.test>: The user's account is disabled",
    }
    with Sinks() as sinks:
        one = sinks.add("one.test", Script(rcpt=lambda address: replies.get(address, "")))
        two = sinks.add("two.test", Script(rcpt=lambda address: BLOCKED if address else ""))
        over = {"block": {"probe_after_5xx_h": 240}}
        routes = {"one.test": one, "two.test": two}
        with Enforced(tmp_path / "p", over, routes=routes, main=ORDERED) as postfix:
            # qmgr remembers the last one
            recipients = ["full@one.test", "gone@one.test", "a@two.test", "fine@one.test"]
            with postfix.traffic("x@home.example"):
                postfix.send("me@home.example", recipients)
                postfix.wait_for(lambda: "held until lifted" in postfix.postmap("a@two.test"))
                postfix.flush()
                postfix.wait_log("to=<a@two.test>.*relay=none.*held until lifted", 20)
                assert two.attempts["a@two.test"] == 1
                (gone,) = postfix.wait_log("to=<gone@one.test>.*status=bounced")
                postfix.wait_for(lambda: "not before" in postfix.deferrals().get("full@one.test", ""), 30)
            waiting = postfix.deferrals()
            others = {address for address in waiting if not address.endswith("@home.example")}
            assert others == {"full@one.test", "a@two.test"}
            assert one.delivered("fine@one.test") == 1
            assert "dsn=5.2.1" in gone
            assert "was=4.2.1] host" in gone
            assert one.attempts["gone@one.test"] == 1


def test_suppressed_recipient_is_refused_at_submission_and_returned_from_the_queue(tmp_path):
    """Policy service: 550 5.1.1 with since when and why; the gate returns what is in the queue already."""
    with Sinks() as sinks:
        ok = sinks.add("ok.test")
        over = {"policy": {"allow_senders": ["boss@home.example"]}}
        with Enforced(tmp_path / "p", over, routes={"ok.test": ok}) as postfix:
            postfix.ours("suppressions", "add", "gone@ok.test")
            refused = postfix.send("me@home.example", ["gone@ok.test", "fine@ok.test"])
            code, text = refused["gone@ok.test"]
            assert code == 550
            assert re.search(rb"5\.1\.1 <gone@ok\.test>: .*milter-bounce: suppressed, .* since 20", text)
            postfix.wait_log("to=<fine@ok.test>.*status=sent")
            assert postfix.send("boss@home.example", "gone@ok.test") == {}
            postfix.wait_log(r"to=<gone@ok.test>.*dsn=5\.1\.1, status=bounced \(milter-bounce: suppressed")
            assert ok.attempts["gone@ok.test"] == 0
            postfix.ours("suppressions", "remove", "gone@ok.test")
            assert postfix.send("me@home.example", "gone@ok.test") == {}
            postfix.wait_log("to=<gone@ok.test>.*status=sent")


def test_two_thousand_held_messages_are_none_lost_and_none_doubled(tmp_path):
    """A block with 2,000 messages behind it: no connection, others flow; lifted, each arrives exactly once."""
    count, refusing = 2000, [True]
    with Sinks() as sinks:
        hard = sinks.add("hard.test", Script(rcpt=lambda _: BLOCKED if refusing[0] else ""))
        ok = sinks.add("ok.test")
        over = {"block": {"ramp_m": 300.0, "probe_after_5xx_h": 240}}
        with Enforced(tmp_path / "p", over, routes={"hard.test": hard, "ok.test": ok}) as postfix:
            postfix.send("me@home.example", "u0@hard.test")
            postfix.wait_for(lambda: "hard.test" in postfix.ours("blocks", "list"))
            postfix.send("me@home.example", "other@ok.test")
            postfix.wait_log("to=<other@ok.test>.*status=sent")
            postfix.wait_log("to=<u0@hard.test>.*relay=none", 30)
            made, tried = hard.connections, hard.attempts.total()
            with smtplib.SMTP("127.0.0.1", postfix.port, timeout=60) as client:
                for number in range(1, count):
                    client.sendmail("me@home.example", f"u{number}@hard.test", "Subject: t\r\n\r\nhello\r\n")
                    if number % 10 == 0:
                        client.sendmail("me@home.example", f"u{number}@ok.test", "Subject: t\r\n\r\nhello\r\n")
            postfix.wait_for(lambda: len(ok.taken) == count // 10, 60)
            assert (hard.connections, hard.attempts.total()) == (made, tried)
            refusing[0] = False
            postfix.ours("blocks", "lift", "hard.test")
            postfix.wait_for(lambda: len(hard.taken) >= count, 120)
            postfix.wait_for(lambda: postfix.queued() == 0, 60)
            arrived = Counter(r for taken in hard.taken for r in taken.recipients)
            assert arrived == Counter(f"u{number}@hard.test" for number in range(count))


def test_probe_learns_that_a_block_still_stands_and_then_that_it_is_over(tmp_path):
    """Nobody lifts it: one message at each probe time, refused; then accepted, and the rest follows, once each."""
    refusing = [True]
    with Sinks() as sinks:
        hard = sinks.add("hard.test", Script(rcpt=lambda _: BLOCKED if refusing[0] else ""))
        ok = sinks.add("ok.test")
        # an hour takes 10 s: what a probe taught may come 1.7 s after it (ten minutes), before the next message is let go
        over = {"advice": {"time_scale": 1 / 360}, "block": {"ramp_m": 12.0, "probe_after_5xx_h": 1}}
        with Enforced(tmp_path / "p", over, routes={"hard.test": hard, "ok.test": ok}) as postfix:
            postfix.send("me@home.example", "u0@hard.test")
            postfix.wait_for(lambda: "hard.test" in postfix.ours("blocks", "list"))
            with postfix.traffic("other@ok.test"):
                for number in range(1, 10):
                    postfix.send("me@home.example", f"u{number}@hard.test")
                before = hard.attempts.total()
                postfix.wait_for(lambda: hard.attempts.total() > before, 40)
                time.sleep(2)
                (probe,) = postfix.wait_log("probe: block=hard.test, to=<")
                # by name, not by count: qmgr's memory of the resolver's last answer may repeat one recipient
                assert set(hard.attempts) <= {"u0@hard.test", re.search("to=<(.*)>", probe)[1]}
                refusing[0] = False
                postfix.wait_for(lambda: len(hard.taken) >= 10, 60)
            assert Counter(r for t in hard.taken for r in t.recipients) == Counter(f"u{n}@hard.test" for n in range(10))


def test_mail_held_from_its_first_attempt_follows_a_lift(tmp_path):
    """No queue run comes to its help: after the lift our own flush tries it, and each message arrives exactly once."""
    refusing = [True]
    with Sinks() as sinks:
        hard = sinks.add("hard.test", Script(rcpt=lambda _: BLOCKED if refusing[0] else ""))
        small, ok = sinks.add("small.test"), sinks.add("ok.test")
        routes = {"hard.test": hard, "small.test": small, "ok.test": ok}
        over = {"block": {"ramp_m": 300.0, "probe_after_5xx_h": 240}}
        with Enforced(tmp_path / "p", over, routes=routes, main=ORDERED) as postfix:
            postfix.send("me@home.example", "u0@hard.test")
            postfix.wait_for(lambda: "hard.test" in postfix.ours("blocks", "list"))
            postfix.ours("blocks", "add", "small.test")
            postfix.wait_for(lambda: postfix.postmap("u1@small.test"))
            expected = {domain: [f"u{n}@{domain}" for n in range(1, 4)] for domain in ("hard.test", "small.test")}
            for one, other in zip(*expected.values(), strict=True):
                postfix.send("me@home.example", one)
                postfix.send("me@home.example", other)  # qmgr remembers the last one
            postfix.wait_log("to=<u[1-3]@.*relay=none.*held until lifted", 20, count=6)
            assert (hard.connections, small.connections) == (1, 0)
            postfix.wait_for(lambda: len(rows_of(postfix, "waiting")) == 7)
            assert [row["recipient"] for row in rows_of(postfix, "recipients")] == ["u0@hard.test"]
            refusing[0] = False
            postfix.ours("blocks", "lift", "hard.test")
            postfix.ours("blocks", "lift", "small.test")
            postfix.wait_for(lambda: postfix.queued() == 0, 60)
            for sink, wanted in ((hard, ["u0@hard.test", *expected["hard.test"]]), (small, expected["small.test"])):
                assert Counter(r for taken in sink.taken for r in taken.recipients) == Counter(wanted)
            postfix.wait_for(lambda: rows_of(postfix, "waiting") == [])


def test_deleted_queue_leaves_no_ghost_that_takes_the_probes_place(tmp_path):
    """`postsuper -d ALL` names no queue ID in the log; what comes after it is the probe all the same."""
    refusing = [True]
    with Sinks() as sinks:
        hard = sinks.add("hard.test", Script(rcpt=lambda _: BLOCKED if refusing[0] else ""))
        ok = sinks.add("ok.test")
        over = {"block": {"ramp_m": 300.0, "probe_after_5xx_h": 240}}
        routes = {"hard.test": hard, "ok.test": ok}
        with Enforced(tmp_path / "p", over, routes=routes, main=ORDERED) as postfix:
            postfix.send("me@home.example", "u0@hard.test")
            postfix.wait_for(lambda: len(rows_of(postfix, "waiting")) == 1)
            postfix.empty_queue()
            postfix.wait_log("postsuper.*Deleted: 1 message")
            postfix.wait_for(lambda: "held until lifted" in postfix.postmap("u1@hard.test"))
            postfix.send("me@home.example", "other@ok.test")  # qmgr remembers the last one
            postfix.wait_log("to=<other@ok.test>.*status=sent")
            postfix.send("me@home.example", "u1@hard.test")
            postfix.wait_for(lambda: "u1@hard.test" in {row["recipient"] for row in rows_of(postfix, "waiting")})
            refusing[0] = False
            postfix.ours("blocks", "lift", "hard.test")
            postfix.wait_for(lambda: postfix.queued() == 0, 60)
            assert [taken.recipients for taken in hard.taken] == [["u1@hard.test"]]
            postfix.wait_for(lambda: rows_of(postfix, "waiting") == [])
            assert not [line for line in postfix.lines() if "notice=gave-up" in line]


def rows_of(postfix, table: str) -> list[dict]:
    """Return the rows of one table of the store."""
    rows = map(json.loads, postfix.ours("store", "export").splitlines())
    return [row for row in rows if row["table"] == table]
