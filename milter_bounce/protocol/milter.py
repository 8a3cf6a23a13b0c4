"""The milter conversation of one message, without libmilter: what to ask of the MTA, what to keep.

Goes in: the callbacks' arguments as bytes. Comes out: a `Step` to answer with, and
at the end the message as far as it was read. Does not: parse, judge, log or know
Postfix from Sendmail.

Ordinary mail is let go at the end of its headers, before a byte of its body is
sent - but where outgoing mail is stamped, nothing is answered before the end of
the message. Only a message with a null reverse-path or a report's content type
is read.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from milter_bounce import limits

HEADER_LIMIT_BYTES: Final = limits.MESSAGE_HEADER_BYTES
RECIPIENT_LIMIT: Final = limits.ENVELOPE_RECIPIENTS

HEADER_NAME: Final = "X-Milter-Bounce"

_REPORT_TYPE: Final = re.compile(
    rb"\s*(?:multipart/report|message/delivery-status|message/feedback-report)\b", re.IGNORECASE
)
_TELLING: Final = frozenset({"content-type", "x-failed-recipients", "auto-submitted", "message-id"})
_DAEMON: Final = re.compile(rb"<?(?:mailer-daemon|postmaster|mail-daemon|mdaemon)(?:@|>|$)", re.IGNORECASE)


class Step(Enum):
    """What to answer to the MTA."""

    CONTINUE = "continue"
    ACCEPT = "accept"
    """Let the whole message go; nothing more of it is sent."""


@dataclass(slots=True)
class Message:
    """One message while it comes in.

    Args:
        max_bytes: bytes of the message that are kept.
        stamp: whether outgoing messages get a token, and so are followed to their end.
    """

    max_bytes: int
    stamp: bool = False
    sender: bytes = b""
    recipients: list[bytes] = field(default_factory=list)
    outgoing: bool = False
    """Set by the shell: this message leaves through us and is to be stamped."""

    more_recipients: bool = False
    """Whether there are more than `recipients` holds."""

    headers: list[tuple[str, bytes]] = field(default_factory=list)
    message_id: bytes | None = None
    """Value of the first Message-ID field."""

    is_report: bool = False
    forged_headers: int = 0
    """X-Milter-Bounce fields that came from outside: they are removed, so that none is believed."""

    _chunks: list[bytes] = field(default_factory=list)
    _size: int = 0
    truncated: bool = False

    def mail(self, sender: bytes) -> Step:
        """Begin a message; `sender` is the reverse-path as given, ``<>`` for the null one (RFC 5321, 4.5.5)."""
        self.sender = sender = sender.strip()
        self.is_report = sender in {b"<>", b""} or _DAEMON.match(sender) is not None
        return Step.CONTINUE

    def rcpt(self, recipient: bytes) -> Step:
        """Note one envelope recipient."""
        if len(self.recipients) < RECIPIENT_LIMIT:
            self.recipients.append(recipient)
        else:
            self.more_recipients = True
        return Step.CONTINUE

    def header(self, name: str, value: bytes) -> None:
        """Note one header field; `value` may hold line ends where it was folded."""
        lower = name.lower()
        if lower == "x-milter-bounce":
            self.forged_headers += 1
            return
        if lower in _TELLING:
            self._heed(lower, value)
        self._size += len(name) + len(value) + 4
        if self._size <= HEADER_LIMIT_BYTES:
            self.headers.append((name, value))
        else:
            self.truncated = True

    def _heed(self, lower: str, value: bytes) -> None:
        """Take what one of the fields `_TELLING` tells."""
        if lower == "message-id":
            self.message_id = value if self.message_id is None else self.message_id
        elif (
            lower == "x-failed-recipients"
            or (lower == "content-type" and _REPORT_TYPE.match(value))
            or (lower == "auto-submitted" and b"auto-replied" in value.lower())
        ):
            self.is_report = True

    def end_of_headers(self) -> Step:
        """Return ACCEPT for mail that is none of our business."""
        followed = self.is_report or self.forged_headers or (self.stamp and self.outgoing)
        return Step.CONTINUE if followed else Step.ACCEPT

    def body(self, chunk: bytes) -> Step:
        """Note a piece of a report's body; ACCEPT where the end of headers went unanswered and no report is read."""
        if not self.is_report:
            return self.end_of_headers()
        room = self.max_bytes - self._size
        self._size += len(chunk)
        if room > 0:
            self._chunks.append(chunk[:room])
        self.truncated = self.truncated or self._size >= self.max_bytes
        return Step.CONTINUE

    def content(self) -> bytes:
        """Return the message as far as it was read, CRLF line ends in the header, envelope sender as Return-Path."""
        named = (name.encode("utf-8", "surrogateescape") + b": " + value for name, value in self.headers)
        fields = [b"Return-Path: " + self.sender, *named]
        head = b"\r\n".join(f.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n") for f in fields)
        return head + b"\r\n\r\n" + b"".join(self._chunks)
