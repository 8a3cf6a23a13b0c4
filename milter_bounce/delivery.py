"""Nouns of evidence: what a mail system said about one recipient of one message.

Goes in: nothing; these are plain values, made by ``parse`` and ``protocol``.
Comes out: ``DeliveryStatus`` (one recipient, one attempt or report) and
``DeliveryReport`` (one message that tells of deliveries).
Does not: judge. Nothing in here knows hard from soft.

"Not stated" is ``None``, never an empty string or zero. Names are those of
RFC 3464 and RFC 5321; code and text travel apart (RFC 3463).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime


def lowered(address: str) -> str:
    """Return an address in lower case; letters that only then would be ASCII ones stay: U+212A KELVIN SIGN is no ``k``.

    Else a refusal of such a name (RFC 6531) at a large operator would convict his customer of the plain one.
    """
    if address.isascii():
        return address.lower()
    return "".join(c if not c.isascii() and (low := c.lower()) and low[0].isascii() else c.lower() for c in address)


class Action(StrEnum):
    """The Action field of a delivery report (RFC 3464, 2.3.3)."""

    FAILED = "failed"
    DELAYED = "delayed"
    DELIVERED = "delivered"
    RELAYED = "relayed"
    EXPANDED = "expanded"


class Kind(StrEnum):
    """What a message is to us.

    ``dsn`` follows RFC 3464; ``bounce`` reports a failure in any other form.
    """

    DSN = "dsn"
    BOUNCE = "bounce"
    AUTO_REPLY = "auto-reply"
    FEEDBACK = "feedback"
    NOT_BOUNCE = "not-bounce"


class Source(StrEnum):
    """Where the evidence came from: a report by mail, the MTA's log, or a question of the MTA."""

    REPORT = "report"
    LOG = "log"
    FILTER = "filter"
    TEXT = "text"


# RFC 3463, 2: class "." subject "." detail; class 2, 4 or 5; at most three digits, no leading zeros
# in what we print. [0-9], never \d: Unicode digits are not codes.
_ENHANCED = re.compile(r"([245])\.([0-9]{1,3})\.([0-9]{1,3})")


@dataclass(frozen=True, slots=True, order=True)
class EnhancedStatus:
    """An enhanced mail system status code: class (2, 4, 5), subject, detail (RFC 3463, 2)."""

    class_: int
    subject: int
    detail: int

    def __str__(self) -> str:
        """Return the code as written in replies and reports, for example ``5.1.1``."""
        return f"{self.class_}.{self.subject}.{self.detail}"

    @staticmethod
    @lru_cache(maxsize=4096)
    def from_text(text: str) -> EnhancedStatus | None:
        """Return the code that `text` is as a whole, surrounding blanks aside; None for anything else."""
        found = _ENHANCED.fullmatch(text.strip())
        return EnhancedStatus(*map(int, found.groups())) if found else None


@dataclass(frozen=True, slots=True)
class DeliveryStatus:
    """What became of one recipient of one message, as far as somebody told us.

    The same noun for a delivery report, a log line and a question of the MTA:
    nothing after ``parse`` knows which it was, but for `source`.
    """

    recipient: str | None
    """Final recipient, without brackets or address type (RFC 3464, 2.3.2); None where nobody told."""

    action: Action = Action.FAILED
    original_recipient: str | None = None
    """As the sender wrote it (RFC 3461, 4.2); ``orig_to`` in Postfix's log."""

    status: EnhancedStatus | None = None
    reply_code: int | None = None
    """The three digits of the SMTP reply, 200 to 599 (RFC 5321, 4.2)."""

    diagnostic: str | None = None
    """What was said: lines joined by one blank, unfolded, unescaped, codes included."""

    diagnostic_type: str | None = None
    """Who spoke, in lower case (RFC 3464, 2.3.6): ``smtp`` = a remote MTA's reply, ``x-postfix``, ``x-unix``,
    ``dns`` = our own side's trouble. Only a remote MTA's word may convict a recipient."""

    remote_mta: str | None = None
    """Host name of who gave the reply (RFC 3464, 2.3.5); for a log line the name in ``relay=``."""

    remote_ip: str | None = None
    remote_port: int | None = None
    reporting_mta: str | None = None
    command: str | None = None
    """The SMTP command that was refused, in capitals: CONNECT, EHLO, HELO, STARTTLS, AUTH, MAIL, RCPT, DATA, EOD."""

    sender: str | None = None
    """Envelope sender of the message in question; the null reverse-path is ``<>``."""

    queue_id: str | None = None
    """Queue ID at this MTA: of the undelivered message (log) or of the report (milter)."""

    message_id: str | None = None
    """Message-ID of the message in question, without angle brackets."""

    nexthop: str | None = None
    arrival_date: datetime | None = None
    last_attempt: datetime | None = None
    will_retry_until: datetime | None = None
    at: datetime | None = None
    """When it happened, as far as the evidence tells (aware UTC)."""

    source: Source = Source.TEXT
    local: bool = False
    """True where our own side speaks (own DNS, TLS engine, queue, mailbox): such a status never suppresses."""

    hearsay: bool = False
    """True where a report of another system tells what a third one said: genuine, it speaks for its own recipient, who
    may have written it himself; it never holds a destination."""

    defects: tuple[str, ...] = ()
    """What was wrong with the evidence, one kebab-case word each, for example ``status-contradicts-reply``."""


@dataclass(frozen=True, slots=True)
class DeliveryReport:
    """What one message tells about deliveries."""

    kind: Kind
    statuses: tuple[DeliveryStatus, ...] = ()
    reader: str | None = None
    """Which reader recognised it: ``rfc3464``, ``qmail``, ``exim`` ..."""

    reporting_mta: str | None = None
    message_id: str | None = None
    """Message-ID of the original message, without angle brackets."""

    envelope_id: str | None = None
    """Original-Envelope-Id (RFC 3464, 2.2.1)."""

    subject: str | None = None
    """Subject of the original message, decoded."""

    verp_recipient: str | None = None
    """The recipient that a plain VERP address of ours names; proves nothing (DESIGN.md section 7)."""

    arrival_date: datetime | None = None
    original_headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    """Header fields of the returned message, undecoded, in order: what the token is checked against."""

    feedback_type: str | None = None
    """abuse, fraud, not-spam ... of a feedback report (RFC 5965, 3.1)."""

    defects: tuple[str, ...] = ()
