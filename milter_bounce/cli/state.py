"""``milter-bounce suppressions|store``: what is remembered, shown and changed by hand.

Exit status: 0 done; 1 nothing under that key, a bad line in an import, a fault
in the file; 2 wrong usage, configuration, or a store that cannot be opened.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from milter_bounce.system.sqlite_file import DAMAGED_REMEDY
from milter_bounce.verdict import Suppression, printable

from ._held import remedy
from ._out import JSON, emit, safe
from ._state import (
    CONFIG,
    Damaged,
    NotFound,
    Stop,
    now,
    opened,
    person,
    quiet_pipe,
    spelled,
    table,
)
from ._suppressions import COLUMNS, is_address, read_suppressions, suppression_fields, write_csv, write_json

if TYPE_CHECKING:
    from typing import TextIO

    from milter_bounce.system.sqlite_store import SqliteStore


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
@JSON
@CONFIG
def suppressions_add(addresses: tuple[str, ...], reason: str, conf: Path | None, *, as_json: bool) -> None:
    """Suppress recipients by hand."""
    for address in addresses:
        if not is_address(address):
            raise Stop(f"{address}: no address; write user@example.com")
    at, why = now(), reason or f"added by {person()}"
    given = [Suppression(a, at, "invalid-recipient", "admin", why, "admin") for a in addresses]
    with opened(conf) as store:
        before = {one for one in addresses if store.suppressed(one) is not None}
        new = store.suppress(given)
    if as_json:
        for address in addresses:
            emit({"recipient": address, "added": address not in before})
    else:
        click.echo(f"{new} added, {len(addresses) - new} suppressed before.")


@suppressions.command("remove")
@click.argument("addresses", nargs=-1, required=True)
@JSON
@CONFIG
def suppressions_remove(addresses: tuple[str, ...], conf: Path | None, *, as_json: bool) -> None:
    """Take recipients off; the bounces that led to it are forgotten too."""
    with opened(conf) as store:
        others = [address for address in addresses if store.suppressed(address) is None]
        removed = store.unsuppress(addresses)
        hints = [_not_suppressed(store, address) for address in others]
    if as_json:
        for address in addresses:
            emit({"recipient": address, "removed": address not in others})
    else:
        click.echo(f"{removed} removed.")
    if hints:
        raise NotFound("; ".join(hints))


def _not_suppressed(store: SqliteStore, address: str) -> str:
    """Return that an address is not suppressed, and which command lets it go where it is held otherwise."""
    command = remedy(store.gate_lookup(address, now()), address)
    return f"{address}: not suppressed" + (f", but held: `{command}`" if command else "")


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
        click.echo(f"{safe(name)}:{line}: {printable(fault, 300)}", err=True)

    new = known = 0
    with opened(conf) as store:
        for page in read_suppressions(file, form, now(), tell):
            added = 0 if dry_run else store.suppress(page)
            new, known = new + added, known + len(page) - added
    done = f"{known} good lines" if dry_run else f"{new} added, {known} suppressed before"
    click.echo(f"{done}, {len(bad)} bad lines.")
    if bad:
        click.get_current_context().exit(1)


# the file


@click.group()
def store() -> None:
    """Check, back up, vacuum and export the store."""


@store.command("check")
@JSON
@CONFIG
def store_check(conf: Path | None, *, as_json: bool) -> None:
    """Read the whole file and tell what is wrong with it; exit status 1 where anything is."""
    with opened(conf) as kept:
        faults, path = kept.check(), kept.path
    if as_json:
        emit({"path": str(path), "sound": not faults, "faults": list(faults)})
    for fault in () if as_json else faults:
        click.echo(safe(f"{path}: {fault}"), err=True)
    if faults:
        raise Damaged(f"{path}: damaged; stop the programs and {DAMAGED_REMEDY}")
    if not as_json:
        click.echo(safe(f"{path}: sound."))


@store.command("backup")
@click.argument("file", type=click.Path(path_type=Path, readable=False))
@CONFIG
def store_backup(file: Path, conf: Path | None) -> None:
    """Copy the store into the new FILE, sound and whole, while the programs go on; FILE is for its owner only.

    To put it back: stop the programs, move the store with its -wal and -shm away, copy FILE to store.path, give it to
    the programs' user, start them. logd goes on reading where it was when the copy was made.
    """
    with opened(conf) as kept:
        size = kept.backup(file)
    click.echo(safe(f"{file}: {size:,} bytes."))


@store.command("vacuum")
@CONFIG
def store_vacuum(conf: Path | None) -> None:
    """Remove what is past its retention, and rebuild the file without holes."""
    with opened(conf) as kept:
        kept.prune(now())
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
