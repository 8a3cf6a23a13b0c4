"""What is held, in words and fields: shared by ``blocks`` and ``recipient``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import click

from milter_bounce.system.maillog import MailLog
from milter_bounce.verdict import AdviceKind, notice_line, stamp

from ._state import settings_of, spelled, table

if TYPE_CHECKING:
    from pathlib import Path

    from milter_bounce.config import Settings
    from milter_bounce.system.store import WaitingMessage
    from milter_bounce.verdict import Notice, Standing

SHOWN: Final = 20
"""Messages and recipients that are shown; the rest is counted."""


def write_down(conf: Path | None, notice: Notice, *, quiet: bool = False) -> None:
    """Write the notice to the MTA's log as the programs do, and on the terminal, but for `quiet`."""
    log = MailLog(settings_of(conf).log, "admin")
    log.line(notice_line(notice))
    log.close()
    if not quiet:
        click.echo(notice_line(notice))


def only_said(settings: Settings) -> str | None:
    """Return why nothing of what is shown is really held; None where the gate holds it."""
    if settings.mode != "enforce":
        return "advise: nothing is held by us, only said"
    off = [name for name in ("hold_early", "hold_blocks") if not getattr(settings.gate, name)]
    return f"enforce, but gate.{' and gate.'.join(off)} = false: that is not held, only said" if off else None


def remedy(standing: Standing, recipient: str) -> str | None:
    """Return the command that lets mail to `recipient` go; None where nothing stands in its way."""
    if standing.kind is AdviceKind.NONE:
        return None
    if standing.kind is AdviceKind.SUPPRESS:
        return f"milter-bounce suppressions remove {recipient}"
    if key := standing.block or standing.backoff:
        return f"milter-bounce blocks lift {key}"
    return f"milter-bounce recipient release {recipient}"


def message_fields(found: list[WaitingMessage]) -> list[dict[str, object]]:
    """Return messages that wait as JSON fields."""
    return [
        {"queue_id": one.queue_id, "recipient": one.recipient, "since": stamp(one.since), "attempts": one.attempts}
        for one in found
    ]


def show_messages(found: list[WaitingMessage], total: int) -> None:
    """Print messages that wait, and how many more there are."""
    click.echo(f"\n{total} waiting" + (f", the oldest {len(found)}:" if total > len(found) else ":" if total else "."))
    if found:
        rows = ((one.queue_id, one.recipient, spelled(one.since), one.attempts) for one in found)
        table(("queue ID", "recipient", "since", "attempts"), rows, empty="")
