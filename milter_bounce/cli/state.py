"""``milter-bounce blocks|suppressions|recipient|store``: what is remembered, shown and changed by hand.

Exit status: 0 done; 1 nothing under that key, a bad line in an import, a fault
in the file; 2 wrong usage, configuration, or a store that cannot be opened.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import click

from milter_bounce.decide.advise import domain_of
from milter_bounce.system.maillog import MailLog
from milter_bounce.verdict import Block, Scope, Suppression, notice_line, printable, stamp

from ._state import (
    CONFIG,
    JSON,
    Damaged,
    NotFound,
    Stop,
    emit,
    now,
    opened,
    person,
    quiet_pipe,
    settings_of,
    spelled,
    table,
)
from ._suppressions import COLUMNS, read_suppressions, suppression_fields, write_csv, write_json

if TYPE_CHECKING:
    from pathlib import Path
    from typing import TextIO

    from milter_bounce.verdict import Episode, Notice


def _log(conf: Path | None, notice: Notice) -> None:
    """Write the notice to the MTA's log as the programs do; where that cannot be written it stands on the terminal."""
    log = MailLog(settings_of(conf).log, "admin")
    log.line(notice_line(notice))
    log.close()
    click.echo(notice_line(notice))


# blocks


@click.group()
def blocks() -> None:
    """List, show, lift and add blocks: destinations that refuse us."""


def _block_fields(block: Block) -> dict[str, object]:
    """Return a block as JSON fields."""
    return {
        "key": block.key,
        "operator": block.operator,
        "state": str(block.state),
        "scope": str(block.scope),
        "category": block.category,
        "rule": block.rule,
        "began": stamp(block.began),
        "refusals": block.refusals,
        "last_refusal": stamp(block.last_refusal),
        "probe_at": stamp(block.probe_at),
        "ends": stamp(block.ends),
        "lifted_at": stamp(block.lifted_at),
        "lifted_by": block.lifted_by,
        "zones": list(block.zones),
        "text": block.text,
    }


@blocks.command("list")
@click.option("--all", "closed", is_flag=True, help="Those that are over as well.")
@JSON
@CONFIG
@quiet_pipe
def blocks_list(conf: Path | None, closed: bool, as_json: bool) -> None:
    """List the blocks that are not over, the oldest first."""
    with opened(conf) as store:
        found = store.blocks(closed=closed)
    if as_json:
        for block in found:
            emit(_block_fields(block))
        return
    table(
        ("block", "state", "category", "since", "refusals", "next probe", "ends", "lifted by", "text"),
        (
            (
                b.key,
                b.state,
                b.category,
                spelled(b.began),
                b.refusals,
                spelled(b.probe_at),
                spelled(b.ends),
                b.lifted_by or "-",
                b.text[:80],
            )
            for b in found
        ),
        empty="No blocks.",
    )


@blocks.command("show")
@click.argument("key")
@JSON
@CONFIG
def blocks_show(key: str, conf: Path | None, as_json: bool) -> None:
    """Show one block, and the messages that wait for it."""
    with opened(conf) as store:
        found = [block for block in store.blocks(closed=True) if block.key == key]
    if not found:
        raise NotFound(f"no block {key}; `milter-bounce blocks list --all` lists them")
    fields = _block_fields(found[0])
    if as_json:
        emit(fields)
    else:
        table(
            ("field", "value"),
            ((name, value if value is not None else "-") for name, value in fields.items()),
            empty="",
        )


@blocks.command("lift")
@click.argument("keys", nargs=-1, required=True)
@click.option("--by", default=None, help="Who lifts it, for the record; default: you.")
@CONFIG
def blocks_lift(keys: tuple[str, ...], by: str | None, conf: Path | None) -> None:
    """Lift blocks: a probe goes out, then a rising share; a renewed refusal brings them back."""
    missing = []
    with opened(conf) as store:
        for key in keys:
            notice = store.lift(key, printable(by or person(), 64), now())
            if notice is None:
                missing.append(key)
            else:
                _log(conf, notice)
    if missing:
        raise NotFound(f"not held: {', '.join(missing)}; `milter-bounce blocks list` lists what is")


@blocks.command("add")
@click.argument("destination")
@click.option("--days", type=click.FloatRange(0.001, 90), default=None, help="When it ends; default: block.max_days.")
@click.option("--probe-after", "hours", type=click.FloatRange(0, 240), default=0, help="Hours to a probe; 0 = none.")
@click.option("--reason", default="added by hand", help="Why, for the log and the queue listing.")
@CONFIG
def blocks_add(destination: str, days: float | None, hours: float, reason: str, conf: Path | None) -> None:
    """Hold mail to DESTINATION: an operator as the rules name it, or a domain."""
    at, span = now(), timedelta(days=days or settings_of(conf).block.max_days)
    probe = timedelta(hours=hours) or None
    plain = Block(
        key=destination.lower(),
        operator=destination.lower(),
        scope=Scope.SENDING_HOST,
        category="policy-rejection",
        rule="admin",
        began=at,
        probe_at=at + probe if probe else None,
        ends=at + span,
        text=f"{reason} ({person()})",
        refusals=0,
        probe_after=probe,
    )
    with opened(conf) as store:
        _log(conf, store.add_block(plain))


# suppressions


@click.group()
def suppressions() -> None:
    """List, show, add, remove, export and import suppressions."""


def _told(conf: Path | None, *, as_json: bool) -> None:
    with opened(conf) as store:
        if as_json:
            for one in store.suppressions():
                emit(suppression_fields(one))
            return
        rows = (
            (s.recipient, spelled(s.since), s.category, s.rule, s.origin, s.reason[:80]) for s in store.suppressions()
        )
        table((*COLUMNS[:4], "origin", "reason"), rows, empty="No suppressions.")


@suppressions.command("list")
@JSON
@CONFIG
@quiet_pipe
def suppressions_list(conf: Path | None, as_json: bool) -> None:
    """List all suppressed recipients."""
    _told(conf, as_json=as_json)


@suppressions.command("show")
@click.argument("address")
@JSON
@CONFIG
def suppressions_show(address: str, conf: Path | None, as_json: bool) -> None:
    """Show why ADDRESS is suppressed; exit status 1 where it is not."""
    with opened(conf) as store:
        found = store.suppressed(address)
    if found is None:
        raise NotFound(f"{address} is not suppressed")
    fields = suppression_fields(found)
    if as_json:
        emit(fields)
    else:
        table(("field", "value"), fields.items(), empty="")


@suppressions.command("add")
@click.argument("addresses", nargs=-1, required=True)
@click.option("--reason", default="", help="Why, for the record and the sender.")
@CONFIG
def suppressions_add(addresses: tuple[str, ...], reason: str, conf: Path | None) -> None:
    """Suppress recipients by hand."""
    for address in addresses:
        if domain_of(address) is None:
            raise Stop(f"{address}: no address; write user@example.com")
    at, why = now(), reason or f"added by {person()}"
    given = [Suppression(a, at, "invalid-recipient", "admin", why, "admin") for a in addresses]
    with opened(conf) as store:
        new = store.suppress(given)
    click.echo(f"{new} added, {len(addresses) - new} suppressed before.")


@suppressions.command("remove")
@click.argument("addresses", nargs=-1, required=True)
@CONFIG
def suppressions_remove(addresses: tuple[str, ...], conf: Path | None) -> None:
    """Take recipients off; the bounces that led to it are forgotten too."""
    with opened(conf) as store:
        removed = store.unsuppress(addresses)
    click.echo(f"{removed} removed.")
    if removed < len(addresses):
        raise NotFound(f"{len(addresses) - removed} of them not suppressed")


@suppressions.command("export")
@click.option("--format", "form", type=click.Choice(["csv", "json"]), default="csv", help="Default: csv.")
@CONFIG
@quiet_pipe
def suppressions_export(form: str, conf: Path | None) -> None:
    """Write all suppressions to standard output; `import` reads them again."""
    with opened(conf) as store:
        if form == "csv":
            write_csv(store.suppressions(), sys.stdout)
        else:
            write_json(store.suppressions(), sys.stdout)


@suppressions.command("import")
@click.argument("file", type=click.File("r", encoding="utf-8", errors="surrogateescape"))
@click.option("--format", "form", type=click.Choice(["csv", "json"]), default=None, help="Default: by the first byte.")
@click.option("--dry-run", is_flag=True, help="Only tell the bad lines.")
@CONFIG
def suppressions_import(file: TextIO, form: str | None, dry_run: bool, conf: Path | None) -> None:
    """Add the suppressions of FILE (- = standard input): CSV or JSON; bad lines are told, the others taken.

    CSV: one address a line, or the columns that `export` writes, named in a first line or in that order. JSON: an
    array, or one object or address a line.
    """
    bad: list[int] = []
    name = getattr(file, "name", "-")

    def tell(line: int, fault: str) -> None:
        bad.append(line)
        click.echo(f"{name}:{line}: {printable(fault, 300)}", err=True)

    new = known = 0
    with opened(conf) as store:
        for page in read_suppressions(file, form, now(), tell):
            added = 0 if dry_run else store.suppress(page)
            new, known = new + added, known + len(page) - added
    done = f"{known} good lines" if dry_run else f"{new} added, {known} suppressed before"
    click.echo(f"{done}, {len(bad)} bad lines.")
    if bad:
        click.get_current_context().exit(1)


# one recipient


@click.group()
def recipient() -> None:
    """Show what is known of one recipient."""


def _episode_fields(episode: Episode | None) -> dict[str, object] | None:
    if episode is None:
        return None
    return {
        "first_failure": stamp(episode.first_failure),
        "last_failure": stamp(episode.last_failure),
        "attempts": episode.attempts,
        "not_before": stamp(episode.not_before),
        "delay_s": None if episode.delay is None else int(episode.delay.total_seconds()),
        "category": episode.category,
        "rule": episode.rule,
        "block": episode.block,
        "given_up": stamp(episode.given_up),
    }


@recipient.command("show")
@click.argument("address")
@JSON
@CONFIG
def recipient_show(address: str, conf: Path | None, as_json: bool) -> None:
    """Show episode, bounces, suppression, waiting messages and standing of ADDRESS; exit status 1 where nothing is."""
    with opened(conf) as store:
        record, standing = store.recipient(address), store.gate_lookup(address, now())
    fields: dict[str, object] = {
        "recipient": record.recipient,
        "operator": record.operator,
        "standing": str(standing.kind),
        "until": stamp(standing.until),
        "block": standing.block,
        "backoff": standing.backoff,
        "episode": _episode_fields(record.episode),
        "suppression": suppression_fields(record.suppression) if record.suppression else None,
        "bounces": [{"at": stamp(at), "class": kind, "message": message} for at, kind, message in record.bounces],
        "waiting": [{"queue_id": queue_id, "since": stamp(since)} for queue_id, since in record.waiting],
    }
    if as_json:
        emit(fields)
    else:
        table(("field", "value"), _flat(fields), empty="")
    if record == replace(record, episode=None, suppression=None, bounces=(), waiting=()) and standing.until is None:
        click.get_current_context().exit(1)


def _flat(fields: dict[str, object]) -> list[tuple[str, object]]:
    """Return nested fields as rows: ``episode attempts``, ``bounces 1 at``."""
    rows: list[tuple[str, object]] = []
    for name, value in fields.items():
        if isinstance(value, dict):
            rows += [(f"{name} {inner}", kept) for inner, kept in _flat(value)]
        elif isinstance(value, list):
            for i, item in enumerate(value, 1):
                rows += [(f"{name} {i} {inner}", kept) for inner, kept in _flat(item)]
        elif value is not None:
            rows.append((name, value))
    return rows


# the file


@click.group()
def store() -> None:
    """Check, vacuum and export the store."""


@store.command("check")
@CONFIG
def store_check(conf: Path | None) -> None:
    """Read the whole file and tell what is wrong with it; exit status 1 where anything is."""
    with opened(conf) as kept:
        faults, path = kept.check(), kept.path
    for fault in faults:
        click.echo(f"{path}: {printable(fault)}", err=True)
    if faults:
        raise Damaged(
            f"{path}: damaged; stop the programs, put a backup in its place or move it away: they begin a new one"
        )
    click.echo(f"{path}: sound.")


@store.command("vacuum")
@CONFIG
def store_vacuum(conf: Path | None) -> None:
    """Remove what is past its retention, and rebuild the file without holes."""
    with opened(conf) as kept:
        while kept.prune(now()):
            pass
        before, after = kept.vacuum()
    click.echo(f"{before:,} bytes before, {after:,} after.")


@store.command("export")
@CONFIG
@quiet_pipe
def store_export(conf: Path | None) -> None:
    """Write every row of every table as one JSON object a line; times are milliseconds since 1970."""
    with opened(conf) as kept:
        for row in kept.export():
            emit(row)
