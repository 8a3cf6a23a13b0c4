"""The report token: what it proves and every way in which a wrong one fails."""

from __future__ import annotations

import hmac
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milter_bounce.delivery import DeliveryReport, DeliveryStatus, Kind
from milter_bounce.protocol import token, verp
from milter_bounce.protocol.genuine import Arrival, Trust, believe, proven
from milter_bounce.protocol.token import Key, Keyring, check, mint

DAY = 20777
OLD, NEW = Key("old1", b"o" * 32, DAY - 30), Key("new1", b"n" * 32, DAY)
RING = Keyring([OLD, NEW])
SENDER, MESSAGE, RECIPIENT = "news@example.com", "1.2@example.com", "You@Example.NET"
GOOD = mint(NEW, DAY, SENDER, MESSAGE, [RECIPIENT, "other@example.org"])


def proof(value=GOOD, **changed):
    facts = {
        "today": DAY + 3,
        "max_age": 14,
        "senders": [f"<{SENDER}>"],
        "message_id": MESSAGE,
        "recipients": (RECIPIENT, None),
    } | changed
    return check(value, RING, **facts)


def test_youngest_key_stamps():
    """Of several keys the one made last stamps; all are believed."""
    assert RING.stamping is NEW
    assert proof(mint(OLD, DAY, SENDER, MESSAGE, [RECIPIENT])).genuine


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param({}, id="as-sent"),
        pytest.param({"recipients": ("you@example.net", None)}, id="case-changed-on-the-way"),
        pytest.param({"recipients": (None, RECIPIENT)}, id="original-recipient-only"),
        pytest.param({"value": GOOD.replace("; ", ";\r\n\t").replace(";\r\n\t", "; ")}, id="folded"),
        pytest.param({"value": GOOD.replace(",", ",\r\n ")}, id="folded-in-the-list"),
        pytest.param({"today": DAY + 14}, id="last-day"),
        pytest.param({"today": DAY - 1}, id="clock-of-another-host"),
        pytest.param({"senders": ["x@example.com", SENDER]}, id="one-of-several-addresses"),
    ],
)
def test_token_proves_its_own_message_and_recipient(changed):
    """A token that came back as sent is believed."""
    assert proof(**changed).genuine


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        pytest.param({"recipients": ("victim@example.org", None)}, "does not cover this recipient", id="replayed"),
        pytest.param({"senders": ["boss@example.com"]}, "not for a message of the address", id="other-sender"),
        pytest.param({"message_id": "9@example.com"}, "not for a message", id="other-message"),
        pytest.param({"message_id": None}, "no Message-ID", id="no-message-id"),
        pytest.param({"today": DAY + 15}, "believed for 14 days", id="too-old"),
        pytest.param({"today": DAY - 2}, "believed for 14 days", id="from-the-future"),
        pytest.param(
            {"value": mint(Key("gone", b"g" * 32), DAY, SENDER, MESSAGE, [RECIPIENT])}, "not among ours", id="old-key"
        ),
        pytest.param(
            {"value": mint(Key("new1", b"x" * 32), DAY, SENDER, MESSAGE, [RECIPIENT])}, "not for a", id="forged"
        ),
        pytest.param({"value": GOOD[:40]}, "malformed or cut", id="truncated"),
        pytest.param({"value": GOOD.replace("m=", "m=A", 1)}, "malformed", id="mac-longer"),
        pytest.param({"value": GOOD.replace(f"d={DAY}", f"d={DAY + 1}")}, "not for a message", id="day-changed"),
        pytest.param({"value": GOOD.replace("d=2", "d=٢")}, "malformed", id="unicode-digit"),
        pytest.param({"value": GOOD.split("r=", maxsplit=1)[0] + "r=*"}, "not for a message", id="widened"),
        pytest.param({"value": ""}, "malformed", id="empty"),
        pytest.param({"recipients": (None, None)}, "does not cover", id="no-recipient"),
    ],
)
def test_wrong_token_proves_nothing(changed, why):
    """Each way of being wrong is refused, and the reason says which it was."""
    found = proof(**changed)
    assert not found.genuine
    assert why in found.reason


def _some(count: int) -> list[str]:
    return [f"u{n}@example.net" for n in range(count)]


@pytest.mark.parametrize("count", [1, token.RECIPIENT_CAP, token.RECIPIENT_CAP + 1, token.CROWD_CAP])
def test_token_covers_each_recipient_and_nobody_else(count):
    """A few, and a crowd whose MACs are shorter: it fits one stranger in 16,777."""
    value = mint(NEW, DAY, SENDER, MESSAGE, _some(count))
    assert len(value) < token.VALUE_LIMIT
    assert all(len(line) < 100 for line in value.split("\n")[1:])
    for folded in (value, value.replace("\n ", "\r\n\t")):
        assert proof(folded, recipients=(f"u{count - 1}@example.net", None)).genuine
    assert not proof(value, recipients=("stranger@example.net", None)).genuine
    assert not proof(value, senders=["other@example.com"], recipients=("u0@example.net", None)).genuine


def test_token_of_more_than_are_remembered_names_nobody():
    """It shows that the message is ours, so that nothing is turned away, and convicts nobody."""
    whole = mint(NEW, DAY, SENDER, MESSAGE, _some(token.CROWD_CAP + 1))
    assert whole == mint(NEW, DAY, SENDER, MESSAGE, [])
    assert whole.endswith("r=*")
    found = proof(whole, recipients=("u3@example.net", None))
    assert (found.genuine, found.ours) == (False, True)


@pytest.mark.parametrize("count", [3, token.RECIPIENT_CAP + 1])
def test_shared_token_is_believed_as_far_as_we_are_told(count):
    """Each recipient holds what proves a report about any other: the administrator says how many are too many."""
    value = mint(NEW, DAY, SENDER, MESSAGE, _some(count))
    assert proof(value, recipients=("u1@example.net", None), most=count).genuine
    found = proof(value, recipients=("u1@example.net", None), most=count - 1)
    assert (found.genuine, found.ours) == (False, True)
    assert f"shared by {count} recipients" in found.reason


@pytest.mark.parametrize("count", [3, token.RECIPIENT_CAP + 1])
def test_recipients_of_a_token_cannot_be_taken_out_or_put_in(count):
    """Fewer MACs would make it look like the token of one, more would let somebody guess."""
    value = mint(NEW, DAY, SENDER, MESSAGE, _some(count))
    head, _, macs = value.partition("r=")
    each = re.findall("[A-Za-z0-9_-]{8}" if count == 3 else "[A-Za-z0-9_-]{4}", macs)
    join = "," if count == 3 else ""
    for changed in (each[:1], each[1:], [*each, each[0][::-1]], each[::-1]):
        assert not proof(f"{head}r={join.join(changed)}", recipients=("u0@example.net", None)).genuine
    assert proof(f"{head}r={join.join(each)}", recipients=("u0@example.net", None)).genuine


@given(st.text())
def test_any_text_is_no_token(text):
    """No text that we did not make is believed, and none raises."""
    assert not proof(text).genuine


PATTERN = "bounce+{tag}={user}={domain}@lists.example.com"


def report(headers=()) -> DeliveryReport:
    return DeliveryReport(Kind.DSN, original_headers=tuple(headers))


def test_keyed_verp_is_a_proof_and_plain_verp_is_none():
    """The tag proves the recipient; without a tag the address only names him."""
    tagged = verp.encode(PATTERN, "jo=e@example.net", token.verp_tag(NEW, "jo=e@example.net"))
    trust = Trust(RING, (verp.compile_pattern(PATTERN), verp.compile_pattern("b+{user}={domain}@l.example")), DAY)
    status = DeliveryStatus("jo=e@example.net")
    assert believe(report(), status, Arrival((tagged.upper(),)), trust).genuine
    wrong = tagged.replace("jo=e", "an=n")
    assert not believe(report(), status, Arrival((wrong,)), trust).genuine
    plain = believe(report(), status, Arrival(("b+jo=example.net@l.example",)), trust)
    assert not plain.genuine
    assert "proves nothing" in plain.reason


def test_keyed_verp_does_not_convict_another_recipient():
    """A keyed address proves a report about the recipient it names, not about whom the report claims."""
    tagged = verp.encode(PATTERN, "me@example.net", token.verp_tag(NEW, "me@example.net"))
    trust = Trust(RING, (verp.compile_pattern(PATTERN),), DAY)
    found = believe(report(), DeliveryStatus("victim@example.org"), Arrival((tagged,)), trust)
    assert not found.genuine


@pytest.mark.parametrize(
    ("final", "original", "about"),
    [
        pytest.param("a@example.net", None, "a@example.net", id="final"),
        pytest.param("A@Example.NET", None, "A@Example.NET", id="final-in-capitals"),
        pytest.param("elsewhere@example.org", "A@example.net", "A@example.net", id="redirected"),
        pytest.param("a@example.net", "victim@example.org", "a@example.net", id="original-of-another"),
    ],
)
def test_proven_status_is_about_the_address_that_we_mailed(final, original, about):
    """Whoever got a message may name any address as the one that it was redirected to: that one is not proven."""
    value = token.mint(NEW, DAY, "news@example.com", "1@x", ["a@example.net"])
    headers = [("Message-ID", "<1@x>"), (token.HEADER_NAME, value)]
    status = DeliveryStatus(final, original_recipient=original)
    found = believe(report(headers), status, Arrival(("news@example.com",)), Trust(RING, (), DAY))
    assert found.genuine
    assert proven(status, found).recipient == about
    assert proven(status, replace(found, genuine=False)) == status


def test_proven_by_keyed_verp_is_the_address_of_the_tag():
    """The same where the proof is the address that the report came to."""
    trust = Trust(RING, (verp.compile_pattern("b+{tag}={user}={domain}@l.example"),), DAY)
    tagged = f"b+{token.verp_tag(NEW, 'jo@example.net')}=jo=example.net@l.example"
    status = DeliveryStatus("victim@example.org", original_recipient="jo@example.net")
    found = believe(report(), status, Arrival((tagged,)), trust)
    assert found.genuine
    assert proven(status, found).recipient == "jo@example.net"


def test_own_report_needs_no_token():
    """What this MTA made itself is believed."""
    assert believe(report(), DeliveryStatus("a@example.net"), Arrival(own=True), Trust()).genuine


def test_token_among_returned_headers_is_found():
    """The first token field of the returned headers counts, with the Message-ID beside it."""
    headers = [("Message-ID", f" <{MESSAGE}>"), ("x-milter-bounce-token", GOOD)]
    status = DeliveryStatus(RECIPIENT)
    arrival = Arrival((f"<{SENDER}>",))
    assert believe(report(headers), status, arrival, Trust(RING, (), DAY)).genuine
    foreign = ("X-Milter-Bounce-Token", mint(Key("other", b"o" * 32), DAY, SENDER, MESSAGE, [RECIPIENT]))
    assert believe(report([foreign, *headers]), status, arrival, Trust(RING, (), DAY)).genuine
    assert "no token" in believe(report(headers[:1]), status, arrival, Trust(RING, (), DAY)).reason
    assert "no key" in believe(report(headers), status, arrival, Trust(Keyring(), (), DAY)).reason


@pytest.mark.parametrize(
    "pattern", ["bounce@example.com", "b+{user}@example.com", "b+{user}={domain}={user}@x", "b+{usr}={domain}@x"]
)
def test_bad_verp_pattern_is_refused(pattern):
    """A pattern without its fields says what it needs."""
    with pytest.raises(ValueError, match=re.escape("{user} and {domain}")):
        verp.compile_pattern(pattern)


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_mac_is_what_the_standard_librarys_hmac_says(secret, covered):
    """Keys shorter and longer than a block of SHA-256 (RFC 2104, 2)."""
    assert token.Key("k1", secret).mac(covered) == hmac.digest(secret, b"v1\0k1\0" + covered, "sha256")


def test_look_alike_letter_is_another_address():
    """U+212A KELVIN SIGN becomes a plain k in lower case, and its address another customer's."""
    value = mint(NEW, DAY, SENDER, MESSAGE, ["\u212aate@example.net"])
    assert proof(value, recipients=("\u212aATE@Example.net", None)).genuine
    assert not proof(value, recipients=("kate@example.net", None)).genuine
    assert token.fold_address("J\u00dcRG@example.net") == "j\u00fcrg@example.net"


WIRE = st.binary(max_size=30) | st.builds(
    lambda text: b"<" + text.encode() + b">", st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=30)
)


@given(WIRE, WIRE, WIRE)
def test_token_made_quickly_is_the_one_that_mint_makes(sender, message_id, recipient):
    """What the quick way takes it makes alike, and the common form it does take."""
    quick = token.mint_plain(NEW, DAY, sender, message_id, recipient)
    texts = [raw.decode("utf-8", "surrogateescape") for raw in (sender, message_id, recipient)]
    if quick is not None:
        assert quick == mint(NEW, DAY, texts[0], token.fold_message_id(texts[1]), [texts[2]])
    else:
        assert not all(re.fullmatch(rb"<[!-~]+>", raw) for raw in (sender, message_id, recipient))


def test_token_made_quickly_is_believed():
    value = token.mint_plain(NEW, DAY, f"<{SENDER}>".encode(), f"<{MESSAGE}>".encode(), f"<{RECIPIENT}>".encode())
    assert proof(value).genuine
