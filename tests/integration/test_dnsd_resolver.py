"""The resolver against servers that lie, stall, cut off and refuse - what no honest server does."""

from __future__ import annotations

import asyncio
import re

import dns.flags
import dns.message
import dns.rrset
import pytest

from milter_bounce.protocol.dnswire import DnsReply, Outcome
from milter_bounce.system.resolver import (
    QUERIES_PER_PORT,
    Limits,
    Resolver,
    Server,
    parse_server,
    system_servers,
)
from tests.integration.dns import Scripted, reply_to
from tests.integration.ports import free_port

pytestmark = pytest.mark.integration

FAST = Limits(timeout_s=0.4, attempts=1, per_second=0)
SOA = "example.net. {ttl} IN SOA ns.example.net. host.example.net. 1 600 300 86400 {ttl}"


def with_soa(query: dns.message.Message, rcode: int, ttl: int) -> dns.message.Message:
    made = reply_to(query, rcode=rcode)
    name, seconds, class_, type_, data = SOA.format(ttl=ttl).split(maxsplit=4)
    made.authority.append(dns.rrset.from_text(name, int(seconds), class_, type_, data))
    return made


def run(server: Scripted, *questions: tuple[str, str], limits: Limits = FAST) -> list[DnsReply]:
    async def ask() -> list[DnsReply]:
        resolver = Resolver([parse_server(server.address)], limits)
        try:
            return [await resolver.ask(*question) for question in questions]
        finally:
            resolver.close()

    return asyncio.run(ask())


def test_poisoned_answer_with_wrong_question_is_not_taken():
    """A packet with the right id and another question is dropped; the true answer that follows counts."""

    def handler(query, _tcp):
        other = dns.message.make_query("2.0.0.127.bl.example.org", "A", id=query.id)
        lie = reply_to(other, "@ 60 IN A 127.0.0.2")
        return [lie, reply_to(query, "@ 60 IN A 127.0.0.10")]

    with Scripted(handler) as server:
        assert run(server, ("2.0.0.127.bl.example.net", "A")) == [DnsReply(Outcome.ANSWER, ("127.0.0.10",), 60)]


def test_answer_with_wrong_id_is_not_taken():
    """A packet with another id, and one that is no response, are dropped."""

    def handler(query, _tcp):
        lie = reply_to(query, "@ 60 IN A 127.0.0.2")
        lie.id = query.id ^ 1
        return [lie, query.to_wire(), b"", b"\x00" * 11, reply_to(query, "@ 60 IN A 127.0.0.10")]

    with Scripted(handler) as server:
        assert run(server, ("x.example.net", "A"))[0].values == ("127.0.0.10",)


def test_lies_alone_end_in_a_timeout():
    """When nothing but lies comes, the answer is unknown."""

    def handler(query, _tcp):
        return [reply_to(dns.message.make_query("other.example.net", "A", id=query.id), "@ 60 IN A 127.0.0.2")]

    with Scripted(handler) as server:
        assert run(server, ("x.example.net", "A"))[0].outcome is Outcome.TIMEOUT


def test_truncated_answer_is_fetched_over_tcp():
    """The TC bit sends the question over TCP, where the whole answer comes."""
    records = [f"@ 60 IN A 127.0.0.{n}" for n in range(2, 40)]

    def handler(query, tcp):
        made = reply_to(query, *(records if tcp else records[:1]))
        if not tcp:
            made.flags |= dns.flags.TC
        return [made]

    with Scripted(handler) as server:
        replies = run(server, ("x.example.net", "A"), ("y.example.net", "TXT"))
        assert len(replies[0].values) == 38
        assert server.tcp == 2


def test_truncated_answer_without_tcp_is_unknown():
    """A server that cuts its answer and does not speak TCP ends in a timeout, not in half an answer."""

    def handler(query, tcp):
        made = reply_to(query, "@ 60 IN A 127.0.0.2")
        made.flags |= dns.flags.TC
        return None if tcp else [made]

    with Scripted(handler) as server:
        assert run(server, ("x.example.net", "A"))[0] in {
            DnsReply(Outcome.TIMEOUT, detail=f"{server.address}, 0.4 s"),
            DnsReply(Outcome.BAD, detail=f"{server.address}: EOFError"),
        }


@pytest.mark.parametrize(
    ("rcode", "outcome"), [(2, Outcome.SERVFAIL), (5, Outcome.REFUSED), (4, Outcome.BAD), (3, Outcome.NXDOMAIN)]
)
@pytest.mark.parametrize("type_", ["A", "TXT"])
def test_response_codes_are_outcomes(rcode, outcome, type_):
    """SERVFAIL and REFUSED say nothing about the name; NXDOMAIN does."""
    with Scripted(lambda query, _tcp: [reply_to(query, rcode=rcode)]) as server:
        assert run(server, ("x.example.net", type_))[0].outcome is outcome


@pytest.mark.parametrize("type_", ["A", "MX"])
def test_garbage_is_a_bad_answer(type_):
    """A packet that starts right and ends in garbage is a bad answer."""

    def handler(query, _tcp):
        made = reply_to(query, "@ 60 IN A 127.0.0.2" if type_ == "A" else "@ 60 IN MX 10 mx.example.net.").to_wire()
        return [made[:-14]]  # the last 11 bytes are EDNS

    with Scripted(handler) as server:
        assert run(server, ("x.example.net", type_))[0].outcome is Outcome.BAD


def test_alias_is_followed():
    """A CNAME to an address record in the same answer is followed by the full reader."""
    records = ["@ 60 IN CNAME there.example.org.", "there.example.org. 30 IN A 127.0.0.2"]
    with Scripted(lambda query, _tcp: [reply_to(query, *records)]) as server:
        assert run(server, ("x.example.net", "A")) == [DnsReply(Outcome.ANSWER, ("127.0.0.2",), 30)]


def test_text_strings_are_joined():
    """The strings of a TXT record are one text."""
    with Scripted(lambda query, _tcp: [reply_to(query, '@ 60 IN TXT "one " "two"')]) as server:
        assert run(server, ("x.example.net", "TXT"))[0].values == ("one two",)


def test_positive_answers_live_by_their_ttl():
    """Within its time to live an answer comes from the cache; with none it is asked again a second later."""
    with Scripted(lambda query, _tcp: [reply_to(query, "@ 60 IN A 127.0.0.2")]) as server:
        run(server, ("x.example.net", "A"), ("X.Example.NET.", "A"), ("x.example.net", "A"))
        assert len(server.asked) == 1


def test_negative_answers_live_by_their_soa():
    """NXDOMAIN is kept as its SOA says, and asked again after that (RFC 2308)."""

    async def ask(server):
        resolver = Resolver([parse_server(server.address)], FAST)
        for name in ("long.example.net", "short.example.net"):
            for wait in (0, 0, 1.2):
                await asyncio.sleep(wait)
                await resolver.ask(name)
        resolver.close()

    def handler(query, _tcp):
        return [with_soa(query, 3, 60 if "long" in query.question[0].to_text() else 1)]

    with Scripted(handler) as server:
        asyncio.run(ask(server))
        assert [name.split(".")[0] for name in server.asked] == ["long", "short", "short"]


def test_cache_is_bounded():
    """More answers than the limit push the oldest out."""
    limits = Limits(timeout_s=1, per_second=0, cache_entries=10)
    with Scripted(lambda query, _tcp: [reply_to(query, "@ 60 IN A 127.0.0.2")]) as server:
        names = [(f"n{n}.example.net", "A") for n in range(30)]
        run(server, *names, names[-1], names[0], limits=limits)
        assert len(server.asked) == 31


def test_same_question_under_way_goes_out_once():
    """Ten who ask the same at the same time share one question."""

    async def ask(server):
        resolver = Resolver([parse_server(server.address)], FAST)
        replies = await asyncio.gather(*(resolver.ask("x.example.net") for _ in range(10)))
        resolver.close()
        return replies

    with Scripted(lambda query, _tcp: [reply_to(query, "@ 60 IN A 127.0.0.2")], delay_s=0.1) as server:
        replies = asyncio.run(ask(server))
        assert {reply.values for reply in replies} == {("127.0.0.2",)}
        assert len(server.asked) == 1


def test_silent_server_is_asked_again_then_given_up():
    """Each try waits its time; the outcome is a timeout that names the server."""
    with Scripted(lambda _query, _tcp: None) as server:
        replies = run(server, ("x.example.net", "A"), limits=Limits(timeout_s=0.2, attempts=3, per_second=0))
        assert (replies[0].outcome, len(server.asked)) == (Outcome.TIMEOUT, 3)
        assert server.address in replies[0].detail


def test_second_server_answers_for_the_first():
    """A server that is down, silent or broken costs a try; the next one answers."""

    async def ask(servers):
        resolver = Resolver(servers, FAST)
        replies = [await resolver.ask(f"n{n}.example.net") for n in range(3)]
        resolver.close()
        return replies

    with (
        Scripted(lambda _query, _tcp: None) as silent,
        Scripted(lambda query, _tcp: [reply_to(query, rcode=2)]) as broken,
        Scripted(lambda query, _tcp: [reply_to(query, "@ 60 IN A 127.0.0.2")]) as good,
    ):
        down = Server("127.0.0.1", free_port())
        servers = [down, *(parse_server(server.address) for server in (silent, broken, good))]
        assert [reply.values for reply in asyncio.run(ask(servers))] == [("127.0.0.2",)] * 3


def test_resolver_that_is_down_is_unreachable():
    """Nothing listens: the outcome says so, and nothing is raised."""

    async def ask():
        resolver = Resolver([Server("127.0.0.1", free_port())], FAST)
        reply = await resolver.ask("x.example.net")
        resolver.close()
        return reply

    assert asyncio.run(ask()).outcome in {Outcome.UNREACHABLE, Outcome.TIMEOUT}


def test_no_more_questions_under_way_than_the_limit():
    """With a limit of five the server never has more than five unanswered questions."""
    most = 0

    async def ask(server):
        resolver = Resolver([parse_server(server.address)], Limits(timeout_s=2, in_flight=5, per_second=0))
        nonlocal most
        tasks = [asyncio.ensure_future(resolver.ask(f"n{n}.example.net")) for n in range(40)]
        while not all(task.done() for task in tasks):
            most = max(most, sum(len(up._channel.pending) for up in resolver._upstreams if up._channel))
            await asyncio.sleep(0.005)
        resolver.close()

    with Scripted(lambda query, _tcp: [reply_to(query, "@ 60 IN A 127.0.0.2")], delay_s=0.05) as server:
        asyncio.run(ask(server))
        assert most == 5
        assert len(server.asked) == 40


def test_rate_is_kept():
    """At 50 a second, 30 questions take their time: the event loop's clock shows the last no earlier than due."""

    async def ask(server):
        resolver = Resolver([parse_server(server.address)], Limits(timeout_s=2, per_second=50))
        loop = asyncio.get_running_loop()
        began = loop.time()
        await asyncio.gather(*(resolver.ask(f"n{n}.example.net") for n in range(30)))
        resolver.close()
        return loop.time() - began

    with Scripted(lambda query, _tcp: [reply_to(query, "@ 60 IN A 127.0.0.2")]) as server:
        # 29 gaps of 20 ms, of which a burst of a tenth of a second is free
        assert asyncio.run(ask(server)) >= 29 / 50 - 0.11


def test_port_changes_with_use():
    """After its share of questions a channel gets a new port, and questions under way are still answered."""

    async def ask(server):
        resolver = Resolver([parse_server(server.address)], Limits(timeout_s=2, per_second=0))
        upstream = resolver._upstreams[0]
        await resolver.ask("first.example.net")
        first = upstream._channel
        first.sent = QUERIES_PER_PORT
        before = first._socket.getsockname()[1]
        slow = asyncio.ensure_future(resolver.ask("slow.example.net"))
        await asyncio.gather(slow, resolver.ask("second.example.net"))
        after = upstream._channel._socket.getsockname()[1]
        await resolver.ask("third.example.net")
        olds = len(upstream._old)
        resolver.close()
        return before, after, slow.result().outcome, olds

    with Scripted(lambda query, _tcp: [reply_to(query, "@ 60 IN A 127.0.0.2")], delay_s=0.02) as server:
        before, after, outcome, olds = asyncio.run(ask(server))
    assert before != after
    assert outcome is Outcome.ANSWER
    assert olds == 0


@pytest.mark.parametrize("name", ["a..b", "x" * 70 + ".example", "bücher.example"])
def test_impossible_name_is_a_bad_answer(name):
    """A name that DNS cannot hold is never sent."""
    with Scripted(lambda query, _tcp: [reply_to(query)]) as server:
        assert run(server, (name, "A"))[0].outcome is Outcome.BAD
        assert server.asked == []


@pytest.mark.parametrize(
    ("text", "server"),
    [
        pytest.param("192.0.2.53", Server("192.0.2.53"), id="ipv4"),
        pytest.param("127.0.0.1:5353", Server("127.0.0.1", 5353), id="ipv4-port"),
        pytest.param("2001:db8::53", Server("2001:db8::53"), id="ipv6"),
        pytest.param("[::1]:5353", Server("::1", 5353), id="ipv6-port"),
        pytest.param("[::1]", Server("::1"), id="ipv6-brackets"),
    ],
)
def test_server_is_read_and_written(text, server):
    """A server is an address with or without port."""
    assert parse_server(text) == server
    assert str(server).split(":")[0] == server.host.split(":")[0]


@pytest.mark.parametrize("text", ["localhost", "1.2.3.4:", "1.2.3.4:70000", "1.2.3.4:x", "", "300.1.1.1"])
def test_server_that_is_none_is_refused(text):
    """A host name or a wrong port raises, and names the text."""
    with pytest.raises(ValueError, match=re.escape(repr(text))):
        parse_server(text)


def test_system_servers_are_addresses():
    """There is always at least one server to ask."""
    assert all(parse_server(str(server)) for server in system_servers())
