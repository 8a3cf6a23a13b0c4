"""The import rule of DESIGN.md section 4, kept."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.conftest import ROOT

PACKAGE = ROOT / "milter_bounce"
MAY_IMPORT = {
    "delivery": set(),
    "limits": set(),
    "escape": set(),
    "verdict": {"delivery"},
    "parse": {"delivery", "verdict", "parse"},
    "decide": {"delivery", "verdict", "decide"},
    "protocol": {"delivery", "verdict", "protocol"},
    "pipeline": {"delivery", "verdict", "parse", "decide", "protocol"},
    "config": {"verdict", "delivery"},
    "system": {"delivery", "verdict", "parse", "decide", "protocol", "pipeline", "config", "system", "__init__"},
    "cli": {"delivery", "verdict", "parse", "decide", "protocol", "pipeline", "config", "system", "cli", "__init__"},
    "__main__": {"cli"},
    "__init__": set(),
}
HANDS = {
    "asyncio", "dns", "grp", "gzip", "io", "logging", "lzma", "Milter", "milter", "multiprocessing", "os", "pathlib",
    "prometheus_client", "pwd", "random", "redis", "secrets", "select", "selectors", "shutil", "signal", "socket",
    "spf", "sqlite3", "subprocess", "sys", "tempfile", "threading", "time", "urllib.request", "valkey", "zstandard",
    "concurrent", "rich", "click",
}  # fmt: skip
PURE = {"delivery", "escape", "limits", "verdict", "parse", "decide", "protocol", "pipeline"}
CLOCK_CALLS = {"now", "utcnow", "today"}


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports_of(tree: ast.AST, path: Path) -> list[tuple[str, int]]:
    """Return every imported dotted name with its line; relative ones made absolute."""
    package = ("milter_bounce", *path.relative_to(PACKAGE).parts[:-1])
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join((*package[: len(package) - node.level + 1], *filter(None, [node.module])))
            found += [(base, node.lineno)]
            found += [(f"{base}.{alias.name}", node.lineno) for alias in node.names if base == "milter_bounce"]
    return found


def faults(path: Path, source: str) -> list[str]:
    """Return what in `source`, standing at `path`, breaks the rule."""
    room, tree, bad = room_of(path), ast.parse(source), []
    for name, line in imports_of(tree, path):
        if name.startswith("milter_bounce."):
            target = name.split(".")[1]
            if (
                target not in MAY_IMPORT[room] | {"escape", "limits"}
                and (PACKAGE / target).exists() | (PACKAGE / f"{target}.py").exists()
            ):
                bad.append(f"{path.name}:{line}: {room} imports {target}")
        elif room in PURE and (name in HANDS or name.split(".")[0] in HANDS):
            bad.append(f"{path.name}:{line}: {room} imports {name}: only system and cli have hands")
    if room in PURE:
        bad += [
            f"{path.name}:{node.lineno}: {room} reads the clock or a file"
            for node in ast.walk(tree)
            if isinstance(node, ast.Call)
            and (
                (isinstance(node.func, ast.Attribute) and node.func.attr in CLOCK_CALLS)
                or (isinstance(node.func, ast.Name) and node.func.id in {"open", "input", "print"})
            )
        ]
    return bad


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_module_keeps_to_its_room(path):
    """No module imports upwards, sideways between the pure rooms, or an operating system it may not touch."""
    assert faults(path, path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("room", "source"),
    [
        pytest.param("parse/x.py", "from milter_bounce.decide import ruleset", id="sibling"),
        pytest.param("decide/x.py", "from ..parse import reply", id="relative-sibling"),
        pytest.param("decide/x.py", "import time", id="clock-module"),
        pytest.param("decide/x.py", "from datetime import datetime\ndatetime.now()", id="clock-call"),
        pytest.param("protocol/x.py", "import asyncio", id="loop"),
        pytest.param("delivery.py", "from milter_bounce.verdict import Advice", id="upwards"),
        pytest.param("parse/x.py", "from milter_bounce import system", id="package-import"),
        pytest.param("parse/x.py", "open('x')", id="file"),
    ],
)
def test_planted_fault_is_found(room, source):
    """The check itself can fail: each planted breach is found."""
    assert faults(PACKAGE / room, source)
