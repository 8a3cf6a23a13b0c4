"""What the rule commands share: rules loaded, or one line and exit 2."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from milter_bounce.config import ConfigError
from milter_bounce.decide.rule_toml import RulesError
from milter_bounce.system.rulefiles import load_rules
from milter_bounce.system.settings import load_settings

from ._out import Refusal

if TYPE_CHECKING:
    from milter_bounce.decide.ruleset import RuleSet


def loaded_rules(conf: str | None, *, strict: bool = True) -> RuleSet:
    """Return the rules that the configuration `conf` names; `strict` as in `load_rules`.

    Raises:
        Refusal: configuration or rules cannot be used; file, key or rule, and reason.
    """
    try:
        return load_rules(load_settings(Path(conf) if conf else None), strict=strict)
    except (ConfigError, RulesError) as error:
        raise Refusal(str(error)) from None
