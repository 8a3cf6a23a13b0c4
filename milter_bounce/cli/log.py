"""``milter-bounce log``: every delivery status of whole logs, classified.

SYNOPSIS
    milter-bounce log [--json] [-c CONF] [--top N] FILE...

DESCRIPTION
    Reads logs of Postfix and Sendmail, also both in one file, plain or packed (.gz .bz2
    .xz .zst), pipes, - for standard input. Shows for each operator what became of the messages
    to it and how its rates stand against the thresholds of rules/thresholds.toml (yellow
    and red where exceeded), the most frequent refusals with an example, and the
    blocklists that refusals name. --json prints one object per delivery status instead.

    Exit status 1 where a log could not be read to its end, or not at all; the others are
    read. A log that tells of no delivery: how many lines of it are a mail log's.

LIMITS
    A packed log that unpacks to 400 times its size and more is refused.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from milter_bounce.config import ConfigError
from milter_bounce.system.logcount import count_logs, deliveries, mail_lines, total_bytes
from milter_bounce.system.logfiles import is_stream
from milter_bounce.system.thresholds import load_thresholds
from milter_bounce.verdict import stamp, status_fields

from ._out import Refusal, complain, emit
from ._rules import loaded_rules
from ._state import quiet_pipe

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from milter_bounce.decide.ruleset import RuleSet
    from milter_bounce.parse.logline import Delivery
    from milter_bounce.system.logtally import Tally


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per delivery status, one a line.")
@click.option("-c", "--config", "conf", type=click.Path(readable=False), help="The configuration; for local rules.")
@click.option("--top", default=10, show_default=True, type=click.IntRange(0, 1000), help="Refusals to show.")
@click.option("--processes", type=click.IntRange(1, 256), help="Processes to count with; default: one for each core.")
@quiet_pipe
def log(files: tuple[str, ...], conf: str | None, top: int, processes: int | None, *, as_json: bool) -> None:
    """Classify every delivery status of Postfix and Sendmail logs (plain, .gz, .bz2, .xz, .zst; - is standard input)."""
    rules = loaded_rules(conf)
    paths = [None if name == "-" else Path(name) for name in files]
    faults: list[str] = []

    def failed(fault: str) -> None:
        faults.append(fault)
        complain(fault)

    if as_json:
        for found in deliveries(paths, failed):
            emit(_object(found, rules))
    else:
        try:
            thresholds = load_thresholds()
        except ConfigError as error:
            raise Refusal(str(error)) from None
        tally = _counted(paths, rules, failed, processes)
        if tally.attempts or not faults:
            # rich is loaded only now: counting in several processes begins that much earlier
            from ._log_tables import show  # noqa: PLC0415

            show(tally, thresholds, top)
        if not tally.attempts and not tally.held and not faults:
            _doubt(paths)
    if faults:
        raise SystemExit(1)


def _doubt(paths: Sequence[Path | None]) -> None:
    """Say how much of what told of no delivery is a mail log at all."""
    if any(map(is_stream, paths)):  # cannot be read twice
        return
    mail, lines = mail_lines([path for path in paths if path is not None])
    complain(f"{mail} of {lines} lines are a mail log's (Postfix, Sendmail)")


def _object(found: Delivery, rules: RuleSet) -> dict[str, object]:
    """Return the JSON fields of a delivery status; one of our own gate says ``"gate": true``."""
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
    from rich.console import Console  # noqa: PLC0415 - as above
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    columns = TextColumn("reading"), BarColumn(), DownloadColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("reading", total=total_bytes(paths) or None)
        return count_logs(paths, rules, failed, lambda size: progress.advance(task, size), processes)
