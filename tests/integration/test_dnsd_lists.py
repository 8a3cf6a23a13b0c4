"""Every kind of list, as rbldnsd serves it behind unbound: what is believed, and what each says."""

from __future__ import annotations

import asyncio

import pytest

from milter_bounce.protocol.dnsbl import Family, State, Zone
from milter_bounce.system.dnswatch import Watcher
from milter_bounce.system.resolver import Limits, Resolver, parse_server
from tests.integration.dns import Lists, Recursive, Scripted, needs_dns, reply_to

pytestmark = [pytest.mark.integration, needs_dns]

IP4, IP6, DOMAIN = frozenset({Family.IPV4}), frozenset({Family.IPV4, Family.IPV6}), frozenset({Family.DOMAIN})
CODES = {"127.0.0.2": "SBL", "127.0.0.4": "XBL"}
TEST = ["127.0.0.2"]
ZONES = {
    "zen.example.net": {
        "ip": [
            ":127.0.0.2:see https://www.example.net/$",
            "127.0.0.2",
            "192.0.2.1",
            ":127.0.0.4:exploit $",
            "192.0.2.4",
        ],
        "ip6": [":127.0.0.2:v6 $", "::ffff:7f00:2", "2001:db8::/64"],
    },
    "wild.example.net": {"ip": [":127.0.0.2:closed", "0.0.0.0/1", "128.0.0.0/1"]},
    "dead.example.net": {"ip": [":127.0.0.2:", "203.0.113.1"]},
    "odd.example.net": {
        "ip": [":127.0.0.2:", *TEST, ":127.0.0.99:new code", "192.0.2.9", ":127.0.0.1:white", "192.0.2.8"]
    },
    "parked.example.net": {"ip": [":203.0.113.80:buy this domain", "0.0.0.0/1", "128.0.0.0/1"]},
    "half.example.net": {"ip": [":127.0.0.2:", *TEST, ":198.51.100.1:", "192.0.2.1"]},
    "changes.example.net": {"ip": [":127.0.0.2:", *TEST]},
    "public.example.net": {"ip": [":127.255.255.254:Error: open resolver", "0.0.0.0/1", "128.0.0.0/1"]},
    "dbl.example.net": {
        "domain": [":127.0.0.2:spam domain $", "test", ".spam.example.com", ":127.0.0.64:m", "m.example.com"]
    },
    "k3y.paid.example.net": {"ip": [":127.0.0.2:paid", *TEST, "192.0.2.1"]},
}


def zone(name: str, families=IP4, **more) -> Zone:
    return Zone(name, "Example", families=families, codes=CODES, **more)


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lists")
    with Scripted(lambda _query, _tcp: None) as silent, Lists(folder / "rbldnsd", ZONES) as lists:
        stubs = dict.fromkeys(ZONES, lists.port) | {"silent.example.net": silent.port}
        broken = {"refused.example.net": "always_refuse"}
        with Recursive(folder / "unbound", stubs, broken=broken) as resolver:
            yield lists, resolver


def look(resolver: Recursive, watched: Zone, *subjects: str, keys=None, timeout_s: float = 0.5):
    """Return the findings of one row by subject, and how often the DNS was asked."""

    async def row():
        asker = Resolver([parse_server(resolver.address)], Limits(timeout_s=timeout_s, per_second=0))
        found = []
        await Watcher(asker, keys).row(watched, subjects, found.append)
        asker.close()
        return {item.subject: item for item in found}, asker.asked

    return asyncio.run(row())


@pytest.mark.parametrize(
    ("watched", "subject", "state", "what"),
    [
        pytest.param(
            zone("zen.example.net"), "192.0.2.1", State.LISTED, "see https://www.example.net/192.0.2.1", id="listed"
        ),
        pytest.param(zone("zen.example.net"), "192.0.2.4", State.LISTED, "exploit 192.0.2.4", id="listed-other-code"),
        pytest.param(zone("zen.example.net"), "192.0.2.2", State.NOT_LISTED, "", id="not-listed"),
        pytest.param(zone("zen.example.net", IP6), "2001:db8::25", State.LISTED, "v6", id="ipv6-listed"),
        pytest.param(zone("zen.example.net", IP6), "2001:db8:1::25", State.NOT_LISTED, "", id="ipv6-not-listed"),
        pytest.param(
            zone("dbl.example.net", IP6), "2001:db8::25", State.UNKNOWN, "does not list", id="ipv6-not-served"
        ),
        pytest.param(zone("wild.example.net"), "192.0.2.2", State.UNKNOWN, "whole world", id="wildcard"),
        pytest.param(
            zone("dead.example.net"), "192.0.2.1", State.UNKNOWN, "does not list its own test entry", id="dead"
        ),
        pytest.param(zone("odd.example.net"), "192.0.2.9", State.UNKNOWN, "not declared", id="undeclared-code"),
        pytest.param(
            zone("odd.example.net", not_listed={"127.0.0.1": "white"}), "192.0.2.8", State.NOT_LISTED, "", id="white"
        ),
        pytest.param(zone("parked.example.net"), "192.0.2.1", State.UNKNOWN, "outside 127", id="parked"),
        pytest.param(zone("half.example.net"), "192.0.2.1", State.UNKNOWN, "outside 127", id="outside-127"),
        pytest.param(
            zone("public.example.net"), "192.0.2.1", State.UNKNOWN, "resolver is public", id="resolver-refused"
        ),
        pytest.param(
            zone("refused.example.net"), "192.0.2.1", State.UNKNOWN, "refuse the question", id="rcode-refused"
        ),
        pytest.param(zone("silent.example.net"), "192.0.2.1", State.UNKNOWN, "no answer in time", id="never-answers"),
        pytest.param(zone("gone.example.net"), "192.0.2.1", State.UNKNOWN, "does not list", id="no-such-zone"),
        pytest.param(
            zone("dbl.example.net", DOMAIN), "mail.spam.example.com", State.LISTED, "spam domain", id="domain-listed"
        ),
        pytest.param(zone("dbl.example.net", DOMAIN), "example.com", State.NOT_LISTED, "", id="domain-not-listed"),
    ],
)
def test_list_says(servers, watched, subject, state, what):
    """Each kind of list comes out as it should, with the list's own reason or ours for not believing it."""
    found, _ = look(servers[1], watched, subject)
    finding = found[subject]
    assert finding.listing.state is state
    assert what in (finding.reason or finding.listing.why)


def test_mask_list_names_each_bit(servers):
    """A list whose answer is a mask is read bit by bit."""
    masked = Zone("dbl.example.net", families=DOMAIN, masks={2: "two", 64: "abuse"})
    found, _ = look(servers[1], masked, "m.example.com", "x.spam.example.com")
    assert found["m.example.com"].listing.meanings == ("abuse",)
    assert found["x.spam.example.com"].listing.meanings == ("two",)


def test_paid_list_is_asked_under_its_key(servers):
    """The key goes into the question, and into nothing else."""
    paid = zone("paid.example.net", template="{key}.paid.example.net")
    found, _ = look(servers[1], paid, "192.0.2.1", keys={"paid.example.net": "k3y"})
    assert found["192.0.2.1"].listing.state is State.LISTED
    assert "k3y" not in repr(found["192.0.2.1"])


def test_sick_list_is_asked_nothing_but_its_test(servers):
    """A list that is not believed is not asked about us: 50 addresses cost two questions."""
    found, asked = look(servers[1], zone("wild.example.net"), *(f"192.0.2.{n}" for n in range(50)))
    assert len(found) == 50
    assert asked == 2


def test_subject_of_another_family_is_left_out(servers):
    """A list of addresses is not asked about domains."""
    found, asked = look(servers[1], zone("zen.example.net"), "example.com")
    assert (found, asked) == ({}, 0)


def test_list_that_stops_answering_is_given_up(servers):
    """After a few timeouts running the rest of a row is unknown unasked."""
    del servers

    def handler(query, _tcp):
        name = query.question[0].name.to_text()
        if name.startswith("2.0.0.127"):
            return [reply_to(query, "@ 60 IN A 127.0.0.2")]
        return [reply_to(query, rcode=3)] if name.startswith("1.0.0.127") else None

    with Scripted(handler) as server:
        found, asked = look(server, zone("stops.example.net"), *(f"192.0.2.{n}" for n in range(200)), timeout_s=0.2)
    assert len(found) == 200
    assert all(item.listing.state is State.UNKNOWN for item in found.values())
    assert asked < 60


def test_slow_list_is_waited_for():
    """A list that takes its time, within the time limit, is believed."""

    def handler(query, _tcp):
        name = query.question[0].name.to_text()
        listed = name.startswith(("2.0.0.127", "1.2.0.192"))
        return [reply_to(query, "@ 60 IN A 127.0.0.2") if listed else reply_to(query, rcode=3)]

    with Scripted(handler, delay_s=0.3) as server:
        found, _ = look(server, zone("slow.example.net"), "192.0.2.1", "192.0.2.2", timeout_s=3)
    assert [found[subject].listing.state for subject in ("192.0.2.1", "192.0.2.2")] == [State.LISTED, State.NOT_LISTED]


def test_broken_list_is_unknown():
    """SERVFAIL for the list's zone, as a resolver gives for one without a working server, is unknown."""
    with Scripted(lambda query, _tcp: [reply_to(query, rcode=2)]) as server:
        found, _ = look(server, zone("broken.example.net"), "192.0.2.1")
    assert found["192.0.2.1"].listing.state is State.UNKNOWN
    assert "no working server" in found["192.0.2.1"].listing.why


def test_silent_list_delays_only_its_own_row(servers):
    """While one list never answers, the others' rows are complete before it is."""
    order = []

    async def everything():
        asker = Resolver([parse_server(servers[1].address)], Limits(timeout_s=1, per_second=0))
        lists = [
            zone(name) for name in ("silent.example.net", "zen.example.net", "half.example.net", "odd.example.net")
        ]
        await Watcher(asker).round(lists, ["192.0.2.1", "192.0.2.2"], lambda item: order.append(item.zone.zone))
        asker.close()

    asyncio.run(everything())
    assert len(order) == 8
    assert order[-2:] == ["silent.example.net"] * 2


def test_listing_ends_when_the_zone_changes(servers):
    """Listed, then lifted: once the short time to live is over the list's new word counts."""
    lists, resolver = servers
    changing = zone("changes.example.net")

    async def follow():
        asker = Resolver([parse_server(resolver.address)], Limits(per_second=0))
        found = []
        watcher = Watcher(asker)
        lists.change("changes.example.net", "ip", [":127.0.0.2:spam", *TEST, "192.0.2.77"])
        await watcher.row(changing, ["192.0.2.77"], found.append)
        lists.change("changes.example.net", "ip", [":127.0.0.2:spam", *TEST])
        for _ in range(60):
            await watcher.row(changing, ["192.0.2.77"], found.append)
            if found[-1].listing.state is State.NOT_LISTED:
                break
            await asyncio.sleep(0.1)
        asker.close()
        return [item.listing.state for item in found]

    states = asyncio.run(follow())
    assert states[0] is State.LISTED
    assert states[-1] is State.NOT_LISTED
