"""``milter-bounce milterd|answerd|logd|dnsd|run``: the programs, each in the foreground."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from milter_bounce.config import ConfigError
from milter_bounce.decide.rule_toml import RulesError
from milter_bounce.system.settings import load_settings

from ._out import Refusal

if TYPE_CHECKING:
    from collections.abc import Callable

    from milter_bounce.config import Settings

_CONF = click.option(
    "-c",
    "--config",
    "path",
    type=click.Path(path_type=Path, readable=False),
    help="The configuration; default: /etc/milter-bounce/milter-bounce.toml where it exists.",
)
_PAGES = {"run": "supervise"}
_EVENTS = click.option("--events", type=click.Choice(["jsonl"]), help="Print each outcome as a line of JSON, too.")


def _start(
    program: str, path: Path | None, change: Callable[[Settings], Settings] | None = None, **options: Any
) -> None:
    """Load the settings and run a program; its exit status becomes ours."""
    try:
        settings = load_settings(path)
        if change:
            settings = change(settings)
        # each program has libraries of its own (libmilter, dnspython): only the one asked for is loaded
        status = importlib.import_module(f"milter_bounce.system.{program}").main(settings, path, **options)
    except (ConfigError, RulesError) as error:
        raise Refusal(str(error)) from None
    raise SystemExit(status)


def _manual(program: str) -> str:
    """Return a program's manual page, the docstring at its head, without importing it."""
    path = Path(__file__).parent.parent / "system" / f"{program}.py"
    try:
        text = path.read_text(encoding="utf-8")
    except OSError:
        return ""
    page = text.partition('"""')[2].partition('"""')[0]
    return "\n\n".join("\b\n" + block for block in page.strip().split("\n\n"))


class _Program(click.Command):
    """A command whose help is the manual page at the head of its program."""

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        self.help = _manual(_PAGES.get(self.name or "", self.name or "")) or self.help
        super().format_help_text(ctx, formatter)


@click.command(cls=_Program)
@_CONF
@_EVENTS
@click.option("--explain", is_flag=True, help="Tell of each report why it was believed or not.")
def milterd(path: Path | None, events: str | None, *, explain: bool) -> None:
    """Run the milter."""
    _start("milterd", path, events=events is not None, explain=explain)


@click.command(cls=_Program)
@_CONF
def answerd(path: Path | None) -> None:
    """Run the status filter, the gate, the policy service and Sendmail's map."""
    _start("answerd", path)


@click.command(cls=_Program)
@_CONF
@_EVENTS
@click.option("--follow", metavar="WHAT", help="A file, journal or - for standard input, instead of [log] follow.")
@click.option("--from-start", is_flag=True, help="The first time, begin at the log's beginning.")
def logd(path: Path | None, events: str | None, follow: str | None, *, from_start: bool) -> None:
    """Follow the mail log."""

    def change(settings: Settings) -> Settings:
        changes = {"follow": follow} if follow else {}
        log = settings.log.model_copy(update=changes | ({"from_start": True} if from_start else {}))
        return settings.model_copy(update={"log": log})

    _start("logd", path, change, events=events is not None)


@click.command(cls=_Program)
@_CONF
def dnsd(path: Path | None) -> None:
    """Watch blocklists and mail operators in the DNS."""
    _start("dnsd", path)


@click.command(cls=_Program)
@_CONF
@click.option(
    "--only", "only", multiple=True, type=click.Choice(["milterd", "answerd", "logd", "dnsd"]), help="Run these alone."
)
@_EVENTS
def run(path: Path | None, only: tuple[str, ...], events: str | None) -> None:
    """Run all programs and restart those that die."""
    _start("supervise", path, only=only, events=events is not None)
