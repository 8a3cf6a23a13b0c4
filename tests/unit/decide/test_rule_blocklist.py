"""What a reply says of a blocklist."""

from __future__ import annotations

import pytest

from milter_bounce.decide.blocklist import BlocklistError, mention, read_blocklist, unknown_list

IP = read_blocklist({
    "id": "bl", "zone": "bl.example.org", "operator": "BL", "lists": ["ip"], "source": "2026",
    "lookup": "https://bl.example.org/?q={listed}", "codes": {"127.0.0.2": "a", "127.0.0.4-6": "b"},
})  # fmt: skip
DOMAIN = read_blocklist(
    {
        "id": "dbl",
        "zone": "dbl.example.org",
        "operator": "BL",
        "lists": ["domain"],
        "source": "2026",
        "lookup": "https://bl.example.org/{listed}",
    }
)

LISTED = [
    ("ipv4", "Client host [192.0.2.1] blocked using bl.example.org", "192.0.2.1"),
    ("ipv6", "2001:db8::1:2 is listed at bl.example.org", "2001:db8::1:2"),
    ("in-the-link", "see https://bl.example.org/?q=198.51.100.7", "198.51.100.7"),
    ("answer-of-the-list", "listed at bl.example.org: 127.0.0.2", None),
    ("remote-host-before", "host mx.example.net[203.0.113.9] said: 554 192.0.2.1 listed", "192.0.2.1"),
    ("remote-host-alone", "host mx.example.net[203.0.113.9] refused to talk to me: 554 listed", None),
    ("qmail", "203.0.113.9 does not like recipient. Remote host said: 550 banned IP [192.0.2.1]", "192.0.2.1"),
    ("version-number", "blocked by 1.2.3.4.5", None),
    ("no-address", "you are listed at bl.example.org", None),
    ("impossible", "999.1.2.3 listed", None),
]


@pytest.mark.parametrize(("text", "expected"), [pytest.param(*row[1:], id=row[0]) for row in LISTED])
def test_rule_blocklist_names_what_is_listed(text, expected):
    """Our own address, never the remote host's and never the list's answer."""
    assert mention(IP, text).listed == expected


def test_rule_blocklist_of_domains_names_the_domain():
    """Not the list's own name, and nothing out of a link or a mail address."""
    text = "Sender <a@mail.example.net> : example.com listed, see https://www.example.net/x at dbl.example.org"
    assert mention(DOMAIN, text).listed == "example.com"


@pytest.mark.parametrize(
    ("blocklist", "text", "expected"),
    [
        pytest.param(IP, "192.0.2.1 listed", "https://bl.example.org/?q=192.0.2.1", id="known"),
        pytest.param(IP, "listed", "https://bl.example.org/", id="unknown-query"),
        pytest.param(DOMAIN, "listed", "https://bl.example.org/", id="unknown-path"),
    ],
)
def test_rule_blocklist_look_up_page_fits_what_is_known(blocklist, text, expected):
    """A page with an empty query helps nobody."""
    assert mention(blocklist, text).lookup == expected


def test_rule_blocklist_ranges_are_spelt_out():
    """127.0.0.4-6 are three answers."""
    assert sorted(IP.codes) == ["127.0.0.2", "127.0.0.4", "127.0.0.5", "127.0.0.6"]


@pytest.mark.parametrize(
    ("text", "zone"),
    [
        pytest.param("client [192.0.2.1] blocked using rbl.local.example.org;", "rbl.local.example.org", id="using"),
        pytest.param("found in sbl.corp.example.net", "sbl.corp.example.net", id="in"),
        pytest.param("blocked by our rules", None, id="none"),
    ],
)
def test_rule_blocklist_nobody_described_is_named_by_its_zone(text, zone):
    """A private list has no table, but its name helps the administrator all the same."""
    found = unknown_list(text)
    assert (found.zone if found else None) == zone


BROKEN = [
    pytest.param({"codes": {"10.0.0.1": "x"}}, "127.a.b.c", id="answer"),
    pytest.param({"lists": ["url"]}, "lists", id="lists"),
    pytest.param({"source": "somewhere"}, "year", id="source"),
    pytest.param({"colour": "red"}, "unknown key", id="key"),
    pytest.param({"category": "bad"}, "category", id="category"),
]


@pytest.mark.parametrize(("change", "reason"), BROKEN)
def test_rule_blocklist_tables_are_checked(change, reason):
    """A mistake in a table says what it is."""
    table = {"id": "x", "zone": "x.example.org", "operator": "X", "lists": ["ip"], "source": "2026", **change}
    with pytest.raises(BlocklistError, match=reason):
        read_blocklist(table)
