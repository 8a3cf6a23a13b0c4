"""``milter-bounce blocks``: destinations that refuse us or are left in peace, shown, lifted and added by hand.

Exit status: 0 done; 1 nothing under that key; 2 wrong usage, configuration, or a store that cannot be opened.
"""

from __future__ import annotations

import difflib
import re
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import click

from milter_bounce.verdict import BY_HAND, Backoff, Block, BlockState, Scope, printable, stamp

from ._held import SHOWN, message_fields, only_said, show_messages, write_down
from ._out import JSON, emit
from ._rules import loaded_rules
from ._state import CONFIG, NotFound, Stop, now, opened, person, quiet_pipe, settings_of, spelled, table

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from milter_bounce.system.sqlite_store import SqliteStore
    from milter_bounce.system.store import HeldRecipients

_LABEL: Final = re.compile(r"(?!-)[\w-]{1,63}(?<!-)")


@click.group()
def blocks() -> None:
    """List, show, lift and add blocks: destinations that refuse us. Back-offs are listed, shown and ended as well."""


def _block_fields(block: Block) -> dict[str, object]:
    """Return a block as JSON fields."""
    return {
        "kind": "block",
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


def _backoff_fields(backoff: Backoff) -> dict[str, object]:
    """Return a back-off as JSON fields."""
    return {
        "kind": "backoff",
        "key": backoff.key,
        "category": backoff.category,
        "began": stamp(backoff.since),
        "not_before": stamp(backoff.not_before),
    }


def _hold_fields(held: HeldRecipients) -> dict[str, object]:
    """Return recipients that are held by themselves as JSON fields."""
    return {
        "kind": "recipients",
        "key": held.key,
        "category": held.category,
        "recipients": held.number,
        "not_before": stamp(held.first),
        "last_not_before": stamp(held.last),
        "text": held.text,
    }


@blocks.command("list")
@click.option("--all", "closed", is_flag=True, help="Those that are over as well.")
@click.option("--held", is_flag=True, help="With --json: back-offs and held recipients as well.")
@JSON
@CONFIG
@quiet_pipe
def blocks_list(conf: Path | None, closed: bool, held: bool, as_json: bool) -> None:
    """List blocks that are not over, back-offs, and recipients held by themselves, counted by destination."""
    unreal = only_said(settings_of(conf))
    with opened(conf) as store:
        found, backoffs, holds = store.blocks(closed=closed), store.backoffs(now()), store.holds(now())
    if as_json:
        others = [*map(_backoff_fields, backoffs), *map(_hold_fields, holds)] if held else []
        for fields in [*map(_block_fields, found), *others]:
            emit({**fields, "only_said": unreal})
        return
    _block_table(found)
    _backoff_table(backoffs)
    _hold_table(holds)
    if unreal and (found or backoffs or holds):
        click.echo(f"\nMode {unreal}.")


def _block_table(found: list[Block]) -> None:
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


def _backoff_table(backoffs: Iterable[Backoff]) -> None:
    rows = [(b.key, b.category, spelled(b.since), spelled(b.not_before)) for b in backoffs]
    if rows:
        click.echo("\nBacked off (`milter-bounce blocks lift KEY` ends it):")
        table(("destination", "category", "since", "not before"), rows, empty="")


def _hold_table(holds: list[HeldRecipients]) -> None:
    rows = [(h.key, h.number, h.category, spelled(h.first), spelled(h.last), h.text[:80]) for h in holds[:SHOWN]]
    if rows:
        click.echo("\nRecipients held by themselves (`milter-bounce recipient release ADDRESS|DOMAIN` lets them go):")
        table(("destination", "recipients", "category", "first until", "last until", "text"), rows, empty="")
    if len(holds) > SHOWN:
        click.echo(f"... and {len(holds) - SHOWN} more; --json --held lists all.")


def _spelled(value: object) -> object:
    """Return a field's value as it stands in a table."""
    if isinstance(value, list):
        value = ", ".join(map(str, value))
    return "-" if value in {None, ""} else value


@blocks.command("show")
@click.argument("key")
@JSON
@CONFIG
@quiet_pipe
def blocks_show(key: str, conf: Path | None, as_json: bool) -> None:
    """Show one block or back-off, and the messages that wait for it."""
    key = key.lower()
    with opened(conf) as store:
        found = [_block_fields(block) for block in store.blocks(closed=True) if block.key == key]
        found += [_backoff_fields(backoff) for backoff in store.backoffs(now()) if backoff.key == key]
        messages, total = store.waiting_for(key, SHOWN)
        hint = None if found else _hint(store, key)
    if not found:
        raise NotFound(f"no block {key}; {hint or '`milter-bounce blocks list --all` lists them'}")
    unreal = only_said(settings_of(conf))
    if as_json:
        for fields in found:
            emit({**fields, "only_said": unreal, "waiting_total": total, "waiting": message_fields(messages)})
        return
    for fields in found:
        shown = {**fields, **({"mode": unreal} if unreal else {})}
        table(("field", "value"), ((name, _spelled(value)) for name, value in shown.items()), empty="")
    show_messages(messages, total)


@blocks.command("lift")
@click.argument("keys", nargs=-1, required=True)
@click.option("--by", default=None, help="Who lifts it, for the record; default: you.")
@click.option("--now", "at_once", is_flag=True, help="End it at once: no probe, no rising share.")
@JSON
@CONFIG
def blocks_lift(keys: tuple[str, ...], by: str | None, conf: Path | None, *, at_once: bool, as_json: bool) -> None:
    """Lift blocks: a probe goes out, then a rising share; a renewed refusal brings them back.

    A block that was added by hand ends at once, and so does a back-off.
    """
    missing = []
    who = printable(by or person(), 64)
    with opened(conf) as store:
        for key in map(str.lower, keys):
            notices = store.lift(key, who, now(), at_once=at_once), store.end_backoff(key, who, now())
            done = [notice for notice in notices if notice is not None]
            for notice in done:
                write_down(conf, notice, quiet=as_json)
            if as_json:
                emit({"key": key, "lifted": bool(done), "notices": [str(notice.kind) for notice in done]})
            if not done:
                missing.append(f"{key}: not held; {_hint(store, key) or '`milter-bounce blocks list` lists what is'}")
    if missing:
        raise NotFound("; ".join(missing))


def _hint(store: SqliteStore, key: str) -> str | None:
    """Return what else is held under a key that is no block held, and what releases it."""
    lifted = next((b for b in store.blocks() if b.key == key and b.state is not BlockState.HELD), None)
    if lifted is not None:
        return f"it is lifted already ({lifted.state}); `milter-bounce blocks lift --now {key}` ends it"
    if "@" in key:
        return f"`milter-bounce recipient show {key}` tells of a recipient"
    held = sum(one.number for one in store.holds(now()) if one.key == key)
    many = f"{held} recipients are" if held > 1 else "1 recipient is"
    return f"{many} held there; `milter-bounce recipient release {key}` lets go" if held else None


def _destination(word: str, operators: Iterable[str]) -> str:
    """Return the key of a destination that somebody wrote: an operator that the rules know, or a domain.

    Raises:
        Stop: it is neither; what may have been meant.
    """
    key, known = word.strip().lower().rstrip("."), sorted(operators)
    if key in known:
        return key
    if "@" in key:
        raise Stop(f"{word}: is an address; `milter-bounce suppressions add` is for one recipient")
    with_dots = "." in key and len(key) <= 253
    if with_dots and all(_LABEL.fullmatch(label) for label in key.split(".")) and not key.split(".")[-1].isdigit():
        return key
    meant = difflib.get_close_matches(key, known, 3)
    guess = f"; did you mean {' or '.join(meant)}?" if meant else "; write example.com, or a name of rules/operators"
    raise Stop(f"{word}: neither an operator that the rules know nor a domain{guess}")


@blocks.command("add")
@click.argument("destination")
@click.option("--days", type=click.FloatRange(0.001, 90), default=None, help="When it ends; default: block.max_days.")
@click.option("--probe-after", "hours", type=click.FloatRange(0, 240), default=0, help="Hours to a probe; 0 = none.")
@click.option("--reason", default="added by hand", help="Why, for the log and the queue listing.")
@JSON
@CONFIG
def blocks_add(
    destination: str, days: float | None, hours: float, reason: str, conf: Path | None, *, as_json: bool
) -> None:
    """Hold mail to DESTINATION: an operator as the rules name it, or a domain."""
    key = _destination(destination, loaded_rules(None if conf is None else str(conf)).operators)
    at, span = now(), timedelta(days=days or settings_of(conf).block.max_days)
    probe = timedelta(hours=hours) or None
    plain = Block(
        key=key,
        operator=key,
        scope=Scope.SENDING_HOST,
        category="policy-rejection",
        rule=BY_HAND,
        began=at,
        probe_at=at + probe if probe else None,
        ends=at + span,
        text=f"{reason} ({person()})",
        refusals=0,
        probe_after=probe,
    )
    with opened(conf) as store:
        write_down(conf, store.add_block(plain), quiet=as_json)
    unreal = only_said(settings_of(conf))
    if as_json:
        emit({**_block_fields(plain), "only_said": unreal})
    elif unreal:
        click.echo(f"Mode {unreal}.")
