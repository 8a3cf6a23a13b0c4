"""``milter-bounce check``: is everything wired."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from milter_bounce.config import ConfigError
from milter_bounce.system.dnscheck import check_own_setup
from milter_bounce.system.settings import load_settings
from milter_bounce.system.wiring import Finding, check_wiring

from ._out import JSON, Refusal, emit
from ._state import quiet_pipe

if TYPE_CHECKING:
    from collections.abc import Iterator

    from milter_bounce.config import Settings

_MARKS: Final = {True: ("ok", "green"), False: ("BAD", "bold red"), None: ("?", "yellow")}


def _dns(settings: Settings) -> Iterator[Finding]:
    """Yield the tests of our own names and records in the DNS."""
    for result in check_own_setup(settings):
        explains = f" (explains {', '.join(result.categories)})" if result.categories and result.ok is False else ""
        what = f"{result.check} {result.subject}".strip()
        yield Finding("dns", what, result.ok, result.text + explains, result.remedy)


def _show(findings: list[Finding], console: Console) -> None:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for title in ("", "area", "what", "found"):
        table.add_column(title, overflow="fold")
    for finding in findings:
        word, style = _MARKS[finding.ok]
        found = Text(finding.text)
        if finding.ok is not True and finding.remedy:
            found.append(f"\n-> {finding.remedy}", style="italic")
        table.add_row(Text(word, style=style), finding.area, Text(finding.what), found)
    console.print(table)


@click.command()
@click.option("-c", "--config", "conf", type=click.Path(path_type=Path, readable=False), help="milter-bounce.toml")
@click.option(
    "--config-dir",
    "directory",
    type=click.Path(path_type=Path),
    default=Path("/etc/postfix"),
    show_default=True,
    help="Postfix's configuration directory.",
)
@click.option(
    "--gate-dir",
    "gate_folder",
    type=click.Path(path_type=Path),
    default=Path("/etc/milter-bounce"),
    show_default=True,
    help="Folder of gate.cf.",
)
@click.option(
    "--dns/--no-dns", default=True, show_default=True, help="Test our own names, SPF, DKIM and DMARC as well."
)
@JSON
@quiet_pipe
def check(conf: Path | None, directory: Path, gate_folder: Path, *, dns: bool, as_json: bool) -> None:
    """Test that everything is wired: files, rights, sockets, Postfix's settings, our own names in the DNS.

    The gate and the status filter are asked through Postfix's own clients (postmap -q), every service over its socket;
    logd and dnsd, which have none, are known by the sign of life that they leave beside the store.
    Exit status 1 when something is BAD, with what to do about it.
    """
    try:
        settings = load_settings(conf)
        findings = list(check_wiring(settings, directory, gate_folder))
        findings += _dns(settings) if dns else ()
    except ConfigError as error:
        raise Refusal(str(error)) from None
    if as_json:
        for finding in findings:
            emit(asdict(finding))
    else:
        _show(findings, Console())
    sys.exit(1 if any(finding.ok is False for finding in findings) else 0)
