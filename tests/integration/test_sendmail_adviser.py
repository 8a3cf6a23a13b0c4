"""All programs beside a real Sendmail: the log read, the gate asked, due messages tried; judged by the remote's count."""

from __future__ import annotations

import itertools
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from tests.integration.programs import Program
from tests.integration.sendmail import CONF, Sendmail, listening, real_sendmail, settings_for  # noqa: F401 - a fixture
from tests.integration.sink import Script, Sinks

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("real_sendmail")]

HOUR_IS_A_SECOND = 1 / 3600
GREETED = "250 2.1.5 Ok"


@pytest.fixture
def world(tmp_path):
    """Return a function that starts a Sendmail with the gate, its remote servers, and the programs."""
    open_ = []

    def start(scripts: dict, *programs: str, hosts: dict | None = None, **over):
        sinks = Sinks().__enter__()
        open_.append(sinks)
        folder = tmp_path / "s"
        routes = {domain: sinks.add(domain, script) for domain, script in scripts.items()}
        names = {name: sinks[domain].address for domain, name in (hosts or {}).items()}
        routes |= {domain: f"sink:[{name}]" for domain, name in (hosts or {}).items()}
        defines = {
            "MILTER_BOUNCE_MILTER": f"unix:{folder}/milter.sock",
            "MILTER_BOUNCE_ANSWER": f"unix:{folder}/answer.sock",
            # a queue run may follow an attempt within milliseconds here, before logd has read of it
            "confMIN_QUEUE_AGE": "2s",
        }
        sendmail = Sendmail(
            folder,
            routes=routes,
            hosts=names,
            fragments=["gate"] + ["milter"] * ("milterd" in programs),
            defines=defines,
            port_of_sinks=sinks.port,
        ).__enter__()
        open_.append(sendmail)
        sendmail.sinks, sendmail.programs = sinks, {}
        settings = settings_for(sendmail, tmp_path, **{"mode": "enforce"} | over)
        for name in programs:
            sendmail.programs[name] = program(sendmail, tmp_path, name, settings)
            open_.append(sendmail.programs[name].__enter__())
        return sendmail

    yield start
    for one in reversed(open_):
        one.__exit__(None, None, None)


def program(sendmail, tmp_path, name: str, settings: dict) -> Program:
    ready = {
        "answerd": lambda: listening(sendmail.folder / "answer.sock"),
        "milterd": lambda: listening(sendmail.folder / "milter.sock"),
        "logd": lambda: any("milter-bounce/logd" in line for line in sendmail.lines()),
    }
    return Program(name, tmp_path, settings, ready=ready[name])


def advice(sendmail, recipient: str, pattern: str = "", count: int = 1, seconds: float = 20) -> list[str]:
    """Return logd's advice lines for a recipient, once there are `count`."""
    return sendmail.wait_log(
        rf"milter-bounce/logd\[\d+\]: \w+: to=<{re.escape(recipient)}>, .*{pattern}", seconds=seconds, count=count
    )


def test_log_is_read_and_advised_upon(world):
    """Each refusal gets its advice line under Sendmail's queue ID, with the relay's name and operator."""
    sendmail = world(
        {
            "gone.test": Script(rcpt="550 5.1.1 <gone@gone.test>: User unknown"),
            "yahoo.test": Script(mail="421 4.7.0 [TSS04] Messages from 192.0.2.1 temporarily deferred due to "
                                 "unexpected volume or user complaints - 4.16.55.1"),
            "multi.test": Script(rcpt="550-5.7.26 This mail has been blocked because the sender is unauthenticated.\n"
                                 "550 5.7.26 Gmail requires all senders to authenticate with either SPF or DKIM."),
        },
        "answerd", "logd", mode="advise", hosts={"yahoo.test": "mta5.am0.yahoodns.net"},
    )  # fmt: skip
    sendmail.send("me@home.example", ["gone@gone.test", "a@yahoo.test", "b@multi.test"])
    gone = advice(sendmail, "gone@gone.test", "class=")[0]
    assert "class=hard, category=invalid-recipient" in gone
    assert "advice=suppress" in gone
    queue_id = re.search(r"logd\[\d+\]: (\w+):", gone)[1]
    sendmail.wait_log(rf"sm-mta\[\d+\]: {queue_id}: to=<gone@gone.test>")
    yahoo = advice(sendmail, "a@yahoo.test")[0]
    assert "operator=yahoo, relay=mta5.am0.yahoodns.net[127." in yahoo
    assert "class=policy, category=poor-reputation" in yahoo
    assert "class=policy, category=auth-failure" in advice(sendmail, "b@multi.test")[0]


def test_early_retries_make_no_connection(world):
    """With the gate a soft failure waits for its time: queue runs every second, connections on the schedule only."""
    sendmail = world(
        {"busy.test": Script(rcpt=[*["450 4.2.0 Mailbox busy, try again later"] * 2, GREETED])}, "answerd", "logd",
        advice={"time_scale": HOUR_IS_A_SECOND, "schedule": "guide"}, due={"every_s": 0.5},
    )  # fmt: skip
    busy = sendmail.sinks["busy.test"]
    sendmail.send("me@home.example", "a@busy.test")
    line = advice(sendmail, "a@busy.test", "advice=retry")[0]
    assert "not_before=" in line
    sendmail.wait_log("ruleset=check_compat.*arg2=<a@busy.test>.*milter-bounce:not before")
    sendmail.wait_log("to=<a@busy.test>.*stat=Sent", 30)
    assert busy.attempts["a@busy.test"] == 3
    assert busy.delivered("a@busy.test") == 1
    # the gate's own deferrals are no failures: one advice line stands for each refusal
    assert len(advice(sendmail, "a@busy.test", "class=soft")) == 2


def test_schedule_doubles_until_it_is_given_up(world):
    """Attempts counted at the remote: 2-4 h, twice that, and so on; then the gate returns it with what it knows."""
    sendmail = world(
        {"full.test": Script(rcpt="452 4.2.2 The email account is over quota")}, "answerd", "logd",
        advice={"time_scale": HOUR_IS_A_SECOND, "give_up_after_h": 14}, due={"every_s": 0.3},
    )  # fmt: skip
    full = sendmail.sinks["full.test"]
    sendmail.send("me@home.example", "a@full.test")
    sendmail.wait_log("ruleset=check_compat.*arg2=<a@full.test>.*reject=550 5.4.7 .*milter-bounce:given up after", 60)
    refused = [line for line in sendmail.lines() if "to=<a@full.test>" in line and "reply=452" in line]
    assert full.attempts["a@full.test"] == len(refused)
    times = [clock(line) for line in refused]
    held = [re.search(r"not_before=[^T]*T([0-9:]+)Z", line) for line in advice(sendmail, "a@full.test", "class=soft")]
    until = [seconds(found[1]) for found in held if found]
    # no attempt before its time (the log cuts off the parts of a second), and each wait is twice the one before
    assert all((at - planned + 1) % 900 < 450 for planned, at in zip(until, times[1:], strict=False)), (until, times)
    waits = [(planned - at) % 900 for planned, at in zip(until, times, strict=False)]
    assert 1 <= waits[0] <= 5, waits
    assert all(abs(later - 2 * earlier) <= 3 for earlier, later in itertools.pairwise(waits[:3])), waits
    assert 3 <= len(refused) <= 5
    sendmail.wait_for(lambda: any(b"Final-Recipient: RFC822; a@full.test" in mail for mail in sendmail.mail("me")))
    sendmail.wait_for(lambda: sendmail.queued() == 0)


def clock(line: str) -> int:
    """Return the seconds of a log line, see `seconds`."""
    return seconds(line.split()[2])


def seconds(text: str) -> int:
    """Return the seconds of the day; modulo 900 they can be compared in every time zone and over midnight."""
    hour, minute, second = map(int, text.split(":"))
    return hour * 3600 + minute * 60 + second


def test_every_recipient_follows_its_own_advice(world):
    """Two destinations, three categories and a local user, one message: each goes its own way."""
    replies = {"full@one.test": "452 4.2.2 over quota", "gone@one.test": "550 5.1.1 User unknown"}
    sendmail = world(
        {
            "one.test": Script(rcpt=lambda address: replies.get(address, "")),
            "two.test": Script(mail="451 4.7.1 Client host [192.0.2.1] blocked using bl.example"),
        },
        "answerd", "logd", due={"enabled": False},
    )  # fmt: skip
    one, two = sendmail.sinks["one.test"], sendmail.sinks["two.test"]
    sendmail.send(
        "me@home.example", ["full@one.test", "gone@one.test", "fine@one.test", "a@two.test", "d@home.example"]
    )
    sendmail.wait_log("arg2=<full@one.test>.*milter-bounce:not before .* mailbox-full since")
    sendmail.wait_log("arg2=<a@two.test>.*milter-bounce:held until lifted")
    sendmail.wait_for(lambda: sendmail.mail("d"))
    sendmail.wait_log("to=<gone@one.test>.*dsn=5.1.1")
    tried = one.attempts["full@one.test"], two.connections
    time.sleep(3)
    assert (one.attempts["full@one.test"], two.connections) == tried
    assert (one.delivered("fine@one.test"), one.attempts["gone@one.test"]) == (1, 1)


def test_check_finds_the_wiring_whole(world):
    """``sendmail check`` on the real sendmail.cf with the shipped fragments finds nothing; with answerd gone, that."""
    sendmail = world({"fine.test": Script()}, "answerd", "milterd")
    answerd = sendmail.programs["answerd"]
    ran = cli(answerd, "sendmail", "check", "-C", str(sendmail.cf))
    assert ran.returncode == 0, ran.stdout
    answerd.stop()
    ran = cli(answerd, "sendmail", "check", "-C", str(sendmail.cf))
    assert ran.returncode == 1
    assert "start answerd" in ran.stdout


def test_nothing_is_lost_or_doubled_while_the_programs_die(world):
    """Forty messages while gate, milter and log reader are killed and started again: each arrives once."""
    sendmail = world({"fine.test": Script()}, "answerd", "milterd", "logd")
    for number in range(40):
        if number % 10 == 5:
            for running in sendmail.programs.values():
                running.signal_all(signal.SIGKILL)
        if number % 10 == 9:
            for running in sendmail.programs.values():
                running.start()
        sendmail.send("me@home.example", [f"r{number}@fine.test", f"l{number}@home.example"])
    fine = sendmail.sinks["fine.test"]
    sendmail.wait_for(lambda: sendmail.queued() == 0, 60)
    assert [fine.delivered(f"r{number}@fine.test") for number in range(40)] == [1] * 40
    assert [len(sendmail.mail(f"l{number}")) for number in range(40)] == [1] * 40


def test_block_is_held_then_lifted(world):
    """A policy refusal holds the rest of that domain's mail without a connection, until the block is lifted."""
    refusal = "554 5.7.1 Service unavailable; Client host [192.0.2.1] blocked using zen.spamhaus.org"
    script = Script(rcpt=refusal.replace("554 5.7.1", "451 4.7.1"))
    sendmail = world(
        {"listed.test": script, "fine.test": Script()}, "answerd", "logd", block={"ramp_m": 0}, due={"every_s": 0.5}
    )
    listed = sendmail.sinks["listed.test"]
    sendmail.send("me@home.example", "a@listed.test")
    advice(sendmail, "a@listed.test", "category=blocklisted.*advice=hold")
    sendmail.wait_log("ruleset=check_compat.*arg2=<a@listed.test>.*milter-bounce:held until lifted")
    before = listed.connections
    sendmail.send("me@home.example", ["b@listed.test", "c@fine.test", "d@home.example"])
    sendmail.wait_log("ruleset=check_compat.*arg2=<b@listed.test>.*milter-bounce:held until lifted", 20)
    sendmail.wait_log("to=<c@fine.test>.*stat=Sent")
    sendmail.wait_for(lambda: sendmail.mail("d"))
    time.sleep(3)
    assert listed.connections == before
    script.rcpt = None
    answerd = sendmail.programs["answerd"]
    lifted = cli(answerd, "blocks", "lift", "listed.test")
    assert lifted.returncode == 0, lifted.stderr
    for recipient in ("a@listed.test", "b@listed.test"):
        sendmail.wait_log(f"to=<{recipient}>.*stat=Sent", 40)
        assert listed.delivered(recipient) == 1


def cli(running: Program, *words: str):
    """Run a command with the configuration of a running program."""
    command, *rest = words
    line = [sys.executable, "-m", "milter_bounce", command, *rest, "-c", str(running.path)]
    return subprocess.run(line, capture_output=True, text=True, check=False, timeout=60)


def test_suppressed_recipient_is_returned_without_a_connection(world):
    """What a server called unknown once is returned by the gate next time; other recipients of the message go."""
    sendmail = world(
        {"gone.test": Script(rcpt=lambda a: "550 5.1.1 User unknown" if a.startswith("gone@") else GREETED)},
        "answerd", "logd",
    )  # fmt: skip
    remote = sendmail.sinks["gone.test"]
    sendmail.send("me@home.example", "gone@gone.test")
    advice(sendmail, "gone@gone.test", "advice=suppress")
    time.sleep(3)  # the gate looks at what is new in the store a few times a second
    sendmail.send("me@home.example", ["gone@gone.test", "other@gone.test"])
    sendmail.send("Me@home.example", ["GONE@Gone.Test"])
    sendmail.wait_log("to=<other@gone.test>.*stat=Sent")
    sendmail.wait_log("ruleset=check_compat.*arg2=<GONE@Gone.Test>.*reject=550 5.1.1 .*milter-bounce:suppressed")
    sendmail.wait_log("ruleset=check_compat.*arg2=<gone@gone.test>.*reject=550 5.1.1 .*milter-bounce:suppressed")
    assert remote.attempts["gone@gone.test"] == 1
    sendmail.wait_for(lambda: any(b"milter-bounce" in mail for mail in sendmail.mail("me")))
    # reports and local mail are never asked about
    sendmail.send("", "gone@gone.test", "Subject: report\r\n\r\nx\r\n")
    sendmail.wait_for(lambda: remote.attempts["gone@gone.test"] == 2)


@pytest.mark.parametrize("how", ["down", "killed", "hung"])
def test_mail_flows_without_answerd(world, how):
    """The gate away, killed between two messages, or accepting and silent: mail flows, once, and nothing is lost."""
    sendmail = world({"fine.test": Script()}, "answerd")
    answerd = sendmail.programs["answerd"]
    sendmail.send("me@home.example", "first@fine.test")
    sendmail.wait_log("to=<first@fine.test>.*stat=Sent")
    match how:
        case "down":
            answerd.stop()
        case "killed":
            answerd.signal_all(signal.SIGKILL)
        case "hung":
            answerd.signal_all(signal.SIGSTOP)
    sendmail.send("me@home.example", ["second@fine.test", "third@fine.test"])
    sendmail.wait_log("to=<.*second@fine.test>.*stat=Sent", 30)
    sendmail.wait_log("to=<.*third@fine.test>.*stat=Sent", 30)
    if how == "hung":
        answerd.signal_all(signal.SIGCONT)
    else:
        answerd.start()
    sendmail.send("me@home.example", "fourth@fine.test")
    sendmail.wait_log("to=<fourth@fine.test>.*stat=Sent")
    remote = sendmail.sinks["fine.test"]
    assert [remote.delivered(f"{n}@fine.test") for n in ("first", "second", "third", "fourth")] == [1, 1, 1, 1]
    sendmail.wait_for(lambda: sendmail.queued() == 0)


@pytest.mark.skipif(not os.environ.get("MILTER_BOUNCE_SOAK"), reason="takes a minute: make soak")
def test_native_schedule_is_what_retry_mc_says(tmp_path):
    """retry.mc with seconds for hours and no program of ours: attempts after 0, 2, 4, 8, 16 and 32, returned after 48."""
    text = (CONF / "retry.mc").read_text().replace("`2d'", "`48s'")
    native = re.sub(r"`([0-9]+)h'", r"`\1s'", text)
    with Sinks() as sinks:
        full = sinks.add("full.test", Script(rcpt="452 4.2.2 over quota"))
        with Sendmail(tmp_path / "s", routes={"full.test": full}, extra=native) as sendmail:
            sendmail.send("me@home.example", "a@full.test")
            sendmail.wait_log("Cannot send message", 90)
            times = [clock(line) for line in sendmail.wait_log("to=<a@full.test>.*stat=Deferred")]
    begun = [(at - times[0]) % 900 for at in times]
    # Sendmail doubles the time that really passed, and a queue run a second late is late for good
    planned = [0, 2, 4, 8, 16, 32]
    assert len(begun) in {6, 7}, begun
    assert all(plan <= at <= 1.6 * plan + 1 for plan, at in zip(planned, begun, strict=False)), begun
