"""The table of remote behaviours on a real Sendmail: each ends in the advice line that it ends in on Postfix."""

from __future__ import annotations

import contextlib
import re

import pytest

from tests.integration.behaviours import BEHAVIOURS, Behaviour
from tests.integration.programs import Program
from tests.integration.sendmail import Sendmail, real_sendmail, settings_for  # noqa: F401 - a fixture
from tests.integration.sink import Sinks
from tests.integration.test_remote_behaviours import advice_of

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("real_sendmail")]
TABLE = [behaviour for behaviour in BEHAVIOURS if "sendmail" in behaviour.mtas]
NOBODY = "127.0.77.250"


@pytest.fixture(scope="module")
def advised(real_sendmail, tmp_path_factory):  # noqa: F811, ARG001 - asked for, so that it may skip
    """Send one message to every behaviour; return the log's lines once each has its advice."""
    folder = tmp_path_factory.mktemp("b")
    place = folder / "s"
    with Sinks() as sinks:
        routes, hosts = {}, {}
        for behaviour in TABLE:
            # one address per behaviour, on one port: Sendmail's connection cache ignores the port
            sink = sinks.add(behaviour.domain, behaviour.script)
            routes[behaviour.domain] = f"sink:[{behaviour.relay}]"
            hosts[behaviour.relay] = sink.address if behaviour.script else NOBODY
        encrypted = {f"TLS_Srv:{behaviour.relay}": "ENCR:112" for behaviour in TABLE if behaviour.tls}
        with Sendmail(
            place,
            routes=routes,
            hosts=hosts,
            maps={"access": encrypted},
            extra=f"FEATURE(`access_db', `hash -o {place}/access')dnl",
            port_of_sinks=sinks.port,
            queue_every=None,
        ) as sendmail:
            settings = settings_for(sendmail, folder, log={"from_start": True})
            ready = lambda: any("following" in line for line in sendmail.lines())  # noqa: E731
            with Program("logd", folder, settings, ready=ready):
                for behaviour in TABLE:
                    sendmail.send("me@home.example", list(behaviour.recipients))
                failing = [r for b in TABLE for r, wanted in b.recipients.items() if wanted]
                with contextlib.suppress(pytest.fail.Exception):  # each test tells what is missing
                    sendmail.wait_for(lambda: all(advice_of(sendmail.lines(), r) for r in failing), 20)
                yield sendmail.lines()


@pytest.mark.parametrize("behaviour", [pytest.param(b, id=b.id) for b in TABLE])
def test_remote_behaviour_ends_in_its_advice(advised, behaviour: Behaviour):
    """Queue ID, recipient, relay, operator, class, category and advice are right, for each recipient."""
    for recipient, wanted in behaviour.recipients.items():
        line = advice_of(advised, recipient)
        if wanted is None:
            assert line is None
            continue
        assert line is not None, [one for one in advised if recipient in one]
        tried = (re.search(rf"sm-mta\[[0-9]+\]: ([0-9A-Za-z]+): to=<{recipient}>", one) for one in advised)
        assert line["queue_id"] == next(found[1] for found in tried if found)
        told = line["class"], line["category"], line["advice"], line["operator"]
        assert told == (wanted.class_, wanted.category, wanted.advice, behaviour.operator), line
        assert wanted.dsn in (None, line["dsn"])
        # Sendmail logs 40 characters of a host name at most, with "..." in the middle
        begin, _, end = line["relay"].partition("[")[0].partition("...")
        assert behaviour.relay.startswith(begin), line
        assert behaviour.relay.endswith(end), line
        assert behaviour.text in line["text"]


def test_no_forged_recipient_has_a_line(advised):
    """A recipient that only a reply named is nowhere."""
    assert advice_of(advised, "victim@other.test") is None
