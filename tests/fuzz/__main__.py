"""Every target under atheris, one after the other, with a table: ``python -m tests.fuzz [TARGET...]``.

SECONDS (environment, default 60) is the time for each. What is learnt stays in build/fuzz/TARGET for the next run, and
build/fuzz/TARGET.json adds up the runs since its last find, in executions and seconds of one core, so that half an hour
can be had in pieces. A find is written to tests/fuzz/finds/TARGET, where the unit tests replay it. Exit 0: no find,
1: a find, 2: not run.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import resource
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from tests.conftest import ROOT
from tests.fuzz.targets import TARGETS, Target

FINDS = ROOT / "tests" / "fuzz" / "finds"
LEARNT = ROOT / "build" / "fuzz"
INPUT_LIMIT_S = 10
MEMORY_LIMIT_MB = 2048


class Run(NamedTuple):
    """What one target's run came to."""

    executions: int
    finds: list[Path]
    words: str


def seeded(name: str, target: Target) -> Path:
    """Return the folder of what `name` starts from, its seeds written into it."""
    folder = LEARNT / name
    folder.mkdir(parents=True, exist_ok=True)
    for seed in target.seeds():
        (folder / hashlib.sha1(seed, usedforsecurity=False).hexdigest()).write_bytes(seed[: target.longest])
    return folder


def dictionary(name: str, target: Target) -> Path:
    """Return the file of the target's words, as libFuzzer reads them."""
    path = LEARNT / f"{name}.dict"
    path.write_text("".join('"' + "".join(f"\\x{byte:02x}" for byte in word.encode()) + '"\n' for word in target.words))
    return path


def run(name: str, target: Target, seconds: int) -> Run:
    """Return what came of `seconds` of `name`."""
    finds = FINDS / name
    finds.mkdir(parents=True, exist_ok=True)
    before = {path: path.stat().st_mtime for path in finds.iterdir()}
    options = {
        "max_total_time": seconds, "max_len": target.longest, "timeout": INPUT_LIMIT_S, "rss_limit_mb": MEMORY_LIMIT_MB,
        "artifact_prefix": f"{finds}/", "print_final_stats": 1, "verbosity": 0,
    }  # fmt: skip
    learnt = seeded(name, target)
    words = [f"-{key}={value}" for key, value in options.items()]
    words += [f"-dict={dictionary(name, target)}"] if target.words else []
    ran = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.one", name, *words, str(learnt)],
        check=False, cwd=ROOT, capture_output=True, text=True, errors="replace",
    )  # fmt: skip
    found = sorted(path for path in finds.iterdir() if before.get(path) != path.stat().st_mtime)
    if not any(finds.iterdir()):
        finds.rmdir()
    said = re.findall(r"stat::number_of_executed_units: +([0-9]+)", ran.stderr)
    if ran.returncode and not found:
        sys.exit(f"{name} did not run: {ran.stderr[-2000:]}")
    return Run(int(said[-1]) if said else 0, found, ran.stdout + ran.stderr)


def busy_s() -> float:
    """Return the seconds of one core that the targets had so far."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def added(name: str, done: Run, seconds: float) -> tuple[int, float]:
    """Return executions and seconds of `name` since its last find, this run with them."""
    path = LEARNT / f"{name}.json"
    executions, before_s = (0, 0.0) if done.finds or not path.exists() else json.loads(path.read_text())
    path.write_text(json.dumps([executions + done.executions, before_s + seconds]))
    return executions + done.executions, before_s + seconds


def main(names: list[str]) -> int:
    """Return the exit status after the targets `names`, all where none is named."""
    if importlib.util.find_spec("atheris") is None:
        sys.stderr.write(
            "atheris is missing: .venv/bin/pip install atheris (wheels for Linux on x86-64, Python 3.11 to 3.13)\n"
        )
        return 2
    if unknown := set(names) - set(TARGETS):
        sys.stderr.write(f"no such target: {min(unknown)}; there are {' '.join(TARGETS)}\n")
        return 2
    seconds = int(os.environ.get("SECONDS", "60"))
    total = 0
    print(f"{'target':<12}{'executions':>12}{'a second':>10}{'in all':>14}{'minutes':>9}  finds")
    for name in names or TARGETS:
        began = busy_s()
        done = run(name, TARGETS[name], seconds)
        total += len(done.finds)
        executions, used_s = added(name, done, busy_s() - began)
        a_second = done.executions // max(seconds, 1)
        print(
            f"{name:<12}{done.executions:>12,}{a_second:>10,}{executions:>14,}{used_s / 60:>9.1f}  {len(done.finds)}",
            flush=True,
        )
        for path in done.finds:
            print(f"  {path.relative_to(ROOT)}\n" + "\n".join("    " + line for line in trace(done.words)))
    return 1 if total else 0


def trace(words: str) -> list[str]:
    """Return the end of the Python traceback in the fuzzer's words."""
    lines = words.splitlines()
    starts = [number for number, line in enumerate(lines) if "Traceback" in line or "ALARM" in line]
    return lines[starts[-1] : starts[-1] + 40][-14:] if starts else lines[-5:]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
