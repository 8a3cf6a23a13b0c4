"""Readers of reports: the scores of issue 3 on the labelled mails, and mails a second beside Sisimai's.

Sisimai (Debian: libsisimai-perl) reads the same files in the same run, in turns, start-up left out on both sides.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from milter_bounce.cli.report import object_of
from milter_bounce.system.readers import load_readers
from milter_bounce.system.rulefiles import load_rules
from tests.conftest import ROOT, SHARED

CORPUS = SHARED / "corpus"
ROUNDS = 5
GOALS = {
    # evaluate.py's row -> (name, goal, today's best open reader on unseen mail)
    "detected": ("bounces recognised", 99.5, 98.0),
    "feedback_detected": ("feedback reports recognised", 100.0, None),
    "autoreply_detected": ("auto-replies recognised", 100.0, None),
    "recall": ("recipients found", 99.5, 98.0),
    "precision": ("recipients that are none invented", 99.7, 99.0),
    "dsn": ("enhanced status exact", 99.0, 95.0),
    "reply": ("reply code exact", 98.5, 95.0),
    "hard_clear": ("suppress-or-not agrees, clear rows", 98.5, 92.5),
    "category": ("category agrees", 97.0, 89.0),
}
_PERL = """
use Sisimai; use Time::HiRes "time";
my @files = @ARGV; Sisimai->make($files[0]);
my $best = 1e9;
for (1..ROUNDS) { my $t = time; Sisimai->make($_) for @files; my $d = time - $t; $best = $d if $d < $best }
printf "%.6f", $best;
""".replace("ROUNDS", str(ROUNDS))


def run() -> list[dict]:
    """Return the scores and the speed; nothing where the labelled mails are absent."""
    if not CORPUS.exists():
        return []
    return [*_scores(), *_speed()]


def _scores() -> list[dict]:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "score.json"
        command = f"{sys.executable} -m milter_bounce parse --json"
        subprocess.run(
            [sys.executable, CORPUS / "evaluate.py", "emails", "--cmd", command, "--out", out],
            check=True, stdout=subprocess.DEVNULL, env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        )  # fmt: skip
        score = json.loads(out.read_text())
    rows = [
        _row(f"parse: {name}", score["scores"][key], "%", peer, f">= {goal} %", score["scores"][key] >= goal)
        for key, (name, goal, peer) in GOALS.items()
    ]
    wrong = score["n"]["notbounce_ok"] - score["right"]["notbounce_ok"]
    return [*rows, _row("parse: ordinary mail taken for a bounce (1 disputed)", wrong, "mails", 0, "<= 1", wrong <= 1)]


def _speed() -> list[dict]:
    files = sorted((CORPUS / "emails").glob("*.eml"))
    mails = [path.read_bytes() for path in files]
    reader, rules = load_readers(), load_rules()
    best = float("inf")
    for _ in range(ROUNDS + 1):
        begun = time.perf_counter()
        for mail in mails:
            object_of("x", reader.read(mail), rules)
        best = min(best, time.perf_counter() - begun)
    ours = len(mails) / best
    theirs = _sisimai(files)
    ratio = ours / theirs if theirs else None
    return [
        _row(
            "parse: mails a second, one process",
            ours,
            "mails/s",
            theirs,
            ">= 2 x Sisimai",
            ratio is None or ratio >= 2,
            ratio,
        )
    ]


def _sisimai(files: list[Path]) -> float | None:
    """Return Sisimai's mails a second; None where it is not installed."""
    perl = shutil.which("perl")
    if not perl:
        return None
    done = subprocess.run([perl, "-e", _PERL, *files], capture_output=True, text=True, check=False)
    return len(files) / float(done.stdout) if done.returncode == 0 and done.stdout else None


def _row(
    name: str, value: float, unit: str, baseline: float | None, goal: str, holds: bool, ratio: float | None = None
) -> dict:
    return {
        "name": name,
        "value": value,
        "unit": unit,
        "baseline": baseline,
        "ratio": ratio,
        "goal": goal,
        "holds": holds,
    }
