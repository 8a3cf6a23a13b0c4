"""Every program is a manual page at its head, and ``--help`` prints it."""

from __future__ import annotations

import ast
import re

import pytest
from click.testing import CliRunner

from milter_bounce.cli import main
from tests.conftest import ROOT

PROGRAMS = {"milterd": "milterd", "answerd": "answerd", "logd": "logd", "dnsd": "dnsd", "run": "supervise"}
HEADINGS = ["SYNOPSIS", "DESCRIPTION", "SIGNALS", "DIAGNOSTICS", "LIMITS", "SECURITY"]


def page(module: str) -> str:
    path = ROOT / "milter_bounce" / "system" / f"{module}.py"
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""


def sections(text: str) -> dict[str, str]:
    """Return heading -> what stands below it."""
    parts = re.split(r"(?m)^([A-Z][A-Z ]{2,})$", text)
    return dict(zip(parts[1::2], (body.strip() for body in parts[2::2]), strict=True))


@pytest.mark.parametrize("module", PROGRAMS.values())
def test_manual_has_the_fixed_headings_in_order(module):
    """Each heading stands once, in Postfix's order, with something below it; others may follow."""
    found = sections(page(module))
    assert [heading for heading in found if heading in HEADINGS] == HEADINGS
    assert all(found[heading] for heading in HEADINGS)
    assert page(module).startswith(f"{module} - ")


@pytest.mark.parametrize(("command", "module"), PROGRAMS.items())
def test_synopsis_names_the_command_and_its_options(command, module):
    """The command stands in the synopsis, and each of its options in it or in the list of options."""
    synopsis = sections(page(module))["SYNOPSIS"]
    assert synopsis.startswith(f"milter-bounce {command} [-c CONF]")
    options = set(re.findall(r"--[a-z-]+", synopsis))
    printed = CliRunner().invoke(main, [command, "--help"]).output
    listed = printed.partition("Options:")[2]
    assert all(option in listed for option in options)


@pytest.mark.parametrize(("command", "module"), PROGRAMS.items())
def test_help_prints_the_manual(command, module):
    """Every line of the page comes out as it stands, indented by click."""
    ran = CliRunner().invoke(main, [command, "--help"])
    assert ran.exit_code == 0
    printed = [line.strip() for line in ran.output.splitlines()]
    assert [line for line in page(module).splitlines() if line.strip() and line.strip() not in printed] == []
