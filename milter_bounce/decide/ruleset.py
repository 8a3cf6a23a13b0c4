"""Rule sets: files in order, made ready, and the verdict on a delivery status.

Goes in: rule files as text, then one `DeliveryStatus` at a time. Comes out:
`Classification` with the rule's id and what it matched. Does not: read files
(``system.rulefiles``) or advise on times (``advise``). Order: rules/README.md.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from milter_bounce import limits
from milter_bounce.delivery import Action, Source, lowered
from milter_bounce.verdict import CATEGORIES, GATE_MARK, AdviceKind, Classification, FailureClass, Scope

from . import blocklist
from .assemble import addresses, blocklist_rules, everywhere, mark_rules, overridden, refuse_doubles
from .codes import DEFAULT_4XX, DEFAULT_5XX, DEFAULT_NONE, Codes
from .judged import code_text, judged
from .rule_toml import Operator, Rule, RuleFile, RulesError, Tier, from_values, to_values
from .scan import NO_CODES, Scan, joined, refuse_broken
from .times import Times
from .words import WORDS_LIMIT, addresses_in, words_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import timedelta

    from milter_bounce.delivery import DeliveryStatus, EnhancedStatus

    from .blocklist import Blocklist

__all__ = ["Explanation", "Operator", "RuleSet", "RulesError"]

HOSTS_KEPT: Final = limits.HOSTS_KEPT
DECISIONS_KEPT: Final = limits.DECISIONS_KEPT
WORDS_KEPT: Final = limits.DECISION_WORDS

_SUCCESS: Final = frozenset({Action.DELIVERED, Action.RELAYED, Action.EXPANDED})
_OURS: Final = Classification(
    FailureClass.NONE, "undetermined", AdviceKind.NONE, Scope.NONE, "own-text", GATE_MARK.strip(), gate=True
)
_DELIVERED: Final = CATEGORIES["delivered"]
_SENDER_NAMED: Final = Rule("sender-named", "", Tier.TEXT, "sender-rejected")


class Explanation(NamedTuple):
    """One rule that matches a reply: where it stands, what it matched, and whether it decides."""

    rule: Rule
    matched: str
    decides: bool
    why: str


_Key = tuple["str", "int | None", "EnhancedStatus | None", "str | None", "str | None", "bool", "bool", "bool"]


class _Decision(NamedTuple):
    """The verdict on some words, without what is listed."""

    verdict: Classification
    lists: tuple[Blocklist, ...] = ()
    unnamed: bool = False
    """True where a list is meant that no table describes."""

    convicts: bool = False
    """True where a shipped rule suppresses the recipient, if it is the recipient whom the reply means."""


def shortened_operator(host: str, suffixes: Mapping[str, str]) -> str | None:
    """Return the operator of a host name with its middle cut out, ``example-com.mail.p...ction.outlook.com``.

    Sendmail logs 40 characters of relay= at most (shortenstring, seen on 8.17.1), which
    cuts most of Microsoft 365's names. A suffix fits that ends in what is left of the end;
    among several the one whose beginning is what is left of the beginning.
    """
    head, _, tail = host.partition("...")
    if tail.count(".") == 0:
        return None
    fitting = [name for name in suffixes if name.endswith(tail)]
    begun = [
        name
        for name in fitting
        if any(("." + head).endswith("." + name[:size]) for size in range(1, len(name) - len(tail) + 1))
    ]
    found = {suffixes[name] for name in begun or fitting}
    return found.pop() if len(found) == 1 else None


def _speaks_of_sender(status: DeliveryStatus) -> bool:
    """Return whether the envelope sender's is the only address that the reply names: a refusal of who writes."""
    sender = lowered(status.sender or "")
    if "@" not in sender or sender == lowered(status.recipient or ""):
        return False
    return addresses_in(status.diagnostic or "") == {sender}


def without_success(status: DeliveryStatus) -> DeliveryStatus:
    """Return `status`, which an MTA calls a failure, without codes of success: no remote reply overrules the MTA."""
    if status.reply_code is not None and status.reply_code < 400:
        status = replace(status, reply_code=None)
    if status.status is not None and status.status.class_ == 2:
        status = replace(status, status=None)
    return status


class RuleSet:
    """All rules, compiled. Made by `load`; never changed afterwards."""

    def __init__(self, files: Sequence[RuleFile]) -> None:
        """Put the rules of `files` in order and compile them.

        Raises:
            RulesError: file, rule and reason.
        """
        refuse_doubles(files)
        self.files = tuple(files)
        self.operators = {file.operator.id: file.operator for file in files if file.operator}
        self.blocklists: tuple[Blocklist, ...] = tuple(b for file in files for b in file.blocklists)
        rules = [rule for file in files for rule in file.rules]
        self._refuse_unknown_operators(rules)
        self.rules = tuple(rules)
        by_tier: dict[Tier, list[Rule]] = {tier: [r for r in rules if r.tier is tier] for tier in Tier}
        head, middle = everywhere(by_tier[Tier.LOCAL] + by_tier[Tier.GUARD]), everywhere(by_tier[Tier.OPERATOR])
        lists = [rule for file in files for rule in blocklist_rules(file)]
        lists.sort(key=lambda rule: rule.weak)
        self._phrases = Times([t for f in files for t in f.times], {w: s for f in files for w, s in f.units.items()})
        self._head_end = len(head)
        self._lists = range(len(head) + len(middle), len(head) + len(middle) + len(lists))
        general = [*head, *middle, *lists, *by_tier[Tier.TEXT]]
        self._times = range(len(general), len(general) + len(self._phrases.phrases))
        marks = [(joined(o.marks), o.id) for o in self.operators.values() if o.marks]
        self._marks = {self._times.stop + i: operator for i, (_, operator) in enumerate(marks)}
        self._general = Scan(
            general, [*(phrase.text for phrase in self._phrases.phrases), *(text for text, _ in marks)]
        )
        self._own: dict[str, Scan] = {}
        self._own_rules = {name: [r for r in rules if r.operator == name] for name in self.operators}
        self._codes = Codes(by_tier[Tier.STATUS], by_tier[Tier.REPLY])
        self._kept = frozenset(address for rule in [*rules, *lists] for address in addresses(rule))
        self._suffixes = {suffix: o.id for o in self.operators.values() for suffix in o.mx}
        self._hosts: dict[str, str | None] = {}
        self._decisions: dict[_Key, _Decision] = {}

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
        for file in own:
            refuse_broken([*file.rules, *blocklist_rules(file), *mark_rules(file)])
        return RuleSet(overridden(sorted(shipped, key=lambda file: file.rank), own))

    def operator_of(self, host: str | None) -> str | None:
        """Return the id of the operator whose MX suffix `host` ends in; None for others and for None."""
        if host is None:
            return None
        known = self._hosts.get(host, "")
        if known != "":
            return known
        folded = host.lower().rstrip(".")
        labels = folded.split(".")[-12:]
        found = next(
            (self._suffixes[name] for i in range(len(labels)) if (name := ".".join(labels[i:])) in self._suffixes), None
        )
        if found is None and "..." in folded:
            found = shortened_operator(folded, self._suffixes)
        if len(self._hosts) < HOSTS_KEPT:
            self._hosts[host] = found
        return found

    def classify(self, status: DeliveryStatus) -> Classification:
        """Return what `status` means, with the rule that says so.

        Raises: nothing, on any text. Limits: `words.WORDS_LIMIT` characters of it.
        """
        if "status-by-mta" in status.defects:  # Sendmail's own guess from the code: 5.1.1 for any bare 550
            status = replace(status, status=None)
        if status.source is not Source.TEXT and status.action not in _SUCCESS:
            status = without_success(status)
        operator = self.operator_of(status.remote_mta)
        code = status.reply_code
        if status.action in _SUCCESS or (code is not None and code < 400):
            return self._success(status, operator)
        words = words_of(status.diagnostic, code, self._kept) if status.diagnostic else ""
        delayed = status.action is Action.DELAYED
        key = (words, code, status.status, status.command, operator, status.remote_mta is None, status.local, delayed)
        decision = self._decisions.get(key)
        if decision is None:
            decision = self._decide(words, operator, status)
            self._remember(key, decision)
        verdict, lists, unnamed, convicts = decision
        if convicts and _speaks_of_sender(status):
            verdict = judged(_SENDER_NAMED, verdict.matched, verdict.operator, status)
        if not lists and not unnamed:
            return verdict
        # what is listed differs from reply to reply, and the words have it masked
        text = (status.diagnostic or "")[:WORDS_LIMIT]
        other = blocklist.unknown_list(text) if unnamed else None
        found = (other,) if other else tuple(blocklist.mention(item, text) for item in lists)
        return replace(verdict, blocklists=found)

    def _remember(self, key: _Key, decision: _Decision) -> None:
        """Keep a decision: replies come from few templates, and words have all that differs masked."""
        if len(key[0]) > WORDS_KEPT:
            return
        if len(self._decisions) >= DECISIONS_KEPT:
            self._decisions.clear()
        self._decisions[key] = decision

    def _decide(self, words: str, operator: str | None, status: DeliveryStatus) -> _Decision:
        """Return the verdict on `words`, and the blocklists that they name."""
        if words.startswith(GATE_MARK):
            return _Decision(replace(_OURS, operator=operator))
        raw = words.encode(errors="replace")
        hits = self._general.hits(raw) if words else []
        marked = self._marked(hits, raw) if operator is None else None
        scan, index = self._first(hits, raw, operator or marked, status)
        if scan is None:
            rule, matched = self._codes.rule_of(status.reply_code, status.status), code_text(status)
        else:
            rule, matched = scan.rules[index], scan.matched(index, raw) or code_text(status)
        # the host that spoke decides: words of Gmail's from any other server must not count as a refusal by Gmail
        speaker = operator or (rule.operator or marked if status.remote_mta is None else None)
        verdict = judged(rule, matched, speaker, status)
        if (wait := self._stated(hits, raw)) is not None:
            verdict = replace(verdict, retry_after=wait)
        asker = rule.tier is Tier.GUARD and rule.category == "system-error"  # who asks the list is at fault, not we
        lists = () if asker else self._named(hits, raw)
        convicts = verdict.advice is AdviceKind.SUPPRESS and rule.tier is not Tier.LOCAL
        return _Decision(verdict, lists, not lists and rule.category == "blocklisted", convicts)

    def _first(
        self, hits: list[int], raw: bytes, operator: str | None, status: DeliveryStatus
    ) -> tuple[Scan | None, int]:
        """Return the first rule that fires: local and guard rules, the operator's own, then the general ones."""
        general, codes = self._general, (status.reply_code, status.status, status.command)
        first = next(general.firing(hits, raw, codes), None)
        if first is not None and first < self._head_end:
            return general, first
        if operator is not None:
            own = self._scan_of(operator)
            own_first = next(own.firing(own.hits(raw), raw, codes), None)
            if own_first is not None:
                return own, own_first
        return (None, -1) if first is None else (general, first)

    def _marked(self, hits: list[int], raw: bytes) -> str | None:
        """Return the operator whose marks the text bears: whoever hands it on, his rules read it best."""
        marks = self._marks
        return next((marks[i] for i in hits if i in marks and self._general.fires(i, hits, raw, NO_CODES)), None)

    def _scan_of(self, operator: str) -> Scan:
        """Return the compiled rules of one operator, made when it is first met."""
        scan = self._own.get(operator)
        if scan is None:
            scan = self._own[operator] = Scan(self._own_rules.get(operator, ()))
        return scan

    def _named(self, hits: list[int], raw: bytes) -> tuple[Blocklist, ...]:
        """Return the blocklists that a reply names or links; by operator only where no list of his is named."""
        named: dict[str, Blocklist] = {}
        for index in hits:
            entry = self._general.rules[index].blocklist if index in self._lists else None
            if entry is None or not self._general.fires(index, hits, raw, NO_CODES):
                continue
            weak = self._general.rules[index].weak
            if not (weak and any(other.operator == entry.operator for other in named.values())):
                named.setdefault(entry.id, entry)
        return tuple(named.values())

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
            _DELIVERED.class_, "delivered", _DELIVERED.advice, _DELIVERED.scope, name, code_text(status), operator
        )

    def all_rules(self) -> tuple[Rule, ...]:
        """Return every rule, with those made of blocklists and of the first digit."""
        made = tuple(rule for file in self.files for rule in blocklist_rules(file))
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
        operator = operator or self._marked(self._general.hits(raw), raw)
        rows: list[tuple[Rule, str]] = [(_SENDER_NAMED, verdict.matched)] if verdict.rule == _SENDER_NAMED.id else []
        general = [(self._general, i) for i in self._general.firing(self._general.hits(raw), raw, codes)]
        rows += [_row(s, i, raw) for s, i in general if i < self._head_end]
        if operator is not None:
            own = self._scan_of(operator)
            rows += [_row(own, i, raw) for i in own.firing(own.hits(raw), raw, codes)]
        rows += [_row(s, i, raw) for s, i in general if i >= self._head_end]
        rows += [(rule, code_text(status)) for rule in self._codes.all_of(code, status.status)]
        seen: dict[str, Explanation] = {}
        for rule, matched in rows:
            decides = rule.id == verdict.rule
            why = _why(rule)
            if decides and rule.category != verdict.category:
                why = f"{why}; in reply to {status.command} it means {verdict.category}"
            seen.setdefault(rule.id, Explanation(rule, matched or code_text(status), decides, why))
        return list(seen.values())

    def _refuse_unknown_operators(self, rules: Iterable[Rule]) -> None:
        for rule in rules:
            if rule.operator is not None and rule.operator not in self.operators:
                raise RulesError(rule.file, rule.id, f"operator {rule.operator!r} has no file in operators/")


def _row(scan: Scan, index: int, raw: bytes) -> tuple[Rule, str]:
    return scan.rules[index], scan.matched(index, raw)


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
    if rule is _SENDER_NAMED:
        return "the only address in the reply is the sender's: before what its words say of a recipient"
    return "the first digit" if rule.id.startswith("default-") else _PLACES[rule.tier]
