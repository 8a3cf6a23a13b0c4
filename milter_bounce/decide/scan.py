"""Rules in their order, compiled: which of them match a text and its codes.

Goes in: rules in order. Comes out: `Scan`, RE2 Sets over all their texts,
which name the rules that match, first one first. Does not: choose or judge.
Linear in the text: RE2 has no backtracking.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import re2

from milter_bounce import limits

from .pieces import alternatives, grouped
from .rule_toml import RulesError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from milter_bounce.delivery import EnhancedStatus

    from .rule_toml import Rule

SET_BYTES: Final = limits.RULE_SET_BYTES
ONE_BYTES: Final = limits.RULE_BYTES
CODES_KEPT: Final = limits.CODES_KEPT
MATCHED_LIMIT: Final = limits.MATCHED_BYTES

CodesOf = tuple["int | None", "EnhancedStatus | None", "str | None"]
"""Reply code, enhanced status and command of a status: the conditions beside the text."""

NO_CODES: Final[CodesOf] = (None, None, None)


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


# .{0,40} costs forty states in a Set, .* costs one
_COUNTED: Final = re.compile(r"(?<!\\)\{([0-9]{1,4}),([0-9]{1,4})\}")
_FEW: Final = 6


def loosened(pattern: str) -> str:
    """Return `pattern` without upper bounds on repetitions: matches all that it does, and more."""

    def unbounded(found: re.Match[str]) -> str:
        low, high = int(found[1]), int(found[2])
        if high <= _FEW:
            return found[0]
        return "*" if low == 0 else "+" if low == 1 else f"{{{low},}}"

    return _COUNTED.sub(unbounded, pattern)


def refuse_broken(rules: Iterable[Rule]) -> None:
    """Raise for a pattern that RE2 does not take as it is written.

    A Set takes it loosened, and an operator's rules are compiled when he is first met: an administrator's error must
    show when the file is read, not when a reply comes.

    Raises:
        RulesError: file, rule and what RE2 says.
    """
    for rule in rules:
        for patterns in filter(None, (rule.text, rule.unless)):
            try:
                compiled(joined(patterns))
            except re2.error:
                why = why_not(joined(patterns))
                raise RulesError(rule.file, rule.id, f"RE2 cannot take the pattern: {why}") from None


class Scan:
    """RE2 Sets over the texts of `rules`; what they find is in the rules' order.

    The Sets hold the texts loosened, so a hit of one that was is looked at again with the text as written.
    """

    def __init__(self, rules: Sequence[Rule], extra: Sequence[str] = ()) -> None:
        """Compile `rules` and the `extra` patterns, whose hits are numbered after the rules'.

        Raises:
            RulesError: file, rule and what RE2 says.
        """
        self.rules = tuple(rules)
        self._patterns: list[str] = []
        self._pieces: list[tuple[int, str]] = []
        self._owners: list[Rule | None] = []
        self._ones: dict[int, re2._Regexp] = {}
        self._bare = tuple(index for index, rule in enumerate(rules) if not rule.text)
        self._bare_known: dict[CodesOf, tuple[int, ...]] = {}
        for rule in rules:
            self._add(rule.text or (), rule)
        for pattern in extra:
            self._add((pattern,), None)
        self._unless = {i: self._add(rule.unless, rule) for i, rule in enumerate(rules) if rule.unless}
        self._loose = frozenset(i for i, pattern in enumerate(self._patterns) if loosened(pattern) != pattern)
        self._conditional = frozenset(
            i for i, r in enumerate(rules) if not (r.reply is None and r.status is None and r.command is None)
        )
        self._plain = frozenset(range(len(rules))) - self._loose - self._conditional - frozenset(self._unless)
        self._sets = [self._compiled(group) for group in grouped(self._pieces)]
        del self._pieces, self._owners

    def _add(self, patterns: Sequence[str], rule: Rule | None) -> int:
        """Take up the patterns of one rule, and return its number among them."""
        number = len(self._patterns)
        self._patterns.append(joined(patterns) if patterns else "")
        self._pieces += [(number, loosened(piece)) for pattern in patterns for piece in alternatives(pattern)]
        self._owners.append(rule)
        return number

    def _compiled(self, group: list[tuple[int, str]]) -> tuple[tuple[int, ...], Callable[[bytes], list[int]]]:
        """Return the numbers of a group's pieces, and what tells which of them match."""
        made = re2.Set.SearchSet(_options(max(SET_BYTES, SET_BYTES * sum(len(piece) for _, piece in group) // 1024)))
        for number, piece in group:
            try:
                made.Add(piece.encode())
            except re2.error:
                rule = self._owners[number]
                file, name = (rule.file, rule.id) if rule else ("times.toml", "a phrase")
                why = why_not(self._patterns[number])
                raise RulesError(file, name, f"RE2 cannot take the pattern: {why}") from None
        made.Compile()
        return tuple(number for number, _ in group), made._set.Match  # noqa: SLF001 - skips a layer on the hot path

    def hits(self, raw: bytes) -> list[int]:
        """Return the numbers of the patterns that may match `raw`, in order: rules, then extra ones, then `unless`."""
        found: set[int] = set()
        for numbers, match in self._sets:
            if matched := match(raw):
                found.update([numbers[index] for index in matched])
        return sorted(found)

    def bare(self, codes: CodesOf) -> tuple[int, ...]:
        """Return the rules without text whose conditions hold."""
        if not self._bare:
            return ()
        known = self._bare_known.get(codes)
        if known is None:
            known = tuple(i for i in self._bare if conditions_hold(self.rules[i], *codes))
            if len(self._bare_known) < CODES_KEPT:
                self._bare_known[codes] = known
        return known

    def fires(self, index: int, hits: list[int], raw: bytes, codes: CodesOf) -> bool:
        """Return whether the rule `index`, one of `hits`, holds in all its conditions."""
        if index in self._plain:
            return True
        if index in self._conditional and not conditions_hold(self.rules[index], *codes):
            return False
        if index in self._loose and not self._truly(index, raw):
            return False
        unless = self._unless.get(index)
        return unless is None or unless not in hits or not self._truly(unless, raw)

    def firing(self, hits: list[int], raw: bytes, codes: CodesOf) -> Iterator[int]:
        """Yield the rules that fire, first one first."""
        bare, end = self.bare(codes), len(self.rules)
        for index in sorted((*hits, *bare)) if bare else hits:
            if index >= end:
                return
            if self.fires(index, hits, raw, codes):
                yield index

    def _one(self, index: int) -> re2._Regexp:
        """Return one pattern compiled by itself, as written."""
        one = self._ones.get(index)
        if one is None:
            one = self._ones[index] = compiled(self._patterns[index])
        return one

    def _truly(self, index: int, raw: bytes) -> bool:
        return index not in self._loose or self._one(index).search(raw) is not None

    def matched(self, index: int, raw: bytes) -> str:
        """Return what the rule `index` matches in `raw`; "" for a rule without text."""
        found = self._one(index).search(raw) if self.rules[index].text else None
        return found.group()[:MATCHED_LIMIT].decode(errors="replace") if found else ""


def why_not(pattern: str) -> str:
    """Return what RE2 says against `pattern`, in words."""
    try:
        compiled(pattern)
    except re2.error as error:
        said = error.args[0] if error.args else error
        return said.decode(errors="replace") if isinstance(said, bytes) else str(said)
    return "it is too large together with the others"
