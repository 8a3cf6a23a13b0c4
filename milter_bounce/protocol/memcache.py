"""The memcached text protocol, as far as Postfix's memcache_table(5) client speaks it.

Goes in: the bytes of trivial-rewrite or postmap(1). Comes out: `Get`, `Other`
and `Quit` events; `send` makes the bytes of an answer.
Does not: store anything; every command but ``get``, ``gets``, ``version`` and
``quit`` is answered ``ERROR``.

What Postfix 3.7 sends, as seen: ``get KEY`` with the key in lower case, as it
is, UTF-8 and quotes included and longer than memcached's own 250 bytes; keys
with blanks or control characters are never sent. Many keys on one connection.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from milter_bounce import limits

from . import ProtocolError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

KEY_LIMIT_BYTES: Final = limits.MEMCACHE_KEY_BYTES
LINE_LIMIT_BYTES: Final = limits.MEMCACHE_LINE_BYTES
VALUE_LIMIT_BYTES: Final = limits.MEMCACHE_VALUE_BYTES


class Get(NamedTuple):
    """A question for the values of some keys, usually one; made for every recipient, so a tuple."""

    keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Other:
    """A command that is not served; `name` is its first word, ``version`` among them."""

    name: str


@dataclass(frozen=True, slots=True)
class Quit:
    """The client says goodbye."""


class Connection:
    """One client's conversation; holds what has come in and is not yet a whole line."""

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer = b""

    @property
    def pending(self) -> bool:
        """Whether a command has begun and not ended."""
        return bool(self._buffer)

    def receive(self, data: bytes) -> Iterable[Get | Other | Quit]:
        """Return each command that is complete with `data`, in order.

        Raises:
            ProtocolError: for a line that does not end within the limit, while the result is gone through; what came
                before it has been yielded.
        """
        # what Postfix sends, one short question at a time, goes by the short way
        if data[:4] == b"get " and data[-2:] == b"\r\n" and not self._buffer and len(data) <= KEY_LIMIT_BYTES:
            key = data[4:-2]
            if key and len(key.split()) == 1 and key == key.strip():
                return (Get((key.decode("utf-8", "replace"),)),)
        return self._commands(data)

    def _commands(self, data: bytes) -> Iterator[Get | Other | Quit]:
        *lines, rest = (self._buffer + data).split(b"\n")
        self._buffer = rest
        for line in lines:
            if len(line) > LINE_LIMIT_BYTES:
                self._buffer = b""
                raise ProtocolError("a command line without end", b"CLIENT_ERROR line too long\r\n")
            yield _command(line)
        if len(rest) > LINE_LIMIT_BYTES:
            self._buffer = b""
            raise ProtocolError("a command line without end", b"CLIENT_ERROR line too long\r\n")


def _command(line: bytes) -> Get | Other | Quit:
    word, *keys = line.split()[: LINE_LIMIT_BYTES // 2] or (b"",)
    if word in {b"get", b"gets"} and keys:
        return Get(tuple(key.decode("utf-8", "replace") for key in keys if len(key) <= KEY_LIMIT_BYTES))
    if word == b"quit":
        return Quit()
    return Other(word[:64].decode("ascii", "replace"))


END: Final = b"END\r\n"
"""The answer that no key was found."""

ERROR: Final = b"ERROR\r\n"
"""The answer to a command that is not served."""


def send(found: Iterable[tuple[str, str]]) -> bytes:
    """Return the answer to one `Get`: key and value of each key found, then the end.

    Limits: a value is cut at VALUE_LIMIT_BYTES; a line break in it would end it early for a careless reader and
    becomes a blank.
    """
    parts = []
    for key, value in found:
        data = " ".join(value.splitlines()).encode("utf-8", "replace")
        if len(data) > VALUE_LIMIT_BYTES:
            data = data[:VALUE_LIMIT_BYTES].decode("utf-8", "ignore").encode()
        parts.append(b"VALUE %b 0 %d\r\n%b\r\n" % (key.encode("utf-8", "replace"), len(data), data))
    return b"".join(parts) + END


def send_version(version: str) -> bytes:
    """Return the answer to ``version``: a question that costs nothing and shows that somebody listens."""
    return b"VERSION %b\r\n" % version.encode("ascii", "replace")
