"""Protocol cores on anything: round trips in any pieces, hostile bytes, and tokens that prove nothing for others."""

from __future__ import annotations

import string
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milter_bounce.protocol import ProtocolError, memcache, policy, socketmap, token, verp
from tests.fuzz import wires
from tests.fuzz.targets import TARGETS

FEW = settings(max_examples=60, deadline=None)
WORDS = st.text(
    st.characters(min_codepoint=33, max_codepoint=0x2FFF, exclude_categories=("Cs", "Cc", "Zs", "Zl", "Zp")),
    min_size=1,
    max_size=40,
)
PLAIN = st.text(string.ascii_lowercase + string.digits + ".-_+", min_size=1, max_size=30)
PIECES = st.sampled_from([
    b"5:hello,", b"4:a b ,", b"10000:", b"99999:", b"00:,", b"0:,", b",", b":", b"get a@b\r\n", b"gets a b\r\n", b"quit\r\n", b"get ",
    b"\r\n", b"\n", b"\n\n", b"request=smtpd_access_policy\n", b"recipient=a@b\n", b"=\n", b"a=\n", b"m<>\n", b"r<a@b>\n", b"hSubject:x\n",
    b"hX-Milter-Bounce:class=none\n", b"hContent-Type: multipart/report\n", b"e\n", b"b" + b"x" * 90 + b"\n", b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4\x7f\0\0\2",
    b"\x12\x34\x81\x80\0\1\0\1\0\0\0\0", b"\x00", b"\xff", wires.MINTED.encode(), b"v1; k=k1; d=20777; m=", b"r=*", "٥".encode(),
])  # fmt: skip


def heard(connection, data: bytes, cuts: list[int]) -> list[object]:
    """Return the events of `data` handed over in pieces."""
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    events = []
    for begin, end in pairwise(places):
        events.extend(connection.receive(data[begin:end]))
    return events


@FEW
@given(st.lists(st.tuples(PLAIN, WORDS), max_size=8), st.lists(st.integers(0, 10_000), max_size=8))
def test_socketmap_questions_come_through_any_pieces(questions, cuts):
    """What a client asks is what is heard, however the bytes are cut."""
    asked = [f"{name} {key}".encode() for name, key in questions]
    data = b"".join(b"%d:%b," % (len(words), words) for words in asked)
    assert heard(socketmap.Connection(), data, cuts) == [socketmap.Query(*question) for question in questions]


@FEW
@given(st.lists(WORDS, max_size=8), st.lists(st.integers(0, 10_000), max_size=8))
def test_memcached_keys_come_through_any_pieces(keys, cuts):
    """One Get for each key asked, in order."""
    data = b"".join(b"get %b\r\n" % key.encode() for key in keys)
    assert heard(memcache.Connection(), data, cuts) == [memcache.Get((key,)) for key in keys]


@FEW
@given(
    st.lists(st.dictionaries(PLAIN, WORDS, min_size=1, max_size=5), max_size=4),
    st.lists(st.integers(0, 10_000), max_size=8),
)
def test_policy_requests_come_through_any_pieces(requests, cuts):
    """Each request has the attributes that were sent."""
    data = "".join("".join(f"{name}={value}\n" for name, value in one.items()) + "\n" for one in requests).encode()
    assert [event.attributes for event in heard(policy.Connection(), data, cuts)] == requests


@FEW
@given(WORDS, st.text(max_size=60))
def test_answers_cannot_be_split_by_what_stands_in_them(key, text):
    """Whatever a text holds, an answer stays one answer on each wire."""
    assert socketmap.send_ok(text).endswith(b",")
    assert memcache.send([(key, text)]).count(b"\r\n") == 3
    assert policy.send("550 " + text).count(b"\n") == 2


@pytest.mark.parametrize("name", ["socketmap", "memcache", "policy", "dns", "token", "milter"])
def test_any_pieces_of_a_protocol_are_survived(name):
    """Pieces in any order raise nothing but ProtocolError, and mean the same whole and byte by byte."""

    @FEW
    @given(st.lists(st.one_of(PIECES, st.binary(max_size=12)), max_size=12).map(b"".join))
    def holds(data):
        assert TARGETS[name].feed(data[: TARGETS[name].longest]) is None

    holds()


ADDRESSES = st.builds("{}@{}.example".format, PLAIN, st.text(string.ascii_lowercase, min_size=1, max_size=12))
KEY = token.Key("k1", b"0" * 32)
RING = token.Keyring([KEY])


def checked(value, recipient, sender="news@home.example", message_id="1@home.example", today=100):
    known = {"senders": [sender], "message_id": message_id, "recipients": [recipient]}
    return token.check(value, RING, today=today, max_age=14, **known).genuine


@FEW
@given(st.lists(ADDRESSES, min_size=1, max_size=6, unique=True), ADDRESSES)
def test_token_proves_its_own_recipients_and_no_other(recipients, other):
    """Each recipient of the message is covered; who got none of it is not."""
    value = token.mint(KEY, 100, "news@home.example", "1@home.example", recipients)
    assert all(checked(value, recipient) for recipient in recipients)
    assert checked(value, other) is (other in recipients)


@FEW
@given(st.integers(0, 100), st.characters(min_codepoint=33, max_codepoint=126))
def test_token_with_one_character_changed_proves_nothing(at, sign):
    """No character of a token can be another one."""
    value = token.mint(KEY, 100, "news@home.example", "1@home.example", ["a@b.example"])
    at %= len(value)
    changed = value[:at] + sign + value[at + 1 :]
    assert checked(changed, "a@b.example") is (changed == value)


@FEW
@given(ADDRESSES)
def test_verp_address_names_its_recipient_again(recipient):
    """Encoded and decoded, keyed or not, the recipient is the same, and only its own tag is ours."""
    plain, keyed = "b+{user}={domain}@l.example", "b+{tag}={user}={domain}@l.example"
    tag = token.verp_tag(KEY, recipient)
    assert verp.decode(verp.encode(plain, recipient), [verp.compile_pattern(plain)]) == (recipient, None)
    found = verp.decode(verp.encode(keyed, recipient, tag), [verp.compile_pattern(keyed)])
    assert found == (recipient, tag)
    assert token.check_verp_tag(tag, RING, recipient).genuine
    assert not token.check_verp_tag(tag, RING, "x" + recipient).genuine


@FEW
@given(st.binary(max_size=40))
def test_after_an_error_a_conversation_holds_nothing(data):
    """What broke the protocol is not kept: the connection is closed by its shell and cannot fill the memory."""
    for kind in (socketmap.Connection, memcache.Connection, policy.Connection):
        connection = kind()
        try:
            list(connection.receive(data))
        except ProtocolError:
            assert not connection.pending
        assert len(connection._buffer) <= len(data)
