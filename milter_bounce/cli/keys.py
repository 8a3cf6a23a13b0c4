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

_CONF = click.option(
    "-c", "--config", "conf", type=click.Path(path_type=Path, readable=False), help="The configuration file."
)


def _settings(conf: Path | None) -> Settings:
    try:
        return load_settings(conf)
    except ConfigError as error:
        click.echo(f"milter-bounce: {error}", err=True)
        sys.exit(2)


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
        click.echo(f"milter-bounce: {error}", err=True)
        sys.exit(2)
    if settings.user:
        try:
            shutil.chown(path, settings.user)
        except (LookupError, PermissionError):
            click.echo(f"milter-bounce: warning: {path} stays yours: chown {settings.user} {path}", err=True)
    click.echo(str(path))
    stamping = store.read_keyring(path.parent, settings.user)[0].stamping
    if stamping is None or stamping.id != path.stem:
        what = f"key {stamping.id} stamps, not this one" if stamping else "no key can be used"
        click.echo(f"milter-bounce: {what}; see `milter-bounce keys list`", err=True)
        sys.exit(1)
    click.echo(
        f"key {stamping.id} stamps from the next reload on: systemctl reload milter-bounce, on every host", err=True
    )


@keys.command("list")
@_CONF
def list_(conf: Path | None) -> None:
    """List the keys: which one stamps, how old each is, which are refused and why."""
    settings = _settings(conf)
    ring, refused = store.read_keyring(Path(settings.token.keys), settings.user)
    for key in sorted(ring.keys.values(), key=lambda k: (k.made, k.id), reverse=True):
        stamps = "stamps" if key is ring.stamping else "believed"
        click.echo(f"{key.id}  {stamps}  {store.today() - key.made} days old")
    for line in refused:
        click.echo(f"refused: {line}", err=True)
    if not ring.keys and not refused:
        click.echo(f"no key in {settings.token.keys}; make one with `milter-bounce keys new`", err=True)
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
        click.echo(f"milter-bounce: {what}", err=True)
        sys.exit(2)
    click.echo(verp.encode(pattern, recipient, token.verp_tag(ring.stamping, recipient)))
