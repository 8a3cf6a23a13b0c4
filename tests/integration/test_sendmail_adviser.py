"""All programs beside a real Sendmail: the log read, the gate asked, due messages tried; judged by the remote's count."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time

import pytest

from tests.integration.programs import Program
from tests.integration.sendmail import Sendmail, listening, real_sendmail, settings_for  # noqa: F401 - a fixture
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
            "confMIN_QUEUE_AGE": "0",
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
        {"busy.test": Script(rcpt=["450 4.2.0 Mailbox busy, try again later", GREETED])}, "answerd", "logd",
        advice={"time_scale": HOUR_IS_A_SECOND, "schedule": "guide"}, due={"every_s": 0.5},
    )  # fmt: skip
    busy = sendmail.sinks["busy.test"]
    sendmail.send("me@home.example", "a@busy.test")
    line = advice(sendmail, "a@busy.test", "advice=retry")[0]
    assert "not_before=" in line
    sendmail.wait_log("ruleset=check_compat.*arg2=<a@busy.test>.*milter-bounce:not before")
    sendmail.wait_log("to=<a@busy.test>.*stat=Sent", 20)
    assert busy.attempts["a@busy.test"] == 2
    assert busy.delivered("a@busy.test") == 1
    # the gate's own deferrals are no failures: one advice line stands for one refusal
    assert len(advice(sendmail, "a@busy.test", "class=soft")) == 1


def test_block_is_held_then_lifted(world):
    """A policy refusal holds the rest of that domain's mail without a connection, until the block is lifted."""
    refusal = "554 5.7.1 Service unavailable; Client host [192.0.2.1] blocked using zen.spamhaus.org"
    script = Script(rcpt=refusal.replace("554 5.7.1", "451 4.7.1"))
    sendmail = world({"listed.test": script, "fine.test": Script()}, "answerd", "logd", due={"every_s": 0.5})
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
    sendmail.send("me@home.example", ["gone@gone.test", "other@gone.test"])
    sendmail.wait_log("to=<other@gone.test>.*stat=Sent")
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
