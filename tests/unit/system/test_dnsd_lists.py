"""Which lists, keys and addresses: from rules, configuration and Postfix's settings."""

from __future__ import annotations

import pytest

from milter_bounce.config import ConfigError, from_values
from milter_bounce.decide.blocklist import read_blocklist
from milter_bounce.protocol.dnsbl import Family
from milter_bounce.system.dnslists import found_addresses, own_subjects, read_keys, watchlist, zone_of
from milter_bounce.system.rulefiles import load_rules


def entry(zone: str, **more):
    base = {"id": zone, "zone": zone, "operator": "x", "source": "2026", "lists": ["ip"], "codes": {"127.0.0.2": "bad"}}
    return read_blocklist(base | {"examples": ["x"], "text": ["x"]} | more)


LISTS = [
    entry("good.example"),
    entry(
        "both.example",
        lists=["ip", "domain"],
        ipv6=True,
        not_listed={"127.0.0.1": "white"},
        refused={"127.0.0.9": "no"},
    ),
    entry("part.example", default=False),
    entry("{key}.paid.example", key=True),
    entry("registered.example", key=True),
    entry("dead.example", alive=False, ended="2020-01-02"),
    entry(""),
]


def dns(**values):
    return from_values({"dns": values}, "test").dns


def names(**values):
    return [zone.zone for zone in watchlist(dns(**values), LISTS, "x.toml").zones]


def test_zone_of_an_entry_carries_its_facts():
    """Families, white and refusing answers come over as they stand."""
    zone = zone_of(LISTS[1])
    assert zone.families == {Family.IPV4, Family.IPV6, Family.DOMAIN}
    assert (zone.not_listed, zone.refused) == ({"127.0.0.1": "white"}, {"127.0.0.9": "no"})
    assert zone_of(LISTS[3]).zone == "paid.example"
    assert zone_of(LISTS[3]).wants_key


def test_every_live_list_is_watched_by_default(tmp_path):
    """Dead ones, parts, and those that want a key or a registration are not; with its key a paid one is."""
    keys = tmp_path / "keys"
    keys.write_text("# ours\npaid.example  s3cret # paid\n\n")
    keys.chmod(0o600)
    assert names() == ["good.example", "both.example"]
    assert names(keys_file=str(keys)) == ["good.example", "both.example", "paid.example"]
    assert names(without=["good.example"]) == ["both.example"]
    assert names(lists=["part.example", "REGISTERED.example"]) == ["part.example", "registered.example"]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        pytest.param({"lists": ["dead.example"]}, "dead (since 2020-01-02)", id="dead"),
        pytest.param({"lists": ["{key}.paid.example"]}, "only with a key", id="no-key"),
        pytest.param({"lists": ["typo.example"]}, "no list of that name", id="unknown"),
        pytest.param({"without": ["typo.example"]}, "dns.without: typo.example: no list", id="without-unknown"),
    ],
)
def test_wrong_list_is_refused_with_the_reason(values, words):
    """The error names file, option, list and what to do."""
    with pytest.raises(ConfigError) as caught:
        names(**values)
    assert str(caught.value).startswith("x.toml: dns.")
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("text", "mode", "words"),
    [
        pytest.param("a b\n", 0o644, "chmod 0600", id="world-readable"),
        pytest.param("a b\n", 0o620, "chmod 0600", id="group-writable"),
        pytest.param("a b\nonly-a-zone\n", 0o600, "line 2", id="no-key-on-the-line"),
        pytest.param("a b c\n", 0o600, "line 1", id="too-much-on-the-line"),
    ],
)
def test_file_of_keys_is_checked(tmp_path, text, mode, words):
    """Rights and form of the file are checked, and no key stands in the error."""
    path = tmp_path / "keys"
    path.write_text(text)
    path.chmod(mode)
    with pytest.raises(ConfigError, match=words) as caught:
        read_keys(str(path))
    assert "b" not in str(caught.value).split(": ", 1)[1].split()


def test_missing_file_of_keys_is_refused(tmp_path):
    """A file that is named must be there; none named is no keys."""
    with pytest.raises(ConfigError, match=r"dns\.keys_file"):
        read_keys(str(tmp_path / "none"))
    assert read_keys("") == {}


@pytest.mark.parametrize(
    ("values", "outgoing", "found"),
    [
        pytest.param({"smtp_bind_address": "192.0.2.1"}, ["192.0.2.9"], ["192.0.2.1"], id="bound"),
        pytest.param(
            {"smtp_bind_address": "192.0.2.1", "smtp_bind_address6": "2001:DB8::1"},
            [],
            ["192.0.2.1", "2001:db8::1"],
            id="both",
        ),
        pytest.param({"inet_interfaces": "all"}, ["192.0.2.9", "2001:db8::9"], ["192.0.2.9", "2001:db8::9"], id="all"),
        pytest.param({"inet_interfaces": "192.0.2.1, 127.0.0.1"}, [], ["192.0.2.1"], id="interfaces"),
        pytest.param({"inet_interfaces": "loopback-only"}, ["10.0.0.5"], [], id="private"),
        pytest.param({}, ["192.0.2.9"], ["192.0.2.9"], id="no-postfix"),
    ],
)
def test_addresses_are_found_from_postfix(values, outgoing, found):
    """Bound addresses first, then interfaces and what the system would use; private ones are nobody's business."""
    assert found_addresses(values, lambda: outgoing) == found


def test_configured_addresses_come_first():
    """What is configured is watched as it is; domains in one form."""
    assert own_subjects(dns(addresses=["192.0.2.7"], domains=["Example.COM."]), {}) == ("192.0.2.7", "example.com")
    with pytest.raises(ConfigError, match=r"dns\.domains"):
        own_subjects(dns(addresses=["192.0.2.7"], domains=["no domain"]), {})


def test_shipped_lists_can_be_watched():
    """The shipped blocklists give a watchlist, with zen in it and no dead one."""
    lists = watchlist(dns(), load_rules().blocklists, "x.toml")
    assert "zen.spamhaus.org" in [zone.zone for zone in lists.zones]
    assert len(lists.zones) >= 20
    assert not [zone for zone in lists.usable.values() if zone.dead]
