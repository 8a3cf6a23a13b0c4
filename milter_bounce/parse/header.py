"""Readers of header fields: names and values, encoded words, parameters, dates, addresses.

Goes in: a header block or one field's value. Comes out: `Fields`, text, dates.
Does not: judge. Raises: nothing, on any bytes.

Section: RFC 5322 (2.2, 3.3, 3.4), RFC 2047, RFC 2231, RFC 6532.
Limits: `FIELDS_LIMIT`, `VALUE_LIMIT`.
"""

from __future__ import annotations

import binascii
import quopri
import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final

from milter_bounce import limits

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

FIELDS_LIMIT: Final = limits.HEADER_FIELDS
VALUE_LIMIT: Final = limits.HEADER_VALUE

# RFC 5322, 3.6.8: field-name = 1*ftext, %d33-57 / %d59-126; blanks before the colon are obsolete syntax
_FIELD = re.compile(r"^([!-9;-~]{1,100})[ \t]*:[ \t]*([^\n]*(?:\n[ \t][^\n]*)*)", re.MULTILINE)
# RFC 2047, 2: encoded-word = "=?" charset "?" encoding "?" encoded-text "?="
_ENCODED = re.compile(r"=\?([A-Za-z0-9._:-]{1,40})(?:\*[A-Za-z-]{0,20})?\?([bBqQ])\?([^?\n]{0,2000})\?=")
_BETWEEN_ENCODED = re.compile(r"(\?=)[ \t\n]+(=\?)")
_ANGLE = re.compile(r"<([^<>\s]{0,320})>")
_COMMENT_TAIL = re.compile(r"\s*\([^()]{0,60}\)\s*$")


class Fields:
    """Header fields in order, as (name, value) with values still folded; `get` by lower-case name."""

    __slots__ = ("_index", "pairs")

    def __init__(self, pairs: Sequence[tuple[str, str]]) -> None:
        self.pairs = pairs
        self._index: dict[str, str] | None = None

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self.pairs)

    def __len__(self) -> int:
        return len(self.pairs)

    def get(self, name: str) -> str | None:
        """Return the value of the first field of that name (given in lower case), or None."""
        if self._index is None:
            self._index = {key.lower(): value for key, value in reversed(self.pairs)}
        return self._index.get(name)

    def all(self, name: str) -> list[str]:
        """Return the values of every field of that name (given in lower case), in order."""
        if self.get(name) is None:
            return []
        return [value for key, value in self.pairs if key.lower() == name]


def parse_fields(block: bytes) -> Fields:
    """Return the fields of a header block; lines that are none are passed over."""
    return fields_of(as_text(block))


def fields_of(text: str) -> Fields:
    """Return the fields of a header block given as text."""
    return Fields(_FIELD.findall(text)[:FIELDS_LIMIT])


def as_text(raw: bytes) -> str:
    """Return raw header bytes as text: UTF-8 (RFC 6532), else byte by byte."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("iso2022_jp", "replace") if b"\x1b$" in raw else raw.decode("latin-1")


def unfolded(value: str) -> str:
    """Return a field's value on one line."""
    return " ".join(line.strip(" \t") for line in value.split("\n")).strip() if "\n" in value else value.strip()


def decoded(value: str | None) -> str:
    """Return a field's value on one line with its encoded words read; empty for None."""
    if not value:
        return ""
    value = value[:VALUE_LIMIT]
    if "=?" not in value:
        return unfolded(_raw_japanese(value))
    return unfolded(_ENCODED.sub(_encoded_word, _BETWEEN_ENCODED.sub(r"\1\2", value)))


def _raw_japanese(value: str) -> str:
    """Return a value with ISO-2022-JP escapes left unencoded (old Japanese gateways) as text."""
    if "\x1b$" not in value:
        return value
    return value.encode("latin-1", "replace").decode("iso2022_jp", "replace")


def _encoded_word(found: re.Match[str]) -> str:
    from .mime import decode_text  # noqa: PLC0415 - mime reads headers with this module

    charset, coding, text = found.groups()
    raw = text.encode("latin-1", "replace")
    try:
        if coding in "bB":
            raw = binascii.a2b_base64(raw.rstrip(b"=") + b"=" * (-len(raw.rstrip(b"=")) % 4))
        else:
            raw = quopri.decodestring(raw, header=True)
    except binascii.Error:
        return found[0]
    return decode_text(raw, charset)


def parameter(value: str | None, name: str) -> str:
    """Return a parameter of a Content-Type value, RFC 2231's forms included; empty where there is none.

    Section: RFC 2045 5.1, RFC 2231 3 and 4.
    """
    if not value:
        return ""
    low = value[:VALUE_LIMIT].lower()
    at = low.find(name)
    while at >= 0:
        before = low[at - 1] if at else ";"
        rest = value[at + len(name) : VALUE_LIMIT].lstrip()
        if before in "; \t\n" and rest[:1] == "=":
            return _parameter_value(rest[1:])
        if before in "; \t\n" and rest[:1] == "*":
            return _parameter_pieces(value[:VALUE_LIMIT], name)
        at = low.find(name, at + 1)
    return ""


def _parameter_value(rest: str) -> str:
    rest = rest.lstrip()
    if rest[:1] == '"':
        end = rest.find('"', 1)
        inner = rest[1:end] if end > 0 else rest[1:].split("\n", 1)[0]
        return "".join(line.strip(" \t") for line in inner.split("\n")).replace("\\", "")
    return re.split(r"[;\s]", rest, maxsplit=1)[0]


def _parameter_pieces(value: str, name: str) -> str:
    """Return a parameter that RFC 2231 split (``name*0=``) or marked with a charset (``name*=us-ascii''x``)."""
    pieces = re.findall(rf"[;\s]{name}\*(?:[0-9]{{1,2}}\*?)?=\s*(\"[^\"]*\"|[^;\s]+)", " " + value, re.IGNORECASE)
    joined = "".join(piece.strip('"') for piece in pieces)
    return joined.split("''", 1)[-1] if "''" in joined else joined


def date_of(value: str | None) -> datetime | None:
    """Return a Date field's value as aware UTC; None for none or nonsense.

    Section: RFC 5322 3.3.
    """
    if not value:
        return None
    try:
        when = parsedate_to_datetime(_COMMENT_TAIL.sub("", unfolded(value[:100])))
        return (when if when.tzinfo else when.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, TypeError, OverflowError, IndexError, AttributeError):
        return None


def message_id_of(value: str | None) -> str | None:
    """Return a Message-ID without its angle brackets; None for none."""
    if not value:
        return None
    found = _ANGLE.search(unfolded(value[:1000]))
    bare = found[1] if found else unfolded(value[:1000]).split(" ")[0]
    return bare or None
