"""Replies grouped by template: what changes from one to the next is masked.

Goes in: replies. Comes out: one template for all replies that differ only in
addresses, hosts, numbers, ids and times; and a rule skeleton for it. Does not:
judge. Linear in the text, which is cut first.
"""

from __future__ import annotations

import re
from typing import Final

from milter_bounce import limits

LIMIT: Final = limits.TEMPLATE

_ADDRESS: Final = re.compile(r"<?[^\s<>()\[\]\"',;:@]{1,64}@[^\s<>()\[\]\"',;:@]{1,255}>?")
_URL: Final = re.compile(r"https?://[^\s<>\"')]{1,300}")
_IP: Final = re.compile(
    r"(?<![0-9A-Za-z.])(?:[0-9]{1,3}(?:\.[0-9]{1,3}){3}|[0-9a-fA-F]{1,4}(?::{1,2}[0-9a-fA-F]{1,4}){2,7})(?![0-9A-Za-z])"
)
_TIME: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9:.]{5,15}Z?|[0-9]{1,2}:[0-9]{2}(?::[0-9]{2})?")
_HOST: Final = re.compile(r"(?<![\w.-])(?:[a-zA-Z0-9_-]{1,63}\.){2,8}[a-zA-Z]{2,24}(?![\w-])")
# an id has a digit and a letter, or is a long run of either; codes at the start are not touched
_ID: Final = re.compile(r"(?<![\w.])(?=[A-Za-z_-]{0,40}[0-9])[A-Za-z0-9_-]{6,80}(?![\w.])")
_NUMBER: Final = re.compile(r"(?<![\w.])[0-9]{1,20}(?![\w.])")
_CODES: Final = re.compile(r"\s*(?:[245][0-9]{2})?[ -]?(?:[245]\.[0-9]{1,3}\.[0-9]{1,3})?\s*")

_MASKS: Final = (
    (_URL, "URL"), (_ADDRESS, "<@>"), (_TIME, "TIME"), (_IP, "IP"), (_HOST, "HOST"), (_ID, "ID"), (_NUMBER, "N"),
)  # fmt: skip


def template_of(reply: str) -> str:
    """Return `reply` with addresses, hosts, IPs, times, ids and numbers masked, its codes kept.

    Raises: nothing, on any text. Limits: the first `LIMIT` characters.
    """
    line = " ".join(reply[:LIMIT].split())
    codes = _CODES.match(line)
    start = codes.end() if codes else 0
    head, rest = line[:start], line[start:]
    for pattern, mask in _MASKS:
        rest = pattern.sub(mask, rest)
    return (head + rest).strip()


_GAPS: Final = {
    "URL": r"https?://\S+",
    "<@>": "<@>",
    "TIME": r"\S+",
    "IP": r"[0-9a-f.:]+",
    "HOST": r"[a-z0-9.-]+",
    "ID": r"\S+",
    "N": "[0-9]+",
}
_SPLIT: Final = re.compile(r"(URL|<@>|TIME|\bIP\b|HOST|\bID\b|\bN\b)")
_PATTERN_LIMIT: Final = 120


def skeleton(template: str, example: str, *, rule_id: str, seen: str) -> str:
    """Return a rule, as TOML, that would match `template`; the category is left to the administrator."""
    codes = _CODES.match(template)
    text = template[codes.end() if codes else 0 :][:_PATTERN_LIMIT].rstrip()
    pattern = "".join(_GAPS.get(part) or re.escape(part).replace(r"\ ", " ") for part in _SPLIT.split(text))
    return "\n".join([
        "[[rule]]",
        f'id = "{rule_id}"',
        'category = "policy-rejection"   # choose: see rules/README.md, "Categories"',
        f"text = {_literal(pattern)}",
        f'source = "own log, {seen}"',
        f"examples = [{_quoted(example[:LIMIT])}]",
    ])  # fmt: skip


def _literal(pattern: str) -> str:
    return f"'{pattern}'" if "'" not in pattern and pattern.isprintable() else _quoted(pattern)


def _quoted(text: str) -> str:
    escaped = "".join(
        sign if sign >= " " and sign != "\x7f" else f"\\u{ord(sign):04x}" for sign in text.replace("\\", "\\\\")
    )
    return '"' + escaped.replace('"', '\\"') + '"'
