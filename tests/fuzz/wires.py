"""Targets of the protocol room: whole input and single bytes give the same events, and nothing else is raised."""

from __future__ import annotations

import base64
import contextlib

import dns.exception
import dns.message

from milter_bounce.delivery import DeliveryReport, DeliveryStatus, Kind
from milter_bounce.protocol import (
    ProtocolError,
    dnsbl,
    dnswire,
    genuine,
    memcache,
    milter,
    policy,
    socketmap,
    token,
    verp,
)
from milter_bounce.protocol.dnswire import Outcome

# -- conversations -----------------------------------------------------------------------------------


def _heard(connection, pieces: list[bytes]) -> tuple[list[object], str | None, bool]:
    """Return the events, the error, and whether something is pending."""
    events: list[object] = []
    try:
        for piece in pieces:
            events.extend(connection.receive(piece))
    except ProtocolError as error:
        return events, str(error), False
    return events, None, connection.pending


def _same_in_pieces(kind, data: bytes) -> list[object]:
    """Return the events of `data`, which are the same whole, in halves and byte by byte."""
    whole = _heard(kind(), [data])
    half = len(data) // 2
    assert _heard(kind(), [data[:half], data[half:]])[0] == whole[0]
    single = _heard(kind(), [data[i : i + 1] for i in range(len(data))])
    assert single[0] == whole[0]
    assert (single[1] is None) == (whole[1] is None)
    assert single[2] == whole[2]
    return whole[0]


def socketmap_wire(data: bytes) -> None:
    """Netstrings: questions within the limit, and an answer that is one netstring again."""
    for query in _same_in_pieces(socketmap.Connection, data):
        answer = socketmap.send_ok(query.key)
        length, _, rest = answer.partition(b":")
        assert (int(length), rest[-1:]) == (len(rest) - 1, b",")
        assert len(rest) <= socketmap.REPLY_LIMIT_BYTES + 1


def memcache_wire(data: bytes) -> None:
    """The text protocol: each answer has the lines that a client counts on."""
    for event in _same_in_pieces(memcache.Connection, data):
        if isinstance(event, memcache.Get):
            for key in event.keys:
                assert not set(key) & set(" \r\n"), key
                head, value, end = memcache.send([(key, key * 3)]).split(b"\r\n", 2)
                assert (int(head.split()[-1]), end) == (len(value), b"END\r\n")


def policy_wire(data: bytes) -> None:
    """Attributes: an answer made of one is still one action and one empty line."""
    for request in _same_in_pieces(policy.Connection, data):
        for value in request.attributes.values():
            answer = policy.send("550 " + value)
            assert answer.count(b"\n") == 2
            assert answer.endswith(b"\n\n")


# -- DNS ------------------------------------------------------------------------------------------------

NAME = "2.0.0.127.bl.example.net"
QUESTION = dnswire.encode_question(NAME, "A")
ZONES = [
    dnsbl.Zone("bl.example.net"),
    dnsbl.Zone("bl.example.net", codes={"127.0.0.2": "spam", "127.0.0.4": ""}, not_listed={"127.0.0.9": "white"}),
    dnsbl.Zone("bl.example.net", masks={2: "a", 64: "b"}, refused={"127.0.0.1": "blocked"}),
]


def dns_answer(data: bytes) -> None:
    """Answers on the wire: read as dnspython reads them, and no list says listed by an answer that is not declared."""
    # the shell hands on what answers its question; most inputs are made into such an answer
    head = data[:12].ljust(12, b"\0")
    made = head[:2] + bytes((head[2] & 0x87 | 0x80,)) + head[3:4] + b"\0\1" + head[6:] + QUESTION + data[12:]
    assert dnswire.is_answer_to(made, QUESTION)
    for candidate in (data, made):
        if not dnswire.is_answer_to(candidate, QUESTION):
            continue
        reply = dnswire.read_plain(candidate, QUESTION)
        if reply is None:
            continue
        assert reply.outcome in Outcome
        assert reply.ttl_s is None or 0 <= reply.ttl_s <= 0xFFFFFFFF
        assert 0 <= dnswire.lifetime_s(reply, 60, 3600, 300) <= 3600
        for zone in ZONES:
            listing = dnsbl.read_listing(zone, reply)
            assert listing.state is not dnsbl.State.LISTED or all(code.startswith("127.") for code in listing.codes)
            dnsbl.read_health(zone, dnsbl.Family.IPV4, reply, reply)
            assert len(dnsbl.reason_text(reply)) <= dnsbl.REASON_LIMIT
        if reply.outcome is Outcome.ANSWER and reply.values:
            _as_dnspython(candidate, reply)


def _as_dnspython(wire: bytes, reply: dnswire.DnsReply) -> None:
    with contextlib.suppress(dns.exception.DNSException, ValueError, EOFError):
        message = dns.message.from_wire(wire, raise_on_truncation=False, ignore_trailing=True)
        if isinstance(message, dns.message.QueryMessage) and message.question and message.question[0].rdtype == 1:
            found = [str(rdata) for rrset in message.answer if rrset.rdtype == 1 for rdata in rrset]
            assert set(found) == set(reply.values), (found, reply.values)


# -- the token ------------------------------------------------------------------------------------------

KEY = token.Key("k1", b"0123456789abcdef0123456789abcdef", 20_700)
RING = token.Keyring([KEY])
SENDER, MESSAGE_ID, MINE, VICTIM = "news@home.example", "1@home.example", "bob@example.net", "victim@example.net"
MINTED = token.mint(KEY, 20_777, SENDER, MESSAGE_ID, [MINE])
PATTERNS = [verp.compile_pattern(p) for p in ("bounce+{tag}={user}={domain}@l.example", "b+{user}={domain}@l.example")]
TAG = token.verp_tag(KEY, MINE)


def token_value(data: bytes) -> None:
    """Token and VERP address from outside: nothing but what we made ourselves is believed, and for nobody else."""
    value = data.decode("utf-8", "replace")
    known = {"today": 20_777, "max_age": 14, "senders": [SENDER], "message_id": MESSAGE_ID}
    assert not token.check(value, RING, recipients=[VICTIM], **known).genuine
    if token.check(value, RING, recipients=[MINE], **known).genuine:
        assert all(part in "".join(value.split()) for part in MINTED.replace(" ", "").split(";")[:4])
    trust = genuine.Trust(RING, tuple(PATTERNS), 20_777)
    report = DeliveryReport(Kind.DSN, original_headers=(("X-Milter-Bounce-Token", value), ("Message-ID", value)))
    assert not genuine.believe(report, DeliveryStatus(VICTIM), genuine.Arrival((SENDER, value)), trust).genuine
    if (found := verp.decode(value, PATTERNS)) is not None:
        assert "@" in found.recipient
        believed = found.tag is not None and token.check_verp_tag(found.tag, RING, found.recipient).genuine
        assert not believed or token.fold_address(found.recipient) == MINE


# -- the milter -------------------------------------------------------------------------------------------

_SIZE = 4096


def milter_message(data: bytes) -> None:
    """Callbacks in any order: what is kept stays within its limits, and no field of ours is among it."""
    message = milter.Message(_SIZE, stamp=bool(data[:1] and data[0] & 1))
    for line in data.split(b"\n"):
        verb, rest = line[:1], line[1:]
        if verb == b"m":
            assert message.mail(rest) is milter.Step.CONTINUE
        elif verb == b"r":
            message.rcpt(rest)
        elif verb == b"h":
            name, _, value = rest.partition(b":")
            message.header(name.decode("utf-8", "surrogateescape"), value)
        elif verb == b"e":
            message.end_of_headers()
        elif verb == b"b":
            message.body(rest * 50)
    kept = message.content()
    assert len(message.recipients) <= milter.RECIPIENT_LIMIT
    assert sum(map(len, message._chunks)) <= _SIZE
    assert not any(name.lower() == "x-milter-bounce" for name, _ in message.headers)
    assert kept.startswith(b"Return-Path: ")


def token_seeds() -> list[bytes]:
    """Return our own token, its parts turned, and our VERP addresses."""
    words = [
        MINTED,
        MINTED.replace("r=", "r=*"),
        MINTED[:-1],
        f"bounce+{TAG}=bob=example.net@l.example",
        "b+bob=example.net@l.example",
    ]
    return [word.encode() for word in words]


def dns_seeds() -> list[bytes]:
    """Return answers: one code, two, none with SOA, an alias, refused, truncated."""
    packed = [
        "EjSBgAABAAEAAAAA", "EjSBgwABAAAAAQAA", "EjSBhQABAAAAAAAA", "EjSDgAABAAAAAAAA",
    ]  # fmt: skip
    record = b"\xc0\x0c\0\1\0\1\0\0\1\x2c\0\4\x7f\0\0\2"
    soa = b"\xc0\x15\0\6\0\1\0\0\0\x3c\0\x1c\2ns\xc0\x15\1h\xc0\x15" + bytes(20)
    heads = [base64.b64decode(p) for p in packed]
    return [heads[0] + record, heads[0][:7] + b"\2" + heads[0][8:] + record * 2, heads[1] + soa, *heads[2:]]
