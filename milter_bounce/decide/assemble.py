"""Rule files put together: doubles refused, local rules in their places, rules made of blocklists.

Goes in: `RuleFile`s. Comes out: files and rules in the order of rules/README.md.
Does not: compile or match.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from milter_bounce.verdict import Scope

from . import blocklist
from .rule_toml import Rule, RuleFile, RulesError, Tier

if TYPE_CHECKING:
    from collections.abc import Iterable


def everywhere(rules: Iterable[Rule]) -> list[Rule]:
    """Return the rules that do not wait for an operator to be known."""
    return [rule for rule in rules if rule.operator is None or rule.anywhere]


def addresses(rule: Rule) -> list[str]:
    """Return the mail addresses that a rule's patterns name, in lower case."""
    patterns = (*rule.text, *rule.unless)
    return [found for pattern in patterns if "@" in pattern for found in blocklist.addresses_in(pattern)]


def blocklist_rules(file: RuleFile) -> list[Rule]:
    """Return the rules by which the blocklists of a file are recognised in replies."""
    rules = []
    for item in file.blocklists:
        scope = Scope.SENDER_DOMAIN if item.domain and not item.ip else None
        common = Rule(
            f"blocklist-{item.id}", file.name, Tier.BLOCKLIST, item.category, scope=scope, unless=item.unless,
            blocklist=item, source=item.source,
        )  # fmt: skip
        if item.text:
            rules.append(replace(common, text=item.text))
        if item.named:
            rules.append(replace(common, text=item.named, weak=True))
    return rules


def mark_rules(file: RuleFile) -> list[Rule]:
    """Return the marks of a file's operator as a rule, to be tried like one."""
    operator = file.operator
    if operator is None or not operator.marks:
        return []
    return [Rule(operator.id, file.name, Tier.OPERATOR, "undetermined", text=operator.marks)]


def refuse_doubles(files: Iterable[RuleFile]) -> None:
    """Raise for an id that stands twice."""
    seen: dict[str, str] = {}
    for file in files:
        ids = [rule.id for rule in file.rules] + [item.id for item in file.times]
        for name in ids + [f"blocklist-{item.id}" for item in file.blocklists]:
            if name in seen:
                raise RulesError(file.name, name, f"this id stands in {seen[name]} already")
            seen[name] = file.name


def overridden(shipped: list[RuleFile], local: list[RuleFile]) -> list[RuleFile]:
    """Return all files, local ones first; a local rule with a shipped rule's id takes its place."""
    places = {rule.id: rule for file in shipped for rule in file.rules}
    taken = {rule.id: rule for file in local for rule in file.rules if rule.id in places}
    if not taken:
        return local + shipped
    moved = {
        name: replace(rule, tier=places[name].tier, operator=rule.operator or places[name].operator)
        for name, rule in taken.items()
    }
    kept = [replace(file, rules=tuple(r for r in file.rules if r.id not in taken)) for file in local]
    return kept + [replace(file, rules=tuple(moved.get(r.id, r) for r in file.rules)) for file in shipped]
