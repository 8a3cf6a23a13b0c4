"""Every row of the five bounce references, as one named test each."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

import pytest

from milter_bounce.system.rulefiles import load_rules, status_of
from tests.conftest import SHARED

CASES = Path(__file__).with_name("seed_cases.jsonl")
ORIGINAL = SHARED / "seeds" / "seed_cases.jsonl"
ROWS = [json.loads(line) for line in CASES.read_text(encoding="utf-8").splitlines()]


@lru_cache(maxsize=1)
def shipped():
    return load_rules()


def accepted(expect, key):
    return {expect[key]} if key in expect else set(expect.get(f"{key}_any", ()))


@pytest.mark.parametrize("row", [pytest.param(row, id=row["id"]) for row in ROWS])
def test_seed_case_gets_an_accepted_verdict(row):
    """Class, category and advice are among those that the case accepts."""
    given = row["input"]
    verdict = shipped().classify(status_of(given["response"], given.get("remote_mta")))
    got = {"class": str(verdict.class_), "category": verdict.category, "advice": str(verdict.advice)}
    wrong = {
        key: value
        for key, value in got.items()
        if accepted(row["expect"], key) and value not in accepted(row["expect"], key)
    }
    assert not wrong, f"rule {verdict.rule}, wanted {row['expect']}"


@pytest.mark.parametrize(
    "row", [pytest.param(r, id=r["id"]) for r in ROWS if "policy" in accepted(r["expect"], "class")]
)
def test_seed_refusal_never_suppresses(row):
    """A row that may be a refusal of the sender never takes an address off the list."""
    given = row["input"]
    verdict = shipped().classify(status_of(given["response"], given.get("remote_mta")))
    assert verdict.advice != "suppress"


@pytest.mark.skipif(not ORIGINAL.exists(), reason="the shared material is not here")
def test_seed_cases_are_the_whole_original():
    """The copy here is the original, byte for byte."""
    assert CASES.read_bytes() == ORIGINAL.read_bytes()
