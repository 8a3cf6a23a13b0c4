"""Seeds and what was found with them, fed to the targets without a fuzzer."""

from __future__ import annotations

import pytest

from tests.conftest import ROOT
from tests.fuzz.targets import TARGETS

FINDS = sorted((ROOT / "tests" / "fuzz" / "finds").glob("*/*"))
SEEDS_TRIED = 40


def test_every_find_belongs_to_a_target():
    """No folder of finds is left over from a target that is gone."""
    assert {path.parent.name for path in FINDS} <= set(TARGETS)


@pytest.mark.parametrize("path", FINDS, ids=lambda path: f"{path.parent.name}-{path.name[:20]}")
def test_find_is_mended(path):
    """What once broke a parser is read."""
    assert TARGETS[path.parent.name].feed(path.read_bytes()) is None


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_pass(name):
    """A selection of what the fuzzer starts from passes, and there is some."""
    seeds = TARGETS[name].seeds()
    chosen = seeds[:: max(1, len(seeds) // SEEDS_TRIED)]
    assert chosen
    for seed in chosen:
        assert TARGETS[name].feed(seed[: TARGETS[name].longest]) is None
