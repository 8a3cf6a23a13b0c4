"""Questions and plain answers on the wire, against dnspython, and on any bytes."""

from __future__ import annotations

import dns.message
import dns.rcode
import dns.rrset
import pytest
from hypothesis import given
from hypothesis import strategies as st

from milter_bounce.protocol import ProtocolError
from milter_bounce.protocol.dnswire import (
    DnsReply,
    Outcome,
    encode_query,
    encode_question,
    is_answer_to,
    lifetime_s,
    read_plain,
)

NAME = "2.0.0.127.bl.example.net"
SOA = "bl.example.net. {ttl} IN SOA ns.example.net. host.example.net. 1 600 300 86400 {minimum}"


def response(name: str = NAME, answers=(), authority=(), rcode=dns.rcode.NOERROR, type_="A") -> dns.message.Message:
    made = dns.message.make_response(dns.message.make_query(name, type_))
    made.set_rcode(rcode)
    for text in answers:
        made.answer.append(dns.rrset.from_text(*text.split(maxsplit=4)[:4], *text.split(maxsplit=4)[4:]))
    for text in authority:
        made.authority.append(dns.rrset.from_text(*text.split(maxsplit=4)[:4], *text.split(maxsplit=4)[4:]))
    return made


def read(made: dns.message.Message, name: str = NAME) -> DnsReply | None:
    question = encode_question(name, "A")
    wire = made.to_wire()
    assert is_answer_to(wire, question)
    return read_plain(wire, question)


@pytest.mark.parametrize("type_", ["A", "AAAA", "MX", "TXT", "PTR"])
def test_query_is_what_dnspython_reads(type_):
    """The query has one question, recursion desired and an EDNS0 payload size."""
    message = dns.message.from_wire(encode_query(4711, encode_question("Mixed.example.NET.", type_)))
    assert message.id == 4711
    assert message.question[0].to_text() == f"mixed.example.net. IN {type_}"
    assert (message.edns, message.payload) == (0, 1232)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("", id="empty"),
        pytest.param("a..b", id="empty-label"),
        pytest.param("x" * 64 + ".example", id="long-label"),
        pytest.param(".".join(["x" * 60] * 5), id="long-name"),
        pytest.param("bücher.example", id="not-ascii"),
    ],
)
def test_question_refuses_what_is_no_name(name):
    """A name that DNS cannot hold raises ProtocolError."""
    with pytest.raises(ProtocolError, match="is no DNS name"):
        encode_question(name, "A")


def test_plain_answer_is_read():
    """Codes come out in order with the least time to live."""
    made = response(answers=[f"{NAME}. 300 IN A 127.0.0.2", f"{NAME}. 300 IN A 127.0.0.4"])
    assert read(made) == DnsReply(Outcome.ANSWER, ("127.0.0.2", "127.0.0.4"), 300)


@pytest.mark.parametrize(
    ("rcode", "outcome"), [(dns.rcode.NXDOMAIN, Outcome.NXDOMAIN), (dns.rcode.NOERROR, Outcome.NODATA)]
)
@pytest.mark.parametrize(("ttl", "minimum", "kept"), [(60, 150, 60), (900, 150, 150)])
def test_negative_answer_lives_by_its_soa(rcode, outcome, ttl, minimum, kept):
    """The lesser of the SOA's TTL and its minimum counts (RFC 2308, 5), with any other record before it."""
    soa = SOA.format(ttl=ttl, minimum=minimum)
    made = response(rcode=rcode, authority=["bl.example.net. 5 IN NS ns.example.net.", soa])
    assert read(made) == DnsReply(outcome, (), kept)


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        pytest.param(response(rcode=dns.rcode.SERVFAIL), Outcome.SERVFAIL, id="servfail"),
        pytest.param(response(rcode=dns.rcode.REFUSED), Outcome.REFUSED, id="refused"),
        pytest.param(response(rcode=dns.rcode.NOTIMP), Outcome.BAD, id="notimp"),
    ],
)
def test_failures_say_nothing_about_the_name(made, expected):
    """A response code that is neither success nor NXDOMAIN is an outcome of its own."""
    reply = read(made)
    assert reply is not None
    assert reply.outcome is expected
    assert reply.values == ()


def test_truncated_answer_is_told():
    """The TC bit means: ask again over TCP."""
    made = response()
    made.flags |= dns.flags.TC
    assert read(made) == DnsReply(Outcome.TRUNCATED)


@pytest.mark.parametrize(
    "answers",
    [
        pytest.param([f"{NAME}. 60 IN CNAME other.example.net.", "other.example.net. 60 IN A 127.0.0.2"], id="alias"),
        pytest.param(["other.example.net. 60 IN A 127.0.0.2"], id="foreign-name"),
        pytest.param([f"{NAME}. 60 IN TXT listed"], id="other-type"),
    ],
)
def test_other_answers_are_left_to_the_full_reader(answers):
    """An alias, another name or another type is no plain answer."""
    assert read(response(answers=answers)) is None


def test_strange_answers_are_left_to_the_full_reader():
    """More records than a list has codes, or records beside "no such name", are no plain answer."""
    many = [f"{NAME}. 60 IN A 127.0.{n // 250}.{n % 250 + 1}" for n in range(65)]
    assert read(response(answers=many)) is None
    assert read(response(answers=many[:1], rcode=dns.rcode.NXDOMAIN)) is None


@pytest.mark.parametrize(
    ("name", "wanted", "flags"),
    [
        pytest.param("3.0.0.127.bl.example.net", NAME, None, id="other-name"),
        pytest.param(NAME, NAME, 0, id="a-query"),
        pytest.param("2.0.0.127.bl.example.nets", NAME, None, id="longer-name"),
    ],
)
def test_answer_to_another_question_is_none(name, wanted, flags):
    """A packet with another question, or none of a response, is no answer (RFC 5452, 9.1)."""
    made = response(name)
    if flags is not None:
        made.flags = flags
    assert not is_answer_to(made.to_wire(), encode_question(wanted, "A"))


def test_answer_with_another_type_is_none():
    """A TXT answer does not answer an A question."""
    assert not is_answer_to(response(type_="TXT").to_wire(), encode_question(NAME, "A"))


def test_answer_may_change_the_case_of_the_name():
    """Servers that write the question in other case (0x20) are answers all the same."""
    assert is_answer_to(response(NAME.upper()).to_wire(), encode_question(NAME, "A"))


def test_every_cut_of_an_answer_is_bad_or_plain():
    """A message cut anywhere is a bad answer, never an exception and never a listing that was not there."""
    question = encode_question(NAME, "A")
    wire = response(answers=[f"{NAME}. 300 IN A 127.0.0.2"]).to_wire()
    for end in range(len(question) + 12, len(wire)):
        reply = read_plain(wire[:end], question)
        assert reply is None or reply.outcome is Outcome.BAD


@given(st.binary(max_size=600))
def test_any_bytes_end_in_a_reply(tail):
    """No bytes behind a right question raise anything."""
    question = encode_question(NAME, "A")
    head = response().to_wire()[:12]
    for start in (head, head[:6] + b"\x00\x05" + head[8:], head[:8] + b"\xff\xff" + head[10:]):
        reply = read_plain(start + question + tail, question)
        assert reply is None or isinstance(reply, DnsReply)


@given(st.binary(max_size=100))
def test_any_bytes_are_an_answer_or_not(wire):
    """Random bytes are hardly ever an answer to our question, and never an exception."""
    assert is_answer_to(wire, encode_question(NAME, "A")) in {True, False}


@pytest.mark.parametrize(
    ("reply", "seconds"),
    [
        pytest.param(DnsReply(Outcome.ANSWER, ("127.0.0.2",), 300), 300, id="by-ttl"),
        pytest.param(DnsReply(Outcome.ANSWER, ("127.0.0.2",), 0), 5, id="floor"),
        pytest.param(DnsReply(Outcome.NXDOMAIN, (), 99_999), 3600, id="cap"),
        pytest.param(DnsReply(Outcome.NXDOMAIN), 5, id="no-soa"),
        pytest.param(DnsReply(Outcome.SERVFAIL), 30, id="servfail"),
        pytest.param(DnsReply(Outcome.TIMEOUT), 30, id="timeout"),
    ],
)
def test_lifetime_honours_ttl_within_bounds(reply, seconds):
    """TTLs and negative TTLs count between floor and cap; failures have a time of their own."""
    assert lifetime_s(reply, 5, 3600, 30) == seconds


def test_lifetime_of_failures_ends_at_five_minutes():
    """RFC 2308, 7 allows five minutes for a dead server."""
    assert lifetime_s(DnsReply(Outcome.TIMEOUT), 5, 3600, 9999) == 300
