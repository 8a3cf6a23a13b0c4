"""Lists that are not believed: told once, together where they share the trouble, with the remedy.

Goes in: what the test of each list found. Goes out: a line for each kind of
trouble, and one when it is over. Does not: ask, or decide what is believed.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from milter_bounce.verdict import printable

from .dnslists import REMEDY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from milter_bounce.protocol.dnsbl import Family, Health, Zone

    from .store_dns import DnsStore

TURNED_AWAY: Final = "resolver-refused"
"""Under this name it is remembered that the resolver's trouble was told, also over a restart."""


class Troubles:
    """Gathers news of lists between two calls of `tell`.

    Args:
        dns: remembers what was told.
        safely: does something with the store, and survives its absence.
        say: writes one line to the mail log.
        announce: hands a notice to the administrator.
    """

    def __init__(
        self,
        dns: DnsStore,
        safely: Callable[[Callable[[], object]], bool],
        say: Callable[[str], object],
        announce: Callable[[dict[str, object], str, str], object],
    ) -> None:
        self._dns, self._safely, self._say, self._announce = dns, safely, say, announce
        self._news: dict[str, Health] = {}
        self._refusers: set[str] = set()

    def tested(self, zone: Zone, family: Family, health: Health) -> None:
        """Take in the test of one list for one family."""
        news, now = list[bool](), datetime.now(UTC)
        self._safely(
            lambda: news.append(self._dns.put_health(zone.zone, str(family), ok=health.ok, why=health.why, now=now))
        )
        (self._refusers.add if health.refused else self._refusers.discard)(zone.zone)
        if news == [True]:
            self._news[f"{zone.zone} ({family})" if len(zone.families) > 1 else zone.zone] = health

    def tell(self, resolvers: Iterable[object]) -> None:
        """Write what was gathered: one line for all lists with the same trouble, one for all that turn us away."""
        gathered, self._news = self._news, {}
        by_kind: dict[tuple[bool, bool, str], dict[str, str]] = {}
        for name, health in gathered.items():
            kind = (health.ok, health.refused, "" if health.refused else health.why)
            by_kind.setdefault(kind, {})[name] = health.why
        for (ok, refused, _), whys in by_kind.items():
            names, why = list(whys), "; ".join(dict.fromkeys(whys.values()))
            if ok:
                self._say(f"blocklists believed again: {', '.join(names)}")
                if not self._refusers:
                    self._safely(lambda: self._dns.untell(TURNED_AWAY))
            elif not refused or not self._turned_away(names, why, ", ".join(map(str, resolvers))):
                self._say(f"warning: blocklists not believed: {', '.join(names)}: {printable(why)}")

    def _turned_away(self, names: list[str], why: str, resolvers: str) -> bool:
        """Tell once that lists turn our resolver away; return whether that was done now."""
        first: list[bool] = []
        self._safely(lambda: first.append(self._dns.tell_once(TURNED_AWAY, datetime.now(UTC))))
        if first != [True]:
            return False
        lists = ", ".join(names)
        self._say(f"warning: resolver {resolvers} is turned away by {lists}: {printable(why)}; {REMEDY}")
        facts: dict[str, object] = {"notice": TURNED_AWAY, "resolvers": resolvers, "blocklists": names, "text": why}
        self._announce(facts, "blocklists turn our resolver away", f"{lists}: {why}.\n{REMEDY}")
        return True
