"""Limits, round trips and garbage for socketmap, the memcached protocol and policy delegation."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milter_bounce.protocol import ProtocolError, memcache, policy, socketmap

WIRES = [
    pytest.param(socketmap, id="socketmap"),
    pytest.param(memcache, id="memcache"),
    pytest.param(policy, id="policy"),
]


def hear(wire, pieces):
    """Return the events of the pieces and the error that ended them."""
    core, events = wire.Connection(), []
    try:
        for piece in pieces:
            events += core.receive(piece)
    except ProtocolError as error:
        return events, str(error)
    return events, None


@pytest.mark.parametrize("wire", WIRES)
@given(data=st.binary(max_size=300))
def test_garbage_is_events_or_the_one_error_whole_and_in_bytes(wire, data):
    """Any bytes parse or raise ProtocolError, and how they are cut makes no difference."""
    core_whole, core_bytes = wire.Connection(), wire.Connection()
    whole, single = [], []
    errors = []
    for core, events, pieces in ((core_whole, whole, [data]), (core_bytes, single, [bytes([b]) for b in data])):
        try:
            for piece in pieces:
                for event in core.receive(piece):
                    events.append(event)
        except ProtocolError as error:
            errors.append(str(error))
    assert whole == single
    assert len(errors) in {0, 2}


@pytest.mark.parametrize(
    ("wire", "data"),
    [
        pytest.param(socketmap, b"10001:", id="socketmap-question"),
        pytest.param(socketmap, b"123456", id="socketmap-length-without-end"),
        pytest.param(socketmap, b"99999999999999999999:", id="socketmap-number-without-end"),
        pytest.param(memcache, b"get " + b"k" * 9000, id="memcache-line-without-end"),
        pytest.param(memcache, b"get " + b"k" * 9000 + b"\r\n", id="memcache-line"),
        pytest.param(policy, b"a=" + b"b" * 70_000, id="policy-request-without-end"),
        pytest.param(policy, b"a=" + b"b" * 70_000 + b"\n\n", id="policy-request"),
    ],
)
def test_question_beyond_the_limit_ends_the_conversation(wire, data):
    """Nobody makes us remember more than the limit."""
    assert hear(wire, [data])[1] is not None


@pytest.mark.parametrize(
    ("wire", "good", "bad", "count"),
    [
        pytest.param(socketmap, b"3:a b,", b"x", 2, id="socketmap"),
        pytest.param(memcache, b"get a\r\n", b"y" * 9000, 2, id="memcache"),
        pytest.param(policy, b"a=b\n\n", b"rubbish\n\n", 2, id="policy"),
    ],
)
def test_questions_before_a_broken_one_are_heard(wire, good, bad, count):
    """A broken question does not take the good ones before it along."""
    events, error = hear(wire, [good * count + bad])
    assert (len(events), error is not None) == (count, True)


@pytest.mark.parametrize("wire", WIRES)
def test_pending_tells_whether_a_question_has_begun(wire):
    """What the time limit for slow questions hangs on."""
    whole = {socketmap: b"3:a b,", memcache: b"get a\r\n", policy: b"a=b\n\n"}[wire]
    core = wire.Connection()
    assert not core.pending
    assert list(core.receive(whole[:2])) == []
    assert core.pending
    assert len(list(core.receive(whole[2:]))) == 1
    assert not core.pending


def test_socketmap_reads_map_and_key_with_blanks():
    """The first blank ends the map's name; the rest is the key."""
    assert hear(socketmap, [b"16:status 4.7.1 a b,"])[0] == [socketmap.Query("status", "4.7.1 a b")]


def test_socketmap_answer_is_cut_at_what_postfix_takes():
    """A giant text is cut at a character, and the length stays true."""
    answer = socketmap.send_ok("ü" * 80_000)
    length, _, rest = answer.partition(b":")
    assert int(length) == len(rest) - 1 <= socketmap.REPLY_LIMIT_BYTES
    assert rest[:-1].decode().startswith("OK üü")


def test_memcache_value_stays_on_one_line_of_postfix_s_length():
    """Line breaks cannot end a value early, nor length break the client."""
    answer = memcache.send([("k", "retry:4.2.2 a\r\nEND\r\n" + "ü" * 2000)])
    head, value, end, rest = answer.split(b"\r\n")
    assert (end, rest) == (b"END", b"")
    assert head == b"VALUE k 0 %d" % len(value)
    assert len(value) <= memcache.VALUE_LIMIT_BYTES


def test_policy_action_stays_on_one_line():
    """A reason with line breaks cannot add an attribute or end the answer."""
    assert policy.send("550 5.1.1 a\n\naction=OK") == b"action=550 5.1.1 a action=OK\n\n"


def test_memcache_key_too_long_is_not_found_and_no_error():
    """An error would cost Postfix a second try; not found lets the mail pass."""
    long = b"get " + b"k" * (memcache.KEY_LIMIT_BYTES + 1) + b"\r\n"
    assert hear(memcache, [long]) == ([memcache.Get(())], None)
