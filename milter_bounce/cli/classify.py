"""``milter-bounce classify``: what replies mean.

SYNOPSIS
    milter-bounce classify [--json] [-c CONF] [TEXT|-]...

DESCRIPTION
    Each line of standard input, or each TEXT, is a reply, or a JSON object
    {"response", "remote_mta", "recipient"}. One object, or one table row, per reply.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import click

from milter_bounce import limits
from milter_bounce.system.rulefiles import status_of
from milter_bounce.verdict import printable, verdict_fields

from ._json import json_line
from ._rules import loaded_rules

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from milter_bounce.delivery import DeliveryStatus
    from milter_bounce.verdict import Classification

LINE_LIMIT = limits.PIPE_LINE_BYTES


def _status(line: str) -> DeliveryStatus:
    """Return the status that one line of input tells of: a JSON object, or the reply itself."""
    if line.startswith("{"):
        try:
            values = json.loads(line)
        except (ValueError, RecursionError):  # no JSON, or nested without end: then it is a reply
            values = None
        if isinstance(values, dict) and isinstance(values.get("response"), str):
            return status_of(values["response"], _word(values, "remote_mta"), _word(values, "recipient"))
    return status_of(line)


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


def _object(status: DeliveryStatus, verdict: Classification) -> str:
    return json_line({
        "text": status.diagnostic,
        "reply": str(status.reply_code) if status.reply_code else None,
        "status": str(status.status) if status.status else None,
        **verdict_fields(verdict),
    })  # fmt: skip


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
@click.option("--json", "as_json", is_flag=True, help="One JSON object per reply.")
@click.option("-c", "--config", "conf", type=click.Path(readable=False), help="Configuration file.")
def classify(texts: tuple[str, ...], as_json: bool, conf: str | None) -> None:
    """Classify replies: each TEXT, or each line of standard input (-)."""
    rules = loaded_rules(conf)
    for line in _lines(texts or ("-",)):
        status = _status(line)
        verdict = rules.classify(status)
        click.echo(_object(status, verdict) if as_json else _row(status, verdict))
