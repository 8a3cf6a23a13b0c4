"""Whom words about a user mean: what was refused, and whose address the reply repeats, say it before the words do."""

from __future__ import annotations

from dataclasses import replace

import pytest

from milter_bounce.decide.ruleset import RuleSet
from milter_bounce.delivery import DeliveryStatus, EnhancedStatus
from milter_bounce.system.rulefiles import load_rules

SENDER, RECIPIENT = "news@firm.example", "gone@client.example"


def verdict_of(reply: str, command: str | None = "RCPT", recipient: str = RECIPIENT, sender: str | None = SENDER):
    code, status, *_ = reply.split()
    return load_rules().classify(
        DeliveryStatus(
            recipient, status=EnhancedStatus.from_text(status), reply_code=int(code), diagnostic=reply,
            diagnostic_type="smtp", command=command, sender=sender,
        )
    )  # fmt: skip


@pytest.mark.parametrize(
    ("reply", "command", "category", "advice"),
    [
        pytest.param("550 5.1.1 User unknown", "RCPT", "invalid-recipient", "suppress", id="rcpt"),
        pytest.param("550 5.1.1 User unknown", "EOD", "invalid-recipient", "suppress", id="end-of-data"),
        pytest.param("550 5.1.1 User unknown", None, "invalid-recipient", "suppress", id="not-told"),
        pytest.param("550 5.1.1 User unknown", "MAIL", "sender-rejected", "fix", id="mail-unknown"),
        pytest.param("550 5.1.1", "MAIL", "sender-rejected", "fix", id="mail-bare-status"),
        pytest.param("550 5.2.1 Account disabled", "MAIL", "sender-rejected", "fix", id="mail-inactive"),
        pytest.param("550 5.1.2 Domain not found", "MAIL", "sender-rejected", "fix", id="mail-domain"),
        pytest.param("450 4.1.1 User unknown", "MAIL", "sender-rejected", "retry", id="mail-4xx"),
        pytest.param("550 5.1.2 Unknown host", "EHLO", "rdns-missing", "hold", id="ehlo-host"),
        pytest.param("550 5.1.1 No such user", "CONNECT", "policy-rejection", "hold", id="greeting"),
        pytest.param(
            "521 5.3.2 mx.example.net does not accept mail", "CONNECT", "invalid-domain", "suppress", id="521"
        ),
        pytest.param("552 5.2.2 Mailbox full", "MAIL", "mailbox-full", "retry", id="other-categories-stay"),
    ],
)
def test_command_says_who_was_refused(reply, command, category, advice):
    """No recipient is convicted before one was named (RFC 5321, 3.3)."""
    verdict = verdict_of(reply, command)
    assert (verdict.category, verdict.advice) == (category, advice)


@pytest.mark.parametrize(
    ("reply", "recipient", "sender", "rule"),
    [
        pytest.param(f"550 5.1.1 <{SENDER}>: User unknown", RECIPIENT, SENDER, "sender-named", id="sender"),
        pytest.param(f"550 5.1.1 <{SENDER.upper()}>: User unknown", RECIPIENT, SENDER, "sender-named", id="case"),
        pytest.param(f"550 5.1.1 <{RECIPIENT}>: User unknown", RECIPIENT, SENDER, "recipient-unknown", id="recipient"),
        pytest.param(
            f"550 5.1.1 <{RECIPIENT}>: User unknown; mail from {SENDER}",
            RECIPIENT,
            SENDER,
            "recipient-unknown",
            id="both",
        ),
        pytest.param("550 5.1.1 User unknown", RECIPIENT, SENDER, "recipient-unknown", id="neither"),
        pytest.param(
            f"550 5.1.1 <real@client.example>: User unknown; mail from {SENDER}",
            RECIPIENT,
            SENDER,
            "recipient-unknown",
            id="where-it-was-forwarded-to",
        ),
        pytest.param(
            f"550 5.1.1 <no{SENDER}>: User unknown", RECIPIENT, SENDER, "recipient-unknown", id="longer-than-the-sender"
        ),
        pytest.param(
            f"550 5.1.1 <{SENDER}>: User unknown", RECIPIENT, None, "recipient-unknown", id="sender-not-known"
        ),
        pytest.param("550 5.1.1 <>: User unknown", RECIPIENT, "<>", "recipient-unknown", id="null-sender"),
        pytest.param(f"550 5.1.1 <{SENDER}>: User unknown", SENDER, SENDER, "recipient-unknown", id="to-oneself"),
    ],
)
def test_address_in_the_reply_says_whom_it_means(reply, recipient, sender, rule):
    """Where the only address in a reply is the sender's, the sender was looked up."""
    verdict = verdict_of(reply, "RCPT", recipient, sender)
    assert verdict.rule == rule
    assert (verdict.category, verdict.advice) == (
        ("sender-rejected", "fix") if rule == "sender-named" else ("invalid-recipient", "suppress")
    )


LOCAL = """
[[rule]]
id = "ours"
category = "invalid-recipient"
text = "user unknown"
source = "ours, 2026"
examples = ["550 5.1.1 User unknown"]
"""


@pytest.mark.parametrize("reply", ["550 5.1.1 User unknown", f"550 5.1.1 <{SENDER}>: User unknown"])
def test_local_rule_means_what_it_says(reply):
    """What the administrator has written is not read otherwise, whatever was refused and named."""
    status = DeliveryStatus(RECIPIENT, diagnostic=reply, reply_code=550, command="MAIL", sender=SENDER)
    verdict = RuleSet.load({}, {"a.toml": LOCAL}).classify(status)
    assert (verdict.rule, verdict.category, verdict.advice) == ("ours", "invalid-recipient", "suppress")


def test_explain_says_what_the_words_mean_there():
    """The rule that decides and the verdict differ: the reason stands beside it."""
    status = DeliveryStatus(
        RECIPIENT, diagnostic="550 5.1.1 User unknown", reply_code=550, command="MAIL", sender=SENDER
    )
    rows = load_rules().explain(status)
    assert [row.why for row in rows if row.decides] == [
        "a text: before codes; in reply to MAIL it means sender-rejected"
    ]
    named = replace(status, diagnostic=f"550 5.1.1 <{SENDER}>: User unknown", command="RCPT")
    first = load_rules().explain(named)[0]
    assert (first.rule.id, first.decides) == ("sender-named", True)
    assert "the sender's" in first.why


@pytest.mark.parametrize("words", ["Firewall rule", "Fehler 17 aufgetreten", "Недопустимо сегодня", "本日受付終了致"])
def test_unread_words_convict_nobody(words):
    """5.1.1 beside words that speak of no recipient: the message comes back, the address stays."""
    verdict = verdict_of(f"550 5.1.1 {words}")
    assert (verdict.category, verdict.advice, verdict.rule) == ("invalid-recipient", "fix", "unread-bad-mailbox")


@pytest.mark.parametrize(
    "words", ["", "Nope", "<gone@client.example>: Recipient address rejected: zzz", "Diesen Empfänger zzz"]
)
def test_bare_status_still_convicts(words):
    """No words, one word, or words that speak of the recipient leave 5.1.1 its meaning (RFC 3463, 3.2)."""
    verdict = verdict_of(f"550 5.1.1 {words}".strip())
    assert (verdict.category, verdict.advice) == ("invalid-recipient", "suppress")
