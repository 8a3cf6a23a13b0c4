"""What every command prints by: one JSON object a line, one line for what goes wrong.

Goes in: values, text from anywhere. Goes out: standard output and standard error, with nothing in it that a terminal
acts on. Does not: make tables.
"""

from __future__ import annotations

import io
import sys
from typing import Any, Final

import click

from milter_bounce import limits
from milter_bounce.escape import harmless, json_line

JSON: Final = click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
FAULT_LIMIT: Final = limits.WRITTEN_LINE


def emit(values: Any) -> None:
    """Print one JSON object as a line of UTF-8, whatever the locale."""
    click.echo(json_line(values).encode())


def safe(text: object) -> str:
    """Return text of an error, a path in it for example, safe for a terminal and not endless."""
    shown = harmless(str(text)[: FAULT_LIMIT + 1])
    return shown if len(shown) <= FAULT_LIMIT else shown[: FAULT_LIMIT - 3] + "..."


def complain(text: object) -> None:
    """Print one line on standard error for what went wrong."""
    click.echo(f"milter-bounce: {safe(text)}", err=True)


class Refusal(click.ClickException):
    """One line, or one for each fault, on standard error and exit status 2: wrong usage or configuration."""

    exit_code = 2

    def __init__(self, message: str, *others: str) -> None:
        super().__init__(message)
        self.others = others

    def show(self, file: object = None) -> None:
        """Print the lines without click's prefix."""
        del file
        for line in (self.message, *self.others):
            complain(line)


def escape_what_cannot_be_shown() -> None:
    """Let standard output and standard error escape what their encoding has no bytes for (LC_ALL=C)."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
