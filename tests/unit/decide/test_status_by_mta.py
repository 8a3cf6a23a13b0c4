"""What Sendmail's log makes of a reply: a status made up, a host name cut short."""

from __future__ import annotations

import pytest

from milter_bounce.decide.ruleset import shortened_operator
from milter_bounce.delivery import DeliveryStatus, EnhancedStatus
from milter_bounce.system.rulefiles import load_rules


@pytest.mark.parametrize(
    ("reply", "guess", "category", "advice"),
    [
        # Sendmail 8.17.1 logs dsn=5.1.1 for every 550 at RCPT that states no status, 4.5.0 and 5.5.0 for a banner's
        pytest.param("550 xyzzy", "5.1.1", "undetermined", "fix", id="any-550"),
        pytest.param("550 User unknown", "5.1.1", "invalid-recipient", "suppress", id="the-text-says-it"),
        pytest.param("421 xyzzy", "4.5.0", "system-error", "retry", id="banner-421"),
        pytest.param("554 xyzzy, your IP is on our block list", "5.5.0", "blocklisted", "hold", id="banner-554"),
    ],
)
def test_guessed_status_does_not_convict(reply, guess, category, advice):
    """Text and reply code decide; the guess stays in the status for the log."""
    status = DeliveryStatus(
        "a@b.example", status=EnhancedStatus.from_text(guess), reply_code=int(reply[:3]), diagnostic=reply,
        diagnostic_type="smtp", defects=("status-by-mta",),
    )  # fmt: skip
    verdict = load_rules().classify(status)
    assert (verdict.category, verdict.advice) == (category, advice)


SUFFIXES = {
    "mail.protection.outlook.com": "microsoft-365",
    "olc.protection.outlook.com": "microsoft",
    "google.com": "google",
    "ess.barracudanetworks.com": "barracuda",
}


@pytest.mark.parametrize(
    ("host", "operator"),
    [
        pytest.param("example-com.mail.p...ction.outlook.com", "microsoft-365", id="begun-before-the-cut"),
        pytest.param("a-long-domain-name...ction.outlook.com", None, id="two-could-be-meant"),
        pytest.param("some-company-com.o...ction.outlook.com", "microsoft", id="one-letter-decides"),
        pytest.param("a-very-long-host-n...danetworks.com", "barracuda", id="only-one-fits"),
        pytest.param("a-very-long-host-n...example.com", None, id="stranger"),
        pytest.param("a-very-long-host-n...com", None, id="too-little-left"),
        pytest.param("...", None, id="dots"),
    ],
)
def test_operator_of_a_shortened_host(host, operator):
    """The ends that are left decide where they can; a guess is no answer."""
    assert shortened_operator(host, SUFFIXES) == operator


def test_shortened_microsoft_365_host_is_known():
    """With the shipped operators, through the rule set."""
    rules = load_rules()
    assert rules.operator_of("example-com.mail.p...ction.outlook.com") == "microsoft-365"
