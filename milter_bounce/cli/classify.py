"""``milter-bounce classify``: what replies mean.

SYNOPSIS
    milter-bounce classify [--json] [-c CONF] [TEXT|-]...

DESCRIPTION
    Each line of standard input, or each TEXT, is a reply, or a JSON object
    {"response", "remote_mta", "recipient"}. One object, or one table row, per reply. A line
    that begins with { and is no such object is told with its number, in its place with --json
    as {"line", "error"}; the others are judged, and the exit status is 1.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import click

from milter_bounce import limits
from milter_bounce.system.rulefiles import status_of
from milter_bounce.verdict import printable, verdict_fields

from ._out import JSON, complain, emit
from ._rules import loaded_rules
from ._state import quiet_pipe

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from milter_bounce.delivery import DeliveryStatus
    from milter_bounce.verdict import Classification

LINE_LIMIT = limits.PIPE_LINE_BYTES


def _status(line: str) -> DeliveryStatus:
    """Return the status that one line of input tells of: a JSON object, or the reply itself.

    Raises:
        ValueError: it is meant as an object and is none of ours; why.
    """
    if not line.startswith("{"):
        return status_of(line)
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"no JSON: {error}") from None
    if "response" not in values:
        raise ValueError('no "response" in it')
    if not isinstance(values["response"], str):
        raise ValueError('"response" is no string')  # noqa: TRY004 - what was given is wrong, not our types
    return status_of(values["response"], _word(values, "remote_mta"), _word(values, "recipient"))


def _word(values: dict[str, Any], key: str) -> str | None:
    value = values.get(key)
    return value if isinstance(value, str) and value else None


def _lines(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        if text != "-":
            yield text
            continue
        stream = sys.stdin.buffer
        while line := stream.readline(LINE_LIMIT):
            rest = line
            while rest and not rest.endswith(b"\n"):
                rest = stream.readline(LINE_LIMIT)
            yield line.decode("utf-8", "replace").rstrip("\r\n")


def _fields(status: DeliveryStatus, verdict: Classification) -> dict[str, object]:
    return {
        "text": status.diagnostic,
        "reply": str(status.reply_code) if status.reply_code else None,
        "status": str(status.status) if status.status else None,
        **verdict_fields(verdict),
    }


def _row(status: DeliveryStatus, verdict: Classification) -> str:
    lists = ", ".join(f"{item.zone} ({item.operator})" for item in verdict.blocklists)
    return "\n".join(
        filter(
            None,
            [
                printable(status.diagnostic or "", 300),
                f"    {verdict.class_} / {verdict.category} / {verdict.advice}   scope {verdict.scope}",
                f"    rule {verdict.rule}   matched {printable(verdict.matched, 120)!r}",
                f"    operator {verdict.operator}" if verdict.operator else None,
                f"    blocklists {lists}" if lists else None,
                f"    states a waiting time: {verdict.retry_after}" if verdict.retry_after else None,
            ],
        )
    )


@click.command()
@click.argument("texts", nargs=-1)
@JSON
@click.option("-c", "--config", "conf", type=click.Path(readable=False), help="Configuration file.")
@quiet_pipe
def classify(texts: tuple[str, ...], as_json: bool, conf: str | None) -> None:
    """Classify replies: each TEXT, or each line of standard input (-)."""
    rules = loaded_rules(conf)
    bad = 0
    for number, line in enumerate(_lines(texts or ("-",)), 1):
        try:
            status = _status(line)
        except ValueError as error:
            bad += 1
            fault = printable(str(error), 200)
            complain(f"line {number}: {fault}")
            if as_json:
                emit({"line": number, "error": fault})
            continue
        verdict = rules.classify(status)
        if as_json:
            emit(_fields(status, verdict))
        else:
            click.echo(_row(status, verdict))
    if bad:
        sys.exit(1)
