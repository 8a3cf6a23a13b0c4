"""``milter-bounce blocklists``: what every list says about us, or about anybody, now.

SYNOPSIS
    milter-bounce blocklists [--json] [--all] [-c CONF] [IP|DOMAIN...]

DESCRIPTION
    Asks the watched lists (section [dns], rules/blocklists.toml) about the addresses and
    domains given, else about our own, those that refusals named as ours (dns.learn) among
    them. Shows where they are listed and since when, what
    the list says, and where to ask for removal; then the lists that did not answer in a
    way that can be believed, and why. --all shows every pair, --json prints each as one
    object a line.

DIAGNOSTICS
    Exit status 0: listed nowhere; 1: listed somewhere; 2: wrong usage or configuration.
"""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from milter_bounce.config import ConfigError
from milter_bounce.decide.rule_toml import RulesError
from milter_bounce.protocol.dnsbl import State, family_of, normal
from milter_bounce.system.dnsledger import lookup_link
from milter_bounce.system.dnslists import REMEDY, Watchlist, learnt_addresses, make_resolver, own_subjects, watchlist
from milter_bounce.system.dnswatch import Finding, Watcher
from milter_bounce.system.rulefiles import load_rules
from milter_bounce.system.settings import load_settings
from milter_bounce.system.store import StoreError
from milter_bounce.system.store_dns import DnsStore
from milter_bounce.verdict import printable, stamp

from ._out import Refusal, complain, emit

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from milter_bounce.config import Settings
    from milter_bounce.system.store_dns import ListingRecord

T = TypeVar("T")

LEAST_WIDTH: Final = 100
PIPE_WIDTH: Final = 140
COLOURS: Final = {State.LISTED: "bold red", State.NOT_LISTED: "green", State.UNKNOWN: "yellow"}


@dataclass(frozen=True, slots=True)
class _Row:
    """One pair of a list and a subject."""

    finding: Finding
    last: ListingRecord | None
    """What dnsd remembers of it."""

    @property
    def since(self) -> str | None:
        """Since when this state stands, as far as dnsd watched it."""
        if self.last is None or self.last.state is not self.finding.listing.state:
            return None
        return stamp(self.last.since)

    def fields(self) -> dict[str, Any]:
        """Return the row as JSON fields."""
        finding, zone = self.finding, self.finding.zone
        return {
            "subject": finding.subject,
            "blocklist": zone.zone,
            "operator": zone.operator or None,
            "state": str(finding.listing.state),
            "since": self.since,
            "last_known": None if self.last is None else str(self.last.state),
            "codes": list(finding.listing.codes),
            "meanings": list(finding.listing.meanings),
            "reason": finding.reason or None,
            "why": finding.listing.why or None,
            "weight": zone.weight,
            "lookup": lookup_link(zone, finding.subject),
            "removal": zone.removal or None,
        }


@click.command()
@click.argument("subjects", nargs=-1, metavar="[IP|DOMAIN]...")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per list and address or domain, one a line.")
@click.option("--all", "everything", is_flag=True, help="Show the lists that list nothing, too.")
@click.option("-c", "--config", "conf", type=click.Path(readable=False), help="The configuration.")
def blocklists(subjects: tuple[str, ...], conf: str | None, *, as_json: bool, everything: bool) -> None:
    """Tell which blocklists list an address or domain; without one, ours."""
    settings, lists, wanted = _prepared(subjects, conf)
    rows = _asked(settings, lists, wanted, quiet=as_json)
    rows.sort(key=lambda row: (wanted.index(row.finding.subject), row.finding.zone.zone))
    if as_json:
        for row in rows:
            emit(row.fields())
    else:
        _show(rows, everything=everything)
    if any(row.finding.listing.refused for row in rows):
        complain(REMEDY)
    elif rows and all(row.finding.listing.state is State.UNKNOWN for row in rows):
        click.echo(
            "milter-bounce: no list gave an answer to be believed, so nothing is known; see whether the resolver "
            "reaches the lists (dns.nameservers; empty: /etc/resolv.conf)",
            err=True,
        )
        raise SystemExit(1)
    if any(row.finding.listing.state is State.LISTED for row in rows):
        raise SystemExit(1)


def _prepared(subjects: Sequence[str], conf: str | None) -> tuple[Settings, Watchlist, list[str]]:
    """Return settings, lists and what to ask about, in one form.

    Raises:
        Refusal: configuration, rules or arguments cannot be used.
    """
    path = Path(conf) if conf else None
    try:
        settings = load_settings(path)
        lists = watchlist(settings.dns, load_rules(settings).blocklists, str(path or "milter-bounce.toml"))
        wanted = list(dict.fromkeys(map(normal, subjects))) or _ours(settings)
    except (ConfigError, RulesError) as error:
        raise Refusal(str(error)) from None
    except ValueError as error:
        raise Refusal(f"{error}; name IP addresses or domains") from None
    if not wanted:
        raise Refusal("no public address of ours is known; name one, or set dns.addresses")
    return settings, lists, wanted


def _ours(settings: Settings) -> list[str]:
    """Return what dnsd watches: our addresses and domains, and the addresses that refusals named as ours.

    Raises:
        ConfigError: as `own_subjects`.
    """
    learnt = learnt_addresses(_from_store(settings, DnsStore.names) or ()) if settings.dns.learn else ()
    return list(dict.fromkeys([*own_subjects(settings.dns), *learnt]))


def _asked(settings: Settings, lists: Watchlist, wanted: Sequence[str], *, quiet: bool) -> list[_Row]:
    """Return what the lists say, under a progress bar on standard error."""
    remembered = _from_store(settings, DnsStore.listings) or {}
    rows: list[_Row] = []
    total = sum(family_of(subject) in zone.families for zone in lists.zones for subject in wanted)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    # a bar is for people: none into a pipe, none beside JSON
    hidden = quiet or not sys.stderr.isatty()
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=hidden) as progress:
        task = progress.add_task("asking", total=total)

        def found(finding: Finding) -> None:
            rows.append(_Row(finding, remembered.get((finding.subject, finding.zone.zone))))
            progress.update(task, advance=1, description=finding.zone.zone)

        asyncio.run(_ask(settings, lists, wanted, found))
    return rows


async def _ask(settings: Settings, lists: Watchlist, wanted: Sequence[str], found: Callable[[Finding], object]) -> None:
    resolver = make_resolver(settings.dns)
    try:
        await Watcher(resolver, lists.keys, settings.dns.in_flight_per_list).round(lists.zones, wanted, found)
    finally:
        resolver.close()


def _from_store(settings: Settings, asked: Callable[[DnsStore], T]) -> T | None:
    """Return something that dnsd knows; None where there is no store, or it cannot be read."""
    if not Path(settings.store.path).exists():
        return None
    store = DnsStore(settings.store.path, wait_s=0.5)
    try:
        return asked(store)
    except StoreError:
        return None
    finally:
        store.close()


def _show(rows: Sequence[_Row], *, everything: bool) -> None:
    console = Console(highlight=False)
    # narrower, addresses and links would break; into a file or a pipe there is room
    console = Console(highlight=False, width=max(console.width, LEAST_WIDTH if console.is_terminal else PIPE_WIDTH))
    listed = [row for row in rows if row.finding.listing.state is State.LISTED]
    unknown = [row for row in rows if row.finding.listing.state is State.UNKNOWN]
    subjects = {row.finding.subject for row in rows}
    lists = {row.finding.zone.zone for row in rows}
    counts = f"listed: {len(listed)}, unknown: {len(unknown)}, of {len(rows)}"
    console.print(f"{len(subjects)} addresses and domains on {len(lists)} lists: {counts}")
    shown = list(rows) if everything else listed
    if shown:
        console.print(_table(shown))
    for zone, removal in dict.fromkeys((row.finding.zone.zone, row.finding.zone.removal) for row in listed):
        console.print(_cell(f"{zone}: removal: {removal or 'see the look-up page'}"))
    if unknown and not everything:
        console.print(_unknown(unknown))


def _cell(text: str, style: str = "") -> Text:
    """Return a cell of text from outside: escaped, and never read as markup."""
    return Text(printable(text, 300), style=style)


def _table(rows: Sequence[_Row]) -> Table:
    table = Table(title="Listings", title_justify="left")
    for name in ("Subject", "List", "State", "Since"):
        table.add_column(name, no_wrap=True)
    for name in ("Reason", "Look-up"):
        table.add_column(name, overflow="fold")
    for row in rows:
        listing, zone = row.finding.listing, row.finding.zone
        words = [", ".join(listing.meanings), row.finding.reason, listing.why]
        table.add_row(
            _cell(row.finding.subject),
            _cell(zone.zone + (" (advise)" if zone.weight == "advise" else "")),
            _cell(str(listing.state), COLOURS[listing.state]),
            _cell(row.since or ""),
            _cell("; ".join(filter(None, words))),
            _cell((lookup_link(zone, row.finding.subject) or "") if listing.state is State.LISTED else ""),
        )
    return table


def _unknown(rows: Sequence[_Row]) -> Table:
    """Return the lists that say nothing to be believed, one a line with the reason."""
    table = Table(title="Unknown", title_justify="left")
    table.add_column("List", no_wrap=True)
    for name in ("Pairs", "Last known listed", "Why"):
        table.add_column(name, overflow="fold")
    grouped: dict[tuple[str, str], list[_Row]] = {}
    for row in rows:
        grouped.setdefault((row.finding.zone.zone, row.finding.listing.why), []).append(row)
    for (zone, why), members in grouped.items():
        before = [row.finding.subject for row in members if row.last is not None and row.last.state is State.LISTED]
        table.add_row(_cell(zone), str(len(members)), _cell(", ".join(before)), _cell(why))
    return table
