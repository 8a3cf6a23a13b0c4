"""Words that convict where they mean the recipient, said of somebody else: no address is suppressed for them."""

from __future__ import annotations

from functools import lru_cache

import pytest

from milter_bounce.system.rulefiles import load_rules, status_of


@lru_cache(maxsize=1)
def shipped():
    return load_rules()


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("550 This machine will not accept messages with a missing Date", id="a-clause-limits-it"),
        pytest.param("550 5.7.1 The server does not process mail over 20 recipients", id="a-number-limits-it"),
        pytest.param("554 5.7.1 Peer hostname could not be resolved", id="peer"),
        pytest.param("550 unknown host: 203.0.113.9", id="address-after-host"),
        pytest.param("550 203.0.113.9: host unknown", id="address-before-host"),
        pytest.param("550 5.7.25 Domain does not exist", id="reverse-dns-status"),
        pytest.param("550 5.7.1 Domain unknown", id="policy-status"),
        pytest.param("550 Hyperlink leads to a host that does not exist", id="link"),
        pytest.param("554 bad domain in Message-ID", id="header"),
        pytest.param("550 The domain news.example.com is not enabled for sending", id="domain-that-sends"),
        pytest.param("550 No mail exchanger available for your own domain", id="your-domain"),
    ],
)
def test_a_domain_is_convicted_only_where_the_mail_was_to_go(text):
    assert shipped().classify(status_of(text)).advice != "suppress"


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("550 Our machine does not accept mail", id="whole-host"),
        pytest.param("550 5.1.2 <ann@example.org>: domain not found", id="domain"),
        pytest.param("550 We could not send your message: Host unknown", id="words-before"),
        pytest.param("550 5.7.1 <ann@example.org>: Recipient address rejected: Domain not found", id="policy-status"),
    ],
)
def test_a_dead_domain_is_still_convicted(text):
    verdict = shipped().classify(status_of(text))
    assert (verdict.category, verdict.advice) == ("invalid-domain", "suppress")


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("550 5.2.1 Your account with us is closed, see your network administrator", id="advice-after"),
        pytest.param("550 Your starter plan has expired", id="plan"),
        pytest.param("550 5.1.1 Authenticated user unknown or disabled", id="authenticated"),
        pytest.param("525 5.2.1 mailbox disabled", id="525"),
        pytest.param("535 5.1.1 Postfach unbekannt", id="535-in-another-language"),
        pytest.param("550 The login you are using is deactivated", id="using"),
        pytest.param("550 Sending user terminated", id="sending-user"),
        pytest.param("550 Account inactive: pay the invoice to resume sending", id="resume-sending"),
    ],
)
def test_our_own_closed_account_is_no_dead_mailbox(text):
    assert shipped().classify(status_of(text)).advice != "suppress"


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(
            "550 5.1.1 <ann@example.org>: Recipient address rejected: undeliverable address: host a[192.0.2.3] refused to talk to me: 521 go away",
            id="gateway-refused",
        ),
        pytest.param("550 5.1.1 user rejected: connection reset by backend", id="connection"),
        pytest.param(
            "550 Callout for ann@example.org rejected; response to MAIL FROM was 550", id="callout-before-rcpt"
        ),
    ],
)
def test_a_probe_that_failed_convicts_nobody(text):
    assert shipped().classify(status_of(text)).advice != "suppress"


@pytest.mark.parametrize("word", ["unverified", "undeliverable"])
def test_a_probe_that_was_answered_convicts(word):
    text = f"550 5.1.1 <ann@example.org>: Recipient address rejected: {word} address: host a[192.0.2.3] said: 550 no such mailbox"
    assert shipped().classify(status_of(text)).advice == "suppress"


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("550 Submission service is disabled for this account", id="submission"),
        pytest.param("550 Sending mail is switched off for this user", id="sending"),
        pytest.param("550 Delivery from outside is disabled for this mailbox", id="from-outside"),
        pytest.param("550 Mail delivery is stopped for this mailbox until Monday", id="for-now"),
        pytest.param("550 bogus address in your From field", id="bogus-sender"),
        pytest.param("550 Your mailbox is missing", id="your-mailbox"),
        pytest.param("501 Invalid RCPT TO syntax", id="command"),
        pytest.param("550 The recipient's server was shut down", id="server"),
    ],
)
def test_rare_words_for_a_dead_address_are_read_of_the_recipient_alone(text):
    assert shipped().classify(status_of(text)).advice != "suppress"
