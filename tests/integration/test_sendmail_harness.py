"""The throw-away Sendmail itself: what the other tests stand on."""

from __future__ import annotations

import pytest

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
