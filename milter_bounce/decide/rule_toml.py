"""Reader of rule files: TOML text becomes rules, operators, blocklists and waiting-time phrases.

Goes in: the text of one file and its name. Comes out: `RuleFile`, or
`RulesError` naming file, rule and reason. Does not: compile patterns or put
files in order (``ruleset``). The format is ``rules/README.md``.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Final, TypeVar

from milter_bounce.verdict import CATEGORIES, AdviceKind, FailureClass, Scope, printable

from .blocklist import Blocklist, BlocklistError, read_blocklist

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from milter_bounce.delivery import EnhancedStatus


class RulesError(Exception):
    """A rule file that cannot be used; its text is one line: file, rule, reason."""

    def __init__(self, file: str, rule: str | None, reason: str) -> None:
        self.file, self.rule, self.reason = file, rule, reason
        text = f"{file}: {rule + ': ' if rule else ''}{reason}"
        # ids and keys of a hostile file end up in a log or a terminal
        super().__init__(text if text.isprintable() else printable(text, 1000))


class Tier(IntEnum):
    """The order of kinds of rules (rules/README.md); the lower comes first."""

    LOCAL = 1
    GUARD = 2
    OPERATOR = 3
    BLOCKLIST = 4
    TEXT = 5
    STATUS = 6
    REPLY = 7


@dataclass(frozen=True, slots=True)
class StatusPattern:
    """An enhanced status with wild cards: ``x.7.1``, ``5.2.*``, ``5.7.606-649``."""

    classes: frozenset[int]
    subject: range
    detail: range

    def matches(self, status: EnhancedStatus) -> bool:
        """Return whether `status` is one of those meant."""
        return status.class_ in self.classes and status.subject in self.subject and status.detail in self.detail


@dataclass(frozen=True, slots=True)
class Example:
    """A real reply that the rule must decide; `seconds` is for waiting-time phrases."""

    text: str
    remote_mta: str | None = None
    seconds: int | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: conditions that must all hold, and the verdict."""

    id: str
    file: str
    tier: Tier
    category: str
    class_: FailureClass | None = None
    advice: AdviceKind | None = None
    scope: Scope | None = None
    text: tuple[str, ...] = ()
    unless: tuple[str, ...] = ()
    reply: frozenset[int] | None = None
    status: tuple[StatusPattern, ...] | None = None
    command: frozenset[str] | None = None
    operator: str | None = None
    anywhere: bool = False
    blocklist: Blocklist | None = None
    weak: bool = False
    """True for a blocklist's `named` patterns: they name the operator, not the list."""

    source: str = ""
    examples: tuple[Example, ...] = ()

    def conditions(self) -> str:
        """Return the conditions beside the text in words, for people."""
        words = []
        if self.reply is not None:
            words.append(f"reply {' '.join(map(str, sorted(self.reply)))}" if len(self.reply) < 10 else "reply")
        if self.status is not None:
            words.append("status")
        if self.command is not None:
            words.append("command " + " ".join(sorted(self.command)))
        if self.operator is not None and not self.anywhere:
            words.append(f"operator {self.operator}")
        return ", ".join(words)


@dataclass(frozen=True, slots=True)
class Operator:
    """Who runs recipients' mail, and the suffixes of his MX host names."""

    id: str
    name: str
    mx: tuple[str, ...]
    large: bool = False
    marks: tuple[str, ...] = ()
    """Patterns for what only he says: they find him where the MX host does not."""


@dataclass(frozen=True, slots=True)
class TimePhrase:
    """A phrase that states a waiting time: groups ``n`` and ``unit``, or ``clock``."""

    id: str
    file: str
    text: str
    source: str
    examples: tuple[Example, ...]


@dataclass(frozen=True, slots=True)
class RuleFile:
    """What one file holds."""

    name: str
    rank: int = 0
    operator: Operator | None = None
    rules: tuple[Rule, ...] = ()
    blocklists: tuple[Blocklist, ...] = ()
    times: tuple[TimePhrase, ...] = ()
    units: Mapping[str, int] = field(default_factory=dict)


_ID: Final = re.compile(r"[a-z0-9][a-z0-9.-]{0,79}")
_REPLY: Final = re.compile(r"[1-5x][0-9x]{2}")
_STATUS: Final = re.compile(r"([245x])\.([0-9]{1,3}(?:-[0-9]{1,3})?|\*)\.([0-9]{1,3}(?:-[0-9]{1,3})?|\*)")
_COMMANDS: Final = frozenset({"CONNECT", "EHLO", "HELO", "STARTTLS", "AUTH", "MAIL", "RCPT", "DATA", "EOD"})
_RULE_KEYS: Final = frozenset({
    "id", "category", "class", "advice", "scope", "text", "unless", "reply", "status", "command", "operator", "anywhere",
    "source", "examples",
})  # fmt: skip
_FILE_KEYS: Final = frozenset({"rank", "source", "tier", "operator", "rule", "blocklist", "time", "units"})
_LONGEST_UNIT_S: Final = 366 * 86_400
_STRICT_SUPPRESS: Final = "a refusal of the sender never suppresses: class policy cannot have advice suppress"


_Word = TypeVar("_Word", FailureClass, AdviceKind, Scope)


class _FaultError(Exception):
    """Raised inside this module without file and id; `_rule` adds them."""


def _strings(table: Mapping[str, Any], key: str) -> tuple[str, ...]:
    value = table.get(key, ())
    items = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value
    if not isinstance(items, tuple) or not all(isinstance(item, str) and item for item in items):
        raise _FaultError(f"{key} must be a string or a list of strings")
    return items


def _choice(kind: type[_Word], table: Mapping[str, Any], key: str) -> _Word | None:
    if key not in table:
        return None
    try:
        return kind(table[key])
    except ValueError:
        raise _FaultError(f"{key} = {table[key]!r}: one of {', '.join(kind)}") from None


def reply_codes(patterns: tuple[str, ...]) -> frozenset[int]:
    """Return the reply codes that patterns such as ``421`` or ``55x`` mean."""
    codes: set[int] = set()
    for pattern in patterns:
        if not _REPLY.fullmatch(pattern):
            raise _FaultError(f"reply {pattern!r}: three digits, x for any: 421, 55x, 5xx")
        digits = ["0123456789" if sign == "x" else sign for sign in pattern]
        codes.update(int(a + b + c) for a in digits[0] for b in digits[1] for c in digits[2])
    return frozenset(codes)


def _span(text: str) -> range:
    if text == "*":
        return range(1000)
    low, _, high = text.partition("-")
    return range(int(low), int(high or low) + 1)


def status_pattern(text: str) -> StatusPattern:
    """Return what a status such as ``x.7.1``, ``5.2.*`` or ``5.7.606-649`` means."""
    found = _STATUS.fullmatch(text)
    if not found:
        raise _FaultError(f"status {text!r}: class.subject.detail, x for 4 or 5, * for any, a-b for a range")
    classes = frozenset({4, 5} if found[1] == "x" else {int(found[1])})
    return StatusPattern(classes, _span(found[2]), _span(found[3]))


def _is_example(item: dict[str, Any]) -> bool:
    mta, seconds = item.get("remote_mta"), item.get("seconds")
    return isinstance(item.get("text"), str) and isinstance(mta, str | None) and isinstance(seconds, int | None)


def _examples(table: Mapping[str, Any]) -> tuple[Example, ...]:
    found, items = [], table.get("examples", [])
    for item in items if isinstance(items, list) else [None]:
        if isinstance(item, str):
            found.append(Example(item))
        elif isinstance(item, dict) and _is_example(item):
            found.append(Example(item["text"], item.get("remote_mta"), item.get("seconds")))
        else:
            raise _FaultError('examples: strings, or tables { text = "...", remote_mta = "..." }')
    if not found:
        raise _FaultError("has no example; give at least one real reply")
    return tuple(found)


def _source(table: Mapping[str, Any], default: str) -> str:
    source = table.get("source", default)
    if not isinstance(source, str) or not source.strip():
        raise _FaultError("has no source: where is it documented, and when was it seen?")
    return source


def _checked_id(value: object) -> str:
    if not isinstance(value, str) or not _ID.fullmatch(value):
        raise _FaultError(f"id = {value!r}: lower-case letters, digits, - and .; at most 80")
    return value


def _conditions(table: Mapping[str, Any]) -> dict[str, Any]:
    """Return the conditions of a rule table as fields of `Rule`."""
    reply, status, command = _strings(table, "reply"), _strings(table, "status"), _strings(table, "command")
    text = _strings(table, "text")
    if not text and not reply and not status:
        raise _FaultError("needs text, status or reply")
    if unknown := set(command) - _COMMANDS:
        raise _FaultError(f"command {min(unknown)!r}: one of {' '.join(sorted(_COMMANDS))}")
    return {
        "text": text,
        "unless": _strings(table, "unless"),
        "reply": reply_codes(reply) if reply else None,
        "status": tuple(status_pattern(item) for item in status) if status else None,
        "command": frozenset(command) if command else None,
    }


def _rule_fields(table: Mapping[str, Any], default_source: str) -> dict[str, Any]:
    if unknown := set(table) - _RULE_KEYS:
        raise _FaultError(f"unknown key {min(unknown)!r}")
    category, operator = table.get("category"), table.get("operator")
    if category is None:
        raise _FaultError("has no category; see the list at the end of rules/README.md")
    if not isinstance(category, str) or category not in CATEGORIES:
        near = get_close_matches(str(category), CATEGORIES, 1)
        meant = f"; did you mean {near[0]!r}?" if near else ""
        raise _FaultError(f"category = {category!r}: see the list at the end of rules/README.md{meant}")
    if not isinstance(operator, str | None):
        raise _FaultError(f"operator = {operator!r}: the id of one of operators/")
    fields = {
        "category": category,
        "class_": _choice(FailureClass, table, "class"),
        "advice": _choice(AdviceKind, table, "advice"),
        "scope": _choice(Scope, table, "scope"),
        "operator": operator,
        "anywhere": bool(table.get("anywhere", False)),
        "source": _source(table, default_source),
        "examples": _examples(table),
        **_conditions(table),
    }
    defaults = CATEGORIES[category]
    class_, advice = fields["class_"] or defaults.class_, fields["advice"] or defaults.advice
    if class_ is FailureClass.POLICY and advice is AdviceKind.SUPPRESS:
        raise _FaultError(_STRICT_SUPPRESS)
    return fields


def _tier(name: str, values: Mapping[str, Any], *, local: bool) -> Tier:
    if local:
        return Tier.LOCAL
    if "operator" in values:
        return Tier.OPERATOR
    if values.get("tier") == "guard":
        return Tier.GUARD
    return {"status.toml": Tier.STATUS, "replies.toml": Tier.REPLY}.get(name, Tier.TEXT)


def _operator(name: str, table: Mapping[str, Any]) -> Operator:
    mx = _strings(table, "mx")
    large, marks = bool(table.get("large", False)), _strings(table, "marks")
    operator = Operator(_checked_id(table.get("id")), str(table.get("name", "")), mx, large, marks)
    if not operator.name:
        raise _FaultError("[operator] needs a name")
    stem = name.rpartition("/")[2].removesuffix(".toml")
    if operator.id != stem:
        raise _FaultError(f"[operator] id = {operator.id!r} must be the file's name, {stem!r}")
    return replace(operator, mx=tuple(suffix.lower().strip(".") for suffix in mx))


def _time(name: str, table: Mapping[str, Any], default_source: str) -> TimePhrase:
    text = _strings(table, "text")
    if len(text) != 1 or ("(?P<n>" not in text[0] and "(?P<clock>" not in text[0]):
        raise _FaultError("text: one pattern with groups n and unit, or clock")
    return TimePhrase(_checked_id(table.get("id")), name, text[0], _source(table, default_source), _examples(table))


def _unit_seconds(values: Mapping[str, Any]) -> dict[str, int]:
    units = values.get("units", {})
    if not isinstance(units, dict) or not all(isinstance(s, int) and 0 < s <= _LONGEST_UNIT_S for s in units.values()):
        raise _FaultError("[units]: word = seconds, at most a year")
    return {word.lower(): seconds for word, seconds in units.items()}


def _tables(name: str, values: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    tables = values.get(key, [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise RulesError(name, None, f"[[{key}]] must be a list of tables")
    return tables


_LISTED: Final = frozenset({"rule", "time", "blocklist"})
"""The lists of tables that a rule file may hold."""


def from_values(name: str, values: Mapping[str, Any], *, local: bool = False) -> RuleFile:
    """Return what the values of the TOML file `name` mean.

    Raises:
        RulesError: file, rule and reason; the first fault found.
    """
    place = _Place()
    try:
        return _file(name, values, place, local=local)
    except (_FaultError, BlocklistError) as fault:
        raise RulesError(name, place.rule, str(fault)) from None


def each_fault(name: str, values: Mapping[str, Any]) -> list[RulesError]:
    """Return the fault of each table of an administrator's file by itself, where `from_values` names the first alone."""
    head = {key: value for key, value in values.items() if key not in _LISTED}
    faults = []
    for key in _LISTED & values.keys():
        tables = values[key] if isinstance(values[key], list) else []
        for table in tables:
            try:
                from_values(name, {**head, key: [table]}, local=True)
            except RulesError as fault:
                faults.append(fault)
    return faults


class _Place:
    """Which rule is being read, for the error's text."""

    rule: str | None = None

    def tables(self, name: str, values: Mapping[str, Any], key: str) -> Iterator[dict[str, Any]]:
        for table in _tables(name, values, key):
            self.rule = str(table.get("id", f"a {key} without id"))
            _checked_id(table.get("id"))
            yield table
        self.rule = None


def _file(name: str, values: Mapping[str, Any], place: _Place, *, local: bool) -> RuleFile:
    if unknown := set(values) - _FILE_KEYS:
        raise _FaultError(f"unknown key {min(unknown)!r} at the head of the file")
    head, rank = values.get("operator", {}), values.get("rank", 0)
    if not isinstance(rank, int):
        raise _FaultError(f"rank = {rank!r}: a number")
    if not isinstance(head, dict):
        raise _FaultError("[operator] must be a table: id, name, mx")
    operator = _operator(name, head) if head else None
    source, tier, rules = str(values.get("source", head.get("source", ""))), _tier(name, values, local=local), []
    for table in place.tables(name, values, "rule"):
        fields = _rule_fields(table, source)
        if operator is not None:
            fields["operator"] = operator.id
        rules.append(Rule(table["id"], name, tier, **fields))
    times = tuple(_time(name, table, source) for table in place.tables(name, values, "time"))
    lists = tuple(read_blocklist({"source": source, **table}) for table in place.tables(name, values, "blocklist"))
    return RuleFile(name, rank, operator, tuple(rules), lists, times, _unit_seconds(values))


def to_values(name: str, text: str) -> dict[str, Any]:
    """Return the TOML values of a rule file's text.

    Raises:
        RulesError: the file is not TOML, with the line.
    """
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # tomllib lets through what int() says to 5,000 digits
        raise RulesError(name, None, f"is not TOML: {error}") from None
