"""Socketmap: netstrings that carry ``map key`` questions and their answers.

Goes in: the bytes of a Postfix or Sendmail client (socketmap_table(5),
Sendmail's ``Kname socket``). Comes out: `Query` events; `send_*` makes the
bytes of an answer.
Does not: know what the maps mean, or who is connected.

A netstring is ``LENGTH ":" BYTES ","``, the length in decimal without leading
zeros. One answer per question, in order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from milter_bounce import limits

from . import ProtocolError

if TYPE_CHECKING:
    from collections.abc import Iterator

QUERY_LIMIT_BYTES: Final = limits.SOCKETMAP_QUESTION_BYTES
REPLY_LIMIT_BYTES: Final = limits.SOCKETMAP_ANSWER_BYTES

_LENGTH_DIGITS: Final = len(str(QUERY_LIMIT_BYTES))


@dataclass(frozen=True, slots=True)
class Query:
    """One question: the key in the map of that name."""

    map: str
    key: str


class Connection:
    """One client's conversation; holds what has come in and is not yet a whole question."""

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer = b""

    @property
    def pending(self) -> bool:
        """Whether a question has begun and not ended."""
        return bool(self._buffer)

    def receive(self, data: bytes) -> Iterator[Query]:
        """Yield each question that is complete with `data`, in order.

        Raises:
            ProtocolError: on anything that is no netstring or too long; the questions before it have been yielded.
                There is no way to find the next question, so the caller closes.
        """
        buffer, start = self._buffer + data, 0
        self._buffer = b""
        while start < len(buffer):
            found = _netstring(buffer, start)
            if found is None:
                self._buffer = buffer[start:]
                return
            payload, start = found
            name, _, key = payload.partition(b" ")
            yield Query(name.decode("utf-8", "replace"), key.decode("utf-8", "replace"))


def _netstring(buffer: bytes, start: int) -> tuple[bytes, int] | None:
    """Return the payload that begins at `start` and where the next one does; None where bytes are missing."""
    colon = buffer.find(b":", start, start + _LENGTH_DIGITS + 1)
    digits = buffer[start : colon if colon >= 0 else start + _LENGTH_DIGITS + 1]
    if digits.strip(b"0123456789") or (colon == start) or (digits[:1] == b"0" and digits != b"0"):
        raise ProtocolError("no netstring: the length is not a decimal number")
    if colon < 0:
        if len(digits) > _LENGTH_DIGITS:
            raise ProtocolError("no netstring: the length has no end")
        return None
    size = int(digits)
    if size > QUERY_LIMIT_BYTES:
        raise ProtocolError(f"a question of {size} bytes; the limit is {QUERY_LIMIT_BYTES}")
    end = colon + 1 + size
    if end >= len(buffer):
        return None
    if buffer[end] != 0x2C:
        raise ProtocolError("no netstring: the comma at its end is missing")
    return buffer[colon + 1 : end], end + 1


def _reply(word: bytes, text: str) -> bytes:
    payload = word + b" " + text.encode("utf-8", "replace")
    if len(payload) > REPLY_LIMIT_BYTES:
        payload = payload[:REPLY_LIMIT_BYTES].decode("utf-8", "ignore").encode()
    return b"%d:%b," % (len(payload), payload)


def send_ok(text: str) -> bytes:
    """Return the answer that the key was found and maps to `text`."""
    return _reply(b"OK", text)


NOTFOUND: Final = b"9:NOTFOUND ,"
"""The answer that the key is not in the map: for us always "no opinion". TEMP and PERM are never sent: a temporary
failure would hold mail up, and a map that we do not know is the administrator's typing error, not the mail's."""
