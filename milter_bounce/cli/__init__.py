"""The command line: ``milter-bounce COMMAND ...``.

Each command lives in a module of its own and is imported only when it is
asked for, so that ``milter-bounce classify`` does not pay for pymilter.
Exit status: 0 done, 1 found something or could not read something, 2 wrong usage or configuration.
"""

from __future__ import annotations

import contextlib
import importlib
from typing import TYPE_CHECKING, Any, Final

import click

from milter_bounce import __version__

from ._out import escape_what_cannot_be_shown, safe

if TYPE_CHECKING:
    from collections.abc import Iterator

COMMANDS: Final = {
    # name: (module, attribute, one line for --help)
    "parse": ("report", "parse", "Read mails and print the delivery statuses they tell of."),
    "classify": ("classify", "classify", "Classify replies: one a line, or JSON objects."),
    "rules": ("rules", "rules", "Check, test, show and explain the rules."),
    "log": ("log", "log", "Classify every delivery status of Postfix and Sendmail logs."),
    "milterd": ("programs", "milterd", "Run the milter: reports coming in, in line."),
    "answerd": ("programs", "answerd", "Run the status filter, gate, policy service and Sendmail map."),
    "logd": ("programs", "logd", "Follow the mail log."),
    "dnsd": ("programs", "dnsd", "Watch blocklists and mail operators in the DNS."),
    "run": ("programs", "run", "Run all programs and restart those that die."),
    "blocks": ("blocks", "blocks", "List, show, lift and add blocks; list and end back-offs."),
    "suppressions": ("state", "suppressions", "List, show, add, remove, export and import suppressions."),
    "recipient": ("recipient", "recipient", "Show what is known of a recipient; release what is held."),
    "store": ("state", "store", "Check, back up, vacuum and export the store."),
    "blocklists": ("blocklists", "blocklists", "Tell which blocklists list an address or domain."),
    "check": ("check", "check", "Test that everything is wired."),
    "postfix": ("postfix", "postfix", "Print, apply and revert Postfix's settings."),
    "sendmail": ("sendmail", "sendmail", "Print and check Sendmail's settings."),
    "keys": ("keys", "keys", "Make and list the keys of the report token."),
    "config": ("config", "config", "Print the configuration with every option at its default."),
}


@contextlib.contextmanager
def _safe_words() -> Iterator[None]:
    """Make safe what click says about wrong usage: it quotes words and paths as they were given."""
    try:
        yield
    except click.ClickException as error:
        error.message = safe(error.message)  # type: ignore[misc]  # final, says click, and has no other way in
        raise


class _LazyGroup(click.Group):
    """A group that imports a command's module when the command is used; what it says is safe for any terminal."""

    def main(self, *args: Any, **extra: Any) -> Any:
        escape_what_cannot_be_shown()
        return super().main(*args, **extra)

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        with _safe_words():
            return super().make_context(*args, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        with _safe_words():
            return super().invoke(ctx)

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in COMMANDS:
            return None
        module, attribute, _ = COMMANDS[cmd_name]
        command = getattr(importlib.import_module(f"milter_bounce.cli.{module}"), attribute)
        if not isinstance(command, click.Command):
            raise TypeError(f"{module}.{attribute} is no command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, _, text) in COMMANDS.items()])


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="milter-bounce")
def main() -> None:
    """Bounce adviser beside Postfix and Sendmail."""
