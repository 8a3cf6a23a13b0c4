"""``make bench``: every figure next to its baseline in the same run; a table, and build/bench.json.

Each module ``bench_*.py`` beside this file has ``run() -> list[dict]`` with name,
value, unit, baseline, ratio, goal and holds. Absolute times mean little on a shared
machine; ratios and counts do. Name some to run only those: ``python -m tests.bench milter log``.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
import traceback
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.conftest import ROOT

KEYS = ("name", "value", "unit", "baseline", "ratio", "goal", "holds")


def shown(value: object) -> str:
    """Return a figure as it stands in the table."""
    if isinstance(value, bool):
        return "[green]yes[/green]" if value else "[red]no[/red]"
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return "" if value is None else str(value)


def main(names: list[str]) -> int:
    """Run the benches; 0 = every goal holds."""
    console, rows, broken = Console(), [], []
    modules = sorted(path.stem for path in Path(__file__).parent.glob("bench_*.py"))
    for module in [m for m in modules if not names or m.removeprefix("bench_") in names]:
        began = time.monotonic()
        try:
            found = importlib.import_module(f"tests.bench.{module}").run()
        except Exception:
            traceback.print_exc()
            broken.append(module)
            continue
        rows += [{key: row.get(key) for key in KEYS} for row in found]
        console.print(f"{module}: {len(found)} figures in {time.monotonic() - began:.0f} s")
    table = Table(title="make bench")
    for key in KEYS:
        table.add_column(key, justify="left" if key in {"name", "unit", "goal"} else "right")
    for row in rows:
        table.add_row(*(shown(row[key]) for key in KEYS))
    console.print(table)
    target = ROOT / "build" / "bench.json"
    target.parent.mkdir(exist_ok=True)
    kept = json.loads(target.read_text()) if names and target.exists() else []
    fresh = {row["name"] for row in rows}
    target.write_text(json.dumps([r for r in kept if r["name"] not in fresh] + rows, indent=1) + "\n")
    if broken:
        console.print(f"[red]did not run: {', '.join(broken)}[/red]")
    return 1 if broken or not all(row["holds"] for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
