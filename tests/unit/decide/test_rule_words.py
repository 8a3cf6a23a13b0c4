"""What a pattern sees of a reply."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milter_bounce.decide.words import WORDS_LIMIT, words_of

CASES = [
    ("code-and-status", "550 5.1.1 User unknown", 550, "User unknown"),
    ("status-alone", "5.1.1 User unknown", None, "User unknown"),
    ("status-in-brackets-first", "550 #5.1.0 Address rejected", 550, "Address rejected"),
    ("two-codes", "550 5.7.1 550 User Unknown", 550, "User Unknown"),
    ("punctuated", "550 : User unknown", 550, "User unknown"),
    ("long-reply", "421-4.7.28 an unusual rate of 421-4.7.28 unsolicited mail 421 4.7.28 from", 421, "an unusual rate of unsolicited mail from"),
    ("hyphen-after-code", "550-SPF-check failed", 550, "SPF-check failed"),
    ("postfix-quoting", "host mx.example.com[192.0.2.1] said: 550 5.1.1 no (in reply to RCPT TO command)", None, "no"),
    ("address", "550 <nospam@example.com>... User unknown", 550, "<@>... User unknown"),
    ("bare-address", "550 no user virus@example.com.", 550, "no user <@>."),
    ("address-run-into-the-words", "550 ann@example.com...Relaying denied", 550, "<@>...Relaying denied"),
    ("dots-before-the-at", "550 <ann..b@example.com>...no", 550, "<@>...no"),
    ("ipv4", "550 your IP 198.51.100.7 is blocked", 550, "your IP 0.0.0.0 is blocked"),
    ("ipv4-colon", "550 198.51.100.7: host unknown", 550, "0.0.0.0: host unknown"),
    ("ipv4-port", "550 198.51.100.7:25 refused", 550, "0.0.0.0:25 refused"),
    ("ipv6", "550 [2001:db8::1:2:3] is blocked", 550, "[0.0.0.0] is blocked"),
    ("answer-of-a-list", "550 listed: 127.255.255.254", 550, "listed: 127.255.255.254"),
    ("id", "550 no such user ad1si1997204pbd.83 - gsmtp", 550, "no such user #.83 - gsmtp"),
    ("time-stamp", "550 no [2024-02-19T09:30:25.255Z]", 550, "no [#]"),
    ("tags-stay", "550 no (AS16012611) OFR006_102 [TSS04]", 550, "no (AS16012611) OFR006_102 [TSS04]"),
    ("waiting-time-stays", "450 retry in 00:04:59", 450, "retry in 00:04:59"),
    ("typographic", "550 User\u2019s mailbox \u201cfull\u201d", 550, "User's mailbox \"full\""),
    ("blanks", "550  a\t b\r\n c", 550, "a b c"),
    ("annotation", "[class=soft category=mailbox-full advice=retry rule=x] 552 full", None, "full"),
    ("nothing", "550", 550, ""),
]  # fmt: skip


@pytest.mark.parametrize(("text", "code", "expected"), [pytest.param(*row[1:], id=row[0]) for row in CASES])
def test_words_are_the_reply_without_codes_quoting_and_addresses(text, code, expected):
    """A pattern sees the words alone, with all that differs between replies masked."""
    assert words_of(text, code) == expected


def test_words_keep_an_address_that_a_rule_names():
    """A contact address can be what a rule knows an operator by."""
    assert words_of("554 ask tosa@rx.example.net", 554, {"tosa@rx.example.net"}) == "ask tosa@rx.example.net"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("收件人user@example.org的邮箱空间已满", "收件人<@>的邮箱空间已满", id="chinese"),
        pytest.param("（user@example.org）は存在しません", "（<@>）は存在しません", id="full-width-brackets"),
    ],
)
def test_words_behind_an_address_stay_where_no_blank_parts_them(text, expected):
    """Chinese and Japanese write on behind an address without a blank: only the address is masked."""
    assert words_of(text) == expected


def test_words_are_cut():
    """A reply has a few lines; what is longer is not looked at."""
    assert len(words_of("x " * 100_000)) <= WORDS_LIMIT


@given(st.text(max_size=3000), st.one_of(st.none(), st.integers(200, 599)))
def test_words_of_any_text_are_one_line(text, code):
    """Whatever is thrown at it, one line of bounded length comes back."""
    words = words_of(text, code)
    assert "\n" not in words
    assert len(words) <= 2 * WORDS_LIMIT
