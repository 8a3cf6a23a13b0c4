"""Our own set-up as receivers test it, and who runs a domain's mail, against a real resolver."""

from __future__ import annotations

import asyncio
import base64
from datetime import UTC, datetime, timedelta

import pytest

from milter_bounce.config import from_values
from milter_bounce.system.dnscheck import check_own_setup
from milter_bounce.system.dnsmail import mail_domains
from milter_bounce.system.resolver import Limits, Resolver, parse_server
from milter_bounce.system.store_dns import MailKind
from tests.integration.dns import Recursive, Scripted, needs_dns

pytestmark = [pytest.mark.integration, needs_dns]

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
GOOD_KEY = base64.b64encode(b"k" * 294).decode()
SHORT_KEY = base64.b64encode(b"k" * 94).decode()


def txt(name: str, text: str) -> str:
    parts = " ".join(f'"{text[start : start + 200]}"' for start in range(0, len(text), 200))
    return f"{name}. 60 IN TXT {parts}"


RECORDS = [
    # a host in good order
    "1.2.0.192.in-addr.arpa. 60 IN PTR mail.example.com.",
    "mail.example.com. 60 IN A 192.0.2.1",
    "mail.example.com. 60 IN AAAA 2001:db8::1",
    f"{'.'.join(reversed('20010db8000000000000000000000001'))}.ip6.arpa. 60 IN PTR mail.example.com.",
    "example.com. 60 IN MX 10 mail.example.com.",
    txt("example.com", "v=spf1 include:_spf.example.net mx -all"),
    txt("_spf.example.net", "v=spf1 ip6:2001:db8::/32 ?all"),
    txt("s1._domainkey.example.com", f"v=DKIM1; k=rsa; p={GOOD_KEY}"),
    txt("s2._domainkey.example.com", f"v=DKIM1; p={SHORT_KEY}"),
    txt("s3._domainkey.example.com", "v=DKIM1; p="),
    txt("_dmarc.example.com", "v=DMARC1; p=reject"),
    # names that do not lead back, or look like dial-up lines
    "3.2.0.192.in-addr.arpa. 60 IN PTR lost.example.com.",
    "lost.example.com. 60 IN A 192.0.2.99",
    "4.2.0.192.in-addr.arpa. 60 IN PTR 192-0-2-4.dyn.example.net.",
    "192-0-2-4.dyn.example.net. 60 IN A 192.0.2.4",
    # a domain in bad order
    "bad.example.org. 60 IN MX 0 .",
    txt("bad.example.org", "v=spf1 ip4:203.0.113.1 -all"),
    txt("_dmarc.bad.example.org", "v=DMARC1; p=none"),
    '_dmarc.bad.example.org. 60 IN TXT "v=DMARC1; p=reject"',
    txt("broken.example.org", "v=spf1 include:broken.example.org -all"),
    "broken.example.org. 60 IN A 192.0.2.7",
    # recipient domains
    "big.example. 60 IN MX 20 mx2.big.example.",
    "big.example. 60 IN MX 10 mx.operator.example.",
    "own.example. 60 IN MX 10 mail.own.example.",
    "implicit.example. 60 IN A 192.0.2.8",
    "implicit6.example. 60 IN AAAA 2001:db8::8",
    "null.example. 60 IN MX 0 .",
    txt("textonly.example", "hello"),
    "long.example. 999999 IN MX 10 mx.operator.example.",
]  # fmt: skip


@pytest.fixture(scope="module")
def resolver(tmp_path_factory):
    with (
        Scripted(lambda _query, _tcp: None) as silent,
        Recursive(tmp_path_factory.mktemp("setup"), {"silent.example": silent.port}, RECORDS) as server,
    ):
        yield server


def results(server, **dns):
    values = {
        "nameservers": [server.address],
        "queries_per_second": 0,
        "timeout_s": 0.5,
        "helo": "mail.example.com",
    } | dns
    return check_own_setup(from_values({"dns": values}, "test"))


def test_good_setup_passes_every_test(resolver):
    """Reverse names, their way back, HELO, SPF, DKIM, DMARC and MX are all found in order."""
    found = results(
        resolver,
        addresses=["192.0.2.1", "2001:db8::1"],
        domains=["example.com"],
        selectors=["s1", "x._domainkey.other.example"],
    )
    assert [(item.check, item.ok) for item in found] == [
        ("ptr", True), ("forward", True), ("ptr", True), ("forward", True), ("helo", True), ("mx", True),
        ("spf", True), ("spf", True), ("dkim", True), ("dmarc", True),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("dns", "check", "words", "category"),
    [
        pytest.param({"addresses": ["192.0.2.2"]}, "ptr", "no reverse name", "rdns-missing", id="no-ptr"),
        pytest.param({"addresses": ["192.0.2.3"]}, "forward", "does not lead back", "rdns-missing", id="no-way-back"),
        pytest.param({"addresses": ["192.0.2.4"]}, "ptr", "dial-up", "rdns-missing", id="generic-name"),
        pytest.param(
            {"addresses": ["192.0.2.1"], "helo": "localhost"}, "helo", "no full name", "rdns-missing", id="helo-short"
        ),
        pytest.param(
            {"addresses": ["192.0.2.1"], "helo": "lost.example.com"},
            "helo",
            "none of which is ours",
            "rdns-missing",
            id="helo-else",
        ),
        pytest.param(
            {"addresses": ["192.0.2.1"], "helo": "no.example.com"}, "helo", "no address", "rdns-missing", id="helo-void"
        ),
        pytest.param({"domains": ["bad.example.org"]}, "mx", "null MX", "sender-rejected", id="null-mx"),
        pytest.param({"domains": ["no.such.example"]}, "mx", "does not exist", "sender-rejected", id="no-domain"),
        pytest.param(
            {"domains": ["textonly.example"]}, "mx", "neither MX nor address", "sender-rejected", id="no-host"
        ),
        pytest.param(
            {"domains": ["bad.example.org"], "addresses": ["192.0.2.1"]},
            "spf",
            "says fail",
            "auth-failure",
            id="spf-fail",
        ),
        pytest.param(
            {"domains": ["own.example"], "addresses": ["192.0.2.1"]},
            "spf",
            "no SPF record",
            "auth-failure",
            id="spf-none",
        ),
        pytest.param(
            {"domains": ["broken.example.org"], "addresses": ["192.0.2.1"]},
            "spf",
            "broken",
            "auth-failure",
            id="spf-loop",
        ),
        pytest.param(
            {"domains": ["example.com"], "selectors": ["s2"]}, "dkim", "1,024", "auth-failure", id="dkim-short"
        ),
        pytest.param(
            {"domains": ["example.com"], "selectors": ["s3"]}, "dkim", "revoked", "auth-failure", id="dkim-revoked"
        ),
        pytest.param(
            {"domains": ["example.com"], "selectors": ["s9"]}, "dkim", "no DKIM key", "auth-failure", id="dkim-none"
        ),
        pytest.param({"domains": ["bad.example.org"]}, "dmarc", "several", "auth-failure", id="dmarc-several"),
        pytest.param({"domains": ["own.example"]}, "dmarc", "no DMARC", "auth-failure", id="dmarc-none"),
    ],
)
def test_fault_is_found_with_category_and_remedy(resolver, dns, check, words, category):
    """Each fault names the refusals that it explains and what to do."""
    found = [item for item in results(resolver, **dns) if item.check == check and item.ok is False]
    assert found, results(resolver, **dns)
    assert words in found[0].text
    assert category in found[0].categories
    assert found[0].remedy


def test_subdomain_is_covered_by_its_parents_dmarc(resolver):
    """A domain without a DMARC record of its own takes that of the domain above."""
    found = [item for item in results(resolver, domains=["mail.example.com"]) if item.check == "dmarc"]
    assert [(item.ok, item.text) for item in found] == [(True, "has a DMARC record (p=reject) at example.com")]


def test_silent_dns_is_no_fault_of_ours():
    """When the DNS does not answer, every test says so and none fails."""
    with Scripted(lambda _query, _tcp: None) as silent:
        found = results(
            silent, addresses=["192.0.2.1"], domains=["example.com"], selectors=["s1"], timeout_s=0.1, attempts=1
        )
    assert {item.check for item in found} == {"ptr", "helo", "mx", "spf", "dkim", "dmarc"}
    assert {item.ok for item in found} == {None}


def test_nothing_known_is_told(resolver):
    """Without domains or selectors the check says what to configure."""
    found = results(resolver, addresses=["192.0.2.1"])
    assert [item.remedy for item in found if item.check == "setup"] == [
        "name the domains that we send for: dns.domains"
    ]


def test_operators_are_found_by_mx(resolver):
    """MX hosts name the operator; null MX, no domain and no host are told apart; a failed look-up says nothing."""

    async def look():
        asker = Resolver([parse_server(resolver.address)], Limits(timeout_s=0.3, attempts=1, per_second=0))
        names = [
            "big.example",
            "own.example",
            "implicit.example",
            "implicit6.example",
            "null.example",
            "nothing.example",
        ]
        names += ["textonly.example", "x.silent.example", "long.example"]
        operator = {"mx.operator.example": "operator"}.get
        found = await mail_domains(asker, names, lambda host: operator(host or ""), NOW, timedelta(days=7))
        asker.close()
        return {item.domain: item for item in found}

    found = asyncio.run(look())
    assert {name: (item.kind, item.operator) for name, item in found.items()} == {
        "big.example": (MailKind.MX, "operator"),
        "own.example": (MailKind.MX, None),
        "implicit.example": (MailKind.IMPLICIT, None),
        "implicit6.example": (MailKind.IMPLICIT, None),
        "null.example": (MailKind.NULL_MX, None),
        "nothing.example": (MailKind.NO_DOMAIN, None),
        "textonly.example": (MailKind.NO_HOST, None),
        "long.example": (MailKind.MX, "operator"),
    }
    assert found["big.example"].until == NOW + timedelta(hours=1)
    assert found["long.example"].until == NOW + timedelta(days=7)
