"""Patterns taken apart: what matches stays what it was."""

from __future__ import annotations

import random
import tomllib

import pytest

from milter_bounce.decide.pieces import GROUP_CHARACTERS, alternatives, grouped
from milter_bounce.decide.scan import compiled, loosened
from milter_bounce.system.rulefiles import load_rules
from tests.conftest import ROOT

REPLIES = [
    reply if isinstance(reply, str) else reply["text"]
    for group in tomllib.loads((ROOT / "tests/rules/replies.toml").read_text(encoding="utf-8"))["group"]
    for reply in group["replies"]
]


@pytest.mark.parametrize(
    ("pattern", "pieces"),
    [
        ("user unknown", ["user unknown"]),
        ("a|b", ["a", "b"]),
        ("(?:a|b)c|d(e|f)", ["(?:a|b)c", "d(e|f)"]),
        (r"a\|b|\(c|d\)", [r"a\|b", r"\(c", r"d\)"]),
        ("[|)]x|[^]|]y|[]|]z", ["[|)]x", "[^]|]y", "[]|]z"]),
        (r"[[:alpha:]|]|[\]|]", ["[[:alpha:]|]", r"[\]|]"]),
        (r"a{2,3}|b+?", ["a{2,3}", "b+?"]),
        ("(?i)a|b", ["(?i)a|b"]),
        ("(?-i:a)|b", ["(?-i:a)", "b"]),
        (r"\Qa|b\E", [r"\Qa|b\E"]),
        ("a||b", ["a||b"]),
        ("a)|(b", ["a)|(b"]),
        ("a|[b", ["a|[b"]),
        ("a|b\\", ["a|b\\"]),
    ],
)
def test_alternatives_of_a_pattern(pattern, pieces):
    """Only bars that stand outside everything part a pattern; what cannot be told apart for sure stays whole."""
    assert alternatives(pattern) == pieces


def test_shipped_patterns_come_together_again():
    """Each piece compiles by itself, and the pieces are the pattern."""
    for rule in load_rules().all_rules():
        for pattern in (*(rule.text or ()), *(rule.unless or ())):
            pieces = alternatives(pattern)
            assert "|".join(pieces) == pattern
            assert all(compiled(piece) for piece in pieces)


def test_groups_hold_what_they_may():
    """Pieces keep their order and numbers; none is lost, a long one stands alone."""
    chance = random.Random(3)
    pieces = [(n, "x" * chance.choice([3, 90, GROUP_CHARACTERS + 1])) for n in range(300)]
    groups = list(grouped(pieces))
    assert [piece for group in groups for piece in group] == pieces
    assert all(len(group) == 1 or sum(len(p) for _, p in group) <= GROUP_CHARACTERS for group in groups)
    assert list(grouped([])) == []


def test_sets_find_what_each_pattern_finds():
    """On replies, and on their words in any order, the grouped Sets name the very patterns that match by themselves."""
    chance, scan = random.Random(11), load_rules()._general
    words = [word for reply in REPLIES for word in reply.split()]
    texts = [*REPLIES[::60], *(" ".join(chance.choices(words, k=60)) for _ in range(15))]
    single = [compiled(loosened(pattern)) if pattern else None for pattern in scan._patterns]
    for text in texts:
        raw = text.encode()
        assert scan.hits(raw) == [i for i, one in enumerate(single) if one is not None and one.search(raw)]
