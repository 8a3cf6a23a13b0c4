"""dnsd - watches what the blocklists say about us, and who runs the mail of the domains we write to.

SYNOPSIS
    milter-bounce dnsd [-c CONF]

DESCRIPTION
    Asks every watched list (section [dns], rules/blocklists.toml) about every address and domain of ours, at
    intervals, and at once when a refusal names a list. A list is believed only after its test entries came out right
    (RFC 5782, 5), and only codes that its operator documents count. What is refused, broken or silent is unknown, and
    what was known stays.

    A listing that begins or ends is one line in the mail log, a notice, and a row in the store. A block that names
    lists is lifted when none of them lists us any more; a list of weight advise never holds or lifts anything.

    Recipient domains whose operator the log did not tell are looked up by their MX records.

SIGNALS
    HUP reads configuration, rules and keys again; broken ones leave the old in force and log why, and what only a
    restart puts in force is named. TERM ends.

DIAGNOSTICS
    A list that is not believed, and one that is believed again, is one line each; lists with the same trouble share
    theirs. A resolver that lists turn away is told once, with the remedy. Exit status 0 after TERM, 1 where another
    dnsd works on the same store, 2 for a wrong configuration (one line: file, key, remedy). That it works stands in
    STORE.dnsd, for `milter-bounce check`.

LIMITS
    Questions a second and under way (dns.queries_per_second, in_flight, in_flight_per_list); learnt addresses: 64;
    look-ups of operators: 500 a minute.

SECURITY
    Started as root it becomes settings.user before it asks anything. Answers are believed only from the resolver
    asked, to the very question. Keys of paid lists never leave this program but in questions.

BUGS
    The reason that a list gives (TXT) is its own text: it is escaped, and shown as it is.

STANDARDS
    RFC 5782 (DNS lists), RFC 2308 (negative answers), RFC 5452 (forged answers), RFC 7505 (null MX).
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Final

from milter_bounce import limits
from milter_bounce.escape import harmless
from milter_bounce.protocol.dnsbl import Family, Listing, State, Zone, family_of, normal
from milter_bounce.verdict import notice_line, printable

from . import nanny
from .advising import limits_of, make_store, retention_of
from .claim import Claim, TakenError
from .dnsledger import GRACE, ended_text, lifts, listing_facts, listing_line, notice_text, updated
from .dnslists import Watchlist, learnt_addresses, make_resolver, own_subjects, watchlist, zone_name
from .dnsmail import mail_domains
from .dnstrouble import Troubles
from .dnswatch import Finding, Watcher
from .heartbeat import Heartbeat
from .maillog import MailLog
from .notify import Notifier
from .reloading import renewed, tell_at_start
from .rulefiles import load_rules
from .settings import load_settings
from .store import StoreError
from .store_dns import DnsStore, ListingRecord, Named

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable
    from pathlib import Path

    from milter_bounce.config import Settings, StoreSection
    from milter_bounce.decide.advise import Limits
    from milter_bounce.decide.ruleset import RuleSet

    from .resolver import Resolver
    from .sqlite_store import SqliteStore
    from .store import Retention, Store

POLL_S: Final = 1.0
"""Seconds between two looks for new refusals; costs one PRAGMA when nothing was written."""

GATHER_S: Final = 5.0
"""Lists that fail within so many seconds of each other share one line: a resolver that is down is one trouble."""

BLOCKS_EVERY_S: Final = 10.0
"""Seconds between two looks at the blocks that stand, when nothing was written."""

OPERATORS_EVERY_S: Final = 60.0
OPERATORS_AT_ONCE: Final = 500
RECENT: Final = timedelta(days=2)
LEARNT_LIMIT: Final = limits.SUBJECTS_LEARNT
NAMED_DAYS: Final = timedelta(days=30)
LOCK_WAIT_S: Final = 0.5
"""How long the event loop may wait for another program's write; what is not written now is written next time."""


def _now() -> datetime:
    return datetime.now(UTC)


class Setup:
    """All that is made from the settings and replaced at a reload."""

    def __init__(self, settings: Settings, config_name: str) -> None:
        """Read rules, keys and our own addresses.

        Raises:
            ConfigError: a list is dead, unknown or without its key; a domain is none.
            RulesError: a broken rule file.
        """
        self.settings = settings
        self.rules: RuleSet = load_rules(settings)
        lists = watchlist(settings.dns, self.rules.blocklists, config_name)
        self.lists = lists if settings.dns.watch else Watchlist((), {}, {})
        self.own: tuple[str, ...] = own_subjects(settings.dns)


class Dnsd:
    """The program, on one event loop.

    Args:
        setup: what to watch.
        store: blocks, and the operators learnt from the log.
        dns: what dnsd itself remembers.
        say: writes one line to the mail log.
        tell: hands a notice to the administrator: facts for a program, subject and text for people.
        claim: where a sign of life is left.
    """

    def __init__(
        self,
        setup: Setup,
        store: Store,
        dns: DnsStore,
        say: Callable[[str], object],
        tell: Callable[[dict[str, object], str, str], object] = lambda *_: None,
        claim: Claim | None = None,
    ) -> None:
        self._claim = claim
        self.setup, self._store, self._dns, self._say, self._tell = setup, store, dns, say, tell
        self._records: dict[tuple[str, str], ListingRecord] = {}
        self._names: list[Named] = []
        self._lifted: dict[str, datetime] = {}
        self._troubles = Troubles(dns, self._safely, say, tell)
        self._store_away = False
        self._resolver: Resolver | None = None
        self._watcher: Watcher | None = None

    # -- life ---------------------------------------------------------------------

    async def run(self, stop: asyncio.Event, heart: Heartbeat | None = None) -> None:
        """Watch until `stop` is set."""
        dns = self.setup.settings.dns
        self._resolver = make_resolver(dns)
        self._watcher = Watcher(self._resolver, self.setup.lists.keys, dns.in_flight_per_list)
        self._safely(self._load)
        jobs: list[Callable[[], Awaitable[None]]] = [partial(self._watch, zone) for zone in self.setup.lists.zones]
        jobs += [self._refusals, self._grumble, partial(self._beat, heart)]
        if dns.operators:
            jobs.append(self._operators)
        tasks = [asyncio.ensure_future(self._kept_up(job)) for job in jobs]
        names = ", ".join(zone.zone for zone in self.setup.lists.zones) or "none"
        self._say(
            f"watching {len(self.setup.own)} addresses and domains on {len(self.setup.lists.zones)} lists: {names}"
        )
        if not any(family_of(item) is not Family.DOMAIN for item in self.setup.own):
            self._say(
                "warning: no public address of ours is known; name those that our mail goes out from: dns.addresses"
            )
        try:
            await stop.wait()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._resolver.close()

    async def _kept_up(self, job: Callable[[], Awaitable[None]]) -> None:
        """Run a job that never ends; a bug in one costs a line and a pause, and never the other jobs."""
        while True:
            try:
                await job()
            except Exception as error:  # see above
                self._say(f"error: dnsd goes on after {printable(repr(error))}; please report this")
                await asyncio.sleep(GATHER_S)

    def _load(self) -> None:
        self._records = self._dns.listings()
        self._names = self._dns.names()
        self._trim()

    def _trim(self) -> None:
        """Forget what lists said of subjects that nobody watches any more; anybody can name new ones in a refusal."""
        usable = self.setup.lists.usable.values()
        ours = self.subjects()
        keep = {(subject, zone.zone) for zone in usable for subject in (*ours, *self._named_on(zone))}
        if gone := self._records.keys() - keep:
            self._records = {key: record for key, record in self._records.items() if key in keep}
            self._safely(lambda: self._dns.forget_listings(gone))

    def _safely(self, act: Callable[[], object]) -> bool:
        """Do something with the store; one warning when it is away, one line when it is back."""
        try:
            act()
        except StoreError as error:
            if not self._store_away:
                self._say(f"warning: the store is away, listings are kept in memory: {printable(str(error))}")
            self._store_away = True
            return False
        if self._store_away:
            self._say("the store is back")
        self._store_away = False
        return True

    async def _beat(self, heart: Heartbeat | None) -> None:
        if heart is not None:
            heart.ready()
        while True:
            if heart is not None:
                heart.beat()
            if self._claim is not None:
                self._claim.sign()
            await asyncio.sleep(0.5)

    # -- listings -----------------------------------------------------------------

    def subjects(self) -> list[str]:
        """Return what is watched on every list: ours, and addresses that refusals named often enough."""
        if not self.setup.settings.dns.learn:
            return list(self.setup.own)
        return list(dict.fromkeys([*self.setup.own, *learnt_addresses(self._names)]))

    def _named_on(self, zone: Zone) -> list[str]:
        """Return what refusals of the last days name as listed on `zone`, to be followed until a block is over."""
        found = []
        for name in self._names[-1000:]:
            if name.subject and zone_name(name.zone) == zone.zone:
                with contextlib.suppress(ValueError):
                    found.append(normal(name.subject))
        return found[-LEARNT_LIMIT:]

    async def _watch(self, zone: Zone) -> None:
        """Ask one list at every interval. Each list has its own time, so that a silent one delays nobody."""
        loop, interval = asyncio.get_running_loop(), self.setup.settings.dns.interval_s
        while True:
            began = loop.time()
            self._trim()
            await self._row(zone, list(dict.fromkeys([*self.subjects(), *self._named_on(zone)])))
            await asyncio.sleep(max(0.2, interval - (loop.time() - began)))

    async def _row(self, zone: Zone, subjects: Iterable[str], *, fresh: bool = False) -> None:
        assert self._watcher is not None  # noqa: S101  # run() made it
        findings: list[Finding] = []
        await self._watcher.row(zone, subjects, findings.append, self._troubles.tested, fresh=fresh)
        self._absorb(await self._confirmed(zone, findings), _now())
        self._lift(_now())

    async def _confirmed(self, zone: Zone, findings: list[Finding]) -> list[Finding]:
        """Return the findings, those that end a listing only where the list is still well after it said so.

        A list that dies or is emptied between its test and our question would lift blocks that it should not.
        """
        assert self._watcher is not None  # noqa: S101  # run() made it
        checked: list[Finding] = []
        for finding in findings:
            last = self._records.get((finding.subject, zone.zone))
            if last and last.state is State.LISTED and finding.listing.state is State.NOT_LISTED:
                health = await self._watcher.health(zone, family_of(finding.subject))
                if not health.ok:
                    finding = replace(finding, listing=Listing(State.UNKNOWN, why=health.why))  # noqa: PLW2901
            checked.append(finding)
        return checked

    def _absorb(self, findings: Iterable[Finding], now: datetime) -> None:
        """Take in what a list said: records, lines, notices."""
        changed = []
        for finding in findings:
            key = (finding.subject, finding.zone.zone)
            last = self._records.get(key)
            record, happened = updated(last, finding, now)
            self._records[key] = record
            changed.append(record)
            if happened.began:
                self._say(listing_line(finding.zone, record))
                subject = f"{finding.subject} is listed on {finding.zone.zone}"
                self._tell(listing_facts(finding.zone, record), subject, notice_text(finding.zone, record))
            elif happened.ended and last is not None:
                self._say(listing_line(finding.zone, record, last))
                subject = f"{finding.subject} is no longer listed on {finding.zone.zone}"
                self._tell(listing_facts(finding.zone, record, last), subject, ended_text(finding.zone, record, last))
        if changed:
            self._safely(lambda: self._dns.put_listings(changed))

    def _lift(self, now: datetime) -> None:
        """Lift the blocks that no list speaks for any more."""

        def act() -> None:
            grace = GRACE * self.setup.settings.advice.time_scale
            self._lifted = {key: when for key, when in self._lifted.items() if now - when < grace}
            blocks = [block for block in self._store.blocks() if block.key not in self._lifted]
            if not any(block.zones for block in blocks):
                return
            own, usable = self.subjects(), self.setup.lists.usable
            for lift in lifts(blocks, self._records, usable, own, self._names, now, grace):
                notice = self._store.lift(lift.key, lift.by, now)
                self._lifted[lift.key] = now
                if notice is not None:
                    self._say(notice_line(notice))

        self._safely(act)

    # -- refusals that name a list ---------------------------------------------------

    async def _refusals(self) -> None:
        """Ask a list at once when a refusal names it, or when a block begins that names it."""
        changed, asked = self._dns.watch(), dict[str, datetime]()
        under_way: set[asyncio.Future[None]] = set()

        def done(task: asyncio.Future[None]) -> None:
            under_way.discard(task)
            if not task.cancelled() and (error := task.exception()) is not None:
                self._say(f"error: dnsd goes on after {printable(repr(error))}; please report this")

        loop, again_s = asyncio.get_running_loop(), min(BLOCKS_EVERY_S, self.setup.settings.dns.interval_s)
        last = loop.time() - again_s
        while True:
            wanted: dict[str, set[str]] = {}
            due = loop.time() - last >= again_s

            def look(wanted: dict[str, set[str]] = wanted, *, due: bool = due) -> None:
                if changed() or due:
                    self._wishes(wanted)
                    self._blocked(wanted, asked)

            self._safely(look)
            last = loop.time() if due else last
            for name, subjects in wanted.items():
                zone = self.setup.lists.usable.get(name)
                if zone is not None:
                    # not waited for: a silent list must not keep the next refusal waiting
                    task = asyncio.ensure_future(self._row(zone, subjects or self.subjects(), fresh=True))
                    under_way.add(task)
                    task.add_done_callback(done)
            await asyncio.sleep(POLL_S)

    def _wishes(self, wanted: dict[str, set[str]]) -> None:
        named = self._dns.names(unasked=True)
        if not named:
            return
        self._dns.asked(named)
        self._names = self._dns.names()
        for name in reversed(named):  # the latest first, for no list is asked about more than it would be watched for
            subjects = wanted.setdefault(zone_name(name.zone), set())
            if name.subject and len(subjects - set(self.setup.own)) < LEARNT_LIMIT:
                with contextlib.suppress(ValueError):
                    subjects.update({normal(name.subject), *self.setup.own})

    def _blocked(self, wanted: dict[str, set[str]], asked: dict[str, datetime]) -> None:
        """Ask about the lists of blocks that began or were renewed, and again at each interval while they stand."""
        now, patience = _now(), timedelta(seconds=self.setup.settings.dns.interval_s)
        blocks = self._store.blocks()
        for gone in asked.keys() - {block.key for block in blocks}:
            del asked[gone]
        for block in blocks:
            mark = block.last_refusal or block.began
            last = asked.get(block.key)
            if block.zones and (last is None or mark > last or now - last >= patience):
                asked[block.key] = max(now, mark)
                for zone in block.zones:
                    wanted.setdefault(zone_name(zone), set())

    async def _grumble(self) -> None:
        """Write one line for all lists that came into the same trouble at about the same time."""
        while True:
            await asyncio.sleep(GATHER_S)
            self._troubles.tell(self._resolver.servers if self._resolver else ())

    # -- operators -------------------------------------------------------------------

    async def _operators(self) -> None:
        """Look up who runs the mail of recipient domains that the log did not tell of."""
        while True:
            domains, now = list[str](), _now()

            def collect(domains: list[str] = domains, now: datetime = now) -> None:
                domains += self._dns.unknown_domains(now - RECENT, now, OPERATORS_AT_ONCE)

            self._safely(collect)
            if domains and self._resolver is not None:
                await self._look_up(domains, now)
            await asyncio.sleep(OPERATORS_EVERY_S)
            self._safely(lambda: self._dns.prune(_now() - NAMED_DAYS, _now()))

    async def _look_up(self, domains: list[str], now: datetime) -> None:
        assert self._resolver is not None  # noqa: S101  # run() made it
        most = timedelta(days=self.setup.settings.dns.operator_days)
        found = await mail_domains(self._resolver, domains, self.setup.rules.operator_of, now, most)

        def keep() -> None:
            self._dns.put_operators(found)
            with self._store.batch() as batch:
                for item in found:
                    if item.operator is not None:
                        batch.learn_operator(item.domain, item.operator, now)

        self._safely(keep)


async def _until_told(dnsd: Dnsd, reload: Callable[[], Setup | None], heart: Heartbeat) -> None:
    """Run, and run anew with new settings after each HUP, until TERM."""
    loop, stop, again = asyncio.get_running_loop(), asyncio.Event(), False
    ended = False

    def on_hup() -> None:
        nonlocal again
        fresh = reload()
        if fresh is not None:
            dnsd.setup, again = fresh, True
            stop.set()

    def on_term() -> None:
        nonlocal ended
        ended = True
        stop.set()

    loop.add_signal_handler(signal.SIGHUP, on_hup)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_term)
    while not ended:
        again = False
        await dnsd.run(stop, heart)
        if again and not ended:
            stop.clear()
    heart.stopping()


def _patient(section: StoreSection) -> StoreSection:
    """Return the store's section with a wait that does not stall the event loop."""
    return section.model_copy(update={"lock_wait_s": min(section.lock_wait_s, LOCK_WAIT_S)})


def _reload(
    make: Callable[[], tuple[Setup, Limits, Retention]],
    began: Settings,
    store: SqliteStore,
    notifier: Notifier,
    log: MailLog,
) -> Setup | None:
    """Return what to go on with, store and notifier renewed; None where that is what there was."""
    fresh = renewed(make, log.warning)
    if fresh is None:
        return None
    setup, limits, retention = fresh
    store.use(limits, retention)
    notifier.use(setup.settings.notify)
    log.line("configuration, rules and keys read again")
    tell_at_start("dnsd", began, setup.settings, log.warning)
    return setup


def main(settings: Settings, config_path: Path | None = None, **_options: object) -> int:
    """Run dnsd until TERM; return the exit status.

    Raises:
        ConfigError, RulesError: before anything is asked.
    """
    name = str(config_path or "milter-bounce.toml")
    nanny.drop_privileges(settings, config_path)
    setup = Setup(settings, name)
    log = MailLog(settings.log, "dnsd")
    store = make_store(settings.model_copy(update={"store": _patient(settings.store)}))
    notifier = Notifier(settings.notify, log)
    claim = Claim(settings.store.path, "dnsd")
    try:
        with contextlib.suppress(OSError):  # without its store it goes on, and claims it later
            claim.take()
    except TakenError as error:
        sys.stderr.write(f"milter-bounce dnsd: {harmless(str(error))}\n")
        return 1
    dnsd = Dnsd(setup, store, DnsStore(settings.store.path, LOCK_WAIT_S), log.line, notifier.announce, claim)

    def make() -> tuple[Setup, Limits, Retention]:
        fresh = load_settings(config_path)
        return Setup(fresh, name), limits_of(fresh), retention_of(fresh)

    reload = partial(_reload, make, settings, store, notifier, log)
    asyncio.run(_until_told(dnsd, reload, Heartbeat()))
    claim.leave()
    store.close()
    log.close()
    return 0
