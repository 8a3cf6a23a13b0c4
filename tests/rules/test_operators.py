"""Operators' files: who runs a mail exchanger, and what his replies mean, with the MX known and without."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace

import pytest

from milter_bounce.system.rulefiles import load_rules, status_of

RULES = load_rules()
OPERATOR_FILES = [file for file in RULES.files if file.operator]
EXAMPLES = [
    pytest.param(rule, example, file.operator.mx[0], id=f"{rule.id}-{number}")
    for file in OPERATOR_FILES
    for rule in file.rules
    for number, example in enumerate(rule.examples, 1)
]
ANYWHERE = [case for case in EXAMPLES if case.values[0].anywhere]


def _status(rule, example, host):
    status = status_of(example.text, host)
    return replace(status, command=min(rule.command)) if rule.command else status


@pytest.mark.parametrize(("rule", "example", "host"), EXAMPLES)
def test_operator_decides_its_own_example(rule, example, host):
    """Each example of an operator's rule is decided by that rule when the MX is known."""
    assert RULES.classify(_status(rule, example, example.remote_mta or host)).rule == rule.id


@pytest.mark.parametrize(("rule", "example", "host"), ANYWHERE)
def test_anywhere_means_the_same_without_a_known_mx(rule, example, host):
    """A text called unmistakable gets the same category and advice whoever sends it."""
    known, unknown = (RULES.classify(_status(rule, example, mx)) for mx in (example.remote_mta or host, None))
    assert (unknown.category, unknown.advice) == (known.category, known.advice)


def test_operators_share_no_mx_suffix():
    """No MX suffix belongs to two operators or is a bare label, and every operator has one."""
    suffixes = Counter(suffix for file in OPERATOR_FILES for suffix in file.operator.mx)
    assert not [suffix for suffix, count in suffixes.items() if count > 1]
    assert all("." in suffix for suffix in suffixes)
    assert all(file.operator.mx for file in OPERATOR_FILES)


@pytest.mark.parametrize(
    ("host", "operator"),
    [
        pytest.param("gmail-smtp-in.l.google.com", "google", id="gmail"),
        pytest.param("aspmx.l.google.com", "google", id="workspace"),
        pytest.param("outlook-com.olc.protection.outlook.com", "microsoft", id="consumer-before-365"),
        pytest.param("example-com.mail.protection.outlook.com", "microsoft-365", id="365"),
        pytest.param("example-com.a-v1.mx.microsoft", "microsoft-365", id="365-dnssec"),
        pytest.param("mta5.am0.yahoodns.net", "yahoo", id="yahoo"),
        pytest.param("mx-aol.mail.gm0.yahoodns.net", "yahoo", id="aol-today"),
        pytest.param("mx1.mail.yahoo.co.jp", "yahoo-japan", id="yahoo-japan"),
        pytest.param("MX01.Mail.iCloud.com.", "apple", id="case-and-dot"),
        pytest.param("mx00.kundenserver.de", "united-internet", id="ionos"),
        pytest.param("mx00.t-online.de", "t-online", id="t-online"),
        pytest.param("smtp-in.orange.fr", "orange", id="orange"),
        pytest.param("mxs.mail.ru", "mail-ru", id="mail-ru"),
        pytest.param("mx3.qq.com", "qq", id="qq"),
        pytest.param("163mx01.mxmail.netease.com", "netease", id="netease"),
        pytest.param("us-smtp-inbound-1.mimecast.com", "mimecast", id="mimecast"),
        pytest.param("mx0a-00000000.pphosted.com", "proofpoint", id="proofpoint"),
        pytest.param("d000000a.ess.barracudanetworks.com", "barracuda", id="barracuda"),
        pytest.param("mx1.hc000-00.iphmx.com", "cisco", id="cisco"),
        pytest.param("cxr.mx.a.cloudfilter.net", "cox", id="own-name-at-a-filter"),
        pytest.param("mx.example.mx.a.cloudfilter.net", "cloudmark", id="the-filter-itself"),
        pytest.param("mx.tb.ukmail.iss.as9143.net", "virgin-media", id="longest-suffix"),
        pytest.param("mx.tb.mail.iss.as9143.net", "ziggo", id="shorter-suffix"),
        pytest.param("mx.telkomsa.net", "telkom-sa", id="south-africa"),
        pytest.param("mx.prodigy.net.mx", "telmex", id="mexico-not-att"),
        pytest.param("w0123456.kasserver.com", "all-inkl", id="all-inkl"),
        pytest.param("www1234.sakura.ne.jp", "sakura-internet", id="sakura"),
        pytest.param("mx.example.net", None, id="nobody"),
        pytest.param("notgoogle.com", None, id="suffix-at-a-label"),
    ],
)
def test_operator_of_a_mail_exchanger(host, operator):
    """The longest MX suffix at a label boundary names the operator."""
    assert RULES.operator_of(host) == operator


# what a large provider says today, without knowing the MX: class, category, advice (FIELD.md section 1, 2026-11)
CURRENT = [
    pytest.param(
        "550 5.7.27 This mail has been blocked because the sender's SPF authentication did not pass. Gmail requires all"
        " bulk senders to authenticate with SPF. - gsmtp", "policy", "auth-failure", "hold", id="gmail-spf",
    ),
    pytest.param(
        "421-4.7.28 Gmail has detected an unusual rate of unsolicited mail originating\n421-4.7.28 from your IP address."
        "\n421 4.7.28 Please visit https://support.google.com/mail/?p=UnsolicitedRateLimitError - gsmtp",
        "policy", "poor-reputation", "hold", id="gmail-rate-lines",
    ),
    pytest.param(
        "550 5.7.28 Gmail has detected an unusual rate of unsolicited mail originating from your DKIM domain"
        " [example.com 36]. - gsmtp", "policy", "poor-reputation", "hold", id="gmail-rate-550",
    ),
    pytest.param(
        "421 5.7.32 Your email has been rate limited because the From: header (RFC5322) in this message isn't aligned"
        " with either the authenticated SPF or DKIM organizational domain.", "policy", "auth-failure", "hold",
        id="gmail-codes-disagree",
    ),
    pytest.param(
        "450 4.2.1 The user you are trying to contact is receiving mail at a rate that prevents additional messages from"
        " being delivered.", "soft", "rate-limited", "retry", id="gmail-receiving-rate",
    ),
    pytest.param(
        "452 4.2.2 The recipient's inbox is out of storage space. - gsmtp", "soft", "mailbox-full", "retry",
        id="gmail-full",
    ),
    pytest.param(
        "552 5.2.2 The recipient's inbox is out of storage space and inactive. - gsmtp", "hard", "mailbox-full",
        "suppress", id="gmail-full-for-good",
    ),
    pytest.param(
        "421 4.7.0 [TSS04] Messages from 192.0.2.7 temporarily deferred due to user complaints - 4.16.55.1",
        "policy", "poor-reputation", "hold", id="yahoo-tss04",
    ),
    pytest.param(
        "553 5.7.2 [TSS09] All messages from 192.0.2.7 will be permanently deferred; Retrying will NOT succeed.",
        "policy", "poor-reputation", "hold", id="yahoo-tss09",
    ),
    pytest.param(
        "554 5.7.9 Message not accepted for policy reasons. See https://postmaster.yahooinc.com/error-codes",
        "policy", "policy-rejection", "hold", id="yahoo-5.7.9",
    ),
    pytest.param(
        "451 4.7.650 The mail server [192.0.2.7] has been temporarily rate limited due to IP reputation. (S775)",
        "policy", "poor-reputation", "hold", id="outlook-650",
    ),
    pytest.param(
        "550 5.7.1 Unfortunately, messages from [192.0.2.7] weren't sent. Please contact your Internet service provider"
        " since part of their network is on our block list (S3150).", "policy", "blocklisted", "hold",
        id="outlook-s3150",
    ),
    pytest.param(
        "550 5.7.606 Access denied, banned sending IP [192.0.2.7]. To request removal from this list please visit"
        " https://sender.office.com/ and follow the directions.", "policy", "blocklisted", "hold", id="365-banned-ip",
    ),
    pytest.param(
        "550 5.7.515 Access denied, sending domain EXAMPLE.COM doesn't meet the required authentication level.",
        "policy", "auth-failure", "hold", id="365-bulk-authentication",
    ),
    pytest.param(
        "550 5.4.1 Recipient address rejected: Access denied. For more information see https://aka.ms/EXOSmtpErrors"
        " [AM4PEPF00012F9C.eurprd83.prod.outlook.com 2026-01-01T01:01:01.001Z 08DBEC564562FCD2]",
        "hard", "invalid-recipient", "suppress", id="365-unknown-user",
    ),
    pytest.param(
        "554 5.7.1 [HM08] Message rejected due to local policy. Please visit https://support.apple.com/en-us/HT204137",
        "policy", "policy-rejection", "hold", id="apple-hm08",
    ),
    pytest.param(
        "550 5.1.1 This message was rejected, too many messages from 192.0.2.7. IB607", "soft", "rate-limited", "retry",
        id="godaddy-rate-with-5.1.1",
    ),
    pytest.param(
        "550 5.1.0 spectrum.net rejected your connection, too many connections. AUP#In-1310", "soft", "rate-limited",
        "retry", id="spectrum-connections-with-5.1.0",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("text", "class_", "category", "advice"), CURRENT)
def test_current_reply_is_right_without_its_mx(text, class_, category, advice):
    """Today's replies of the large providers are judged by their text alone."""
    verdict = RULES.classify(status_of(text))
    assert (verdict.class_, verdict.category, verdict.advice) == (class_, category, advice)


_REFUSAL_OF_US = re.compile(
    r"reputation|block ?list|black ?list|spamhaus|DMARC|DKIM|SPF\b|unauthenticated|reverse DNS|PTR|too many|rate limit"
    r"|frequency|looks like spam|complaint",
    re.IGNORECASE,
)


@pytest.mark.parametrize(
    ("rule", "example", "host"), [case for case in EXAMPLES if _REFUSAL_OF_US.search(case.values[1].text)]
)
def test_refusal_of_the_sender_never_suppresses(rule, example, host):
    """Reputation, lists, authentication, rate and content never cost a recipient his place, MX known or not."""
    for mx in (host, None):
        assert RULES.classify(_status(rule, example, mx)).advice != "suppress"


def test_unknown_user_after_data_is_no_proof_at_docomo():
    """NTT docomo says "unknown user" after DATA for a recipient's own filter too: the address stays."""
    at_rcpt = status_of("550 Unknown user user@example.ne.jp", "mfsmax.docomo.ne.jp")
    verdicts = [RULES.classify(replace(at_rcpt, command=command)) for command in ("RCPT", "EOD")]
    assert [(v.category, v.advice) for v in verdicts] == [
        ("invalid-recipient", "suppress"),
        ("invalid-recipient", "fix"),
    ]
