"""Asking lists about subjects: each list tested first, each in a row of its own.

Goes in: a resolver, zones, subjects. Comes out: a `Finding` for each pair, as
they come. Does not: remember or act; ``dnsd`` and ``milter-bounce blocklists`` do.

LIMITS
    At most `per_list` questions under way for one list, and after
    `SILENT_LIMIT` timeouts running the rest of its row is unknown unasked: a list
    that never answers delays its own row, for a few time limits, and nothing else.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from milter_bounce.protocol.dnsbl import (
    Family,
    Health,
    Listing,
    State,
    Zone,
    family_of,
    health_points,
    query_name,
    read_health,
    read_listing,
    reason_text,
)
from milter_bounce.protocol.dnswire import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from .resolver import Resolver

SILENT_LIMIT: Final = 3
SILENT: Final = frozenset({Outcome.TIMEOUT, Outcome.UNREACHABLE})


@dataclass(frozen=True, slots=True)
class Finding:
    """What one list says about one subject now."""

    zone: Zone
    subject: str
    listing: Listing
    reason: str = ""
    """The list's own words (TXT), where it lists the subject."""


class Watcher:
    """Asks lists through one resolver."""

    def __init__(self, resolver: Resolver, keys: Mapping[str, str] | None = None, per_list: int = 8) -> None:
        self._resolver = resolver
        self._keys = dict(keys or {})
        self._per_list = per_list

    def _name(self, subject: str, zone: Zone) -> str:
        return query_name(subject, zone, self._keys.get(zone.zone))

    async def health(self, zone: Zone, family: Family) -> Health:
        """Return whether `zone` is to be believed for `family`, by its two test points (RFC 5782, 5).

        Our own cache is passed by: a list that has died must not be believed for what it said an hour ago.
        """
        names = [self._name(point, zone) for point in health_points(zone, family)]
        for name in names:
            self._resolver.forget(name)
        must, must_not = await asyncio.gather(*map(self._resolver.ask, names))
        return read_health(zone, family, must, must_not)

    async def ask(self, zone: Zone, subject: str) -> tuple[Finding, Outcome]:
        """Return what a list, believed healthy, says about one subject, and how the question ended."""
        name = self._name(subject, zone)
        reply = await self._resolver.ask(name)
        listing = read_listing(zone, reply)
        reason = reason_text(await self._resolver.ask(name, "TXT")) if listing.state is State.LISTED else ""
        return Finding(zone, subject, listing, reason), reply.outcome

    async def row(
        self,
        zone: Zone,
        subjects: Iterable[str],
        found: Callable[[Finding], object],
        tested: Callable[[Zone, Family, Health], object] = lambda *_: None,
        *,
        fresh: bool = False,
    ) -> None:
        """Ask one list about all subjects that it can list; `found` is called with each finding, `tested` per family.

        Args:
            zone: the list.
            subjects: addresses and domains; those of a family that the list does not serve are left out.
            found: takes each finding.
            tested: takes the health of each family asked about.
            fresh: ask past our own cache, since a refusal just named the list.
        """
        by_family: dict[Family, list[str]] = {}
        for subject in subjects:
            by_family.setdefault(family_of(subject), []).append(subject)
        for family in [item for item in by_family if item in zone.families]:
            health = await self.health(zone, family)
            tested(zone, family, health)
            if health.ok:
                if fresh:
                    for subject in by_family[family]:
                        self._resolver.forget(self._name(subject, zone))
                await self._family_row(zone, by_family[family], found)
            else:
                for subject in by_family[family]:
                    found(Finding(zone, subject, Listing(State.UNKNOWN, why=health.why, refused=health.refused)))

    async def _family_row(self, zone: Zone, subjects: Sequence[str], found: Callable[[Finding], object]) -> None:
        silent, left = 0, iter(subjects)

        async def work(left: Iterator[str]) -> None:
            nonlocal silent
            for subject in left:
                if silent >= SILENT_LIMIT:
                    found(Finding(zone, subject, Listing(State.UNKNOWN, why="the list stopped answering")))
                    continue
                finding, outcome = await self.ask(zone, subject)
                silent = silent + 1 if outcome in SILENT else 0
                found(finding)

        await asyncio.gather(*(work(left) for _ in range(min(self._per_list, len(subjects)))))

    async def round(
        self,
        zones: Iterable[Zone],
        subjects: Sequence[str],
        found: Callable[[Finding], object],
        tested: Callable[[Zone, Family, Health], object] = lambda *_: None,
    ) -> None:
        """Ask all lists about all subjects, side by side."""
        await asyncio.gather(*(self.row(zone, subjects, found, tested) for zone in zones))
