"""One DNS question on the wire, and the plain answer to it, without I/O.

Goes in: a name and a type; the bytes that came back. Comes out: the bytes of a
question (RFC 1035 4.1, with EDNS0 of RFC 6891), and a `DnsReply`.
Does not: follow aliases or read exotic answers. `read_plain` answers None for
those, and ``system.resolver`` hands them to dnspython, which reads everything.

Why own bytes at all: 30 lists times 500 addresses are 15,000 questions a round,
and nearly all answers are "no such name". Reading one of these here takes a
twentieth of what a full message parser needs.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from milter_bounce import limits

from . import ProtocolError

TYPES: Final = {"A": 1, "CNAME": 5, "SOA": 6, "PTR": 12, "MX": 15, "TXT": 16, "AAAA": 28}
PAYLOAD: Final = limits.DNS_PAYLOAD_BYTES
NAME_LIMIT: Final = limits.DNS_NAME_BYTES
LABEL_LIMIT: Final = limits.DNS_LABEL_BYTES
RECORD_LIMIT: Final = limits.DNS_RECORDS

_HEADER: Final = struct.Struct("!HHHHHH")
_RECORD: Final = struct.Struct("!HHIH")
_OPT: Final = b"\x00" + struct.pack("!HHIH", 41, PAYLOAD, 0, 0)
_CLASS_IN: Final = 1
_QR, _OPCODE, _TC, _RD, _RCODE = 0x8000, 0x7800, 0x0200, 0x0100, 0x000F
_SOA_TAIL: Final = struct.Struct("!IIIII")
_TO_QUESTION: Final = b"\xc0\x0c"
"""A compression pointer to the name in the question, which always starts at byte 12."""


class Outcome(StrEnum):
    """How a question ended."""

    ANSWER = "answer"
    NODATA = "nodata"
    NXDOMAIN = "nxdomain"
    SERVFAIL = "servfail"
    REFUSED = "refused"
    TIMEOUT = "timeout"
    UNREACHABLE = "unreachable"
    BAD = "bad-answer"
    TRUNCATED = "truncated"


_OUTCOME: Final = {2: Outcome.SERVFAIL, 3: Outcome.NXDOMAIN, 5: Outcome.REFUSED}
KNOWN: Final = frozenset({Outcome.ANSWER, Outcome.NODATA, Outcome.NXDOMAIN})
"""Outcomes that say something about the name; the others say something about a server."""


@dataclass(frozen=True, slots=True)
class DnsReply:
    """What came of one question."""

    outcome: Outcome
    values: tuple[str, ...] = ()
    """The records in text: ``192.0.2.1``, ``10 mx.example.net.``, ``mx.example.net.``, the joined text of a TXT."""

    ttl_s: int | None = None
    """Seconds that the answer may be kept; of a negative one by its SOA (RFC 2308, 5). None: not to be kept."""

    detail: str = ""
    """Which server, or what was wrong with its answer."""


def encode_question(name: str, type_: str) -> bytes:
    """Return the question section for `name` (A-labels, with or without final dot) and `type_`.

    Section: RFC 1035, 4.1.2.

    Raises:
        ProtocolError: an empty or too long label or name, or one that is not ASCII.
    """
    try:
        labels = name.removesuffix(".").lower().encode("ascii").split(b".")
    except UnicodeEncodeError:
        raise ProtocolError(f"{name!r} is no DNS name: not ASCII") from None
    parts = []
    for label in labels:
        if not 0 < len(label) <= LABEL_LIMIT:
            raise ProtocolError(f"{name!r} is no DNS name: a label of {len(label)} bytes")
        parts.append(bytes((len(label),)) + label)
    wire = b"".join(parts) + b"\x00"
    if len(wire) > NAME_LIMIT:
        raise ProtocolError(f"{name!r} is no DNS name: longer than {NAME_LIMIT} bytes")
    return wire + struct.pack("!HH", TYPES[type_], _CLASS_IN)


def encode_query(ident: int, question: bytes) -> bytes:
    """Return the whole query for a question section: recursion desired, EDNS0 with our payload size."""
    return _HEADER.pack(ident, _RD, 1, 0, 0, 1) + question + _OPT


def is_answer_to(wire: bytes, question: bytes) -> bool:
    """Return whether `wire` is a response to this very question; the caller has matched the id.

    A response with another question is not an answer at all but an attempt at
    poisoning or a stray: it is dropped, and the wait goes on (RFC 5452, 9.1).
    """
    if len(wire) < _HEADER.size + len(question):
        return False
    _, flags, count = struct.unpack_from("!HHH", wire)
    if not flags & _QR or flags & _OPCODE or count != 1:
        return False
    asked = wire[_HEADER.size : _HEADER.size + len(question)]
    return asked == question or asked.lower() == question.lower()


def _after_name(wire: bytes, at: int) -> int:
    """Return the offset behind the name at `at`; pointers end a name and are not followed."""
    while True:
        length = wire[at]
        if length == 0:
            return at + 1
        if length >= 0xC0:
            return at + 2
        if length > LABEL_LIMIT:
            raise ValueError("label type")
        at += length + 1


def _negative_ttl(wire: bytes, at: int, count: int) -> int | None:
    """Return how long "no" may be kept: the lesser of the SOA's TTL and its minimum; None without a SOA."""
    for _ in range(min(count, RECORD_LIMIT)):
        at = _after_name(wire, at)
        type_, _class, ttl, length = _RECORD.unpack_from(wire, at)
        at += _RECORD.size
        if type_ == TYPES["SOA"]:
            tail = _after_name(wire, _after_name(wire, at))
            return min(int(ttl), int(_SOA_TAIL.unpack_from(wire, tail)[4]))
        at += length
    return None


def _addresses(wire: bytes, at: int, count: int) -> tuple[list[str], int, int] | None:
    """Return the A records of the question's own name, their least TTL and the end; None for any other record."""
    found, least = [], 0x7FFFFFFF
    for _ in range(count):
        if wire[at : at + 2] != _TO_QUESTION:
            return None
        type_, class_, ttl, length = _RECORD.unpack_from(wire, at + 2)
        at += 2 + _RECORD.size
        if at + length > len(wire):
            raise ValueError("cut")
        if (type_, class_, length) != (TYPES["A"], _CLASS_IN, 4):
            return None
        found.append(".".join(map(str, wire[at : at + length])))
        least, at = min(least, ttl), at + 4
    return found, least, at


def read_plain(wire: bytes, question: bytes) -> DnsReply | None:
    """Return the answer to an A question; None where it is not a plain one (aliases, foreign names).

    The caller has made sure that `wire` is an answer to `question` (`is_answer_to`).
    Raises: nothing, on any bytes: a cut or senseless message is ``bad-answer``.
    Limits: more than `RECORD_LIMIT` records are not plain.
    """
    try:
        _, flags, _, answers, authorities, _ = _HEADER.unpack_from(wire)
        if flags & _TC:
            return DnsReply(Outcome.TRUNCATED)
        outcome = _OUTCOME.get(flags & _RCODE, Outcome.BAD) if flags & _RCODE else Outcome.ANSWER
        if outcome not in KNOWN:
            return DnsReply(outcome, detail=f"rcode {flags & _RCODE}")
        if answers > RECORD_LIMIT or (answers and outcome is Outcome.NXDOMAIN):
            return None
        at = _HEADER.size + len(question)
        if answers:
            read = _addresses(wire, at, answers)
            return None if read is None else DnsReply(outcome, tuple(read[0]), read[1])
        if outcome is Outcome.ANSWER:
            outcome = Outcome.NODATA
        return DnsReply(outcome, (), _negative_ttl(wire, at, authorities))
    except (struct.error, IndexError, ValueError):
        return DnsReply(Outcome.BAD, detail="the message ends early or makes no sense")


def lifetime_s(reply: DnsReply, floor_s: int, cap_s: int, failure_s: int) -> int:
    """Return for how many seconds `reply` may be answered from the cache; 0: not at all.

    Args:
        reply: what came.
        floor_s: least time; keeps lists with TTL 0 from being asked twice in one round.
        cap_s: most time, for "yes" and "no" alike (RFC 2308 asks for a cap of hours on "no").
        failure_s: time for SERVFAIL and refusals (RFC 2308, 7.1: at most five minutes); a timeout is kept as long
            (7.2), so that a dead server is not waited for again by each question.
    """
    if reply.outcome not in KNOWN:
        return min(failure_s, 300)
    if reply.ttl_s is None:
        return floor_s
    return max(floor_s, min(reply.ttl_s, cap_s))
