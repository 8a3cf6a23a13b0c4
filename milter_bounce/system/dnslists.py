"""What is watched: which lists with which keys, and which addresses and domains of ours.

Goes in: section ``[dns]``, the rules, the file of keys, Postfix's settings.
Comes out: a `Watchlist`, and our subjects. Does not: ask the DNS.

SECURITY
    Keys are secrets: the file may be read by its owner alone, and a key never
    reaches a log, a table or an error; lists are called by their plain zone.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import stat
import subprocess
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from milter_bounce import limits
from milter_bounce.config import ConfigError
from milter_bounce.protocol.dnsbl import Family, Zone, family_of, is_public, normal, unusable

from .resolver import Limits, Resolver, parse_server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from milter_bounce.config import DnsSection
    from milter_bounce.decide.blocklist import Blocklist

    from .store_dns import Named

KEYS_LIMIT_BYTES: Final = limits.LIST_KEYS_BYTES
LEARNT_LIMIT: Final = limits.SUBJECTS_LEARNT
LEARNT_AFTER: Final = 2
"""Refusals that must name an address before it counts as ours: one reply can say anything."""

_KEY_PLACE: Final = "{key}."
REMEDY: Final = (
    "lists turn away public and open resolvers: run a resolver of your own on this host (unbound, forwarding to nobody)"
    " and name it in dns.nameservers; until then these lists are unknown"
)


@dataclass(frozen=True, slots=True)
class Watchlist:
    """The lists that are asked."""

    zones: tuple[Zone, ...]
    """Those watched in each round."""

    usable: dict[str, Zone]
    """All that could be asked, by name: a refusal may name one that is not watched."""

    keys: dict[str, str]


def zone_name(zone: str) -> str:
    """Return what a zone is called: without the place of its key."""
    return zone.replace(_KEY_PLACE, "").lower()


def zone_of(entry: Blocklist) -> Zone:
    """Return a blocklist of the rules as the DNS core needs it."""
    families = {Family.IPV4} if entry.ip else set()
    if entry.ip and entry.ipv6:
        families.add(Family.IPV6)
    if entry.domain:
        families.add(Family.DOMAIN)
    return Zone(
        zone_name(entry.zone),
        entry.operator,
        entry.zone,
        frozenset(families),
        codes=dict(entry.codes),
        masks=dict(entry.bits),
        not_listed=dict(entry.not_listed),
        refused=dict(entry.refused),
        weight=entry.weight,
        lookup=entry.lookup,
        removal=entry.removal,
        default=entry.default and not (entry.key and _KEY_PLACE not in entry.zone),  # registered resolvers only
        dead=None if entry.alive else f"since {entry.ended}" if entry.ended else "for years",
    )


def read_keys(path: str) -> dict[str, str]:
    """Return zone -> key from the file of keys; empty where no file is named.

    Raises:
        ConfigError: it cannot be read, others may read it, or a line is not "zone key".
    """
    if not path:
        return {}
    try:
        with Path(path).open("rb") as file:
            mode = stat.S_IMODE(Path(path).stat().st_mode)
            raw = file.read(KEYS_LIMIT_BYTES)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}; mend dns.keys_file") from None
    if mode & (stat.S_IRWXO | stat.S_IWGRP):
        raise ConfigError(f"{path}: holds keys and its mode is {mode:04o}; chmod 0600 or 0640 it")
    keys = {}
    for number, line in enumerate(raw.decode("utf-8", "replace").splitlines(), 1):
        words = line.split("#")[0].split()
        if len(words) not in {0, 2}:
            raise ConfigError(f"{path}: line {number}: write a zone and its key, nothing else")
        if words:
            keys[zone_name(words[0])] = words[1]
    return keys


def watchlist(settings: DnsSection, blocklists: Iterable[Blocklist], name: str) -> Watchlist:
    """Return the lists to ask. `name` is the configuration file, for errors.

    Raises:
        ConfigError: a configured list is dead, unknown or lacks its key.
    """
    keys = read_keys(settings.keys_file)
    zones = {zone_name(entry.zone): zone_of(entry) for entry in blocklists if entry.zone}
    for option, wanted in (("lists", settings.lists), ("without", settings.without)):
        named = [zone_name(item) for item in wanted]
        faults = unusable(zones.values(), named, keys)
        if option == "without":
            faults = [fault for fault in faults if "no list of that name" in fault]
        if faults:
            raise ConfigError(f"{name}: dns.{option}: {faults[0]}")
    without = {zone_name(item) for item in settings.without}
    usable = {
        zone.zone: zone
        for zone in zones.values()
        if not zone.dead and zone.zone not in without and (not zone.wants_key or zone.zone in keys)
    }
    chosen = [zone_name(item) for item in settings.lists] or [zone.zone for zone in usable.values() if zone.default]
    return Watchlist(tuple(usable[item] for item in chosen if item in usable), usable, keys)


def postconf(*names: str) -> dict[str, str]:
    """Return Postfix's settings of these names; empty where there is no Postfix."""
    command = shutil.which("postconf", path="/usr/sbin:/usr/bin:/usr/local/sbin")
    if command is None:
        return {}
    try:
        ran = subprocess.run([command, "-x", *names], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return {}
    pairs = (line.partition(" =") for line in ran.stdout.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def outgoing_addresses() -> list[str]:
    """Return the addresses that this host's packets to the world carry; no packet is sent to find out.

    Connecting a UDP socket only chooses a route; the peers are documentation addresses (RFC 5737, RFC 3849).
    """
    found = []
    for family, peer in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((peer, 9))
            found.append(str(probe.getsockname()[0]))
    return found


def found_addresses(values: Mapping[str, str], outgoing: Callable[[], list[str]] = outgoing_addresses) -> list[str]:
    """Return the public addresses that Postfix sends from, by its own settings; empty where those are private."""
    bound = [values.get(key, "") for key in ("smtp_bind_address", "smtp_bind_address6")]
    candidates = [item for item in bound if item]
    if not candidates:
        listed = [item.strip("[]") for item in values.get("inet_interfaces", "all").replace(",", " ").split()]
        literal = [item for item in listed if family_of(item) is not Family.DOMAIN]
        # Postfix sends from the one address of a family that it listens on; from any other set the system chooses
        candidates = literal if literal and not any(is_public(item) for item in outgoing()) else [*literal, *outgoing()]
    return [item for item in dict.fromkeys(map(normal, candidates)) if is_public(item)]


def own_subjects(settings: DnsSection, postfix: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """Return the addresses and domains to watch: those configured; addresses found where none is configured.

    Raises:
        ConfigError: a configured domain is none.
    """
    subjects = list(settings.addresses)
    if not subjects:
        values = postconf("smtp_bind_address", "smtp_bind_address6", "inet_interfaces") if postfix is None else postfix
        subjects = found_addresses(values)
    try:
        return tuple(dict.fromkeys(normal(item) for item in (*subjects, *settings.domains)))
    except ValueError as error:
        raise ConfigError(f"dns.domains: {error}") from None


def is_address(text: str) -> bool:
    """Return whether `text` is an IP address."""
    try:
        return family_of(normal(text)) is not Family.DOMAIN
    except ValueError:
        return False


def learnt_addresses(names: Iterable[Named]) -> list[str]:
    """Return the public addresses that refusals named as ours often enough, the most named first.

    Limits: `LEARNT_LIMIT` of them.
    """
    times: Counter[str] = Counter()
    for name in names:
        if name.subject and is_address(name.subject):
            times[normal(name.subject)] += name.times
    return [item for item, count in times.most_common(LEARNT_LIMIT) if count >= LEARNT_AFTER and is_public(item)]


def make_resolver(settings: DnsSection) -> Resolver:
    """Return the resolver that the section describes; call it within the event loop."""
    return Resolver(
        [parse_server(item) for item in settings.nameservers],
        Limits(
            timeout_s=settings.timeout_s,
            attempts=settings.attempts,
            in_flight=settings.in_flight,
            per_second=settings.queries_per_second,
        ),
    )
