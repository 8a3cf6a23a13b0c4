"""``milter-bounce recipient``: what is known of recipients, and their release by hand.

Exit status: 0 done; 1 nothing is known, or not held; 2 wrong usage, configuration, or a store that cannot be opened.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import click

from milter_bounce.verdict import AdviceKind, Notice, NoticeKind, Standing, printable, stamp

from ._held import SHOWN, only_said, remedy, write_down
from ._out import JSON, emit
from ._state import CONFIG, NotFound, now, opened, person, quiet_pipe, settings_of, table
from ._suppressions import suppression_fields

if TYPE_CHECKING:
    from pathlib import Path

    from milter_bounce.system.sqlite_store import SqliteStore
    from milter_bounce.system.store import RecipientRecord
    from milter_bounce.verdict import Episode


@click.group()
def recipient() -> None:
    """Show what is known of a recipient; release what is held."""


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
        "text": episode.text or None,
        "block": episode.block,
        "given_up": stamp(episode.given_up),
    }


def _why(record: RecipientRecord, standing: Standing) -> str | None:
    """Return the words behind what stands in the way: the block's, the suppression's, else the last reply's."""
    return standing.text or (record.episode.text if record.episode else "") or None


def _fields(record: RecipientRecord, standing: Standing, mode: str) -> dict[str, object]:
    held = standing.kind is not AdviceKind.NONE
    return {
        "recipient": record.recipient,
        "operator": record.operator,
        "standing": str(standing.kind),
        "until": stamp(standing.until),
        "category": (standing.category or None) if held else None,
        "rule": (standing.rule or None) if held else None,
        "text": _why(record, standing) if held else None,
        "block": standing.block,
        "backoff": standing.backoff,
        "mode": mode,
        "release": remedy(standing, record.recipient),
        "episode": _episode_fields(record.episode),
        "suppression": suppression_fields(record.suppression) if record.suppression else None,
        "bounces": [{"at": stamp(at), "class": kind, "message": message} for at, kind, message in record.bounces],
        "waiting": [{"queue_id": queue_id, "since": stamp(since)} for queue_id, since in record.waiting],
    }


@recipient.command("show")
@click.argument("name", metavar="ADDRESS|QUEUE_ID|DOMAIN")
@JSON
@CONFIG
@quiet_pipe
def recipient_show(name: str, conf: Path | None, as_json: bool) -> None:
    """Show what is known of a recipient, why it is held and what releases it; exit status 1 where nothing is.

    Of a queue ID, those whom it waits for; of a domain or operator, its recipients of whom anything is known.
    """
    settings = settings_of(conf)
    known = False
    with opened(conf) as store:
        addresses, total = _named(store, name)
        for number, address in enumerate(addresses):
            record, standing = store.recipient(address), store.gate_lookup(address, now())
            known = known or not _is_stranger(record, standing)
            mode = settings.mode if as_json else only_said(settings) or settings.mode
            fields = _fields(record, standing, mode)
            if as_json:
                emit(fields)
            else:
                click.echo("", nl=bool(number))
                table(("field", "value"), _flat(fields), empty="")
    if total > len(addresses):
        click.echo(f"... and {total - len(addresses)} more recipients", err=True)
    if not addresses:
        raise NotFound(f"{name}: nothing is known of such a queue ID, domain or operator")
    if not known:
        click.get_current_context().exit(1)


def _named(store: SqliteStore, name: str) -> tuple[list[str], int]:
    """Return the recipients that `name` means, and how many they are in all."""
    if "@" in name:
        return [name], 1
    waiting, total = store.waiting_under(name, SHOWN)
    return ([one.recipient for one in waiting], total) if total else store.recipients_at(name, SHOWN)


def _is_stranger(record: RecipientRecord, standing: Standing) -> bool:
    """Return whether nothing is known of a recipient and nothing stands in the way."""
    bare = replace(record, episode=None, suppression=None, bounces=(), waiting=())
    return record == bare and standing.until is None


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


@recipient.command("release")
@click.argument("names", nargs=-1, metavar="[ADDRESS|DOMAIN]...")
@click.option("--all", "everybody", is_flag=True, help="Whoever is held for his own sake, and all back-offs.")
@click.option("--by", default=None, help="Who releases, for the record; default: you.")
@CONFIG
def recipient_release(names: tuple[str, ...], by: str | None, conf: Path | None, *, everybody: bool) -> None:
    """Let recipients go that are held for their own sake; what waits for them is tried soon.

    A DOMAIN, or an operator as the rules name it, means all its recipients and its back-off. A schedule that is used up
    gets one more attempt. Blocks (`blocks lift`) and suppressions (`suppressions remove`) stand.
    """
    if bool(names) is everybody:
        raise click.UsageError("name addresses or domains, or give --all")
    who, missing = printable(by or person(), 64), []
    with opened(conf) as store:
        for name in names or (None,):
            freed = store.release(name, now())
            if freed.recipients or freed.backoffs:
                key = "all" if name is None else name.lower()
                write_down(conf, Notice(NoticeKind.RELEASED, key, now(), by=who))
                click.echo(f"Released: recipients {freed.recipients}, back-offs {freed.backoffs}.")
            else:
                missing.append(f"{name or 'nobody'}: not held for its own sake")
            if name is not None and (other := _still(store, name)):
                missing.append(other)
    if missing:
        raise NotFound("; ".join(missing))


def _still(store: SqliteStore, name: str) -> str | None:
    """Return what still stands in the way after a release, and what ends that."""
    if "@" in name:
        command = remedy(store.gate_lookup(name, now()), name)
    else:
        command = f"milter-bounce blocks lift {name}" if any(b.key == name.lower() for b in store.blocks()) else None
    return f"{name} is held all the same: `{command}`" if command else None
