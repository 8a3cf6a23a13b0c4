"""Lists: names to ask, health, declared codes, and what unknown does."""

from __future__ import annotations

import pytest

from milter_bounce.protocol.dnsbl import (
    REASON_LIMIT,
    Family,
    Health,
    Listing,
    State,
    Zone,
    change,
    family_of,
    health_points,
    is_public,
    normal,
    pointer_name,
    query_name,
    read_health,
    read_listing,
    reason_text,
    unusable,
)
from milter_bounce.protocol.dnswire import DnsReply, Outcome

IP = Zone("bl.example.net", "Example", codes={"127.0.0.2": "SBL", "127.0.0.4": "XBL"})
MASK = Zone("multi.example.net", families=frozenset({Family.DOMAIN}), masks={8: "phishing", 64: "abuse"})
WHITE = Zone("karma.example.net", codes={"127.0.0.2": "black"}, not_listed={"127.0.0.1": "white"})
REFUSING = Zone("uri.example.net", codes={"127.0.0.2": "black"}, refused={"127.0.0.1": "not registered"})


def answer(*values: str) -> DnsReply:
    return DnsReply(Outcome.ANSWER, values, 60) if values else DnsReply(Outcome.NXDOMAIN, (), 60)


@pytest.mark.parametrize(
    ("subject", "zone", "key", "name"),
    [
        pytest.param("192.0.2.99", IP, None, "99.2.0.192.bl.example.net", id="rfc5782-2.1"),
        pytest.param(
            "2001:db8:1:2:3:4:567:89ab",
            IP,
            None,
            "b.a.9.8.7.6.5.0.4.0.0.0.3.0.0.0.2.0.0.0.1.0.0.0.8.b.d.0.1.0.0.2.bl.example.net",
            id="rfc5782-2.4",
        ),
        pytest.param("example.com", MASK, None, "example.com.multi.example.net", id="domain"),
        pytest.param(
            "192.0.2.1", Zone("c.example", template="{key}.c.example"), "k1", "1.2.0.192.k1.c.example", id="key-first"
        ),
        pytest.param(
            "192.0.2.1", Zone("d.example", template="{key}.d.example"), None, "1.2.0.192..d.example", id="key-missing"
        ),
    ],
)
def test_query_name_is_as_the_rfc_writes_it(subject, zone, key, name):
    """Addresses are reversed by octet or nibble, domains stand as they are, a key goes to its place."""
    assert query_name(subject, zone, key) == name


@pytest.mark.parametrize(
    ("given", "form", "family"),
    [
        pytest.param(" 192.0.2.1 ", "192.0.2.1", Family.IPV4, id="blanks"),
        pytest.param("[192.0.2.1]", "192.0.2.1", Family.IPV4, id="literal"),
        pytest.param("[IPv6:2001:DB8::1]", "2001:db8::1", Family.IPV6, id="ipv6-literal"),
        pytest.param("2001:0db8:0:0::1", "2001:db8::1", Family.IPV6, id="ipv6-long"),
        pytest.param("::ffff:192.0.2.1", "192.0.2.1", Family.IPV4, id="mapped"),
        pytest.param("Example.COM.", "example.com", Family.DOMAIN, id="domain"),
        pytest.param("bücher.example", "xn--bcher-kva.example", Family.DOMAIN, id="idn"),
        pytest.param("_dmarc.example.com", "_dmarc.example.com", Family.DOMAIN, id="underscore"),
    ],
)
def test_normal_gives_one_form(given, form, family):
    """What is stored and asked has one spelling."""
    assert normal(given) == form
    assert family_of(form) is family


@pytest.mark.parametrize(
    "text",
    ["", ".", "a..b", "1.2.3", "1.2.3.4.5", "x" * 64 + ".example", "a b", "-a.example", "\n", "ü" * 70 + ".example"],
)
def test_normal_refuses_what_is_neither(text):
    """Neither an address nor a name raises ValueError."""
    with pytest.raises(ValueError, match=r"neither|no IP"):
        normal(text)


@pytest.mark.parametrize(
    ("zone", "reply", "state", "meanings"),
    [
        pytest.param(IP, answer("127.0.0.2"), State.LISTED, ("SBL",), id="listed"),
        pytest.param(IP, answer("127.0.0.4", "127.0.0.2"), State.LISTED, ("XBL", "SBL"), id="two-codes"),
        pytest.param(IP, answer(), State.NOT_LISTED, (), id="nxdomain"),
        pytest.param(IP, DnsReply(Outcome.NODATA), State.NOT_LISTED, (), id="nodata"),
        pytest.param(IP, answer("127.0.0.9"), State.UNKNOWN, (), id="undeclared-code"),
        pytest.param(IP, answer("127.0.0.9", "127.0.0.2"), State.LISTED, ("SBL",), id="declared-beside-undeclared"),
        pytest.param(IP, answer("203.0.113.7"), State.UNKNOWN, (), id="outside-127"),
        pytest.param(IP, answer("127.0.0.2", "203.0.113.7"), State.UNKNOWN, (), id="partly-outside-127"),
        pytest.param(IP, answer("127.255.255.252"), State.UNKNOWN, (), id="typing-error"),
        pytest.param(IP, answer("127.255.255.254"), State.UNKNOWN, (), id="public-resolver"),
        pytest.param(IP, answer("127.255.255.255"), State.UNKNOWN, (), id="too-many"),
        pytest.param(IP, answer("127.0.0.2", "127.255.255.254"), State.UNKNOWN, (), id="listed-and-refused"),
        pytest.param(IP, DnsReply(Outcome.REFUSED), State.UNKNOWN, (), id="refused"),
        pytest.param(IP, DnsReply(Outcome.SERVFAIL), State.UNKNOWN, (), id="servfail"),
        pytest.param(IP, DnsReply(Outcome.TIMEOUT), State.UNKNOWN, (), id="timeout"),
        pytest.param(IP, DnsReply(Outcome.BAD), State.UNKNOWN, (), id="bad"),
        pytest.param(MASK, answer("127.0.0.72"), State.LISTED, ("phishing", "abuse"), id="mask-two-bits"),
        pytest.param(MASK, answer("127.0.0.1"), State.UNKNOWN, (), id="mask-undeclared-bit"),
        pytest.param(MASK, answer("127.0.1.8"), State.UNKNOWN, (), id="mask-other-net"),
        pytest.param(WHITE, answer("127.0.0.1"), State.NOT_LISTED, (), id="white"),
        pytest.param(WHITE, answer("127.0.0.1", "127.0.0.9"), State.UNKNOWN, (), id="white-and-undeclared"),
        pytest.param(REFUSING, answer("127.0.0.1"), State.UNKNOWN, (), id="own-refusal-code"),
        pytest.param(Zone("plain.example"), answer("127.0.0.2"), State.LISTED, ("listed",), id="no-codes-declared"),
        pytest.param(Zone("plain.example"), answer("127.0.0.3"), State.UNKNOWN, (), id="no-codes-declared-other"),
    ],
)
def test_listing_is_by_declared_codes_alone(zone, reply, state, meanings):
    """Only codes declared for a list make a listing; whatever else is answered never does."""
    listing = read_listing(zone, reply)
    assert (listing.state, listing.meanings) == (state, meanings)
    assert bool(listing.why) is (state is State.UNKNOWN)


@pytest.mark.parametrize(
    ("zone", "reply", "refused"),
    [
        pytest.param(IP, answer("127.255.255.254"), True, id="public-resolver"),
        pytest.param(IP, answer("127.255.255.252"), False, id="typing-error"),
        pytest.param(REFUSING, answer("127.0.0.1"), True, id="own-code"),
        pytest.param(IP, DnsReply(Outcome.TIMEOUT), False, id="timeout"),
    ],
)
def test_refused_resolver_is_recognised(zone, reply, refused):
    """What a list says when it turns a resolver away is told apart from its other troubles."""
    assert read_listing(zone, reply).refused is refused


@pytest.mark.parametrize(
    ("family", "must", "must_not", "ok", "why"),
    [
        pytest.param(Family.IPV4, answer("127.0.0.2"), answer(), True, "", id="healthy"),
        pytest.param(Family.IPV4, answer(), answer(), False, "127.0.0.2: empty, dead", id="dead"),
        pytest.param(Family.IPV6, answer(), answer(), False, "::ffff:7f00:2", id="no-ipv6"),
        pytest.param(Family.DOMAIN, answer(), answer(), False, "test entry test", id="dead-domains"),
        pytest.param(Family.IPV4, answer("127.0.0.2"), answer("127.0.0.2"), False, "whole world", id="wildcard"),
        pytest.param(
            Family.IPV4, answer("127.0.0.9"), answer("127.0.0.9"), False, "whole world", id="wildcard-odd-code"
        ),
        pytest.param(
            Family.DOMAIN, answer("127.0.0.2"), answer("127.0.0.4"), False, "lists invalid", id="lists-invalid"
        ),
        pytest.param(Family.IPV4, answer("203.0.113.1"), answer("203.0.113.1"), False, "outside", id="parked"),
        pytest.param(Family.IPV4, answer("127.255.255.254"), answer(), False, "public", id="refuses"),
        pytest.param(Family.IPV4, DnsReply(Outcome.SERVFAIL), answer(), False, "no working server", id="servfail"),
        pytest.param(Family.IPV4, answer("127.0.0.2"), DnsReply(Outcome.TIMEOUT), False, "no answer", id="half-silent"),
    ],
)
def test_health_needs_both_test_points(family, must, must_not, ok, why):
    """A list is believed only where its test entry is listed and the forbidden one is not (RFC 5782, 5)."""
    health = read_health(IP, family, must, must_not)
    assert health.ok is ok
    assert why in health.why


def test_health_of_a_refusing_list_says_so():
    """A list that refuses at its test entry has turned the resolver away."""
    assert read_health(IP, Family.IPV4, answer("127.255.255.255"), answer()) == Health(
        ok=False, why="too many questions from our resolver, or it is not registered (127.255.255.255)", refused=True
    )


def test_points_of_a_list_of_its_own():
    """A list that departs from RFC 5782 is tested where it says, for the family that it says."""
    odd = Zone("odd.example", families=frozenset({Family.DOMAIN}), test_points=("listed.example", "free.example"))
    assert health_points(odd, Family.DOMAIN) == ("listed.example", "free.example")
    assert health_points(odd, Family.IPV4) == ("127.0.0.2", "127.0.0.1")


@pytest.mark.parametrize(
    ("last", "now", "began", "ended", "state"),
    [
        pytest.param(None, State.LISTED, True, False, State.LISTED, id="first-look-listed"),
        pytest.param(None, State.NOT_LISTED, False, False, State.NOT_LISTED, id="first-look-free"),
        pytest.param(None, State.UNKNOWN, False, False, State.UNKNOWN, id="first-look-unknown"),
        pytest.param(State.LISTED, State.LISTED, False, False, State.LISTED, id="still-listed"),
        pytest.param(State.LISTED, State.UNKNOWN, False, False, State.LISTED, id="unknown-keeps-listed"),
        pytest.param(State.NOT_LISTED, State.UNKNOWN, False, False, State.NOT_LISTED, id="unknown-keeps-free"),
        pytest.param(State.LISTED, State.NOT_LISTED, False, True, State.NOT_LISTED, id="ended"),
        pytest.param(State.UNKNOWN, State.LISTED, True, False, State.LISTED, id="began-after-unknown"),
        pytest.param(State.UNKNOWN, State.NOT_LISTED, False, False, State.NOT_LISTED, id="free-after-unknown"),
    ],
)
def test_change_begins_and_ends_listings(last, now, began, ended, state):
    """Unknown keeps the last state; only listed after something else begins, only not-listed after listed ends."""
    happened = change(last, Listing(now))
    assert (happened.began, happened.ended, happened.state) == (began, ended, state)


def test_unusable_names_each_fault():
    """A dead, an unknown and a keyless list are each refused with the reason; a good one is not."""
    zones = [IP, Zone("gone.example", dead="since 2024-06-05"), Zone("paid.example", template="{key}.paid.example")]
    faults = unusable(zones, ["bl.example.net", "gone.example.", "PAID.example", "typo.example"], [])
    assert [fault.split(":")[0] for fault in faults] == ["gone.example.", "PAID.example", "typo.example"]
    assert "dead (since 2024-06-05)" in faults[0]
    assert "dns.keys_file" in faults[1]
    assert "no list of that name" in faults[2]
    assert unusable(zones, ["paid.example"], ["paid.example"]) == []


@pytest.mark.parametrize(
    ("address", "public"),
    [
        pytest.param("10.1.2.3", False, id="private"),
        pytest.param("127.0.0.1", False, id="loopback"),
        pytest.param("fe80::1", False, id="link-local"),
        pytest.param("100.64.0.1", False, id="shared"),
        pytest.param("fd00::1", False, id="unique-local"),
        pytest.param("198.51.100.1", True, id="global"),
        pytest.param("example.com", True, id="domain"),
    ],
)
def test_is_public_tells_what_receivers_see(address, public):
    """Private addresses are on no list and are not asked about."""
    assert is_public(address) is public


def test_pointer_name_and_reason():
    """PTR names follow RFC 1035 and 3596; the longest TXT is the reason, cut to its limit."""
    assert pointer_name("192.0.2.1") == "1.2.0.192.in-addr.arpa"
    assert pointer_name("2001:db8::1").endswith("8.b.d.0.1.0.0.2.ip6.arpa")
    assert reason_text(answer("short", "y" * 1000)) == "y" * REASON_LIMIT
    assert reason_text(answer()) == ""
