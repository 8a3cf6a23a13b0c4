"""Twenty-five current replies that today's open classifiers get wrong, with and without the MX host."""

from __future__ import annotations

from functools import lru_cache

import pytest

from milter_bounce.system.rulefiles import load_rules, status_of

GOOGLE, YAHOO = "gmail-smtp-in.l.google.com", "mta5.am0.yahoodns.net"
OUTLOOK, OFFICE = "outlook-com.olc.protection.outlook.com", "example-com.mail.protection.outlook.com"
LISTED = "554 5.7.1 Service unavailable; Client host [192.0.2.1] blocked using zen.spamhaus.org"
AUTH, RATE = ("policy", "auth-failure", "hold"), ("soft", "rate-limited", "retry")
REPUTATION, LIST = ("policy", "poor-reputation", "hold"), ("policy", "blocklisted", "hold")

REPLIES = [
    ("gmail-5.7.27", GOOGLE, AUTH, "550 5.7.27 Your email has been blocked because SPF did not pass. Gmail requires all large senders to authenticate with SPF. - gsmtp"),
    ("gmail-421-4.7.28", GOOGLE, REPUTATION, "421 4.7.28 Gmail has detected an unusual rate of unsolicited mail originating from your IP address. To protect our users from spam, mail sent from your IP address has been temporarily rate limited. - gsmtp"),
    ("gmail-550-5.7.28", GOOGLE, REPUTATION, "550 5.7.28 Gmail has detected an unusual rate of unsolicited mail originating from your DKIM domain. To protect our users from spam, mail has been blocked. - gsmtp"),
    ("gmail-4.7.32", GOOGLE, AUTH, "421 4.7.32 This mail has been rate limited because there is no DMARC alignment. - gsmtp"),
    ("gmail-421-5.7.32", GOOGLE, AUTH, "421 5.7.32 This mail has been blocked because the From: header is not aligned with either the SPF or the DKIM domain. - gsmtp"),
    ("gmail-4.7.40", GOOGLE, AUTH, "421 4.7.40 This mail has been rate limited because the sending domain doesn't have a DMARC record. - gsmtp"),
    ("gmail-full", GOOGLE, ("soft", "mailbox-full", "retry"), "452 4.2.2 The recipient's inbox is out of storage space. Please direct the recipient to https://support.google.com/mail/?p=OverQuotaTemp - gsmtp"),
    ("gmail-too-fast", GOOGLE, RATE, "550 5.2.1 The user you are trying to contact is receiving mail at a rate that prevents additional messages from being delivered. - gsmtp"),
    ("gmail-daily-limit", GOOGLE, RATE, "550 5.4.5 Daily user sending limit exceeded. - gsmtp"),
    ("yahoo-tss04", YAHOO, REPUTATION, "421 4.7.0 [TSS04] Messages from 192.0.2.1 temporarily deferred due to unexpected volume or user complaints - 4.16.55.1; see https://postmaster.yahooinc.com/error-codes"),
    ("yahoo-tss09", YAHOO, REPUTATION, "553 5.7.2 [TSS09] All messages from 192.0.2.1 will be permanently deferred; Retrying will NOT succeed. See https://postmaster.yahooinc.com/error-codes"),
    ("yahoo-tss07", YAHOO, LIST, "553 5.7.1 [TSS07] Connections will not be accepted from 192.0.2.1, because the ip is in Spamhaus's list"),
    ("outlook-s775", OUTLOOK, REPUTATION, "451 4.7.650 The mail server [192.0.2.1] has been temporarily rate limited due to IP reputation. For e-mail delivery information see https://postmaster.live.com (S775)"),
    ("outlook-s3150", OUTLOOK, LIST, "550 5.7.1 Unfortunately, messages from [192.0.2.1] weren't sent. Please contact your Internet service provider since part of their network is on our block list (S3150)."),
    ("outlook-s3140", OUTLOOK, LIST, "550 5.7.1 Unfortunately, messages from [192.0.2.1] weren't sent. Please contact your Internet service provider since part of their network is on our block list (S3140)."),
    ("office-banned", OFFICE, LIST, "550 5.7.606 Access denied, banned sending IP [192.0.2.1]. To request removal from this list please visit https://sender.office.com/ (AS16012609)"),
    ("office-bulk-auth", OFFICE, AUTH, "550 5.7.515 Access denied, sending domain example.com doesn't meet the required authentication level. Spf= Fail , Dkim= Pass , DMARC= Fail"),
    ("office-dbeb", OFFICE, ("hard", "invalid-recipient", "suppress"), "550 5.4.1 Recipient address rejected: Access denied. [DB1EUR02FT001.eop-EUR02.prod.protection.outlook.com]"),
    ("apple-hm08", "mx01.mail.icloud.com", None, "554 5.7.1 [HM08] Message rejected due to local policy. Please visit https://support.apple.com/en-us/HT204137"),
    ("godaddy-ib607", "mailstore1.secureserver.net", RATE, "550 5.1.1 192.0.2.1 has sent too many messages. IB607"),
    ("spectrum-1310", "mx.charter.net", None, "550 5.1.0 Too many connections. AUP#In-1310"),
    ("zen", None, LIST, LISTED),
    ("open-resolver", None, ("soft", "system-error", "retry"), f"{LISTED}; Error: open resolver; https://check.spamhaus.org/returnc/pub/203.0.113.53/"),
    ("uribl-refused", None, ("soft", "system-error", "retry"), "550 5.7.1 Blocked: example.com listed in multi.uribl.com: 127.0.0.1 -> Query Refused. See http://uribl.com/refused.shtml [Your DNS IP: 203.0.113.53]"),
    ("greylisted", None, ("soft", "greylisted", "retry"), "450 4.2.0 <user@example.com>: Recipient address rejected: Greylisted"),
]  # fmt: skip
REFUSALS = {"apple-hm08": {"spam-content", "policy-rejection"}, "spectrum-1310": {"rate-limited", "policy-rejection"}}


@lru_cache(maxsize=1)
def shipped():
    return load_rules()


def judged(text, host):
    verdict = shipped().classify(status_of(text, host))
    return str(verdict.class_), verdict.category, str(verdict.advice)


@pytest.mark.parametrize(("name", "host", "expected", "text"), [pytest.param(*row, id=row[0]) for row in REPLIES])
def test_field_reply_is_right_at_its_operator(name, host, expected, text):
    """The reply gets the verdict of TAXONOMY when it comes from its operator's MX."""
    got = judged(text, host)
    assert got == expected if expected else got[1] in REFUSALS[name]


@pytest.mark.parametrize(("name", "host", "expected", "text"), [pytest.param(*row, id=row[0]) for row in REPLIES])
def test_field_reply_is_right_without_its_host(name, host, expected, text):
    """The text alone is enough: logs and reports often do not name the host."""
    del host
    got = judged(text, None)
    assert got == expected if expected else got[1] in REFUSALS[name]


@pytest.mark.parametrize(
    "text", [pytest.param(r[3], id=r[0]) for r in REPLIES if r[0] in {"open-resolver", "uribl-refused"}]
)
def test_field_reply_flags_no_list_where_the_look_up_failed(text):
    """A receiver whose own look-up fails tells nothing of us."""
    assert shipped().classify(status_of(text)).blocklists == ()


def test_field_reply_of_zen_names_the_list_and_what_is_listed():
    """The list, its operator, our address and the look-up page stand beside the verdict."""
    (mention,) = shipped().classify(status_of(LISTED)).blocklists
    assert (mention.zone, mention.operator, mention.listed) == ("zen.spamhaus.org", "Spamhaus", "192.0.2.1")
    assert mention.lookup is not None
    assert "192.0.2.1" in mention.lookup
