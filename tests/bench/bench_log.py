"""Reading logs: `milter-bounce log` next to pflogsumm on the same file, logd with its store, and its memory.

Run: ``python -m tests.bench log``. 150,000 messages, 750,000 lines (make_log.py).
"""

from __future__ import annotations

import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from milter_bounce.config import from_values
from milter_bounce.system.learner import utc_now
from milter_bounce.system.logd import Logd
from milter_bounce.system.logsource import make_source
from tests.bench.make_log import lines
from tests.conftest import ROOT

MESSAGES = 150_000
ROUNDS = 3
STATUSES = 200_000
MANY = 1_000_000


def _row(name, value, unit, baseline, goal, holds) -> dict:
    ratio = None if baseline in (None, 0) else (baseline / value if unit == "s" else value / baseline)
    return {
        "name": name,
        "value": value,
        "unit": unit,
        "baseline": baseline,
        "ratio": ratio,
        "goal": goal,
        "holds": holds,
    }


def _timed(*words: str) -> float:
    began = time.perf_counter()
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
    return time.perf_counter() - began


def whole_log(folder: Path) -> list[dict]:
    """Return seconds for a whole log, with pflogsumm's in the same rounds."""
    log = folder / "mail.log"
    with log.open("w") as file:
        file.writelines(lines(MESSAGES))
    pflogsumm = shutil.which("pflogsumm", path="/usr/sbin:/usr/bin")
    assert pflogsumm, "needs pflogsumm (Debian package)"
    ours, theirs = [], []
    for _ in range(ROUNDS):
        ours.append(_timed(sys.executable, "-m", "milter_bounce", "log", str(log)))
        theirs.append(_timed(pflogsumm, str(log)))
    value, baseline = statistics.median(ours), statistics.median(theirs)
    goal = "3 times as fast as pflogsumm"
    return [_row("log, 750,000 lines", value, "s", baseline, goal, value * 3 <= baseline)]


def learn(folder: Path, statuses: int) -> dict[str, float]:
    """Return the rate of logd over as many delivery lines, and its memory after a fifth of them and at the end."""
    log = folder / "mail.log"
    with log.open("w") as file:
        file.writelines(line for line in lines(statuses) if " status=" in line)
    settings = from_values(
        {
            "user": "",
            "store": {"path": str(folder / "state.db")},
            "log": {"output": "file", "output_file": str(folder / "advice.log"), "follow": str(log)},
        },
        "bench",
    )
    daemon, source = Logd(settings, None, events=False), make_source(str(log), None, from_start=True)
    count, early = 0, 0.0
    began = time.perf_counter()
    while (batch := source.batch(0.01)) and batch.lines:
        daemon.learner.take(batch, utc_now())
        while daemon.learner.busy:
            count += daemon.learner.commit(utc_now())
        if not early and count >= statuses // 5:
            early = resident_mb()
    took = time.perf_counter() - began
    assert count == statuses
    return {"rate": count / took, "early": early, "late": resident_mb()}


def resident_mb() -> float:
    """Return this process's resident memory."""
    return int(re.search(r"VmRSS:\s+([0-9]+)", Path("/proc/self/status").read_text())[1]) / 1024


def _learnt(statuses: int) -> dict[str, float]:
    """Return what `learn` measures in a process of its own."""
    words = [sys.executable, "-m", "tests.bench.bench_log", str(statuses)]
    return json.loads(subprocess.run(words, check=True, capture_output=True, text=True, cwd=ROOT).stdout)


def following() -> list[dict]:
    """Return logd's rate with the store on, and how its memory grows over a million statuses."""
    rate = statistics.median(_learnt(STATUSES)["rate"] for _ in range(ROUNDS))
    many = _learnt(MANY)
    grown = many["late"] - many["early"]
    return [
        _row("logd with store, delivery lines", rate, "1/s", None, "20,000/s", rate >= 20_000),
        _row("logd, resident after 1,000,000 statuses", many["late"], "MB", None, "< 150 MB", many["late"] < 150),
        _row("logd, growth from 200,000 to 1,000,000", grown, "MB", None, "< 15 MB", grown < 15),
    ]


def run() -> list[dict]:
    """Return all figures."""
    with tempfile.TemporaryDirectory(prefix="mb-") as folder:
        rows = whole_log(Path(folder))
    return rows + following()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="mb-") as made:
        print(json.dumps(learn(Path(made), int(sys.argv[1]))))
