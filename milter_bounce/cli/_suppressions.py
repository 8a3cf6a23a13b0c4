"""Suppressions as CSV and JSON: written, and read with every bad line told.

Goes in: a text stream. Comes out: pages of suppressions; each fault with its
line to a callback. Does not: touch the store.

Limits: a line of `LINE_LIMIT` characters; a JSON array is read as a whole, up to `ARRAY_LIMIT`.
"""

from __future__ import annotations

import csv
import itertools
import json
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, TextIO

from milter_bounce import limits
from milter_bounce.escape import json_line
from milter_bounce.verdict import CATEGORIES, Suppression, printable, stamp

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

COLUMNS: Final = ("recipient", "since", "category", "rule", "reason", "origin")
PAGE: Final = 1000
LINE_LIMIT: Final = limits.IMPORT_LINE
ARRAY_LIMIT: Final = limits.IMPORT_ARRAY

_ADDRESS: Final = re.compile(r"[^\x00-\x20\x7f@<>,;\s]{1,256}@[^\x00-\x20\x7f@<>,;\s]{1,255}")
_QUOTED: Final = re.compile(r'"[^\x00-\x1f\x7f"]{1,254}"@[^\x00-\x20\x7f@<>,;\s]{1,255}')
_ORIGINS: Final = frozenset({"log", "report", "feedback", "admin", "import"})


_NO_UTF_8: Final = re.compile(r"[\ud800-\udfff]")
"""What stands for a byte that is no UTF-8, or half a pair of JSON's escapes."""


def is_address(text: str) -> bool:
    """Return whether `text` is an address that mail can have: a local part, quoted or without blanks, and a domain."""
    return bool(_ADDRESS.fullmatch(text) or _QUOTED.fullmatch(text)) and not _NO_UTF_8.search(text)


def suppression_fields(suppression: Suppression) -> dict[str, object]:
    """Return a suppression as JSON fields."""
    s = suppression
    return {
        "recipient": s.recipient,
        "since": stamp(s.since),
        "category": s.category,
        "rule": s.rule,
        "reason": s.reason,
        "origin": s.origin,
    }


def _cell(value: object) -> str:
    """Return a cell as it may stand in a file that a terminal, a spreadsheet or another reader of CSV is given.

    Control characters but line feeds, which are quoted, are escaped: csv quotes no lone CR, and a reader takes it for
    a row's end. What a spreadsheet could take for a formula gets an apostrophe in front, which `read_suppressions` takes
    off again.
    """
    text = "" if value is None else str(value)
    lines = (line if line.isprintable() else printable(line, len(line) * 10) for line in text.split("\n"))
    text = "\n".join(lines)
    return "'" + text if _is_formula(text) else text


def _is_formula(text: str) -> bool:
    """Return whether a spreadsheet could take a cell for a formula (OWASP, CSV injection), apostrophes in front or not."""
    return text.lstrip("'").startswith(("=", "+", "-", "@", "\t", "\r", "\n"))


def write_csv(suppressions: Iterable[Suppression], out: TextIO) -> None:
    """Write suppressions with a first line of column names (RFC 4180)."""
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(map(_cell, suppression_fields(s).values()) for s in suppressions)


def write_json(suppressions: Iterable[Suppression], out: TextIO) -> None:
    """Write suppressions as one JSON object a line."""
    out.writelines(json_line(suppression_fields(s), ascii_only=True) + "\n" for s in suppressions)


def read_suppressions(
    file: TextIO, form: str | None, now: datetime, tell: Callable[[int, str], None]
) -> Iterator[list[Suppression]]:
    """Yield the suppressions of `file` in pages; `tell` is called with line and fault of each bad one.

    Args:
        file: CSV, or JSON.
        form: ``csv``, ``json``, or None for what the first character says.
        now: the time of those that state none.
        tell: gets the line, or the number of the entry in a JSON array, and what is wrong with it.
    """
    first = file.read(1)
    while first.isspace() or first == "\ufeff":
        first = file.read(1)
    if (form or ("json" if first in {"[", "{", '"'} and first else "csv")) == "json":
        entries = _json_entries(first, file, tell)
    else:
        entries = _csv_entries(_lines(first, file, tell))
    good = _good(entries, now, tell)
    while page := list(itertools.islice(good, PAGE)):
        yield page


def _good(
    entries: Iterator[tuple[int, dict[str, Any]]], now: datetime, tell: Callable[[int, str], None]
) -> Iterator[Suppression]:
    for line, fields in entries:
        try:
            yield _suppression(fields, now)
        except ValueError as error:
            tell(line, str(error))


def _suppression(fields: dict[str, Any], now: datetime) -> Suppression:
    """Return the suppression that `fields` state.

    Raises:
        ValueError: what is wrong with them, in words.
    """
    if unknown := sorted(str(name) for name in set(fields) - set(COLUMNS)):
        raise ValueError(f"unknown column {unknown[0]!r}; there are {', '.join(COLUMNS)}")
    for name, value in fields.items():
        if value is not None and not isinstance(value, str):
            raise ValueError(f"{name} = {value!r}: write a string")
        if value is not None and _NO_UTF_8.search(value):
            raise ValueError(f"{name} = {value!r}: no UTF-8")
    recipient = (fields.get("recipient") or "").strip()
    if not is_address(recipient):
        raise ValueError(f"{recipient!r}: no address; write user@example.com")
    category = fields.get("category") or "invalid-recipient"
    if category not in CATEGORIES:
        raise ValueError(f"category {category!r}: there is none of that name")
    origin = fields.get("origin") or "import"
    if origin not in _ORIGINS:
        raise ValueError(f"origin {origin!r}: one of {', '.join(sorted(_ORIGINS))}")
    since, reason = _time(fields.get("since"), now), fields.get("reason") or "imported"
    return Suppression(recipient, since, category, fields.get("rule") or "import", reason, origin)


def _time(text: str | None, now: datetime) -> datetime:
    if not text:
        return now
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"since {text!r}: write it as 2026-11-20T21:34:00Z") from None
    try:
        return when.replace(tzinfo=UTC) if when.tzinfo is None else when.astimezone(UTC)
    except OverflowError:
        raise ValueError(f"since {text!r}: out of range") from None


def _lines(first: str, file: TextIO, tell: Callable[[int, str], None]) -> Iterator[tuple[int, str]]:
    """Yield number and text of each line; one that is too long is told and left out."""
    for number in itertools.count(1):
        head = first if number == 1 else ""
        line = head if head == "\n" else head + file.readline(LINE_LIMIT)
        if not line:
            return
        if len(line) >= LINE_LIMIT and not line.endswith("\n"):
            while (rest := file.readline(LINE_LIMIT)) and not rest.endswith("\n"):
                pass
            tell(number, f"longer than {LINE_LIMIT} characters")
            continue
        yield number, line


def _csv_entries(lines: Iterator[tuple[int, str]]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield line and fields of each row; a quoted field may hold line breaks."""
    at = 0

    def texts() -> Iterator[str]:
        nonlocal at
        for number, line in lines:
            at = number
            yield line

    columns: tuple[str, ...] = COLUMNS
    rows = csv.reader(texts())
    for count in itertools.count():
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            yield at, {f"not CSV: {error}": ""}
            continue
        if not row or row[0].lstrip().startswith("#"):
            continue
        names = tuple(cell.strip().lower() for cell in row)
        if count == 0 and "recipient" in names:
            columns = names
        elif len(row) > len(columns):
            yield at, {"recipient": f"{len(row)} columns instead of {len(columns)}"}
        else:
            cells = (cell[1:] if cell[:1] == "'" and _is_formula(cell) else cell for cell in row)
            yield at, dict(zip(columns, cells, strict=False))


def _json_entries(first: str, file: TextIO, tell: Callable[[int, str], None]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield number and fields of each entry: of an array, or of one value a line."""
    if first == "[":
        text = first + file.read(ARRAY_LIMIT)
        try:
            values = list(enumerate(json.loads(text), 1))
        except (ValueError, RecursionError) as error:
            tell(getattr(error, "lineno", 1), f"not JSON: {error}")
            return
        yield from _objects(iter(values), tell)
        return
    yield from _objects(_parsed(_lines(first, file, tell), tell), tell)


def _parsed(lines: Iterator[tuple[int, str]], tell: Callable[[int, str], None]) -> Iterator[tuple[int, Any]]:
    for number, line in lines:
        if not line.strip():
            continue
        try:
            yield number, json.loads(line)
        except (ValueError, RecursionError) as error:
            tell(number, f"not JSON: {error}")


def _objects(
    values: Iterator[tuple[int, Any]], tell: Callable[[int, str], None]
) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, value in values:
        if isinstance(value, str):
            yield number, {"recipient": value}
        elif isinstance(value, dict):
            yield number, value
        else:
            tell(number, "neither an address nor an object")
