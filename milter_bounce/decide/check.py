"""Checks of a rule set: what an author of rules gets wrong, each with file and id.

Goes in: a `RuleSet` and a reader of replies. Comes out: `Finding`s. Does not:
refuse what loading refuses already (TOML, doubles of ids, RE2, unknown
operators): those never make a `RuleSet`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

from milter_bounce.verdict import AdviceKind

from .rule_toml import Example, Rule, Tier

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from milter_bounce.delivery import DeliveryStatus
    from milter_bounce.verdict import Classification

    from .ruleset import RuleSet

    Reader = Callable[[str, str | None], DeliveryStatus]

REFUSALS: Final = frozenset({
    "blocklisted", "poor-reputation", "auth-failure", "rdns-missing", "spam-content", "virus", "policy-rejection",
    "sender-rejected", "relay-denied", "content-rejected", "message-too-large", "protocol-error", "config-error",
    "rate-limited", "too-many-recipients", "greylisted",
})  # fmt: skip
"""Categories that speak of us or of the message; none may suppress a recipient."""

_YEAR: Final = re.compile(r"(?:19|20)[0-9]{2}")
_DEAD_BOUNDARY: Final = re.compile(r"[^\x00-\x7f]\\b|\\b[^\x00-\x7f]")


class Finding(NamedTuple):
    """Something wrong with a rule."""

    file: str
    rule: str
    reason: str


def findings(rules: RuleSet, read: Reader) -> list[Finding]:
    """Return all that is wrong with `rules`; empty where nothing is.

    Args:
        rules: as loaded.
        read: makes a delivery status of an example and the name of the remote MTA.
    """
    return [
        *_same_conditions(rules.rules),
        *_shadowed(rules.rules),
        *_suppressing(rules.rules),
        *_undated(rules.rules),
        *_dead_boundaries(rules.rules),
        *(finding for rule in rules.rules for finding in _examples(rules, rule, read)),
        *_blocklist_examples(rules, read),
        *_time_examples(rules, read),
    ]


def _key(rule: Rule) -> tuple[object, ...]:
    return (rule.text, rule.unless, rule.reply, rule.status, rule.command, None if rule.anywhere else rule.operator)


def _same_conditions(rules: Iterable[Rule]) -> Iterator[Finding]:
    """Yield rules with the very conditions of an earlier one."""
    seen: dict[tuple[object, ...], Rule] = {}
    for rule in rules:
        first = seen.setdefault((rule.tier, *_key(rule)), rule)
        if first is not rule:
            yield Finding(rule.file, rule.id, f"has the conditions of {first.id} in {first.file}: it can never fire")


def _covers(wide: frozenset[object] | None, narrow: frozenset[object] | None) -> bool:
    """Return whether every code that `narrow` allows is allowed by `wide`; None allows all."""
    return wide is None or (narrow is not None and narrow <= wide)


def _hides(first: Rule, later: Rule) -> bool:
    """Return whether `first`, which comes earlier, fires wherever `later` would."""
    if first.unless or (first.status is not None and first.status != later.status):
        return False
    if not set(later.text or (None,)) <= set(first.text or later.text or (None,)):
        return False
    if first.text and not later.text:
        return False
    return _covers(first.reply, later.reply) and _covers(first.command, later.command)


def _shadowed(rules: Iterable[Rule]) -> Iterator[Finding]:
    """Yield rules that an earlier one of their own place always takes first."""
    earlier: dict[tuple[object, ...], list[Rule]] = {}
    for rule in rules:
        place = (rule.tier, rule.operator)
        for first in earlier.setdefault(place, []):
            if _hides(first, rule) and _key(first) != _key(rule):
                yield Finding(rule.file, rule.id, f"{first.id} in {first.file} always fires first: it can never fire")
                break
        earlier[place].append(rule)


def _suppressing(rules: Iterable[Rule]) -> Iterator[Finding]:
    for rule in rules:
        if rule.advice is AdviceKind.SUPPRESS and rule.category in REFUSALS:
            yield Finding(rule.file, rule.id, f"{rule.category} speaks of the sender: it must not suppress a recipient")


def _undated(rules: Iterable[Rule]) -> Iterator[Finding]:
    """Yield shipped rules whose source does not say when; an administrator dates his own as he likes."""
    for rule in rules:
        if rule.tier is not Tier.LOCAL and not _YEAR.search(rule.source):
            yield Finding(rule.file, rule.id, "has no source with a year: where is it documented, or when was it seen?")


def _dead_boundaries(rules: Iterable[Rule]) -> Iterator[Finding]:
    for rule in rules:
        for pattern in (*rule.text, *rule.unless):
            if found := _DEAD_BOUNDARY.search(pattern):
                reason = (
                    f"{found[0]!r}: RE2 knows ASCII words only, this end of a word is never found; write (?:[ .,]|$)"
                )
                yield Finding(rule.file, rule.id, reason)


def host_of(rules: RuleSet, rule: Rule, example: Example) -> str | None:
    """Return the remote MTA that an example is to be judged with: its own, or one of the rule's operator."""
    if example.remote_mta is not None or rule.operator is None:
        return example.remote_mta
    suffixes = rules.operators[rule.operator].mx
    return f"mx.{suffixes[0]}" if suffixes else None


def _examples(rules: RuleSet, rule: Rule, read: Reader) -> Iterator[Finding]:
    hosts = {host_of(rules, rule, example) for example in rule.examples}
    if rule.anywhere:
        hosts.add(None)
    if rule.operator is not None and not rule.anywhere and None in hosts:
        yield Finding(rule.file, rule.id, f"operator {rule.operator} has no mx: only a rule with anywhere can fire")
        return
    for example in rule.examples:
        host = host_of(rules, rule, example)
        for remote in {host, None} if rule.anywhere else {host}:
            status = read(example.text, remote)
            yield from _missed(rules, rule, example, status, rules.classify(status))


def _missed(
    rules: RuleSet, rule: Rule, example: Example, status: DeliveryStatus, verdict: Classification
) -> Iterator[Finding]:
    if verdict.rule == rule.id:
        return
    rows = rules.explain(status)
    if any(row.rule.id == rule.id for row in rows):
        taker = next((row.rule for row in rows if row.rule.id == verdict.rule), None)
        where = f" in {taker.file}" if taker else ""
        yield Finding(rule.file, rule.id, f"{verdict.rule}{where} takes its example first: {example.text[:160]!r}")
    else:
        yield Finding(rule.file, rule.id, f"does not match its example: {example.text[:160]!r}")


def _blocklist_examples(rules: RuleSet, read: Reader) -> Iterator[Finding]:
    """Yield blocklists whose example does not mention them."""
    files = {item.id: file.name for file in rules.files for item in file.blocklists}
    for item in rules.blocklists:
        for text in item.examples:
            verdict = rules.classify(read(text, None))
            if not any(mention.zone in {item.zone.removeprefix("{key}."), item.id} for mention in verdict.blocklists):
                named = ", ".join(mention.zone for mention in verdict.blocklists) or "none"
                yield Finding(
                    files[item.id],
                    f"blocklist-{item.id}",
                    f"its example mentions {named} (rule {verdict.rule}): {text!r}",
                )


def _time_examples(rules: RuleSet, read: Reader) -> Iterator[Finding]:
    """Yield waiting-time phrases whose example states another time or none."""
    for phrase in (phrase for file in rules.files for phrase in file.times):
        for example in phrase.examples:
            wait = rules.classify(read(example.text, None)).retry_after
            seconds = None if wait is None else int(wait.total_seconds())
            if seconds != example.seconds:
                yield Finding(
                    phrase.file, phrase.id, f"example states {seconds} s, not {example.seconds}: {example.text!r}"
                )


def local_findings(rules: RuleSet, read: Reader) -> list[Finding]:
    """Return what is wrong with rules of the administrator's own: what a program refuses to load.

    Rules that took a shipped rule's place are left out: an upgrade may put something before them, and must not keep a
    program from starting.
    """
    local = [rule for rule in rules.rules if rule.tier is Tier.LOCAL]
    return [
        *_same_conditions(local),
        *_shadowed(local),
        *_suppressing(local),
        *(finding for rule in local for finding in _examples(rules, rule, read)),
    ]
