"""``milter-bounce keys``: the keys of the report token."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import click

from milter_bounce.config import ConfigError, Settings
from milter_bounce.protocol import token, verp
from milter_bounce.system import keys as store
from milter_bounce.system.settings import load_settings

from ._out import JSON, Refusal, complain, emit, safe

_CONF = click.option(
    "-c", "--config", "conf", type=click.Path(path_type=Path, readable=False), help="The configuration file."
)


def _settings(conf: Path | None) -> Settings:
    try:
        return load_settings(conf)
    except ConfigError as error:
        raise Refusal(str(error)) from None


@click.group()
def keys() -> None:
    """Make and list the keys of the report token, and the VERP addresses that they prove."""


@keys.command("new")
@_CONF
def new(conf: Path | None) -> None:
    """Make a key: it stamps from the next reload on (SIGHUP); older ones are believed until their files are removed."""
    settings = _settings(conf)
    try:
        path = store.new_key(Path(settings.token.keys), settings.user)
    except store.KeyFault as error:
        raise Refusal(str(error)) from None
    if settings.user:
        try:
            shutil.chown(path, settings.user)
        except (LookupError, PermissionError):
            complain(f"warning: {path} stays yours: chown {settings.user} {path}")
    click.echo(safe(path))
    stamping = store.read_keyring(path.parent, settings.user)[0].stamping
    if stamping is None or stamping.id != path.stem:
        what = f"key {stamping.id} stamps, not this one" if stamping else "no key can be used"
        complain(f"{what}; see `milter-bounce keys list`")
        sys.exit(1)
    click.echo(
        f"key {stamping.id} stamps from the next reload on: systemctl reload milter-bounce, on every host", err=True
    )


@keys.command("list")
@JSON
@_CONF
def list_(conf: Path | None, *, as_json: bool) -> None:
    """List the keys: which one stamps, how old each is, which are refused and why."""
    settings = _settings(conf)
    ring, refused = store.read_keyring(Path(settings.token.keys), settings.user)
    for key in sorted(ring.keys.values(), key=lambda k: (k.made, k.id), reverse=True):
        state, days = "stamps" if key is ring.stamping else "believed", store.today() - key.made
        if as_json:
            emit({"key": key.id, "state": state, "days_old": days, "why": None})
        else:
            click.echo(f"{key.id}  {state}  {days} days old")
    for line in refused:
        if as_json:
            emit({"key": None, "state": "refused", "days_old": None, "why": line})
        else:
            click.echo(f"refused: {safe(line)}", err=True)
    if not ring.keys and not refused:
        click.echo(safe(f"no key in {settings.token.keys}; make one with `milter-bounce keys new`"), err=True)
    sys.exit(1 if refused else 0)


@keys.command("verp")
@click.argument("recipient")
@_CONF
def verp_(recipient: str, conf: Path | None) -> None:
    """Print the keyed VERP address for RECIPIENT, under the first pattern with {tag}."""
    settings = _settings(conf)
    ring, refused = store.read_keyring(Path(settings.token.keys), settings.user)
    pattern = next((p for p in settings.token.verp if "{tag}" in p), None)
    if pattern is None or ring.stamping is None:
        what = "token.verp has no pattern with {tag}; see `milter-bounce config`"
        if pattern is not None:
            what = next(iter(refused), f"no key in {settings.token.keys}; make one with `milter-bounce keys new`")
        raise Refusal(what)
    click.echo(verp.encode(pattern, recipient, token.verp_tag(ring.stamping, recipient)))
