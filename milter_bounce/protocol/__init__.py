"""Room of conversations: the bytes of the MTA become events and back. Sans-I/O.

Each module holds one wire protocol as a connection object in h11's manner:
``receive(bytes) -> events``, ``send(answer) -> bytes``. No socket, clock, file or log.
"""

from __future__ import annotations


class ProtocolError(Exception):
    """The other side broke the protocol; `reply` is what to send before closing (may be empty)."""

    def __init__(self, message: str, reply: bytes = b"") -> None:
        super().__init__(message)
        self.reply = reply
