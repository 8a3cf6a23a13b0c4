"""Tables of ``milter-bounce log``: a `Tally` for people on a terminal.

Goes in: a tally and the thresholds. Goes out: standard output. All text from
the log is escaped by ``verdict.printable`` and never read as rich's markup.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from milter_bounce.verdict import CATEGORIES, printable, stamp

if TYPE_CHECKING:
    from milter_bounce.system.logtally import Failed, Tally
    from milter_bounce.system.thresholds import Threshold

COLOURS: Final = {"hard": "red", "soft": "yellow", "policy": "magenta", "none": "green"}
MARKS: Final = {"fine": "green", "warn": "yellow", "bad": "bold red"}
OPERATORS_SHOWN: Final = 20
LEAST_WIDTH: Final = 100
PIPE_WIDTH: Final = 140
COLUMN_WIDTH: Final = 14
FIXED_WIDTH: Final = 86
"""Characters that a category's column and all the others take."""


def show(tally: Tally, thresholds: list[Threshold], top: int) -> None:
    """Print what `milter-bounce log` shows."""
    console = Console(highlight=False)
    # narrower, columns would vanish; into a file or a pipe there is room
    console = Console(highlight=False, width=max(console.width, LEAST_WIDTH if console.is_terminal else PIPE_WIDTH))
    statuses, messages = sum(tally.attempts.values()), sum(tally.delivered.values()) + len(tally.failed)
    span = f"{stamp(tally.first)} to {stamp(tally.last)}: " if tally.first else ""
    console.print(f"{span}{statuses} delivery statuses of {messages} messages, {len(tally.failed)} not delivered")
    if tally.held:
        console.print(f"{tally.held} recipients were held back by our own gate and are not counted")
    if not statuses:
        return
    console.print(_operators(tally, thresholds, (console.width - FIXED_WIDTH) // COLUMN_WIDTH))
    if top and tally.refusals:
        console.print(_refusals(tally, top))
    if tally.blocklists:
        console.print(_blocklists(tally))


def _operators(tally: Tally, thresholds: list[Threshold], width: int) -> Table:
    """Return the table of operators x categories with the rates of each operator."""
    failed: dict[str, list[Failed]] = defaultdict(list)
    for one in tally.failed.values():
        failed[one.operator].append(one)
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for (operator, category), number in tally.attempts.items():
        counts[operator][category] += number
    columns = _categories(counts, max(1, min(width, 8)))
    table = Table(title="Delivery statuses by operator", title_justify="left")
    table.add_column("operator", overflow="fold", min_width=16)
    for name in ("messages", "delivered", *columns, *(["other"] if _others(counts, columns) else [])):
        # a name is broken where it is joined, so that its column is narrow and the name whole
        table.add_column(
            name.replace("-", "-\n"), justify="right", no_wrap=True, style=COLOURS.get(_class_of(name), "")
        )
    for threshold in thresholds:
        table.add_column(f"{threshold.label}\n>{threshold.warn:.0%}", justify="right", no_wrap=True)
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


def _categories(counts: dict[str, Counter[str]], number: int) -> list[str]:
    """Return the `number` failures that came most often, in the order of the taxonomy."""
    together: Counter[str] = sum(counts.values(), Counter())
    del together["delivered"]
    most = {name for name, _ in together.most_common(number)}
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
