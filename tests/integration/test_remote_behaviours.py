"""Every remote behaviour on a real Postfix ends in the advice line that it must end in."""

from __future__ import annotations

import re

import pytest

from tests.integration.behaviours import BEHAVIOURS, Behaviour
from tests.integration.ports import free_port
from tests.integration.postfix import Postfix, needs_postfix
from tests.integration.programs import Program, settings_for
from tests.integration.sink import Sinks

pytestmark = [pytest.mark.integration, needs_postfix]
TABLE = [behaviour for behaviour in BEHAVIOURS if "postfix" in behaviour.mtas]
TLS = """\
strict    unix  -       -       n       -       -       smtp
    -o smtp_tls_security_level=encrypt -o smtp_starttls_timeout=3s
"""
_FIELD = re.compile(r'([a-z_]+)=("[^"]*"|[^,]*)(?:, |$)')


def advice_of(lines: list[str], recipient: str) -> dict[str, str] | None:
    """Return the fields of the first advice line for `recipient`."""
    for line in lines:
        found = re.search(rf"milter-bounce/logd\[[0-9]+\]: ([0-9A-Za-z]+): (to=<{re.escape(recipient)}>, .*)", line)
        if found and "notice=" not in line:
            return {"queue_id": found[1], **dict(_FIELD.findall(found[2]))}
    return None


@pytest.fixture(scope="module")
def advised(tmp_path_factory):
    """Send one message to every behaviour; return the log's lines once each has its advice."""
    folder = tmp_path_factory.mktemp("b")
    with Sinks() as sinks:
        closed = free_port()
        routes, hosts = {}, {}
        for behaviour in TABLE:
            sink = sinks.add(behaviour.domain, behaviour.script)
            service = "strict" if behaviour.tls else "smtp"
            routes[behaviour.domain] = f"{service}:[{behaviour.relay}]:{sinks.port if behaviour.script else closed}"
            hosts[behaviour.relay] = sink.address
        with Postfix(folder / "p", routes=routes, hosts=hosts, master=TLS) as postfix:
            settings = settings_for(postfix, folder, log={"from_start": True})
            with Program("logd", folder, settings, ready=lambda: any("following" in line for line in postfix.lines())):
                for behaviour in TABLE:
                    postfix.send("me@home.example", list(behaviour.recipients))
                failing = [r for b in TABLE for r, wanted in b.recipients.items() if wanted]
                postfix.wait_for(lambda: all(advice_of(postfix.lines(), r) for r in failing), 60)
                yield postfix.lines()


@pytest.mark.parametrize("behaviour", [pytest.param(b, id=b.id) for b in TABLE])
def test_remote_behaviour_ends_in_its_advice(advised, behaviour: Behaviour):
    """Queue ID, recipient, relay, operator, class, category and advice are right, for each recipient."""
    for recipient, wanted in behaviour.recipients.items():
        line = advice_of(advised, recipient)
        if wanted is None:
            assert line is None
            continue
        (first,) = [
            found[1]
            for found in (re.search(rf"postfix/smtp\[[0-9]+\]: ([0-9A-F]+): to=<{recipient}>", one) for one in advised)
            if found
        ][:1]
        assert line["queue_id"] == first
        told = line["class"], line["category"], line["advice"], line["operator"]
        assert told == (wanted.class_, wanted.category, wanted.advice, behaviour.operator), line
        assert wanted.dsn in (None, line["dsn"])
        assert line["relay"].startswith(f"{behaviour.relay}[127."), line
        assert behaviour.text in line["text"]


def test_no_forged_recipient_has_a_line(advised):
    """A recipient that only a reply named is nowhere."""
    assert advice_of(advised, "victim@other.test") is None
