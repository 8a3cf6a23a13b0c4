"""The throw-away Sendmail itself: what the other tests stand on."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from milter_bounce.parse.log import LogReader
from tests.integration.sendmail import Sendmail, real_sendmail  # noqa: F401 - a fixture
from tests.integration.sink import Script, Sinks

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("real_sendmail")]


def test_sendmail_delivers_refuses_and_keeps_count(tmp_path):
    """Mail goes to a sink by name, a refusal is logged with the relay's name, a local mailbox takes mail."""
    with Sinks() as sinks:
        ok = sinks.add("ok.test")
        yahoo = sinks.add("yahoo.test", Script(rcpt="421 4.7.0 [TSS04] Messages from 192.0.2.1 temporarily deferred"))
        routes = {"ok.test": ok, "yahoo.test": "sink:[mta5.am0.yahoodns.net]"}
        with Sendmail(tmp_path / "s", routes=routes, hosts={"mta5.am0.yahoodns.net": yahoo.address}) as sendmail:
            sendmail.send("me@home.example", ["a@ok.test", "b@yahoo.test", "c@home.example"])
            sendmail.wait_log(r"to=<a@ok.test>.*stat=Sent")
            sendmail.wait_log(r"to=<b@yahoo.test>.*relay=mta5.am0.yahoodns.net\. \[127.*stat=Deferred")
            sendmail.wait_log(r"to=<c@home.example>.*stat=Sent")
            (mail,) = sendmail.mail("c")
            assert b"hello" in mail
        assert ok.delivered("a@ok.test") == 1
        assert yahoo.attempts["b@yahoo.test"] >= 1


@pytest.mark.parametrize("form", ["-d89.8", "-d89.10"])
def test_log_by_option_d_is_read_like_syslog(tmp_path, form):
    """What ``sendmail -D FILE`` writes where there is no syslog tells the same deliveries."""
    with Sinks() as sinks:
        gone = sinks.add("gone.test", Script(rcpt="450 4.2.2 over quota"))
        with Sendmail(tmp_path / "s", routes={"gone.test": gone}, queue_every=None) as sendmail:
            sendmail.send("me@home.example", "a@gone.test")
            (first,) = sendmail.wait_log("to=<a@gone.test>.*stat=Deferred")
            (name,) = sendmail.queue_ids()
            own = tmp_path / "own.log"
            sendmail.run("-D", str(own), form, "-v", f"-qI{name}")
            lines = [line for line in own.read_text().splitlines() if "to=<a@gone.test>" in line]
    reader = LogReader(datetime.now(UTC))
    told = [event.status for line in (first, *lines) for event in reader.feed(line)]
    assert len(told) == 2
    assert {(s.queue_id, s.recipient, str(s.action), str(s.status), s.diagnostic) for s in told} == {
        (name, "a@gone.test", "delayed", "4.2.2", "450 4.2.2 over quota")
    }
    assert (told[1].at is None) == (form == "-d89.8")
