"""How fast replies are classified: next to the bare RE2 Set, and next to a first-match loop over Python's re.

The replies are the examples of the shipped rules, each made new many times over: IP
addresses, mail addresses and ids differ from reply to reply, as they do in a log.
``python -m tests.bench.bench_classify`` prints the table.
"""

from __future__ import annotations

import random
import re
import time
from typing import TYPE_CHECKING, Any

import re2

from milter_bounce.decide.ruleset import RuleSet
from milter_bounce.decide.scan import loosened
from milter_bounce.decide.words import words_of
from milter_bounce.system.rulefiles import load_rules, rules_dir, shipped_files, status_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from milter_bounce.delivery import DeliveryStatus

REPLIES = 20_000
GOAL_A_SECOND = 60_000
LOAD_GOAL_MS = 300
_IP = re.compile(r"\b(?:192\.0\.2|198\.51\.100|203\.0\.113)\.[0-9]+")
_ADDRESS = re.compile(r"\b[a-z0-9.]+@(example\.[a-z]+)")


def replies(rules: RuleSet, count: int, seed: int) -> list[str]:
    """Return `count` replies, no two alike: the rules' examples with other IPs, addresses and a session id."""
    chance = random.Random(seed)
    texts = [example.text for rule in rules.rules if rule.text for example in rule.examples]

    def new(text: str) -> str:
        text = _IP.sub(lambda found: f"{found[0].rpartition('.')[0]}.{chance.randrange(1, 255)}", text)
        text = _ADDRESS.sub(lambda found: f"u{chance.randrange(10**6)}@{found[1]}", text)
        return f"{text} [{chance.getrandbits(64):016x}]"

    return [new(chance.choice(texts)) for _ in range(count)]


def cpu_seconds(work: Callable[[Any], object], items: list[Any]) -> float:
    """Return the CPU seconds that `work` takes over `items`: other load on the machine does not count."""
    began = time.process_time()
    for item in items:
        work(item)
    return time.process_time() - began


def _rate(work: Callable[[Any], object], items: list[Any], rounds: int = 3) -> float:
    return len(items) / min(cpu_seconds(work, items) for _ in range(rounds))


def patterns_of(rules: RuleSet) -> list[str]:
    """Return every text of the rules that are looked at for any reply, in order."""
    return [
        "|".join(f"(?:{text})" for text in rule.text)
        for rule in rules.all_rules()
        if rule.text and (rule.operator is None or rule.anywhere)
    ]


def bare_set(patterns: list[str]) -> Callable[[str], object]:
    """Return the scan that is the limit: one RE2 Set over the patterns, nothing done with what it finds."""
    options = re2.Options()
    options.case_sensitive, options.log_errors, options.dot_nl, options.max_mem = False, False, True, 128 << 20
    scan = re2.Set.SearchSet(options)
    for pattern in patterns:
        scan.Add(loosened(pattern))
    scan.Compile()
    return scan.Match


def first_match(patterns: list[str]) -> Callable[[str], object]:
    """Return the plain way: the patterns in order, each tried with Python's re until one matches."""
    compiled = [re.compile(pattern.replace(r"[^\x00-\x{10FFFF}]", "(?!)"), re.IGNORECASE) for pattern in patterns]
    return lambda text: next((index for index, pattern in enumerate(compiled) if pattern.search(text)), None)


def doubled() -> RuleSet:
    """Return the shipped rules with as many generated ones that never match: what more rules cost."""
    chance, count = random.Random(7), len(load_rules().rules)

    def word() -> str:
        return "".join(chance.choice("bcdfghklmnprstvwz") for _ in range(7))

    lines = [
        f'[[rule]]\nid = "made-{i}"\ncategory = "system-error"\ntext = \'{word()} {word()}\'\nsource = "generated 2026"\n'
        f'examples = ["451 none"]\n'
        for i in range(count)
    ]
    shipped = {name: raw.decode() for name, raw in shipped_files(rules_dir()).items()}
    return RuleSet.load({**shipped, "text/made.toml": "rank = 39\n" + "\n".join(lines)})


def _row(
    name: str, value: float, unit: str, baseline: str, ratio: float | None, goal: str, *, holds: bool
) -> dict[str, object]:
    return {
        "name": name, "value": round(value, 1), "unit": unit, "baseline": baseline,
        "ratio": None if ratio is None else round(ratio, 2), "goal": goal, "holds": holds,
    }  # fmt: skip


def _warm(rules: RuleSet, seed: int) -> list[DeliveryStatus]:
    """Return new replies for `rules`, which has met others of the same templates."""
    for text in replies(rules, 4000, seed):
        rules.classify(status_of(text))
    return [status_of(text) for text in replies(rules, REPLIES, seed + 1)]


def run() -> list[dict[str, object]]:
    """Return the measurements as rows."""
    rules = load_rules()
    statuses = _warm(rules, 1)
    texts = [status.diagnostic or "" for status in statuses]
    patterns = patterns_of(rules)
    rate = _rate(rules.classify, statuses)
    bare = _rate(bare_set(patterns), texts, rounds=1)
    words = [words_of(text, 550) for text in texts]
    on_words = _rate(bare_set(patterns), words)
    plain = len(texts) / 40 / cpu_seconds(first_match(patterns), texts[::40])
    fresh = load_rules()
    fresh.classify(statuses[0])
    fresh._remember = lambda *_: None
    unknown = _rate(fresh.classify, statuses[:4000], rounds=2)
    chance = random.Random(5)
    parts = sorted({word for text in words for word in text.split()})
    wordings = [f"{text} {' '.join(chance.choices(parts, k=8))}" for text in chance.sample(texts, 1500)]
    never = load_rules()
    never_met = len(wordings) / cpu_seconds(never.classify, [status_of(text) for text in wordings])
    one_set = len(wordings) / 10 / cpu_seconds(bare_set(patterns), [words_of(text, 550) for text in wordings[::10]])
    twice = doubled()
    twice_rate = _rate(twice.classify, _warm(twice, 1))
    load = min(cpu_seconds(lambda _: load_rules(), [0]) for _ in range(5)) * 1000
    chance = random.Random(9)
    long = "550 " + " ".join(chance.choice(parts) for _ in range(17_000))
    hostile = cpu_seconds(lambda text: rules.classify(status_of(text)), [long]) * 1000
    return [
        _row("classify", rate, "replies/s", f"bare RE2 Set on these replies {bare:,.0f}/s", rate / bare, "at least half the bare scan and 60,000/s", holds=rate >= bare / 2 and rate >= GOAL_A_SECOND),
        _row("classify, words prepared for the bare Set", rate, "replies/s", f"bare RE2 Set on words {on_words:,.0f}/s", rate / on_words, "for comparison", holds=True),
        _row(
            "classify, each template as if never met",
            unknown,
            "replies/s",
            f"bare RE2 Set on words {on_words:,.0f}/s",
            unknown / on_words,
            "for comparison",
            holds=True,
        ),
        _row(
            "classify, every reply a wording never met",
            never_met,
            "replies/s",
            f"bare RE2 Set, one over all patterns {one_set:,.0f}/s",
            never_met / one_set,
            "faster",
            holds=never_met > one_set,
        ),
        _row("classify against a loop of re", rate, "replies/s", f"first-match loop of re {plain:,.0f}/s", rate / plain, "faster", holds=rate > plain),
        _row("classify with twice the rules", twice_rate, "replies/s", f"with the shipped rules {rate:,.0f}/s", twice_rate / rate, "flat: at least 0.8", holds=twice_rate >= 0.8 * rate),
        _row("load all rules", load, "ms", f"{len(rules.rules)} rules", None, f"below {LOAD_GOAL_MS} ms", holds=load < LOAD_GOAL_MS),
        _row("100 kB of words never met in this order", hostile, "ms", "cut at 1,024 characters", None, "below 100 ms", holds=hostile < 100),
    ]  # fmt: skip


if __name__ == "__main__":
    for row in run():
        print(
            f"{row['name']:45} {row['value']:>12,} {row['unit']:10} {row['baseline']:45} x{row['ratio']}  {'holds' if row['holds'] else 'MISSED'}"
        )
