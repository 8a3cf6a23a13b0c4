"""Seeds and what was found with them, fed to the targets without a fuzzer."""

from __future__ import annotations

import pytest

from tests.conftest import ROOT
from tests.fuzz import __main__ as runner
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


def test_runner_names_an_unknown_target(capsys):
    """A target that does not exist ends with status 2 and the names of those that do."""
    pytest.importorskip("atheris")
    assert runner.main(["no-such"]) == 2
    assert "no-such" in capsys.readouterr().err


def test_runner_says_what_is_missing(capsys, monkeypatch):
    """Without atheris nothing is run, and the remedy is told."""
    monkeypatch.setattr(runner.importlib.util, "find_spec", lambda _: None)
    assert runner.main([]) == 2
    assert "pip install atheris" in capsys.readouterr().err


def test_runner_seeds_a_target(tmp_path, monkeypatch):
    """Every seed is a file in the folder that the fuzzer starts from, none longer than the target takes."""
    monkeypatch.setattr(runner, "LEARNT", tmp_path)
    folder = runner.seeded("socketmap", TARGETS["socketmap"])
    sizes = [path.stat().st_size for path in folder.iterdir()]
    assert len(sizes) == len({*TARGETS["socketmap"].seeds()})
    assert max(sizes) <= TARGETS["socketmap"].longest
