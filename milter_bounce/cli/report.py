"""``milter-bounce parse``: what mails tell about deliveries.

SYNOPSIS
    milter-bounce parse [--json] [--mbox] [-j N] [-c CONF] FILE|DIR|-...

DESCRIPTION
    Each FILE is a mail; a DIR is a Maildir or a folder of mails; an mbox (named
    so, or with --mbox) holds many; ``-`` is standard input. One JSON object per
    mail with --json, else a table. Exit status 1 when something could not be read; the others
    are read.

LIMITS
    The first MiB of a mail is read.

SECURITY
    Mails are outside bytes: nothing in them is run, fetched or trusted, and
    the table shows control characters as escapes.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from typing import TYPE_CHECKING, Any, Final

import click

from milter_bounce.escape import json_line
from milter_bounce.parse.readers import ReadersError
from milter_bounce.system.mailfiles import found_in, mails_of
from milter_bounce.system.memory import settle
from milter_bounce.system.readers import ReportReader, ReportRules, load_readers
from milter_bounce.verdict import printable, stamp, status_fields

from ._out import Refusal, complain
from ._rules import loaded_rules
from ._state import quiet_pipe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from milter_bounce.decide.ruleset import RuleSet
    from milter_bounce.delivery import DeliveryReport

Result = tuple[dict[str, Any] | None, str]
"""What one mail gave: its object, or None and why it could not be read."""

PARALLEL_FROM: Final = 200
"""Files from which on several processes are quicker than one: starting them costs about 100 ms."""

CHUNK: Final = 32


class _Reading:
    """The readers and rules of one run; a child process inherits them."""

    reader: ReportReader
    rules: RuleSet
    as_mbox = False


def object_of(name: str, report: DeliveryReport, rules: RuleSet) -> dict[str, Any]:
    """Return one mail's object (DESIGN.md section 9)."""
    verdicts = ReportRules(report, rules)
    return {
        "file": name,
        "kind": str(report.kind),
        "recipients": [
            status_fields(status, verdicts.classify(status))
            | {
                "arrival_date": stamp(status.arrival_date),
                "last_attempt": stamp(status.last_attempt),
                "will_retry_until": stamp(status.will_retry_until),
            }
            for status in report.statuses
        ],
        "reader": report.reader,
        "reporting_mta": report.reporting_mta,
        "message_id": report.message_id,
        "envelope_id": report.envelope_id,
        "subject": report.subject,
        "verp_recipient": report.verp_recipient,
        "arrival_date": stamp(report.arrival_date),
        "feedback_type": report.feedback_type,
        "defects": list(report.defects),
    }


def _read_file(name: str) -> list[Result]:
    """Return what each mail of one file gave."""
    results: list[Result] = []
    try:
        for part, message in mails_of(name, as_mbox=_Reading.as_mbox):
            results.append((object_of(part, _Reading.reader.read(message), _Reading.rules), ""))
    except OSError as error:
        results.append((None, f"{name}: {error.strerror or error}"))
    return results


def _results(names: list[str], jobs: int) -> Iterator[Result]:
    """Return the results in the order of the names, from as many processes as are worth it."""
    if jobs <= 1 or len(names) < PARALLEL_FROM or "-" in names:
        for name in names:
            yield from _read_file(name)
        return
    with multiprocessing.get_context("fork").Pool(jobs) as pool:
        for results in pool.imap(_read_file, names, CHUNK):
            yield from results


def _with_progress(results: Iterable[Result], total: int) -> Iterator[Result]:
    """Return the results, with a progress bar on a terminal when there are many."""
    if total < PARALLEL_FROM or not sys.stderr.isatty():
        yield from results
        return
    from rich.console import Console  # noqa: PLC0415 - rich is slow to import
    from rich.progress import track  # noqa: PLC0415

    yield from track(results, description="reading", total=total, console=Console(stderr=True))


def _print_json(results: Iterable[Result]) -> bool:
    """Print one line per mail; return whether all could be read."""
    good = True
    for found, fault in results:
        if found is None:
            good = False
            complain(fault)
            continue
        sys.stdout.buffer.write(json_line(found).encode() + b"\n")
    sys.stdout.buffer.flush()
    return good


def _print_table(results: Iterable[Result]) -> bool:
    """Print a table, one row per recipient; return whether all could be read."""
    from rich.console import Console  # noqa: PLC0415 - rich is slow to import
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(
        "file", "kind", "recipient", "action", "status", "reply", "category", "advice", "text", header_style="bold"
    )
    good = True
    for found, fault in results:
        if found is None:
            good = False
            complain(fault)
            continue
        for cells in _rows(found):
            table.add_row(*(Text(printable(cell, 120)) for cell in cells))
    Console().print(table)
    return good


def _rows(found: dict[str, Any]) -> list[list[str]]:
    head = [found["file"], found["kind"]]
    keys = ("recipient", "action", "status", "reply", "category", "advice", "diagnostic")
    rows = [[*head, *(str(r[key] or "") for key in keys)] for r in found["recipients"]]
    return rows or [[*head, *("" for _ in keys)]]


@click.command()
@click.argument("paths", nargs=-1, required=True, metavar="FILE|DIR|-...")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per mail.")
@click.option("--mbox", "as_mbox", is_flag=True, help="Files are mboxes, whatever their names.")
@click.option(
    "-j", "--jobs", type=click.IntRange(1, 256), default=None, help="Processes; the number of cores unless told."
)
@click.option("-c", "--config", "conf", metavar="CONF", default=None, help="Configuration file.")
@quiet_pipe
def parse(paths: tuple[str, ...], as_json: bool, as_mbox: bool, jobs: int | None, conf: str | None) -> None:
    """Read mails and print the delivery statuses they tell of."""
    try:
        _Reading.reader = load_readers()
    except (ReadersError, OSError) as error:
        raise Refusal(str(error)) from None
    _Reading.rules = loaded_rules(conf)
    _Reading.as_mbox = as_mbox
    settle()
    names = list(found_in(paths))
    results = _with_progress(_results(names, jobs or os.cpu_count() or 1), len(names))
    show: Callable[[Iterable[Result]], bool] = _print_json if as_json else _print_table
    if not show(results):
        sys.exit(1)
