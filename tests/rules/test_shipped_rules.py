"""What holds for the shipped rules as a whole."""

from __future__ import annotations

import re
from functools import lru_cache

import pytest

from milter_bounce.decide.check import findings
from milter_bounce.decide.pieces import alternatives
from milter_bounce.decide.rule_toml import Tier
from milter_bounce.delivery import DeliveryStatus, EnhancedStatus
from milter_bounce.system.rulefiles import load_rules, status_of
from milter_bounce.verdict import CATEGORIES, AdviceKind

# the IANA registry: subject -> highest detail
REGISTRY = {0: 0, 1: 10, 2: 4, 3: 5, 4: 7, 5: 6, 6: 10, 7: 30}
CODES = [
    (class_, subject, detail) for class_ in (4, 5) for subject, last in REGISTRY.items() for detail in range(last + 1)
]


@lru_cache(maxsize=1)
def shipped():
    return load_rules()


def test_shipped_rules_pass_the_checker():
    """No doubles, nothing that never fires, no example that misses or that another rule takes."""
    assert findings(shipped(), status_of) == []


@pytest.mark.parametrize(("class_", "subject", "detail"), [pytest.param(*c, id=".".join(map(str, c))) for c in CODES])
def test_shipped_status_is_registered(class_, subject, detail):
    """Every code of the registry has a row of its own, in both first digits."""
    status = DeliveryStatus(None, status=EnhancedStatus(class_, subject, detail))
    rule = shipped().classify(status).rule
    assert rule.startswith("status-")
    assert not rule.endswith(".any") or (subject, detail) in {(7, d) for d in range(31) if class_ == 4 and d == 30}


@pytest.mark.parametrize("code", [pytest.param(code, id=str(code)) for code in range(400, 600)])
def test_shipped_bare_reply_never_suppresses_a_refused_sender(code):
    """A bare code suppresses only where its registered meaning speaks of the recipient."""
    verdict = shipped().classify(DeliveryStatus(None, reply_code=code, diagnostic=str(code)))
    assert verdict.class_ == "soft" or code >= 500
    assert verdict.advice != "suppress" or code in {521, 551, 556}


@pytest.mark.parametrize(
    "name", [pytest.param(rule.id, id=rule.id) for rule in load_rules().rules if rule.tier is Tier.TEXT]
)
def test_shipped_text_rule_has_a_category_and_a_source(name):
    """Each general rule says where its words were seen."""
    rule = next(rule for rule in shipped().rules if rule.id == name)
    assert rule.category in CATEGORIES
    assert "20" in rule.source


GREEK = "550 5.1.1 \u039f \u03c7\u03c1\u03ae\u03c3\u03c4\u03b7\u03c2 \u03b4\u03b5\u03bd \u03c5\u03c0\u03ac\u03c1\u03c7\u03b5\u03b9"


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(
            "550 5.1.1 <no-spam@blocked.example.com>: Recipient address rejected: User unknown",
            id="address-looks-like-spam",
        ),
        pytest.param("550 5.1.1 <virus@example.com>... User Unknown", id="address-looks-like-virus"),
        pytest.param("550 No such user dmarc@example.com here", id="address-looks-like-dmarc"),
        pytest.param(GREEK, id="language-nobody-wrote-rules-for"),
    ],
)
def test_shipped_rules_are_not_misled_by_addresses(text):
    """What stands in an address is not what the server says."""
    verdict = shipped().classify(status_of(text))
    assert (verdict.category, verdict.advice) == ("invalid-recipient", "suppress")


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(
            "550 5.1.7 <user@example.com>: Sender address rejected: User unknown in virtual mailbox table",
            id="unlisted-sender",
        ),
        pytest.param("550 Sender verify failed: 550 No such user here", id="sender-callout"),
        pytest.param(
            "550 5.1.1 <u@example.com>: Sender address rejected: undeliverable address: host mx.example.net[192.0.2.1] said: 550 5.1.1 User unknown",
            id="sender-probe",
        ),
        pytest.param("550 Too many invalid recipients", id="bad-list"),
        pytest.param("550 5.1.1 192.0.2.1 is listed by Spamhaus; user unknown to us", id="list-before-user"),
        pytest.param("521 5.2.1 Your IP is blocked, no mail accepted", id="521-for-us"),
        pytest.param(
            "551 5.7.1 Due to the very low reputation of the sending domain, this message has been blocked",
            id="551-for-us",
        ),
        pytest.param("553 5.1.3 https://www.spamhaus.org/query/ip/192.0.2.1", id="553-for-us"),
        pytest.param("550 5.1.2 Access denied - your host 192.0.2.1 is blacklisted", id="5.1.2-for-us"),
        pytest.param("556 5.1.10 Sender domain has null MX", id="null-mx-of-the-sender"),
        pytest.param("550 5.2.1 Your account has been suspended for sending spam", id="our-own-account"),
    ],
)
def test_shipped_rules_never_suppress_for_what_the_sender_did(text):
    """A refusal of the sender keeps the recipient on the list, whatever code it comes with."""
    assert shipped().classify(status_of(text)).advice != "suppress"


OF_THE_SENDER = {
    "blocklisted",
    "poor-reputation",
    "auth-failure",
    "rdns-missing",
    "spam-content",
    "virus",
    "policy-rejection",
}
REFUSING = [
    rule for rule in load_rules().rules
    if rule.category in OF_THE_SENDER and rule.text and rule.operator is None and rule.reply is None and rule.status is None
]  # fmt: skip


@pytest.mark.parametrize("codes", ["550 5.1.1", "550 5.2.1", "521", "551 5.1.6", "550 5.1.2", "556 5.1.10"])
@pytest.mark.parametrize("name", [pytest.param(rule.id, id=rule.id) for rule in REFUSING])
def test_shipped_refusals_never_suppress_whatever_their_codes(name, codes):
    """Servers put 5.1.1 before anything: the words of a refusal count."""
    rule = next(rule for rule in REFUSING if rule.id == name)
    words = [shipped().words(status_of(example.text)) for example in rule.examples]
    assert words
    assert [text for text in words if shipped().classify(status_of(f"{codes} {text}")).advice == "suppress"] == []


def test_what_suppresses_begins_where_a_word_does():
    """'closed address' is no part of 'an undisclosed address' (Exim), 'expired user' none of 'unexpired user'."""
    inside = [
        (rule.id, piece)
        for rule in shipped().rules
        if (rule.advice or CATEGORIES[rule.category].advice) is AdviceKind.SUPPRESS
        for pattern in rule.text
        for piece in alternatives(pattern)
        # \\b is a boundary of ASCII words: groups that also hold other scripts cannot begin with it
        if piece.isascii() and "<@>" not in piece and re.match(r"(?:\(\?:)*[A-Za-z0-9]", piece)
    ]
    assert inside == []


@pytest.mark.parametrize("text", ["550 enclosed address list is not for you", "550 unexpired user token required"])
def test_shipped_rules_see_no_dead_address_inside_a_word(text):
    assert shipped().classify(status_of(text)).advice is not AdviceKind.SUPPRESS
