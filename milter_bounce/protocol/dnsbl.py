"""DNS blocklists: what to ask them, whether to believe them, what their answers mean (RFC 5782).

Goes in: a `Zone` (a fact of ``rules/blocklists.toml``), an address or a domain,
and the `DnsReply` that came. Comes out: names to ask, and a `Listing`:
listed, not listed or unknown, with the reason in words.
Does not: ask, wait, cache or remember; ``system`` does.

Unknown is an answer of its own. A refused, broken, silent, dead or
wildcarded list says nothing about us, and what was known before stands.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import TYPE_CHECKING, Final

from milter_bounce import limits

from .dnswire import KNOWN, NAME_LIMIT, Outcome

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .dnswire import DnsReply


class State(StrEnum):
    """What a list says about one address or domain."""

    LISTED = "listed"
    NOT_LISTED = "not-listed"
    UNKNOWN = "unknown"


class Family(StrEnum):
    """What is asked about; a list can serve several, and its health is known for each apart."""

    IPV4 = "ipv4"
    IPV6 = "ipv6"
    DOMAIN = "domain"


TEST_POINTS: Final = {
    # RFC 5782, 5: the entry that must be listed, and the one that must never be
    Family.IPV4: ("127.0.0.2", "127.0.0.1"),
    Family.IPV6: ("::ffff:7f00:2", "::ffff:7f00:1"),
    Family.DOMAIN: ("test", "invalid"),
}

# RFC 1918, RFC 6598, RFC 4193
_INSIDE: Final = tuple(
    map(ip_network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "0.0.0.0/8", "fc00::/7"))
)

REFUSAL_NET: Final = "127.255.255."
"""Answers that mean "I do not answer you" (Spamhaus, Validity): wrong zone, public resolver, too many questions."""

REASON_LIMIT: Final = limits.DNS_REASON


@dataclass(frozen=True, slots=True)
class Zone:
    """One blocklist, as ``rules/blocklists.toml`` states it."""

    zone: str
    """Its name without the place of a key: what logs, tables, settings and blocks call it."""

    operator: str = ""
    template: str = ""
    """The zone with ``{key}`` where a customer's key goes; empty: as `zone`."""

    families: frozenset[Family] = frozenset({Family.IPV4})
    codes: dict[str, str] = field(default_factory=dict, hash=False)
    """Answer -> what it means. Only these count. Empty: ``127.0.0.2`` alone."""

    masks: dict[int, str] = field(default_factory=dict, hash=False)
    """For lists that add up bits in the last octet (SURBL, URIBL): bit -> what it means."""

    not_listed: dict[str, str] = field(default_factory=dict, hash=False)
    """Answers that are documented and list nobody (white, neutral): with these alone, not listed."""

    refused: dict[str, str] = field(default_factory=dict, hash=False)
    """Answers by which this list turns a resolver away, beside 127.255.255.x, and what they mean."""

    weight: str = "block"
    """``block``, or ``advise``: watched and told, but nothing is ever held for it."""

    lookup: str | None = None
    """Where to look oneself up and ask for removal; ``{listed}`` stands for the address or domain."""

    removal: str = ""
    """How one gets off the list, in words."""

    default: bool = False
    """Watched unless the configuration says otherwise."""

    test_points: tuple[str, str] | None = None
    """Where a list departs from RFC 5782: what must be listed, what must not."""

    dead: str | None = None
    """Since when, or why, it no longer exists; such a list is refused at configuration time."""

    @property
    def wants_key(self) -> bool:
        """True for a list that answers only under a customer's key."""
        return "{key}" in self.template


@dataclass(frozen=True, slots=True)
class Listing:
    """What one list says about one address or domain."""

    state: State
    codes: tuple[str, ...] = ()
    meanings: tuple[str, ...] = ()
    why: str = ""
    """For unknown: what went wrong."""

    refused: bool = False
    """True where the list turned our resolver away, and so a remedy is on our side."""


@dataclass(frozen=True, slots=True)
class Health:
    """Whether a list is to be believed for one family."""

    ok: bool
    why: str = ""
    refused: bool = False


def family_of(subject: str) -> Family:
    """Return what `subject` is: an IPv4 address, an IPv6 address, else a domain."""
    try:
        return Family.IPV4 if ip_address(subject).version == 4 else Family.IPV6
    except ValueError:
        return Family.DOMAIN


def normal(subject: str) -> str:
    """Return the one form of an address or domain by which it is stored and asked.

    Addresses in canonical text, IPv6 forms of IPv4 as IPv4; domains as lower-case A-labels.

    Raises:
        ValueError: neither an address nor a name that DNS can hold.
    """
    text = subject.strip().strip("[]").removesuffix(".").lower()
    try:
        address = ip_address(text.removeprefix("ipv6:"))
    except ValueError:
        return _domain(text)
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return str(mapped or address)


def _domain(text: str) -> str:
    try:
        name = text if text.isascii() else text.encode("idna").decode("ascii")
    except UnicodeError:
        raise ValueError(f"{text!r} is neither an IP address nor a domain") from None
    if len(name) > NAME_LIMIT - 2 or not re.fullmatch(r"(?!-)[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*", name):
        raise ValueError(f"{text[:80]!r} is neither an IP address nor a domain")
    if re.fullmatch(r"[0-9.]+", name):
        raise ValueError(f"{text!r} is no IP address")
    return name


def is_public(subject: str) -> bool:
    """Return whether receivers can ever see `subject`: private, shared and loopback addresses are on no list."""
    if family_of(subject) is Family.DOMAIN:
        return True
    address = ip_address(subject)
    special = address.is_loopback or address.is_link_local or address.is_multicast or address.is_unspecified
    return not special and not any(address in net for net in _INSIDE if net.version == address.version)


def reverse(address: str) -> str:
    """Return the labels that lists and PTR trees use for an address (RFC 5782, 2.1 and 2.4), without a zone."""
    parsed = ip_address(address)
    if isinstance(parsed, IPv4Address):
        return ".".join(reversed(str(parsed).split(".")))
    return ".".join(reversed(parsed.exploded.replace(":", "")))


def pointer_name(address: str) -> str:
    """Return the name whose PTR names the host of `address` (RFC 1035 3.5, RFC 3596 2.5)."""
    return ip_address(address).reverse_pointer


def query_name(subject: str, zone: Zone, key: str | None = None) -> str:
    """Return the name to ask about `subject` in `zone`, under `key` where the list wants one.

    Section: RFC 5782, 2.1 (IPv4), 2.4 (IPv6), 3 (domains).
    """
    labels = subject if family_of(subject) is Family.DOMAIN else reverse(subject)
    return f"{labels}.{zone.template.replace('{key}', key or '') or zone.zone}"


def health_points(zone: Zone, family: Family) -> tuple[str, str]:
    """Return what `zone` must list and what it must not, to be believed for `family`."""
    if zone.test_points is not None and family_of(zone.test_points[0]) is family:
        return zone.test_points
    return TEST_POINTS[family]


def _meanings(zone: Zone, code: str) -> list[str]:
    """Return what a declared `code` means; an empty list for one that is not declared."""
    if zone.masks:
        head, _, last = code.rpartition(".")
        return [word for bit, word in zone.masks.items() if int(last) & bit] if head == "127.0.0" else []
    if not zone.codes:
        return ["listed"] if code == "127.0.0.2" else []
    return [zone.codes[code] or "listed"] if code in zone.codes else []


def _refusal(zone: Zone, codes: Iterable[str]) -> tuple[str, str] | None:
    """Return the code by which the list refuses to answer us and its meaning; None where there is none."""
    for code in codes:
        if code in zone.refused or code.startswith(REFUSAL_NET):
            general = _REFUSAL_TEXT.get(code, "the list refuses to answer our resolver")
            return code, zone.refused.get(code) or general
    return None


TYPING_ERROR: Final = "127.255.255.252"
_REFUSAL_TEXT: Final = {
    TYPING_ERROR: "typing error in the zone's name",
    "127.255.255.254": "our resolver is public, open or without a proper name",
    "127.255.255.255": "too many questions from our resolver, or it is not registered",
}
_FAILURE_TEXT: Final = {
    Outcome.REFUSED: "the list's servers or the resolver refuse the question",
    Outcome.SERVFAIL: "the resolver finds no working server of the list",
    Outcome.TIMEOUT: "no answer in time",
    Outcome.UNREACHABLE: "the resolver cannot be reached",
    Outcome.BAD: "the answer makes no sense",
    Outcome.TRUNCATED: "the answer is cut off",
}


def _unanswered(zone: Zone, reply: DnsReply) -> Listing | None:
    """Return the unknown listing for a reply that says nothing about the subject; None for one that does."""
    if reply.outcome not in KNOWN:
        text = _FAILURE_TEXT.get(reply.outcome, str(reply.outcome))
        return Listing(State.UNKNOWN, why=f"{text} ({reply.detail})" if reply.detail else text)
    if (refusal := _refusal(zone, reply.values)) is not None:
        code, meaning = refusal
        return Listing(State.UNKNOWN, why=f"{meaning} ({code})", refused=code != TYPING_ERROR)
    foreign = [code for code in reply.values if not code.startswith("127.")]
    if foreign:
        # a parked domain, a portal or a resolver that rewrites "no such name"
        return Listing(State.UNKNOWN, why=f"answers outside 127.0.0.0/8 ({foreign[0]}): the zone or the resolver lies")
    return None


def read_listing(zone: Zone, reply: DnsReply) -> Listing:
    """Return what the reply of a healthy list says: listed only by a code declared for it, else never listed.

    Section: RFC 5782, 2.1 (any A record lists) narrowed to the codes that the list's operator documents, since
    several lists answer for good hosts as well (hostkarma 127.0.0.1, mailspike 127.0.0.15 to 20).
    """
    if (unknown := _unanswered(zone, reply)) is not None:
        return unknown
    meanings = {code: _meanings(zone, code) for code in reply.values}
    counted = tuple(code for code, found in meanings.items() if found)
    if counted:
        words = tuple(dict.fromkeys(word for code in counted for word in meanings[code]))
        return Listing(State.LISTED, counted, words)
    if all(code in zone.not_listed for code in reply.values):
        return Listing(State.NOT_LISTED, reply.values)
    return Listing(State.UNKNOWN, reply.values, why=f"code not declared for this list: {', '.join(reply.values)}")


def read_health(zone: Zone, family: Family, must: DnsReply, must_not: DnsReply) -> Health:
    """Return whether the list is to be believed, by its answers to its two test points.

    Section: RFC 5782, 5. A list that does not list the first has died or is not reached; one that lists the second
    lists the whole world (what lists do when they close down).
    """
    listed, unlisted = health_points(zone, family)
    for reply in (must, must_not):
        if (unknown := _unanswered(zone, reply)) is not None:
            return Health(ok=False, why=unknown.why, refused=unknown.refused)
    if not must.values:
        return Health(ok=False, why=f"does not list its own test entry {listed}: empty, dead or without {family}")
    if must_not.values and _meanings(zone, must_not.values[0]) + _wildcard(must, must_not):
        return Health(ok=False, why=f"lists {unlisted}, which no list may: it lists the whole world")
    return Health(ok=True)


def _wildcard(must: DnsReply, must_not: DnsReply) -> list[str]:
    """Return a mark where both test points get the same answer, whatever its code."""
    return ["wildcard"] if set(must.values) & set(must_not.values) else []


def reason_text(reply: DnsReply) -> str:
    """Return the TXT reason of a listing (RFC 5782, 2.1), the longest first cut to `REASON_LIMIT`; empty for none."""
    return max(reply.values, key=len)[:REASON_LIMIT] if reply.outcome is Outcome.ANSWER and reply.values else ""


@dataclass(frozen=True, slots=True)
class Change:
    """What an answer does to what was known about one subject on one list."""

    began: bool = False
    ended: bool = False
    state: State = State.UNKNOWN
    """The state that stands now: an unknown answer keeps the last one."""


def change(last: State | None, now: Listing) -> Change:
    """Return whether a listing begins or ends; None for `last` is a first look, which can only begin one."""
    if now.state is State.UNKNOWN:
        return Change(state=last or State.UNKNOWN)
    was = last is State.LISTED
    return Change(
        began=now.state is State.LISTED and not was, ended=now.state is State.NOT_LISTED and was, state=now.state
    )


def unusable(zones: Iterable[Zone], wanted: Iterable[str], keys: Iterable[str]) -> list[str]:
    """Return one sentence for each zone in `wanted` that cannot be used: dead, unknown, or without its key."""
    by_name, have = {zone.zone: zone for zone in zones}, set(keys)
    faults = []
    for name in wanted:
        zone = by_name.get(name.lower().removesuffix("."))
        if zone is None:
            faults.append(
                f"{name}: no list of that name in rules/blocklists.toml; `milter-bounce blocklists` shows them"
            )
        elif zone.dead:
            faults.append(f"{name}: this list is dead ({zone.dead}); take it out")
        elif zone.wants_key and name not in have:
            faults.append(f"{name}: this list answers only with a key; put a line with zone and key into dns.keys_file")
    return faults
