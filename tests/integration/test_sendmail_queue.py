"""Queue control on the real Sendmail: due, hold, release."""

from __future__ import annotations

import re

import pytest

from milter_bounce.system.queue_sendmail import SendmailQueue
from tests.integration.sendmail import Sendmail, real_sendmail  # noqa: F401 - a fixture
from tests.integration.sink import Script, Sinks

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("real_sendmail")]


@pytest.fixture
def world(tmp_path):
    """A Sendmail that never runs its queue by itself, two messages in it that were deferred once."""
    with Sinks() as sinks:
        later = sinks.add("later.test", Script(rcpt=["450 4.2.0 later", "250 2.1.5 ok"]))
        with Sendmail(tmp_path / "s", routes={"later.test": later}, queue_every=None) as sendmail:
            sendmail.send("me@home.example", ["a@later.test"])
            sendmail.send("me@home.example", ["b@later.test"])
            sendmail.wait_log("stat=Deferred", count=2)
            yield sendmail, later, SendmailQueue(sendmail.wrapper())


def id_of(sendmail: Sendmail, recipient: str) -> str:
    (line,) = sendmail.wait_log(f"to=<{recipient}>.*stat=Deferred")
    return line.split(": ")[1]


def test_due_message_is_tried_at_once_and_no_other(world):
    """-qI tries this message whatever its time, and leaves the other one alone."""
    sendmail, later, queue = world
    assert queue.retry(id_of(sendmail, "a@later.test")) is None
    sendmail.wait_log("to=<a@later.test>.*stat=Sent")
    assert later.attempts == {"a@later.test": 2, "b@later.test": 1}


def test_held_message_waits_until_it_is_released(world):
    """Hold survives a forced run; release and due deliver once."""
    sendmail, later, queue = world
    held = id_of(sendmail, "a@later.test")
    sendmail.wait_for(lambda: queue.hold(held, "milter-bounce: held, block example (test)") is None)
    sendmail.wait_log(f"{held}: quarantine=milter-bounce: held block example test")
    assert queue.retry(held) is None
    assert queue.retry(id_of(sendmail, "b@later.test")) is None
    sendmail.wait_log("to=<b@later.test>.*stat=Sent")
    assert later.attempts["a@later.test"] == 1
    assert queue.release(held) is None
    sendmail.wait_log(f"{held}: unquarantine")
    assert queue.retry(held) is None
    sendmail.wait_log("to=<a@later.test>.*stat=Sent")
    assert later.delivered("a@later.test") == 1


@pytest.mark.parametrize("text", ["", "6AK", "6AKJOvLA0196", "../x", "4bXyzABCDEFzz1", "6AKJOvLA019656 -q"])
def test_part_of_an_id_reaches_no_message(world, text):
    """-qI compares substrings: what is no whole ID is refused before it gets there."""
    sendmail, later, queue = world
    for told in (queue.retry(text), queue.hold(text, "x"), queue.release(text)):
        assert told is not None
        assert told.endswith("is no queue ID of Sendmail")
    assert sendmail.queued() == 2
    assert sum(later.attempts.values()) == 2


def test_sendmail_that_may_not_is_told_with_a_remedy(tmp_path):
    """A command that is missing or says no is one line with what to do."""
    missing = SendmailQueue([str(tmp_path / "sendmail")])
    assert not missing.installed
    assert "No such file or directory" in (missing.retry("6AKJOvLA019656") or "")
    refuses = tmp_path / "refuses"
    refuses.write_text(
        "#!/bin/sh\necho Program mode requires special privileges, e.g., root or TrustedUser. >&2\nexit 78\n"
    )
    refuses.chmod(0o755)
    queue = SendmailQueue([str(refuses)])
    assert queue.installed
    assert re.match(
        r"Program mode requires special privileges.*; only root .*sudo", queue.release("6AKJOvLA019656") or ""
    )
