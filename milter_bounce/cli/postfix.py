"""``milter-bounce postfix print|apply|revert``: the settings of DESIGN.md section 2 through postconf(1)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click
from rich.console import Console
from rich.syntax import Syntax

from milter_bounce.config import ConfigError
from milter_bounce.system import postfix_apply, postfix_conf
from milter_bounce.system.postfix_conf import GATE_MAPS, Change, Postconf, PostfixError
from milter_bounce.system.settings import load_settings

from ._out import Refusal, safe

if TYPE_CHECKING:
    from milter_bounce.system.postfix_apply import Done

_conf = click.option(
    "-c", "--config", "conf", type=click.Path(path_type=Path, readable=False), help="milter-bounce.toml"
)
_unread_conf = click.option(
    "-c", "--config", "conf", type=click.Path(path_type=Path, readable=False), expose_value=False,
    help="Taken as by print and apply, and not read: the record of apply says what goes.",
)  # fmt: skip
_directory = click.option(
    "--config-dir", "directory", type=click.Path(path_type=Path), default=Path("/etc/postfix"), show_default=True,
    help="Postfix's configuration directory.",
)  # fmt: skip
_gate_folder = click.option(
    "--gate-dir", "gate_folder", type=click.Path(path_type=Path, resolve_path=True), default=Path("/etc/milter-bounce"), show_default=True,
    help="Folder for gate.cf; Postfix must be able to read it.",
)  # fmt: skip
_enforce = click.option("--enforce", is_flag=True, help="Also what mode enforce needs: gate, status filter, policy.")
_dry = click.option("-n", "--dry-run", is_flag=True, help="Only show the difference.")
_restart = click.option("--restart", is_flag=True, help="Stop and start Postfix afterwards.")


def _fail(error: Exception) -> NoReturn:
    raise Refusal(f"postfix: {error}") from None


@click.group()
def postfix() -> None:
    """Print, apply and revert Postfix's settings."""


def _show(difference: str) -> None:
    console = Console()
    if console.is_terminal:
        console.print(Syntax(difference, "diff", background_color="default"))
    else:
        click.echo(difference, nl=False)


@postfix.command("print")
@_conf
@_directory
@_gate_folder
@_enforce
def print_(conf: Path | None, directory: Path, gate_folder: Path, *, enforce: bool) -> None:
    """Print the settings as they would be added, to be put in by hand."""
    try:
        settings, postconf = load_settings(conf), Postconf(directory)
        changes = postfix_conf.plan(settings, postconf, gate_folder, enforce=enforce)
    except (ConfigError, PostfixError) as error:
        _fail(error)
    click.echo(_by_hand(directory, changes), nl=False)
    if enforce:
        for path, text in postfix_conf.gate_files(settings, gate_folder).items():
            click.echo(f"\n# {path}\n{text}", nl=False)


def _by_hand(directory: Path, changes: list[Change]) -> str:
    """Return the changes as lines to be put in by hand."""
    lines = [f"# {directory}/main.cf", *(f"{c.name} = {c.after}" for c in changes if c.kind == "main")]
    added = {c.name: c.after for c in changes if c.kind == "service"}
    options: dict[str, list[str]] = {}
    for change in changes:
        if change.kind == "option":
            service, _, name = change.name.rpartition("/")
            options.setdefault(service, []).append(f"  -o {name}={change.after}")
    if options:
        lines += ["", f"# {directory}/master.cf"]
    for service, words in options.items():
        lines += [added.get(service, f"# to the service {service} that is there:"), *words]
    return "\n".join(lines) + "\n"


@postfix.command()
@_conf
@_directory
@_gate_folder
@_enforce
@_dry
@_restart
def apply(
    conf: Path | None, directory: Path, gate_folder: Path, *, enforce: bool, dry_run: bool, restart: bool
) -> None:
    """Put the settings in, and keep a record for `revert`."""
    try:
        settings, postconf = load_settings(conf), Postconf(directory)
        saved = postfix_apply.applied(directory)

        def planned(copy: Postconf) -> list[Change]:
            return postfix_conf.plan(settings, copy, gate_folder, enforce=enforce)

        stays = postfix_apply.stays(postconf, saved)
        difference = postfix_apply.stage(directory, saved, planned, gate_stays=stays).difference(directory)
        _show(difference)
        if dry_run:
            sys.exit(1 if difference else 0)
        if not difference:
            click.echo("nothing to do: the settings are in place")
            return
        files = postfix_conf.gate_files(settings, gate_folder) if enforce else {}
        done = postfix_apply.exchange(postconf, saved, planned, files)
        if enforce and settings.mode != "enforce":
            click.echo(
                'mode is "advise" in milter-bounce.toml: the hooks are in place and hold nothing until mode = "enforce"'
            )
        stop = enforce or done.waiting
        _next_step(directory, stop=stop, restart=restart)
        if done.waiting and restart:
            done = postfix_apply.exchange(postconf, postfix_apply.applied(directory), planned, files)
        _tell_waiting(directory, done, "apply")
    except (ConfigError, PostfixError) as error:
        _fail(error)


@postfix.command()
@_unread_conf
@_directory
@_dry
@_restart
def revert(directory: Path, *, dry_run: bool, restart: bool) -> None:
    """Take out what `apply` put in, exactly.

    A running Postfix that was started with the queue gate needs one parameter of ours until it is restarted: it stays,
    holding nothing but your own transports, and a second revert after the restart takes it out.
    """
    try:
        postconf, saved = Postconf(directory), postfix_apply.applied(directory)
        if saved is None:
            click.echo(safe(f"nothing to do: {directory / postfix_apply.RECORD} does not exist"))
            return
        stays = postfix_apply.stays(postconf, saved)
        staged = postfix_apply.stage(directory, saved, postfix_apply.nothing, gate_stays=stays)
        _show(staged.difference(directory))
        if dry_run:
            sys.exit(1)
        done = postfix_apply.exchange(postconf, saved)
        left = done.left
        again = saved.get("waiting") and len(saved["changes"]) == 1
        if done.waiting or not again:
            served = any(change["kind"] == "service" for change in saved["changes"])
            _next_step(directory, stop=done.waiting or served, restart=restart)
        if done.waiting and restart:
            done = postfix_apply.exchange(postconf, postfix_apply.applied(directory))
        _tell_waiting(directory, done, "revert")
    except PostfixError as error:
        _fail(error)
    for line in left:
        click.echo(f"left alone: {safe(line)}", err=True)
    if left:
        sys.exit(1)


def _tell_waiting(directory: Path, done: Done, command: str) -> None:
    """Tell what stays in main.cf for the Postfix that runs, and how it goes."""
    if done.waiting:
        click.echo(
            f"{directory}/main.cf keeps {GATE_MAPS}, with your own transports only: the running Postfix still uses it; "
            f"after that restart `milter-bounce postfix {command}` again takes it out"
        )


def _next_step(directory: Path, *, restart: bool, stop: bool) -> None:
    """Restart Postfix, or tell how: a new service needs a stop and a start, a reload is not enough (seen, 3.7.11)."""
    verbs = ["stop", "start"] if stop else ["reload"]
    if not restart:
        commands = " && ".join(f"postfix -c {directory} {verb}" for verb in verbs)
        click.echo(f"now: {commands}" + (" (a reload is not enough for the gate)" if stop else ""))
        return
    for verb in verbs:
        subprocess.run(["/usr/sbin/postfix", "-c", str(directory), verb], check=False, timeout=120)
