"""``milter-bounce rules``: check, test, show and explain the rules, and find what they do not know.

SYNOPSIS
    milter-bounce rules check [--json] [-c CONF]
    milter-bounce rules test [--json] FILE
    milter-bounce rules show [--json] ID
    milter-bounce rules explain REPLY [--remote-mta HOST]
    milter-bounce rules unmatched LOG...

DESCRIPTION
    How rules are written: rules/README.md. Exit status 1: something was found, or a log
    could not be read.
"""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from datetime import UTC, datetime
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from milter_bounce import limits
from milter_bounce.config import ConfigError
from milter_bounce.decide.check import findings
from milter_bounce.decide.codes import DEFAULT_IDS
from milter_bounce.decide.rule_toml import RulesError, Tier
from milter_bounce.decide.template import skeleton, template_of
from milter_bounce.system.rulefiles import broken_files, read_own_examples, status_of
from milter_bounce.system.settings import load_settings
from milter_bounce.verdict import CATEGORIES, printable

from ._out import JSON, Refusal, complain, emit, safe
from ._rules import loaded_rules

if TYPE_CHECKING:
    from collections.abc import Iterable

    from milter_bounce.decide.rule_toml import Rule
    from milter_bounce.decide.ruleset import RuleSet
    from milter_bounce.delivery import DeliveryStatus
    from milter_bounce.verdict import Classification

_CONFIG = click.option("-c", "--config", "conf", type=click.Path(readable=False), help="Configuration file.")
TEMPLATES: Final = limits.TEMPLATES


def _read(text: str, remote_mta: str | None) -> DeliveryStatus:
    return status_of(text, remote_mta)


@click.group()
def rules() -> None:
    """Check, test, show and explain the rules."""


@rules.command()
@_CONFIG
@JSON
def check(conf: str | None, as_json: bool) -> None:
    """Report doubles, rules that can never fire, examples that miss or that another rule takes."""
    try:
        loaded = loaded_rules(conf, strict=False)
    except Refusal as refusal:  # that names the first broken file; whoever mends it wants to know of the others too
        others = [str(fault) for fault in _broken(conf) if str(fault) != refusal.message]
        raise Refusal(refusal.message, *others) from None
    found = findings(loaded, _read)
    for item in found:
        if as_json:
            emit(item._asdict())
        else:
            click.echo(safe(f"{item.file}: {item.rule}: {item.reason}"))
    if not as_json:
        lists = len(loaded.blocklists)
        click.echo(
            f"{len(loaded.rules)} rules, {len(loaded.operators)} operators, {lists} blocklists: "
            f"{len(found) or 'no'} finding{'' if len(found) == 1 else 's'}"
        )
    if found:
        raise SystemExit(1)


def _broken(conf: str | None) -> list[RulesError]:
    with contextlib.suppress(ConfigError, RulesError):
        return broken_files(load_settings(Path(conf) if conf else None))
    return []


@rules.command(name="test")
@click.argument("file", type=click.Path(readable=False))
@_CONFIG
@JSON
def test_examples(file: str, conf: str | None, as_json: bool) -> None:
    """Try your own examples: TOML tables [[example]] with text and rule, class, category or advice."""
    loaded = loaded_rules(conf)
    try:
        examples = read_own_examples(Path(file))
    except RulesError as error:
        raise Refusal(str(error)) from None
    missed = 0
    for number, example in enumerate(examples, 1):
        verdict = loaded.classify(_read(example["text"], example.get("remote_mta")))
        wrong = _differences(example, verdict)
        missed += bool(wrong)
        if as_json:
            emit({"example": number, "text": example["text"], "rule": verdict.rule, "differences": wrong})
        elif wrong:
            click.echo(f"{safe(file)}: example {number}: {'; '.join(wrong)}: {printable(example['text'], 200)}")
    if not as_json:
        click.echo(f"{len(examples)} examples, {len(examples) - missed} as expected, {missed} not")
    if missed:
        raise SystemExit(1)


def _differences(example: dict[str, Any], verdict: Classification) -> list[str]:
    """Return what of the verdict is not as the example says."""
    got = {
        "rule": verdict.rule,
        "class": str(verdict.class_),
        "category": verdict.category,
        "advice": str(verdict.advice),
        "operator": verdict.operator,
    }
    return [
        f"{key} is {got[key]} (rule {verdict.rule}), not {example[key]}"
        for key in got
        if example.get(key, got[key]) != got[key]
    ]


@rules.command()
@click.argument("rule_id", metavar="ID")
@_CONFIG
@JSON
def show(rule_id: str, conf: str | None, as_json: bool) -> None:
    """Show one rule: where it stands, its conditions, its verdict, its examples."""
    loaded = loaded_rules(conf)
    rule = next((rule for rule in loaded.all_rules() if rule.id == rule_id), None)
    if rule is None:
        ids = [other.id for other in loaded.all_rules()]
        near = list(dict.fromkeys([*get_close_matches(rule_id, ids, 3, 0.7), *(i for i in ids if rule_id in i)]))[:5]
        raise Refusal(f"no rule {rule_id!r}" + (f"; did you mean {', '.join(near)}?" if near else ""))
    if as_json:
        emit(_rule_fields(rule))
    else:
        click.echo("\n".join(_described(rule)))


def _rule_fields(rule: Rule) -> dict[str, object]:
    defaults = CATEGORIES[rule.category]
    return {
        "rule": rule.id,
        "file": rule.file,
        "tier": rule.tier.name.lower(),
        "class": str(rule.class_ or defaults.class_),
        "category": rule.category,
        "advice": str(rule.advice or defaults.advice),
        "scope": str(rule.scope or defaults.scope),
        "text": list(rule.text),
        "unless": list(rule.unless),
        "conditions": rule.conditions() or None,
        "source": rule.source,
        "examples": [example.text for example in rule.examples],
    }


def _described(rule: Rule) -> list[str]:
    defaults = CATEGORIES[rule.category]
    lines = [f"{rule.id}   {rule.file}   {rule.tier.name.lower()}"]
    lines.append(
        f"  verdict   {rule.class_ or defaults.class_} / {rule.category} / {rule.advice or defaults.advice}, scope {rule.scope or defaults.scope}"
    )
    lines += [f"  text      {text}" for text in rule.text]
    lines += [f"  unless    {text}" for text in rule.unless]
    if conditions := rule.conditions():
        lines.append(f"  only at   {conditions}")
    lines.append(f"  source    {rule.source}")
    return lines + [f"  example   {printable(example.text, 200)}" for example in rule.examples]


@rules.command()
@click.argument("reply")
@click.option("--remote-mta", metavar="HOST", help="The MX host that said so; its operator's rules then count.")
@_CONFIG
@JSON
def explain(reply: str, remote_mta: str | None, conf: str | None, as_json: bool) -> None:
    """Show every rule that matches a reply, in order, and why the first one wins."""
    loaded = loaded_rules(conf)
    status = _read(reply, remote_mta)
    verdict = loaded.classify(status)
    rows = loaded.explain(status)
    if as_json:
        for row in rows:
            emit({
                "rule": row.rule.id,
                "file": row.rule.file,
                "matched": row.matched,
                "decides": row.decides,
                "why": row.why,
            })  # fmt: skip
        return
    click.echo(f"words     {printable(loaded.words(status), 400)}")
    click.echo(
        f"verdict   {verdict.class_} / {verdict.category} / {verdict.advice}, scope {verdict.scope}, operator {verdict.operator or 'none'}"
    )
    for number, row in enumerate(rows, 1):
        mark = "decides " if row.decides else "        "
        click.echo(f"{number:3} {mark} {row.rule.id:34} {row.rule.category:20} {row.why}")
        click.echo(f"             {row.rule.file}: matched {printable(row.matched, 120)!r}")


@rules.command()
@click.argument("logs", nargs=-1, required=True, metavar="LOG...")
@click.option("--top", default=20, show_default=True, type=click.IntRange(1, 10_000), help="Templates to show.")
@_CONFIG
@JSON
def unmatched(logs: tuple[str, ...], top: int, conf: str | None, as_json: bool) -> None:
    """Group the replies of logs that only a bare code decided, with a rule skeleton for each."""
    # only this command reads logs; the others start faster without
    from milter_bounce.system.logcount import deliveries  # noqa: PLC0415

    loaded = loaded_rules(conf)
    faults: list[str] = []
    paths = [None if name == "-" else Path(name) for name in logs]
    counts, first = _templates(loaded, (found.status for found in deliveries(paths, faults.append)))
    seen = f"{datetime.now(UTC):%Y-%m}"
    for number, (template, count) in enumerate(counts.most_common(top), 1):
        rule = skeleton(template, first[template].diagnostic or "", rule_id=f"local-{number}", seen=seen)
        host = first[template].remote_mta
        if as_json:
            emit({"count": count, "template": template, "remote_mta": host, "rule": rule})
        else:
            click.echo(
                f"# {count} times, first from {printable(host or 'unknown', 100)}: {printable(template, 300)}\n{rule}\n"
            )
    for fault in faults:
        complain(fault)
    if not as_json:
        click.echo(
            f"# {counts.total()} replies in {len(counts)} templates were decided by a bare code", file=sys.stderr
        )
    if counts or faults:
        raise SystemExit(1)


def _templates(loaded: RuleSet, statuses: Iterable[DeliveryStatus]) -> tuple[Counter[str], dict[str, DeliveryStatus]]:
    """Return how often each template was decided by a code alone, and its first status."""
    bare = DEFAULT_IDS | {rule.id for rule in loaded.rules if rule.tier in {Tier.STATUS, Tier.REPLY}}
    counts: Counter[str] = Counter()
    first: dict[str, DeliveryStatus] = {}
    for status in statuses:
        verdict = loaded.classify(status)
        if verdict.gate or verdict.rule not in bare or verdict.category == "delivered" or not loaded.words(status):
            continue
        template = template_of(status.diagnostic or "")
        if template in counts or len(counts) < TEMPLATES:
            counts[template] += 1
            first.setdefault(template, status)
    return counts, first
