"""Rule sets: files in order, made ready, and the verdict on a delivery status.

Goes in: rule files as text, then one `DeliveryStatus` at a time. Comes out:
`Classification` with the rule's id and what it matched. Does not: read files
(``system.rulefiles``) or advise on times (``advise``). Order: rules/README.md.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from milter_bounce.delivery import Action
from milter_bounce.verdict import CATEGORIES, GATE_MARK, AdviceKind, Classification, FailureClass, Scope

from . import blocklist
from .codes import DEFAULT_4XX, DEFAULT_5XX, DEFAULT_NONE, Codes, first_digit
from .rule_toml import Operator, Rule, RuleFile, RulesError, Tier, from_values, to_values
from .scan import Scan
from .times import Times
from .words import words_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import timedelta

    from milter_bounce.delivery import DeliveryStatus
    from milter_bounce.verdict import BlocklistMention

    from .blocklist import Blocklist

__all__ = ["Explanation", "Operator", "RuleSet", "RulesError"]

HOSTS_KEPT: Final = 8192
VERDICTS_KEPT: Final = 8192
"""How many answers of each kind are remembered; beyond, they are worked out anew each time."""

MATCHED_LIMIT: Final = 200
"""Bytes of matched text in a verdict."""

_SUCCESS: Final = frozenset({Action.DELIVERED, Action.RELAYED, Action.EXPANDED})
_OURS: Final = Classification(
    FailureClass.NONE, "undetermined", AdviceKind.NONE, Scope.NONE, "own-text", GATE_MARK.strip(), gate=True
)
_DELIVERED: Final = CATEGORIES["delivered"]


class Explanation(NamedTuple):
    """One rule that matches a reply: where it stands, what it matched, and whether it decides."""

    rule: Rule
    matched: str
    decides: bool
    why: str


class RuleSet:
    """All rules, compiled. Made by `load`; never changed afterwards."""

    def __init__(self, files: Sequence[RuleFile]) -> None:
        """Put the rules of `files` in order and compile them.

        Raises:
            RulesError: file, rule and reason.
        """
        _refuse_doubles(files)
        self.files = tuple(files)
        self.operators = {file.operator.id: file.operator for file in files if file.operator}
        self.blocklists: tuple[Blocklist, ...] = tuple(b for file in files for b in file.blocklists)
        rules = [rule for file in files for rule in file.rules]
        self._refuse_unknown_operators(rules)
        self.rules = tuple(rules)
        by_tier: dict[Tier, list[Rule]] = {tier: [r for r in rules if r.tier is tier] for tier in Tier}
        head, middle = _everywhere(by_tier[Tier.LOCAL] + by_tier[Tier.GUARD]), _everywhere(by_tier[Tier.OPERATOR])
        lists = [rule for file in files for rule in _blocklist_rules(file)]
        lists.sort(key=lambda rule: rule.weak)
        self._phrases = Times([t for f in files for t in f.times], {w: s for f in files for w, s in f.units.items()})
        self._head_end = len(head)
        self._lists = range(len(head) + len(middle), len(head) + len(middle) + len(lists))
        general = [*head, *middle, *lists, *by_tier[Tier.TEXT]]
        self._times = range(len(general), len(general) + len(self._phrases.phrases))
        self._general = Scan(general, [phrase.text for phrase in self._phrases.phrases])
        self._after_rules = len(general)
        self._own: dict[str, Scan] = {}
        self._own_rules = {name: [r for r in rules if r.operator == name] for name in self.operators}
        self._codes = Codes(by_tier[Tier.STATUS], by_tier[Tier.REPLY])
        self._kept = frozenset(address for rule in [*rules, *lists] for address in _addresses(rule))
        self._suffixes = {suffix: o.id for o in self.operators.values() for suffix in o.mx}
        self._hosts: dict[str, str | None] = {}
        self._verdicts: dict[tuple[object, ...], Classification] = {}

    @staticmethod
    def load(files: Mapping[str, str], local: Mapping[str, str] | None = None) -> RuleSet:
        """Return the rule set of shipped `files` and the administrator's `local` ones: name -> TOML text.

        Raises:
            RulesError: file, rule and reason; the first fault found.
        """
        shipped = {name: to_values(name, text) for name, text in files.items()}
        return RuleSet.from_values(shipped, {name: to_values(name, text) for name, text in (local or {}).items()})

    @staticmethod
    def from_values(files: Mapping[str, Mapping[str, Any]], local: Mapping[str, Mapping[str, Any]]) -> RuleSet:
        """Return the rule set of TOML values already read; see `load`."""
        shipped = [from_values(name, values) for name, values in sorted(files.items())]
        own = [from_values(name, values, local=True) for name, values in sorted(local.items())]
        return RuleSet(_overridden(sorted(shipped, key=lambda file: file.rank), own))

    def operator_of(self, host: str | None) -> str | None:
        """Return the id of the operator whose MX suffix `host` ends in; None for others and for None."""
        if host is None:
            return None
        known = self._hosts.get(host, "")
        if known != "":
            return known
        labels = host.lower().rstrip(".").split(".")[-12:]
        found = next(
            (self._suffixes[name] for i in range(len(labels)) if (name := ".".join(labels[i:])) in self._suffixes), None
        )
        if len(self._hosts) < HOSTS_KEPT:
            self._hosts[host] = found
        return found

    def classify(self, status: DeliveryStatus) -> Classification:
        """Return what `status` means, with the rule that says so.

        Raises: nothing, on any text. Limits: `words.WORDS_LIMIT` characters of it.
        """
        if "status-by-mta" in status.defects:  # Sendmail's own guess from the code: 5.1.1 for any bare 550
            status = replace(status, status=None)
        operator = self.operator_of(status.remote_mta)
        code = status.reply_code
        if status.action in _SUCCESS or (code is not None and code < 400):
            return self._success(status, operator)
        words = words_of(status.diagnostic, code, self._kept) if status.diagnostic else ""
        if words.startswith(GATE_MARK):
            return replace(_OURS, operator=operator)
        if not words:
            return self._verdict(self._codes.rule_of(code, status.status), _code_text(status), operator, status)
        raw = words.encode(errors="replace")
        hits = self._general.hits(raw)
        scan, index = self._first(hits, raw, operator, status)
        if scan is None:
            rule, matched = self._codes.rule_of(code, status.status), _code_text(status)
        else:
            rule = scan.rules[index]
            found = scan.found(index, raw)
            matched = found.group()[:MATCHED_LIMIT].decode(errors="replace") if found else _code_text(status)
        if rule.category != "blocklisted" and (not hits or hits[-1] < self._lists.start):
            return self._verdict(rule, matched, operator, status)
        mentions = () if rule.tier is Tier.GUARD else self._mentions(hits, rule, words)
        return self._verdict(rule, matched, operator, status, mentions, self._stated(hits, raw))

    def _first(
        self, hits: list[int], raw: bytes, operator: str | None, status: DeliveryStatus
    ) -> tuple[Scan | None, int]:
        """Return the first rule that fires: local and guard rules, the operator's own, then the general ones."""
        general, codes = self._general, (status.reply_code, status.status, status.command)
        first = next(general.firing(hits, *codes), None)
        if first is not None and first < self._head_end:
            return general, first
        if operator is not None:
            own = self._scan_of(operator)
            own_first = next(own.firing(own.hits(raw), *codes), None)
            if own_first is not None:
                return own, own_first
        return (None, -1) if first is None else (general, first)

    def _scan_of(self, operator: str) -> Scan:
        """Return the compiled rules of one operator, made when it is first met."""
        scan = self._own.get(operator)
        if scan is None:
            scan = self._own[operator] = Scan(self._own_rules.get(operator, ()))
        return scan

    def _mentions(self, hits: list[int], rule: Rule, words: str) -> tuple[BlocklistMention, ...]:
        """Return the blocklists that the reply names or links; by operator only where no list of his is named."""
        named: dict[str, Blocklist] = {}
        for index in hits:
            if index in self._lists and self._general.fires(index, hits, None, None, None):
                entry = self._general.rules[index]
                if entry.blocklist and not (
                    entry.weak and any(b.operator == entry.blocklist.operator for b in named.values())
                ):
                    named.setdefault(entry.blocklist.id, entry.blocklist)
        found = tuple(blocklist.mention(item, words) for item in named.values())
        if not found and rule.category == "blocklisted" and (other := blocklist.unknown_list(words)):
            return (other,)
        return found

    def _stated(self, hits: list[int], raw: bytes) -> timedelta | None:
        """Return the first waiting time that the reply states."""
        for index in hits:
            if index in self._times and (wait := self._phrases.stated(index - self._times.start, raw)):
                return wait
        return None

    def _success(self, status: DeliveryStatus, operator: str | None) -> Classification:
        rule = self._codes.rule_of(status.reply_code, status.status)
        name = rule.id if rule.category == "delivered" else "action-" + status.action
        return Classification(
            _DELIVERED.class_, "delivered", _DELIVERED.advice, _DELIVERED.scope, name, _code_text(status), operator
        )

    def _verdict(
        self,
        rule: Rule,
        matched: str,
        operator: str | None,
        status: DeliveryStatus,
        mentions: tuple[BlocklistMention, ...] = (),
        wait: timedelta | None = None,
    ) -> Classification:
        temporary = _temporary(status)
        key = (rule.id, matched, operator, temporary, status.local)
        known = self._verdicts.get(key)
        if known is None:
            known = _judged(rule, matched, operator or rule.operator, temporary, local=status.local)
            if len(self._verdicts) < VERDICTS_KEPT:
                self._verdicts[key] = known
        if mentions or wait is not None:
            return replace(known, blocklists=mentions, retry_after=wait)
        return known

    def all_rules(self) -> tuple[Rule, ...]:
        """Return every rule, with those made of blocklists and of the first digit."""
        made = tuple(rule for file in self.files for rule in _blocklist_rules(file))
        return (*self.rules, *made, DEFAULT_4XX, DEFAULT_5XX, DEFAULT_NONE)

    def words(self, status: DeliveryStatus) -> str:
        """Return what a pattern sees of `status` (rules/README.md)."""
        return words_of(status.diagnostic or "", status.reply_code, self._kept)

    def explain(self, status: DeliveryStatus) -> list[Explanation]:
        """Return every rule that matches `status`, in order; the first one decides."""
        operator, code = self.operator_of(status.remote_mta), status.reply_code
        codes = (code, status.status, status.command)
        raw = self.words(status).encode(errors="replace")
        verdict = self.classify(status)
        rows: list[tuple[Rule, str]] = []
        general = [(self._general, i) for i in self._general.firing(self._general.hits(raw), *codes)]
        rows += [_row(s, i, raw) for s, i in general if i < self._head_end]
        if operator is not None:
            own = self._scan_of(operator)
            rows += [_row(own, i, raw) for i in own.firing(own.hits(raw), *codes)]
        rows += [_row(s, i, raw) for s, i in general if i >= self._head_end]
        rows += [(rule, _code_text(status)) for rule in self._codes.all_of(code, status.status)]
        seen: dict[str, Explanation] = {}
        for rule, matched in rows:
            decides = rule.id == verdict.rule
            seen.setdefault(rule.id, Explanation(rule, matched or _code_text(status), decides, _why(rule)))
        return list(seen.values())

    def _refuse_unknown_operators(self, rules: Iterable[Rule]) -> None:
        for rule in rules:
            if rule.operator is not None and rule.operator not in self.operators:
                raise RulesError(rule.file, rule.id, f"operator {rule.operator!r} has no file in operators/")


def _row(scan: Scan, index: int, raw: bytes) -> tuple[Rule, str]:
    found = scan.found(index, raw)
    return scan.rules[index], found.group()[:MATCHED_LIMIT].decode(errors="replace") if found else ""


_PLACES: Final = {
    Tier.LOCAL: "a local rule: before all shipped ones",
    Tier.GUARD: "holds whoever speaks: before operators",
    Tier.OPERATOR: "the operator's own rule: before general ones",
    Tier.BLOCKLIST: "names a blocklist: before general texts",
    Tier.TEXT: "a text: before codes",
    Tier.STATUS: "the enhanced status: before the reply code",
    Tier.REPLY: "the reply code: before the first digit",
}


def _why(rule: Rule) -> str:
    return "the first digit" if rule.id.startswith("default-") else _PLACES[rule.tier]


def _code_text(status: DeliveryStatus) -> str:
    """Return the codes of `status` as matched text: ``550 5.1.1``; "" where it has none."""
    return " ".join(str(part) for part in (status.reply_code, status.status) if part is not None)


def _temporary(status: DeliveryStatus) -> bool | None:
    """Return whether the codes claim a transient failure; None where there are none."""
    if status.action is Action.DELAYED and status.reply_code is None:
        return True
    digit = first_digit(status.reply_code, status.status)
    return None if digit is None else digit == 4


def _judged(rule: Rule, matched: str, operator: str | None, temporary: bool | None, *, local: bool) -> Classification:
    """Return the verdict of `rule`, tempered by the first digit and by who spoke (rules/README.md, "4xx and 5xx")."""
    defaults = CATEGORIES[rule.category]
    class_, advice = rule.class_ or defaults.class_, rule.advice or defaults.advice
    if rule.category == "undetermined" and rule.class_ is None and temporary is False:
        class_, advice = FailureClass.HARD, rule.advice or AdviceKind.FIX
    if temporary and rule.class_ is None and class_ is FailureClass.HARD and rule.category != "inactive-mailbox":
        class_, advice = FailureClass.SOFT, AdviceKind.RETRY
    if rule.class_ is not None and rule.advice is None and rule.class_ is not defaults.class_:
        advice = _ADVICE_OF[rule.class_]
    if local and advice is AdviceKind.SUPPRESS:
        advice = AdviceKind.FIX
    return Classification(class_, rule.category, advice, rule.scope or defaults.scope, rule.id, matched, operator)


_ADVICE_OF: Final = {
    FailureClass.HARD: AdviceKind.FIX,
    FailureClass.SOFT: AdviceKind.RETRY,
    FailureClass.POLICY: AdviceKind.HOLD,
    FailureClass.NONE: AdviceKind.NONE,
}
"""What a rule that changes only the class is taken to advise."""


def _everywhere(rules: Iterable[Rule]) -> list[Rule]:
    """Return the rules that do not wait for an operator to be known."""
    return [rule for rule in rules if rule.operator is None or rule.anywhere]


def _addresses(rule: Rule) -> list[str]:
    """Return the mail addresses that a rule's patterns name, in lower case."""
    patterns = (*rule.text, *rule.unless)
    return [found for pattern in patterns if "@" in pattern for found in blocklist.addresses_in(pattern)]


def _blocklist_rules(file: RuleFile) -> list[Rule]:
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


def _refuse_doubles(files: Iterable[RuleFile]) -> None:
    """Raise for an id that stands twice."""
    seen: dict[str, str] = {}
    for file in files:
        ids = [rule.id for rule in file.rules] + [item.id for item in file.times]
        for name in ids + [f"blocklist-{item.id}" for item in file.blocklists]:
            if name in seen:
                raise RulesError(file.name, name, f"this id stands in {seen[name]} already")
            seen[name] = file.name


def _overridden(shipped: list[RuleFile], local: list[RuleFile]) -> list[RuleFile]:
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
