"""What the rule commands share: rules loaded, or one line and exit 2."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from milter_bounce.config import ConfigError
from milter_bounce.decide.rule_toml import RulesError
from milter_bounce.system.rulefiles import load_rules
from milter_bounce.system.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Iterable

    from milter_bounce.decide.ruleset import RuleSet


class Refusal(click.ClickException):
    """One line on standard error and exit status 2: wrong usage or configuration."""

    exit_code = 2

    def show(self, file: object = None) -> None:
        """Print the line without click's prefix."""
        del file
        click.echo(f"milter-bounce: {self.message}", err=True)


def unreadable(names: Iterable[str]) -> bool:
    """Return whether one of the files that were named cannot be opened: wrong usage, exit status 2."""
    return any(name != "-" and not os.access(name, os.R_OK) for name in names)


def loaded_rules(conf: str | None, *, strict: bool = True) -> RuleSet:
    """Return the rules that the configuration `conf` names; `strict` as in `load_rules`.

    Raises:
        Refusal: configuration or rules cannot be used; file, key or rule, and reason.
    """
    try:
        return load_rules(load_settings(Path(conf) if conf else None), strict=strict)
    except (ConfigError, RulesError) as error:
        raise Refusal(str(error)) from None
