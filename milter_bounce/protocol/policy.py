"""Postfix's policy delegation (SMTPD_POLICY_README): ``name=value`` lines and an empty one.

Goes in: the bytes of smtpd. Comes out: `Request` events; `send` makes the bytes
of an answer.
Does not: know which action is right.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NoReturn

from milter_bounce import limits

from . import ProtocolError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

REQUEST_LIMIT_BYTES: Final = limits.POLICY_REQUEST_BYTES

DUNNO: Final = b"action=DUNNO\n\n"
"""The answer "no opinion"."""


@dataclass(frozen=True, slots=True)
class Request:
    """One question: the attributes as sent; of a name that comes twice the last one counts."""

    attributes: Mapping[str, str]


class Connection:
    """One client's conversation; holds what has come in and is not yet a whole request."""

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer = bytearray()

    @property
    def pending(self) -> bool:
        """Whether a request has begun and not ended."""
        return bool(self._buffer)

    def receive(self, data: bytes) -> Iterator[Request]:
        """Yield each request that is complete with `data`, in order.

        Raises:
            ProtocolError: for a line without ``=`` or a request that does not end within the limit; its `reply` is
                "no opinion", so that the client does not defer the recipient. What came before has been yielded.
        """
        # searched from where the last search ended: a client that sends byte by byte costs linear time
        searched = max(len(self._buffer) - 1, 0)
        self._buffer += data
        start = 0
        while (end := self._buffer.find(b"\n\n", max(searched, start))) >= 0:
            block, start = bytes(self._buffer[start:end]), end + 2
            if len(block) > REQUEST_LIMIT_BYTES:
                self._fail("a request too long")
            yield self._request(block)
        del self._buffer[:start]
        if len(self._buffer) > REQUEST_LIMIT_BYTES:
            self._fail("a request without end")

    def _request(self, block: bytes) -> Request:
        attributes = {}
        for line in block.decode("utf-8", "replace").split("\n"):
            name, equals, value = line.partition("=")
            if not equals or not name:
                self._fail("a line that is no name=value")
            attributes[name] = value
        return Request(attributes)

    def _fail(self, why: str) -> NoReturn:
        self._buffer.clear()
        raise ProtocolError(why, DUNNO)


def send(action: str) -> bytes:
    """Return the answer with `action`, for example ``550 5.1.1 text``; line breaks in it become blanks."""
    return b"action=%b\n\n" % " ".join(action.split()).encode("utf-8", "replace")
