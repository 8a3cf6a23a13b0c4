"""``milter-bounce log``: every delivery status of whole logs, classified.

SYNOPSIS
    milter-bounce log [--json] [-c CONF] [--top N] FILE...

DESCRIPTION
    Reads logs of Postfix and Sendmail, also both in one file, plain or packed (.gz .bz2
    .xz .zst), - for standard input. Shows for each operator what became of the messages
    to it and how its rates stand against the thresholds of rules/thresholds.toml (yellow
    and red where exceeded), the most frequent refusals with an example, and the
    blocklists that refusals name. --json prints one object per delivery status instead.

LIMITS
    A packed log that unpacks to 400 times its size and more is refused.
"""

from __future__ import annotations

import json
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from milter_bounce.config import ConfigError
from milter_bounce.system.logcount import count_logs, deliveries, total_bytes
from milter_bounce.system.thresholds import Threshold, load_thresholds
from milter_bounce.verdict import CATEGORIES, printable, stamp, status_fields

from ._rules import Refusal, loaded_rules

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from milter_bounce.decide.ruleset import RuleSet
    from milter_bounce.parse.logline import Delivery
    from milter_bounce.system.logtally import Failed, Tally

COLOURS: Final = {"hard": "red", "soft": "yellow", "policy": "magenta", "none": "green"}
MARKS: Final = {"fine": "green", "warn": "yellow", "bad": "bold red"}
OPERATORS_SHOWN: Final = 20
CATEGORIES_SHOWN: Final = 6
"""Columns that fit a terminal of 120 characters; the rest is summed up."""


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per delivery status, one a line.")
@click.option("-c", "--config", "conf", type=click.Path(), help="The configuration; for local rules.")
@click.option("--top", default=10, show_default=True, type=click.IntRange(0, 1000), help="Refusals to show.")
@click.option("--processes", type=click.IntRange(1, 256), help="Processes to count with; default: one for each core.")
def log(files: tuple[str, ...], conf: str | None, top: int, processes: int | None, *, as_json: bool) -> None:
    """Classify every delivery status of Postfix and Sendmail logs (plain, .gz, .bz2, .xz, .zst; - is standard input)."""
    rules = loaded_rules(conf)
    paths = [None if name == "-" else Path(name) for name in files]
    faults: list[str] = []

    def failed(fault: str) -> None:
        faults.append(fault)
        click.echo(f"milter-bounce: {fault}", err=True)

    if as_json:
        for line in _objects(paths, rules, failed):
            click.echo(line)
    else:
        try:
            thresholds = load_thresholds()
        except ConfigError as error:
            raise Refusal(str(error)) from None
        tally = _counted(paths, rules, failed, processes)
        if tally.attempts or not faults:
            _show(tally, thresholds, top)
    if faults:
        raise SystemExit(1)


def _objects(paths: Sequence[Path | None], rules: RuleSet, failed: Callable[[str], None]) -> Iterator[str]:
    """Return the JSON of every delivery status; a status of our own gate says ``"gate": true``."""
    for found in deliveries(paths, failed):
        yield json.dumps(_object(found, rules), ensure_ascii=False)


def _object(found: Delivery, rules: RuleSet) -> dict[str, object]:
    status = found.status
    verdict = rules.classify(status)
    return {
        "at": stamp(status.at),
        "queue_id": status.queue_id,
        **status_fields(status, verdict),
        "sender": status.sender,
        "message_id": status.message_id,
        "remote_ip": status.remote_ip,
        "remote_port": status.remote_port,
        "log_status": found.log_status,
        "local": status.local,
        "gate": found.ours or verdict.gate,
        "suspended": found.suspended,
        "probe": found.probe,
    }


def _counted(
    paths: Sequence[Path | None], rules: RuleSet, failed: Callable[[str], None], processes: int | None
) -> Tally:
    """Return the tally of the logs, behind a progress bar on a terminal."""
    if not sys.stderr.isatty():
        return count_logs(paths, rules, failed, processes=processes)
    columns = TextColumn("reading"), BarColumn(), DownloadColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("reading", total=total_bytes(paths) or None)
        return count_logs(paths, rules, failed, lambda size: progress.advance(task, size), processes)


# -- tables ---------------------------------------------------------------------


def _show(tally: Tally, thresholds: list[Threshold], top: int) -> None:
    console = Console(highlight=False)
    statuses, messages = sum(tally.attempts.values()), sum(tally.delivered.values()) + len(tally.failed)
    span = f"{stamp(tally.first)} to {stamp(tally.last)}: " if tally.first else ""
    console.print(f"{span}{statuses} delivery statuses of {messages} messages, {len(tally.failed)} not delivered")
    if tally.held:
        console.print(f"{tally.held} recipients were held back by our own gate and are not counted")
    if not statuses:
        return
    console.print(_operators(tally, thresholds))
    if top and tally.refusals:
        console.print(_refusals(tally, top))
    if tally.blocklists:
        console.print(_blocklists(tally))


def _operators(tally: Tally, thresholds: list[Threshold]) -> Table:
    """Return the table of operators x categories with the rates of each operator."""
    failed: dict[str, list[Failed]] = defaultdict(list)
    for one in tally.failed.values():
        failed[one.operator].append(one)
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for (operator, category), number in tally.attempts.items():
        counts[operator][category] += number
    columns = _categories(counts)
    table = Table(title="Delivery statuses by operator", title_justify="left")
    table.add_column("operator", overflow="fold")
    for name in ("messages", "delivered", *columns, *(["other"] if _others(counts, columns) else [])):
        table.add_column(name, justify="right", style=COLOURS.get(_class_of(name), ""))
    for threshold in thresholds:
        table.add_column(f"{threshold.label} >{threshold.warn:.0%}", justify="right")
    ranked = sorted(counts, key=lambda name: (-counts[name].total(), name))
    rest = ranked[OPERATORS_SHOWN:]
    for name in ranked[:OPERATORS_SHOWN]:
        _row(table, printable(name, 60), [name], tally, counts, failed, columns, thresholds)
    if rest:
        _row(table, f"{len(rest)} more", rest, tally, counts, failed, columns, thresholds)
    if len(ranked) > 1:
        table.add_section()
        _row(table, "all", ranked, tally, counts, failed, columns, thresholds)
    return table


def _class_of(category: str) -> str:
    return str(CATEGORIES[category].class_) if category in CATEGORIES else ""


def _categories(counts: dict[str, Counter[str]]) -> list[str]:
    """Return the failures that came most often, in the order of the taxonomy."""
    together: Counter[str] = sum(counts.values(), Counter())
    del together["delivered"]
    most = {name for name, _ in together.most_common(CATEGORIES_SHOWN)}
    return [name for name in CATEGORIES if name in most]


def _others(counts: dict[str, Counter[str]], columns: list[str]) -> bool:
    return any(counter.keys() - {"delivered", *columns} for counter in counts.values())


def _row(
    table: Table,
    title: str,
    names: list[str],
    tally: Tally,
    counts: dict[str, Counter[str]],
    failed: dict[str, list[Failed]],
    columns: list[str],
    thresholds: list[Threshold],
) -> None:
    """Add the row of one operator, or of several together."""
    together: Counter[str] = sum((counts[name] for name in names), Counter())
    losses = [one for name in names for one in failed.get(name, ())]
    messages = sum(tally.delivered[name] for name in names) + len(losses)
    cells: list[Text | str] = [Text(title), str(messages), str(together.pop("delivered", 0))]
    cells += [str(together.pop(category, 0) or "") for category in columns]
    if _others(counts, columns):
        cells.append(str(together.total() or ""))
    for threshold in thresholds:
        rate = threshold.rate(losses, messages)
        cells.append(Text(f"{rate:.1%}", style=MARKS[threshold.mark(rate)]))
    table.add_row(*cells)


def _refusals(tally: Tally, top: int) -> Table:
    """Return the table of the most frequent refusals, each with the rule that judged it and an example."""
    table = Table(title="Most frequent refusals", title_justify="left", show_lines=True)
    table.add_column("count", justify="right")
    for name in ("category", "operators", "rule"):
        table.add_column(name, overflow="fold")
    table.add_column("example", overflow="fold", ratio=1)
    ranked = sorted(tally.refusals.values(), key=lambda refusal: (-refusal.count, refusal.example))
    for refusal in ranked[:top]:
        colour = COLOURS.get(str(CATEGORIES[refusal.category].class_), "")
        operators = ", ".join(name for name, _ in refusal.operators.most_common(3))
        more = len(refusal.operators) - 3
        table.add_row(
            str(refusal.count),
            Text(refusal.category, style=colour),
            Text(printable(operators, 120) + (f" +{more}" if more > 0 else "")),
            Text(refusal.rule),
            Text(printable(refusal.example, 240)),
        )
    return table


def _blocklists(tally: Tally) -> Table:
    table = Table(title="Blocklists named in refusals", title_justify="left")
    table.add_column("refusals", justify="right")
    for name in ("zone", "operator", "look-up"):
        table.add_column(name, overflow="fold")
    for zone, (operator, lookup, count) in sorted(tally.blocklists.items(), key=lambda item: (-item[1][2], item[0])):
        table.add_row(str(count), zone, operator, Text(printable(lookup or "")))
    return table
