"""What findings do to what is known: listings begin and end, blocks are lifted.

Goes in: findings and the last records. Comes out: new records, log lines, and
the blocks that no list speaks for any more. Does not: ask the DNS, read the
clock or touch a file; ``dnsd`` does.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from milter_bounce.protocol.dnsbl import State, change, family_of, normal
from milter_bounce.verdict import BlockState, printable, stamp

from .dnslists import zone_name
from .store_dns import ListingRecord

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime

    from milter_bounce.protocol.dnsbl import Change, Zone
    from milter_bounce.verdict import Block

    from .dnswatch import Finding
    from .store_dns import Named

BEFORE: Final = timedelta(days=1)
"""A listing seen so long before a block began still explains it: receivers keep answers of lists for hours."""

GRACE: Final = timedelta(hours=1)
"""A block whose list never listed us, as far as we saw, is lifted only after so long: the receiver may have an older
answer, or see another address of ours."""


def updated(last: ListingRecord | None, finding: Finding, now: datetime) -> tuple[ListingRecord, Change]:
    """Return the record after `finding`, and whether a listing began or ended; unknown keeps what was known."""
    listing, zone = finding.listing, finding.zone
    happened = change(last.state if last else None, listing)
    known = listing.state is not State.UNKNOWN
    listed = listing.state is State.LISTED
    changed = last is None or happened.state is not last.state
    keep = last if last and not known else None
    record = ListingRecord(
        finding.subject,
        zone.zone,
        happened.state,
        since=now if changed or last is None else last.since,
        known=now if known else last.known if last else None,
        checked=now,
        listed=now if listed else last.listed if last else None,
        weight=zone.weight,
        codes=keep.codes if keep else listing.codes if listed else (),
        meanings=keep.meanings if keep else listing.meanings if listed else (),
        reason=keep.reason if keep else finding.reason,
        why="" if known else listing.why,
    )
    return record, happened


def lookup_link(zone: Zone, subject: str) -> str | None:
    """Return where to look `subject` up and ask for removal."""
    return None if zone.lookup is None else zone.lookup.replace("{listed}", subject)


def listing_line(zone: Zone, record: ListingRecord, before: ListingRecord | None = None) -> str:
    """Return the one log line for a listing that began, or, given the record `before`, that ended."""
    fields = {
        "listing": record.subject,
        "notice": "listing-began" if before is None else "listing-ended",
        "blocklist": zone.zone,
        "operator": zone.operator or None,
        "weight": zone.weight,
        "codes": "+".join(record.codes) or None,
        "meaning": "+".join(record.meanings) or None,
        "since": stamp((before or record).since),
        "hours": None if before is None else f"{(record.since - before.since).total_seconds() / 3600:.1f}",
        "lookup": lookup_link(zone, record.subject) if before is None else None,
    }
    line = ", ".join(f"{key}={printable(str(value), 255)}" for key, value in fields.items() if value is not None)
    if record.reason:
        line += ', text="' + printable(record.reason).replace('"', "'") + '"'
    return line


def listing_facts(zone: Zone, record: ListingRecord, before: ListingRecord | None = None) -> dict[str, object]:
    """Return a listing that began, or, given `before`, that ended, as JSON for the administrator's own program."""
    return {
        "notice": "listing-began" if before is None else "listing-ended",
        "key": record.subject,
        "at": stamp(record.since),
        "since": stamp((before or record).since),
        "blocklist": zone.zone,
        "operator": zone.operator or None,
        "weight": zone.weight,
        "codes": list(record.codes),
        "meanings": list(record.meanings),
        "text": record.reason,
        "lookup": lookup_link(zone, record.subject),
        "removal": zone.removal or None,
    }


def notice_text(zone: Zone, record: ListingRecord) -> str:
    """Return what the administrator is told of a listing that began, in plain words."""
    lines = [
        f"{record.subject} is listed on {zone.zone} ({zone.operator or 'operator unknown'}).",
        f"Seen: {stamp(record.since)}. Codes: {', '.join(record.codes)} ({', '.join(record.meanings)}).",
        f"The list says: {printable(record.reason)}" if record.reason else "The list gives no reason.",
        f"Look-up and removal: {lookup_link(zone, record.subject) or 'see the operator of the list'}",
    ]
    if zone.removal:
        lines.append(f"How to get off: {zone.removal}")
    if zone.weight == "advise":
        lines.append("milter-bounce holds no mail because of this list.")
    return "\n".join(lines)


def ended_text(zone: Zone, record: ListingRecord, before: ListingRecord) -> str:
    """Return what the administrator is told of a listing that ended."""
    hours = (record.since - before.since).total_seconds() / 3600
    return (
        f"{record.subject} is no longer listed on {zone.zone} ({zone.operator or 'operator unknown'}).\n"
        f"Listed since {stamp(before.since)}, {hours:.1f} hours. Blocks for which no other list speaks are lifted."
    )


@dataclass(frozen=True, slots=True)
class Lift:
    """A block that its lists no longer speak for."""

    key: str
    by: str
    """``dns:ZONE``, the list that let go last."""


def subjects_for(zone: Zone, own: Iterable[str], names: Iterable[Named], since: datetime) -> set[str]:
    """Return what has to be off `zone` for a block to be lifted: what refusals named since then, else all of ours.

    A refusal may name an address that is not ours (the receiver's own, another list's): it then counts with ours,
    never in their place.
    """
    ours = {subject for subject in own if family_of(subject) in zone.families}
    named = set()
    for name in names:
        if zone_name(name.zone) == zone.zone and name.subject and name.last >= since:
            try:
                named.add(normal(name.subject))
            except ValueError:
                continue
    named = {subject for subject in named if family_of(subject) in zone.families}
    return named & ours or named | ours


def lifts(
    blocks: Iterable[Block],
    records: Mapping[tuple[str, str], ListingRecord],
    usable: Mapping[str, Zone],
    own: Iterable[str],
    names: Iterable[Named],
    now: datetime,
    grace: timedelta = GRACE,
) -> list[Lift]:
    """Return the held blocks to be lifted: every list that they name has let go of us, and answered since the refusal.

    Lists of weight advise neither hold nor lift. A list that cannot be asked (dead, without key, unknown to the
    rules) keeps its block: a probe, a person or the block's last day ends it.
    """
    own, names = list(own), list(names)
    found = []
    for block in blocks:
        if block.state is not BlockState.HELD or not block.zones or block.lifted_at is not None:
            continue
        zones = [usable.get(zone_name(zone)) for zone in block.zones]
        speaking = [zone for zone in zones if zone is None or zone.weight != "advise"] or zones
        freed = [_freed(block, zone, records, own, names, now, grace) if zone else None for zone in speaking]
        times = [when for when in freed if when is not None]
        if len(times) == len(freed):
            last = max(range(len(times)), key=times.__getitem__)
            zone = speaking[last]
            found.append(Lift(block.key, f"dns:{zone.zone if zone else ''}"))
    return found


def _freed(
    block: Block,
    zone: Zone,
    records: Mapping[tuple[str, str], ListingRecord],
    own: list[str],
    names: list[Named],
    now: datetime,
    grace: timedelta,
) -> datetime | None:
    """Return since when `zone` has let go of all that matters to `block`; None while it has not, or nobody knows."""
    asked_since = block.last_refusal or block.began
    subjects = subjects_for(zone, own, names, block.began - timedelta(hours=1))
    freed = None
    for subject in subjects:
        record = records.get((subject, zone.zone))
        # stamps in the file are whole seconds
        if record is None or record.state is not State.NOT_LISTED or record.known is None or record.why:
            return None
        if record.known < asked_since.replace(microsecond=0):
            return None
        freed = max(freed or record.since, record.since)
    if freed is None:
        return None
    seen = any(
        (listed := records[subject, zone.zone].listed) is not None and listed >= block.began - BEFORE
        for subject in subjects
    )
    return freed if seen or now - asked_since >= grace else None
