"""The throw-away Postfix and the sinks themselves: what the other tests stand on."""

from __future__ import annotations

import pytest

from tests.integration.postfix import Postfix, needs_postfix
from tests.integration.sink import Script, Sinks

pytestmark = [pytest.mark.integration, needs_postfix]


def test_harness_delivers_refuses_and_keeps_count(tmp_path):
    """Mail goes to a sink by name, a refusal is logged with the relay's name, a local mailbox takes mail."""
    with Sinks() as sinks:
        ok = sinks.add("ok.test")
        yahoo = sinks.add("yahoo.test", Script(rcpt="421 4.7.0 [TSS04] Messages from 192.0.2.1 temporarily deferred"))
        routes = {"ok.test": ok, "yahoo.test": f"smtp:[mta5.am0.yahoodns.net]:{sinks.port}"}
        with Postfix(tmp_path / "p", routes=routes, hosts={"mta5.am0.yahoodns.net": yahoo.address}) as postfix:
            postfix.send("me@home.example", ["a@ok.test", "b@yahoo.test", "c@home.example"])
            postfix.wait_log(r"to=<a@ok.test>.*status=sent")
            postfix.wait_log(r"to=<b@yahoo.test>, relay=mta5.am0.yahoodns.net\[127.*status=deferred")
            postfix.wait_log(r"to=<c@home.example>.*status=sent")
            assert [b"hello" in message for message in postfix.mail("c")] == [True]
        assert ok.delivered("a@ok.test") == 1
        assert yahoo.attempts["b@yahoo.test"] >= 1
