"""``milter-bounce config``: the configuration with every option at its default."""

from __future__ import annotations

import click

from milter_bounce import config as settings

from ._state import quiet_pipe


@click.command()
@quiet_pipe
def config() -> None:
    """Print the configuration file with every option at its default."""
    click.echo(settings.sample(), nl=False)
