"""A blocklist as data: its zone, what it lists, what its answers mean, how replies name it.

Goes in: one ``[[blocklist]]`` table of ``rules/blocklists.toml``. Comes out:
`Blocklist`, and the `BlocklistMention` of a reply. Does not: ask the DNS.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from milter_bounce.verdict import CATEGORIES, BlocklistMention

if TYPE_CHECKING:
    from collections.abc import Mapping


class BlocklistError(Exception):
    """A blocklist table that cannot be used; the reader adds file and id."""


@dataclass(frozen=True, slots=True)
class Blocklist:
    """One list, as ``rules/README.md`` describes it."""

    id: str
    zone: str
    """The DNS zone; "" where it cannot be asked; ``{key}`` stands where a key goes."""

    operator: str
    ip: bool
    domain: bool
    ipv6: bool = False
    alive: bool = True
    ended: str | None = None
    weight: str = "block"
    key: bool = False
    null_sender: bool = False
    default: bool = True
    lookup: str | None = None
    removal: str = ""
    delist_h: float | None = None
    codes: Mapping[str, str] = field(default_factory=dict)
    """Address in 127.0.0.0/8 -> what it means; ranges are spelt out."""

    bits: Mapping[int, str] = field(default_factory=dict)
    """Bit of the last octet -> what it means, for lists whose answer is a mask."""

    not_listed: Mapping[str, str] = field(default_factory=dict)
    """Answers that say something but no listing, besides 127.255.255.0/24."""

    refused: Mapping[str, str] = field(default_factory=dict)
    """Answers by which the list turns a resolver or a question away, besides 127.255.255.0/24."""

    text: tuple[str, ...] = ()
    named: tuple[str, ...] = ()
    unless: tuple[str, ...] = ()
    category: str = "blocklisted"
    source: str = ""
    examples: tuple[str, ...] = ()


_PLAIN: Final = (
    "zone", "operator", "ipv6", "alive", "ended", "weight", "key", "null_sender", "default", "lookup", "removal",
    "delist_h", "category",
)  # fmt: skip
_KEYS: Final = frozenset({
    "id", "lists", "codes", "bits", "not_listed", "refused", "text", "named", "unless", "source", "examples", *_PLAIN,
})  # fmt: skip
_TYPES: Final[Mapping[str, type | tuple[type, ...]]] = {
    **dict.fromkeys(("ended", "weight", "lookup", "removal", "category"), str),
    **dict.fromkeys(("ipv6", "alive", "key", "null_sender", "default"), bool),
    "delist_h": (int, float),
}
_KIND_WORDS: Final = {str: "a string", bool: "true or false", (int, float): "a number of hours"}
_BIT: Final = re.compile(r"[1-9][0-9]?|1[0-9]{2}|2[0-4][0-9]|25[0-5]")
_RANGE: Final = re.compile(r"(127(?:\.[0-9]{1,3}){2})\.([0-9]{1,3})(?:-([0-9]{1,3}))?")
_YEAR: Final = re.compile(r"(?:19|20)[0-9]{2}")
# RFC 5782, 2.1: answers lie in 127.0.0.0/8
_IPV4: Final = re.compile(r"(?<![0-9.])(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?![0-9.]*[0-9])")
_IPV6: Final = re.compile(r"(?<![0-9A-Za-z:])[0-9A-Fa-f]{1,4}(?::{1,2}[0-9A-Fa-f]{1,4}){2,7}(?![0-9A-Za-z:])")
_QUOTING: Final = 300
"""Characters in which an MTA tells whom it quotes."""

_DOMAIN: Final = re.compile(r"(?<![\w.@/-])(?:[a-z0-9-]{1,63}\.){1,6}[a-z]{2,24}(?![\w-])", re.IGNORECASE)


def _table(table: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = table.get(key, {})
    if not isinstance(value, dict):
        raise BlocklistError(f"{key} must be a table: answer = meaning")
    return value


def _bits(table: Mapping[str, Any]) -> dict[int, str]:
    bits = _table(table, "bits")
    if wrong := [bit for bit in bits if not _BIT.fullmatch(bit)]:
        raise BlocklistError(f"bits: {wrong[0]!r} is no number from 1 to 255")
    return {int(bit): str(meaning) for bit, meaning in bits.items()}


def _answers(table: Mapping[str, Any], key: str) -> dict[str, str]:
    answers = {}
    for text, meaning in _table(table, key).items():
        found = _RANGE.fullmatch(text)
        if not found:
            raise BlocklistError(f"{key}: {text!r} is not 127.a.b.c or 127.a.b.c-d")
        low = int(found[2])
        for last in range(low, int(found[3] or low) + 1):
            answers[f"{found[1]}.{last}"] = str(meaning)
    return answers


def _strings(table: Mapping[str, Any], key: str) -> tuple[str, ...]:
    value = table.get(key, [])
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
        raise BlocklistError(f"{key} must be a string or a list of strings")
    return tuple(items)


def _checked(table: Mapping[str, Any]) -> None:
    if unknown := set(table) - _KEYS:
        raise BlocklistError(f"unknown key {min(unknown)!r}")
    for key in ("zone", "operator", "source"):
        if not isinstance(table.get(key), str):
            raise BlocklistError(f"needs {key}")
    if not _YEAR.search(table["source"]):
        raise BlocklistError("has no source with a year")
    for key, kind in _TYPES.items():
        if key in table and not isinstance(table[key], kind):
            raise BlocklistError(f"{key} = {table[key]!r}: must be {_KIND_WORDS[kind]}")
    if table.get("weight", "block") not in {"block", "advise"}:
        raise BlocklistError(f"weight = {table['weight']!r}: block or advise")
    if not set(_strings(table, "lists")) <= {"ip", "domain"} or not table.get("lists"):
        raise BlocklistError('lists: ["ip"], ["domain"] or both')
    if table.get("category", "blocklisted") not in CATEGORIES:
        raise BlocklistError(f"category = {table['category']!r}: see rules/README.md")


def read_blocklist(table: Mapping[str, Any]) -> Blocklist:
    """Return the blocklist that a table describes.

    Raises:
        BlocklistError: what is wrong with it.
    """
    _checked(table)
    plain = {key: table[key] for key in _PLAIN if key in table}
    return Blocklist(
        id=str(table.get("id")),
        ip="ip" in table["lists"],
        domain="domain" in table["lists"],
        codes=_answers(table, "codes"),
        not_listed=_answers(table, "not_listed"),
        refused=_answers(table, "refused"),
        bits=_bits(table),
        text=_strings(table, "text"),
        named=_strings(table, "named"),
        unless=_strings(table, "unless"),
        source=table["source"],
        examples=_strings(table, "examples"),
        **plain,
    )


def _address(text: str) -> str | None:
    """Return the first address in `text` that can be ours; those of 127.0.0.0/8 are answers of lists."""
    for found in _IPV4.finditer(text):
        octets = found[0].split(".")
        if octets[0] != "127" and octets[0] != "0" and all(int(octet) < 256 for octet in octets):
            return found[0]
    if text.count(":") < 3:
        return None
    for found in _IPV6.finditer(text):
        try:
            address = ipaddress.IPv6Address(found[0])
        except ValueError:
            continue
        if not address.is_loopback:
            return str(address)
    return None


def mention(blocklist: Blocklist, text: str) -> BlocklistMention:
    """Return the mention of `blocklist` in a reply's `text`, with what is listed where the reply says so."""
    said = _said(text)
    listed = _address(said) if blocklist.ip else None
    if listed is None and blocklist.domain:
        listed = _listed_domain(blocklist, said)
    lookup = _look_up(blocklist.lookup, listed)
    zone = blocklist.zone.removeprefix("{key}.") or blocklist.id
    return BlocklistMention(zone, blocklist.operator, listed, lookup, blocklist.weight)


def _said(text: str) -> str:
    """Return the reply without what an MTA put before it: the remote host's own address stands there."""
    for mark in (" said: ", " to talk to me: "):
        before, found, after = text.partition(mark)
        if found and len(before) < _QUOTING:
            return after
    return text


def _look_up(pattern: str | None, listed: str | None) -> str | None:
    """Return the look-up page; without the empty query where it is not known what is listed."""
    if pattern is None or "{listed}" not in pattern:
        return pattern
    if listed is not None:
        return pattern.replace("{listed}", listed)
    page = pattern.partition("{listed}")[0]
    return page.rpartition("?")[0] if page.endswith("=") and "?" in page else page


def _listed_domain(blocklist: Blocklist, text: str) -> str | None:
    """Return the first domain in `text` that is not the list's own, nor part of a link or address."""
    own = {".".join(blocklist.zone.split(".")[-2:])}
    for word in text.split()[:80]:
        if "/" in word or "@" in word:
            continue
        found = _DOMAIN.search(word)
        if found and ".".join(found[0].lower().split(".")[-2:]) not in own:
            return found[0].lower()
    return None


_PATTERN_ADDRESS: Final = re.compile(r"[A-Za-z0-9._+-]{1,64}@[A-Za-z0-9.-]{1,255}")


def addresses_in(pattern: str) -> list[str]:
    """Return the mail addresses that a pattern spells out, in lower case."""
    return [found.rstrip(".").lower() for found in _PATTERN_ADDRESS.findall(pattern.replace("\\", ""))]


_NAMED_ZONE: Final = re.compile(
    r"(?:using|by|at|in|on|from|dnsbl|rbl|list) \(?\[?((?:[a-z0-9_-]{1,63}\.){1,8}[a-z]{2,24})(?![a-z0-9@-])",
    re.IGNORECASE,
)


def unknown_list(words: str) -> BlocklistMention | None:
    """Return the mention of a list that no table describes, by the host name after ``using``, ``at``, ``in``; else None."""
    found = _NAMED_ZONE.search(words)
    if found is None:
        return None
    zone = found[1].lower()
    return BlocklistMention(zone, zone, _address(_said(words)), None)
