"""Rules in their order, compiled: which of them match a text and its codes.

Goes in: rules in order. Comes out: `Scan`, one RE2 Set over all their texts,
which names the rules that match, first one first. Does not: choose or judge.
Linear in the text: RE2 has no backtracking.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import re2

from .rule_toml import RulesError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from milter_bounce.delivery import EnhancedStatus

    from .rule_toml import Rule

SET_BYTES: Final = 128 << 20
"""Upper limit for the states of one Set; they are made as texts need them, and thrown away when it is reached."""

ONE_BYTES: Final = 8 << 20
CODES_KEPT: Final = 4096
"""Pairs of codes whose rules are remembered; a hostile sender cannot make it grow beyond."""

_NEVER: Final = r"[^\x00-\x{10FFFF}]"  # stands in the Set for a rule without text: index of pattern = index of rule


def _options(limit: int) -> re2.Options:
    options = re2.Options()
    options.case_sensitive = False
    options.log_errors = False
    options.dot_nl = True
    options.max_mem = limit
    return options


_ONE: Final = _options(ONE_BYTES)


def joined(patterns: Sequence[str]) -> str:
    """Return one pattern for any of `patterns`."""
    return patterns[0] if len(patterns) == 1 else "|".join(f"(?:{pattern})" for pattern in patterns)


def compiled(pattern: str) -> re2._Regexp:
    """Return `pattern` compiled by itself, for groups and for the matched text.

    Raises:
        re2.error: RE2 cannot do it (look-around, back-references) or it is no pattern.
    """
    return re2._Regexp(pattern.encode(), _ONE)  # noqa: SLF001 - re2.compile keeps only 128 of them


def conditions_hold(rule: Rule, code: int | None, status: EnhancedStatus | None, command: str | None) -> bool:
    """Return whether the conditions of `rule` beside its texts hold."""
    if rule.reply is not None and code not in rule.reply:
        return False
    if rule.status is not None and (status is None or not any(p.matches(status) for p in rule.status)):
        return False
    return rule.command is None or command in rule.command


class Scan:
    """One RE2 Set over the texts of `rules`; what it finds is in their order."""

    def __init__(self, rules: Sequence[Rule], extra: Sequence[str] = ()) -> None:
        """Compile `rules` and the `extra` patterns, whose hits are numbered after the rules'.

        Raises:
            RulesError: file, rule and what RE2 says.
        """
        self.rules = tuple(rules)
        self.unless_from = len(rules) + len(extra)
        self._set = re2.Set.SearchSet(_options(SET_BYTES))
        self._one: dict[int, re2._Regexp] = {}
        self._bare = tuple(index for index, rule in enumerate(rules) if not rule.text)
        self._bare_known: dict[tuple[object, ...], tuple[int, ...]] = {}
        for rule in rules:
            self._add(joined(rule.text) if rule.text else _NEVER, rule)
        for pattern in extra:
            self._set.Add(pattern)
        self._unless: dict[int, int] = {}
        for index, rule in enumerate(rules):
            if rule.unless:
                self._unless[index] = self._add(joined(rule.unless), rule)
        self.checked = frozenset(
            index
            for index, rule in enumerate(rules)
            if rule.unless or rule.reply is not None or rule.status is not None or rule.command is not None
        )
        if rules or extra:
            self._set.Compile()
        self._match = self._set._set.Match if rules or extra else None  # noqa: SLF001 - skips a layer on the hot path

    def _add(self, pattern: str, rule: Rule) -> int:
        try:
            return int(self._set.Add(pattern.encode()))
        except re2.error:
            raise RulesError(rule.file, rule.id, f"RE2 cannot take the pattern: {why_not(pattern)}") from None

    def hits(self, raw: bytes) -> list[int]:
        """Return the numbers of all patterns found in `raw`, in order: rules, then extra ones, then `unless`."""
        return sorted(self._match(raw)) if self._match is not None else []

    def bare(self, code: int | None, status: EnhancedStatus | None, command: str | None) -> tuple[int, ...]:
        """Return the rules without text whose conditions hold."""
        if not self._bare:
            return ()
        key = (code, status, command)
        known = self._bare_known.get(key)
        if known is None:
            known = tuple(i for i in self._bare if conditions_hold(self.rules[i], code, status, command))
            if len(self._bare_known) < CODES_KEPT:
                self._bare_known[key] = known
        return known

    def fires(
        self, index: int, hits: list[int], code: int | None, status: EnhancedStatus | None, command: str | None
    ) -> bool:
        """Return whether the rule `index`, one of `hits`, holds in all its conditions."""
        if index not in self.checked:
            return True
        if self._unless.get(index, -1) in hits:
            return False
        return conditions_hold(self.rules[index], code, status, command)

    def firing(
        self, hits: list[int], code: int | None, status: EnhancedStatus | None, command: str | None
    ) -> Iterator[int]:
        """Yield the rules that fire, first one first."""
        bare, end = self.bare(code, status, command), len(self.rules)
        for index in sorted((*hits, *bare)) if bare else hits:
            if index >= end:
                return
            if self.fires(index, hits, code, status, command):
                yield index

    def found(self, index: int, raw: bytes) -> re2._Match | None:
        """Return where the rule `index` matches in `raw`; None for a rule without text."""
        one = self._one.get(index)
        if one is None:
            rule = self.rules[index]
            if not rule.text:
                return None
            one = self._one[index] = compiled(joined(rule.text))
        return one.search(raw)


def why_not(pattern: str) -> str:
    """Return what RE2 says against `pattern`, in words."""
    try:
        compiled(pattern)
    except re2.error as error:
        said = error.args[0] if error.args else error
        return said.decode(errors="replace") if isinstance(said, bytes) else str(said)
    return "it is too large together with the others"
