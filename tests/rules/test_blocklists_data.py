"""blocklists.toml: zones, what their answers mean, and how replies name them."""

from __future__ import annotations

import ipaddress
import re
from collections import Counter

import pytest

from milter_bounce.system.rulefiles import load_rules, status_of

RULES = load_rules()
LISTS = {item.id: item for item in RULES.blocklists}
ALIVE = [item for item in RULES.blocklists if item.alive and item.zone]
EXAMPLES = [
    pytest.param(item, text, id=f"{item.id}-{number}")
    for item in RULES.blocklists
    for number, text in enumerate(item.examples, 1)
]


@pytest.mark.parametrize(("item", "text"), EXAMPLES)
def test_example_names_its_list(item, text):
    """Each example gets a policy verdict that mentions the list it stands with, and no suppression."""
    verdict = RULES.classify(status_of(text))
    assert (item.zone.removeprefix("{key}.") or item.id) in [mention.zone for mention in verdict.blocklists]
    assert (verdict.class_, verdict.advice != "suppress") == ("policy", True)


def test_every_list_that_can_be_named_has_an_example():
    """Only lists without texts, which no refusal names, go without an example."""
    assert not [item.id for item in RULES.blocklists if (item.text or item.named) and not item.examples]


def test_zones_stand_once():
    """No zone is described twice."""
    zones = Counter(item.zone for item in RULES.blocklists if item.zone)
    assert not [zone for zone, count in zones.items() if count > 1]


@pytest.mark.parametrize("item", ALIVE, ids=lambda item: item.id)
def test_answers_lie_in_loopback_and_mean_one_thing(item):
    """Declared answers are in 127.0.0.0/8, never error answers, and none is both a listing and no listing."""
    for answer in (*item.codes, *item.not_listed, *item.refused):
        assert ipaddress.ip_address(answer) in ipaddress.ip_network("127.0.0.0/8")
    assert not [answer for answer in item.codes if answer.startswith("127.255.255.")]
    assert not set(item.codes) & {*item.not_listed, *item.refused}
    assert item.codes or item.bits or item.not_listed


@pytest.mark.parametrize(
    ("name", "answer", "is_listing"),
    [
        pytest.param("spamhaus-zen", "127.0.0.2", True, id="sbl"),
        pytest.param("spamhaus-zen", "127.0.0.10", True, id="pbl"),
        pytest.param("spamhaus-zen", "127.255.255.254", False, id="public-resolver"),
        pytest.param("spamhaus-dbl", "127.0.1.255", False, id="dbl-asked-for-an-ip"),
        pytest.param("mailspike-rep", "127.0.0.18", False, id="good-reputation"),
        pytest.param("hostkarma", "127.0.0.1", False, id="white"),
        pytest.param("hostkarma", "127.0.0.2", True, id="black"),
        pytest.param("spamrats-dyna", "127.0.0.36", True, id="exact-code"),
        pytest.param("spamrats-dyna", "127.0.0.2", False, id="only-the-exact-code"),
        pytest.param("surbl", "127.0.0.1", False, id="surbl-refused"),
        pytest.param("uribl", "127.0.0.1", False, id="uribl-refused"),
        pytest.param("dnswl", "127.0.5.2", False, id="allow-list"),
        pytest.param("senderscore-score", "127.0.4.12", False, id="a-score"),
    ],
)
def test_answer_is_a_listing_or_not(name, answer, is_listing):
    """Refusals, test answers, scores and white lists are no listings."""
    item = LISTS[name]
    octet = int(answer.rpartition(".")[2])
    masked = any(octet & bit for bit in item.bits) and answer not in {*item.not_listed, *item.refused}
    assert (answer in item.codes or masked) is is_listing


@pytest.mark.parametrize("name", ["uceprotect-2", "uceprotect-3", "backscatterer", "invaluement-sip24", "dnswl"])
def test_neighbourhood_and_special_lists_only_advise(name):
    """Lists of neighbours, of backscatter and of good senders never hold mail."""
    assert LISTS[name].weight == "advise"


@pytest.mark.parametrize("zone", ["dnsbl.sorbs.net", "ix.dnsbl.manitu.net", "cbl.abuseat.org", "dnsbl.ahbl.org"])
def test_ended_list_is_still_recognised(zone):
    """A dead list is marked dead with its day, is never asked, and is named in the verdict all the same."""
    item = next(item for item in RULES.blocklists if item.zone == zone)
    assert not item.alive
    assert re.fullmatch(r"20[0-9]{2}-[0-9]{2}-[0-9]{2}", item.ended)
    verdict = RULES.classify(status_of(f"554 5.7.1 Service unavailable; Client host [192.0.2.1] blocked using {zone}"))
    assert [mention.zone for mention in verdict.blocklists] == [zone]


@pytest.mark.parametrize(
    ("text", "zones", "listed"),
    [
        pytest.param(
            "554 5.7.1 Service unavailable; Client host [192.0.2.7] blocked using zen.spamhaus.org;"
            " https://www.spamhaus.org/query/ip/192.0.2.7", {"zen.spamhaus.org"}, "192.0.2.7", id="zone-and-link-once",
        ),
        pytest.param("550 5.7.1 Mail rejected, 192.0.2.7 is listed by Spamhaus", {"zen.spamhaus.org"}, "192.0.2.7", id="name"),
        pytest.param(
            "550 5.7.1 Service unavailable, Helo domain is listed in Spamhaus. (S8001)", {"dbl.spamhaus.org"}, None,
            id="a-domain-not-the-ip",
        ),
        pytest.param(
            "554 5.7.1 blocked using bl.spamcop.net and b.barracudacentral.org [192.0.2.7]",
            {"bl.spamcop.net", "b.barracudacentral.org"}, "192.0.2.7", id="two-lists",
        ),
        pytest.param(
            "554 5.7.1 Service unavailable; Client host [192.0.2.7] blocked using dnsbl.example.net",
            {"dnsbl.example.net"}, "192.0.2.7", id="unknown-zone",
        ),
        pytest.param(
            "554 5.7.1 Client host [2001:db8::7] blocked using zen.spamhaus.org", {"zen.spamhaus.org"}, "2001:db8::7",
            id="ipv6",
        ),
    ],
)  # fmt: skip
def test_reply_names_zone_and_address(text, zones, listed):
    """The verdict carries every list named, once, and what the reply says is listed."""
    mentions = RULES.classify(status_of(text)).blocklists
    assert {mention.zone for mention in mentions} == zones
    assert len(mentions) == len(zones)
    assert {mention.listed for mention in mentions} == {listed}


def test_lookup_address_holds_the_listed_ip():
    """The look-up address that an administrator opens is filled in."""
    (mention,) = RULES.classify(status_of("554 5.7.1 [192.0.2.7] blocked using bl.spamcop.net")).blocklists
    assert mention.lookup == "https://www.spamcop.net/w3m?action=checkblock&ip=192.0.2.7"


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(
            "554 5.7.1 Client host [192.0.2.7] blocked using zen.spamhaus.org; Error: open resolver;"
            " https://check.spamhaus.org/returnc/pub/203.0.113.53/", id="open-resolver",
        ),
        pytest.param("550 5.7.1 blocked by multi.uribl.com: Query Refused. See http://uribl.com/refused.shtml", id="uribl"),
        pytest.param("554 5.7.1 192.0.2.7 listed at zen.spamhaus.org (127.255.255.254)", id="error-answer"),
    ],
)  # fmt: skip
def test_receivers_own_fault_flags_no_list(text):
    """A receiver whose own look-up failed is at fault himself: retry, no listing."""
    verdict = RULES.classify(status_of(text))
    assert (verdict.category, verdict.advice, verdict.blocklists) == ("system-error", "retry", ())
