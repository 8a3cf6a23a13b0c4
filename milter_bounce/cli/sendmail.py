"""``milter-bounce sendmail print|check``: Sendmail's side of the wiring.

``print`` writes the .mc lines of each capability with the sockets that the
configuration names; nothing is changed on the host. ``check`` reads the
sendmail.cf in force and tells what is missing and what could stop mail.
"""

from __future__ import annotations

import shutil
import socket
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from milter_bounce.config import ConfigError
from milter_bounce.parse.sendmail_cf import read_cf, read_limits, read_time
from milter_bounce.system.settings import load_settings
from milter_bounce.system.share import conf_dir

from ._out import JSON, Refusal, complain, emit

if TYPE_CHECKING:
    from collections.abc import Iterator

    from milter_bounce.config import Settings
    from milter_bounce.parse.sendmail_cf import SendmailCf

DEFAULT_CF: Final = Path("/etc/mail/sendmail.cf")
FRAGMENTS: Final = ("milter", "gate", "retry", "timeouts")
LONGEST_S: Final = 30
"""A milter that may stay silent for longer than this holds a client up too long."""

MAP_WAIT_S: Final = 5
"""Seconds a recipient that a hanging gate may cost."""

_CONFIG: Final = click.option(
    "-c",
    "--config",
    "path",
    type=click.Path(path_type=Path, readable=False),
    help="The configuration; default: /etc/milter-bounce/milter-bounce.toml where it exists.",
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    what: str
    state: str
    """``ok``, ``off`` (not wanted now) or ``bad``."""

    text: str
    remedy: str = ""


@click.group()
def sendmail() -> None:
    """Print and check Sendmail's settings."""


@sendmail.command("print")
@click.argument("names", nargs=-1, type=click.Choice(FRAGMENTS))
@_CONFIG
def print_(names: tuple[str, ...], path: Path | None) -> None:
    """Print lines for sendmail.mc: milter, gate, retry, timeouts.

    Without names: what the mode of the configuration wants (advise: the milter and
    the native schedule; enforce: the milter and the gate).
    """
    settings = _settings(path)
    wanted = names or (
        ("milter", "gate", "timeouts") if settings.mode == "enforce" else ("milter", "retry", "timeouts")
    )
    click.echo("dnl Put this into sendmail.mc before the MAILER lines, make sendmail.cf anew and restart Sendmail.")
    click.echo("dnl Debian: sendmailconfig; elsewhere: make -C /etc/mail, then restart.")
    click.echo("dnl Then: milter-bounce sendmail check")
    for line in _homeless(settings):
        complain(line)
    for name in wanted:
        click.echo(f"dnl\ndnl ---- {name} ----")
        click.echo(fragment(name, settings), nl=False)


def _homeless(settings: Settings) -> Iterator[str]:
    """Yield a line for each socket whose folder is not on this host: the defaults are Postfix's."""
    for key, address in (("milter.socket", settings.milter.socket), ("answer.socket", settings.answer.socket)):
        folder = Path(address.removeprefix("unix:")).parent
        if address.startswith("unix:") and not folder.is_dir():
            yield f"{key} = {address}: {folder} is not here; see {conf_dir()}/sendmail/milter-bounce.toml"


def fragment(name: str, settings: Settings) -> str:
    """Return a shipped fragment with the sockets of `settings` in front."""
    text = (conf_dir() / "sendmail" / f"{name}.mc").read_text(encoding="utf-8")
    sockets = {"MILTER_BOUNCE_MILTER": settings.milter.socket, "MILTER_BOUNCE_ANSWER": settings.answer.socket}
    used = [(key, value) for key, value in sockets.items() if key in text and value]
    return "".join(f"define(`{key}', `{value}')dnl\n" for key, value in used) + text


@sendmail.command()
@click.option(
    "-C", "--cf", default=DEFAULT_CF, type=click.Path(path_type=Path, dir_okay=False), help="The sendmail.cf."
)
@JSON
@_CONFIG
def check(cf: Path, path: Path | None, *, as_json: bool) -> None:
    """Tell whether Sendmail is wired as the configuration wants, and whether anything could stop mail."""
    settings = _settings(path)
    try:
        text = cf.read_text(encoding="latin-1")
    except OSError as error:
        raise Refusal(f"{cf}: cannot be read: {error.strerror}; name the sendmail.cf with -C") from None
    findings = list(examine(read_cf(text), settings))
    if as_json:
        for finding in findings:
            emit(asdict(finding))
    else:
        _table(cf, findings)
    raise SystemExit(1 if any(finding.state == "bad" for finding in findings) else 0)


def _settings(path: Path | None) -> Settings:
    try:
        return load_settings(path)
    except ConfigError as error:
        raise Refusal(str(error)) from None


def _table(cf: Path, findings: list[Finding]) -> None:
    table = Table(title=str(cf), title_justify="left", show_header=False, box=None, pad_edge=False)
    colours = {"ok": "green", "off": "dim", "bad": "red"}
    for finding in findings:
        said = Text(finding.text)
        if finding.remedy:
            said.append(f"\n-> {finding.remedy}", style="bold")
        table.add_row(Text(finding.state, style=colours[finding.state]), finding.what, said)
    Console(highlight=False).print(table)


# -- what is looked at --------------------------------------------------------


def examine(cf: SendmailCf, settings: Settings) -> Iterator[Finding]:
    """Yield what is right and wrong in `cf` for these settings."""
    yield from _milter(cf, settings)
    yield from _gate(cf, settings)
    yield from _queue(cf, settings)
    level = cf.options.get("LogLevel", "9")
    if level.isdecimal() and int(level) < 9:
        remedy = "define(`confLOG_LEVEL', `9')dnl: delivery lines come with 9 and above"
        yield Finding("log", "bad", f"LogLevel is {level}: logd sees no deliveries", remedy)
    else:
        yield Finding("log", "ok", f"LogLevel is {level}")


def _milter(cf: SendmailCf, settings: Settings) -> Iterator[Finding]:
    address = settings.milter.socket
    if not address:
        yield Finding("milter", "off", "milter.socket is empty")
        return
    name = next((name for name, letters in cf.milters.items() if letters.get("S") == address), None)
    if name is None:
        there = ", ".join(letters.get("S", "?") for letters in cf.milters.values()) or "none"
        yield Finding(
            "milter", "bad", f"no milter at {address}; there are: {there}", "milter-bounce sendmail print milter"
        )
        return
    letters = cf.milters[name]
    filters = [part.strip() for part in cf.options.get("InputMailFilters", "").split(",")]
    if name not in filters:
        yield Finding("milter", "bad", f"{name} is defined and not used", f"add {name} to confINPUT_MAIL_FILTERS")
    if flag := letters.get("F"):
        yield Finding("milter", "bad", f"F={flag}: mail stops when milterd is away", "take F= out of the milter's line")
    limits = read_limits(letters.get("T", ""))
    slow = [letter for letter in "CSR" if limits.get(letter, timedelta(minutes=5)).total_seconds() > LONGEST_S]
    if slow:
        yield Finding(
            "milter",
            "bad",
            f"limit {', '.join(slow)} is over {LONGEST_S} s or not set (5 min)",
            "T=C:2s;S:5s;R:10s;E:20s",
        )
    yield _reachable("milter", address, f"{name} at {address}")


def _gate(cf: SendmailCf, settings: Settings) -> Iterator[Finding]:
    address = settings.answer.socket
    found = cf.maps.get("compat")
    if found is None or found.class_ != "socket":
        if settings.mode == "enforce":
            yield Finding("gate", "bad", "no map compat: nothing is held", "milter-bounce sendmail print gate")
        else:
            yield Finding("gate", "off", 'no map compat, and none is needed with mode = "advise"')
        return
    if found.target != address:
        yield Finding(
            "gate", "bad", f"map compat asks {found.target}, answerd listens at {address}", "make them the same"
        )
    if not any(flag.startswith("-T") and len(flag) > 2 for flag in found.flags):
        yield Finding("gate", "bad", "map compat has no -T: mail waits when answerd is away", "-T<TMPF>, as printed")
    wait = next((read_time(flag[2:], "s") for flag in found.flags if flag.startswith("-d")), None)
    if wait is None or wait.total_seconds() > MAP_WAIT_S:
        yield Finding("gate", "bad", "map compat waits 30 s a recipient while answerd hangs", "-d3, as printed")
    if "-f" not in found.flags:
        yield Finding("gate", "bad", "map compat folds the queue ID to lower case", "-f, as printed")
    rules = cf.rulesets.get("check_compat", [])
    if not any("$>milter_bounce_gate" in rule or "$(compat " in rule for rule in rules):
        yield Finding("gate", "bad", "check_compat does not ask the map", "milter-bounce sendmail print gate")
    asking = cf.rulesets.get("milter_bounce_gate", rules)
    if not any("<TMPF>" in rule and "$@" in rule for rule in asking):
        yield Finding("gate", "bad", "no rule for <TMPF>: mail waits when answerd is away", "as printed")
    yield _reachable("gate", address, f"map compat at {address}")


def _queue(cf: SendmailCf, settings: Settings) -> Iterator[Finding]:
    least = read_time(cf.options.get("MinQueueAge", "0"))
    if settings.mode == "enforce" and "compat" in cf.maps:
        if least and least > timedelta(minutes=15):
            yield Finding(
                "queue", "bad", f"MinQueueAge is {least}: the gate's times come too late", "leave it out with the gate"
            )
        command = settings.due.sendmail_command[0]
        if settings.due.enabled and settings.due.mta != "postfix" and shutil.which(command) is None:
            yield Finding(
                "queue", "bad", f"{command} is not there: nothing is tried when due", "set due.sendmail_command"
            )
    elif not least:
        yield Finding("queue", "off", "MinQueueAge is not set: every queue run tries everything again", "")
    returns = cf.options.get("Timeout.queuereturn", "5d")
    age = f"MinQueueAge {least}, " if least else ""
    yield Finding("queue", "ok", f"{age}mail is returned after {returns}")


def _reachable(what: str, address: str, text: str) -> Finding:
    """Return whether somebody listens at an address written ``unix:/path`` or ``inet:PORT@HOST``."""
    family, _, rest = address.partition(":")
    try:
        if family == "unix":
            with socket.socket(socket.AF_UNIX) as probe:
                probe.settimeout(2)
                probe.connect(rest)
        else:
            port, _, host = rest.partition("@")
            socket.create_connection((host, int(port)), timeout=2).close()
    except OSError as error:
        program = "milterd" if what == "milter" else "answerd"
        return Finding(what, "bad", f"{text}: {error.strerror or error}; mail flows without it", f"start {program}")
    return Finding(what, "ok", text)
