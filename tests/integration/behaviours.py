"""Remote behaviours and the advice that each must end in: one table for Postfix and Sendmail.

Each behaviour is a domain of its own (``ID.test``) whose mail goes to one sink
under the host name that decides the operator. `Behaviour.recipients` says what
the first advice line of each recipient must hold; recipients without a line
(delivered) stand with None.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.integration.sink import DROP, Script


@dataclass(frozen=True)
class Wanted:
    """What the advice line says."""

    class_: str
    category: str
    advice: str
    dsn: str | None = None
    """Enhanced status; None where the MTAs make up different ones."""


@dataclass(frozen=True)
class Behaviour:
    """One remote server's behaviour."""

    id: str
    script: Script | None
    """None: nobody listens there."""

    wanted: Wanted
    host: str = ""
    """Name of the relay; empty: ``mx.ID.test``."""

    operator: str = "none"
    text: str = ""
    """Words that the line's text must hold."""

    tls: bool = False
    """Whether the MTA must insist on TLS."""

    others: dict[str, Wanted | None] = field(default_factory=dict)
    """Local part -> what becomes of further recipients of the same message; the main one is ``user``."""

    mtas: tuple[str, ...] = ("postfix", "sendmail")

    @property
    def domain(self) -> str:
        """Return the recipient domain."""
        return f"{self.id}.test"

    @property
    def relay(self) -> str:
        """Return the host name of the relay."""
        return self.host or f"mx.{self.domain}"

    @property
    def recipients(self) -> dict[str, Wanted | None]:
        """Return each recipient of the one message with what its line must say."""
        return {f"user@{self.domain}": self.wanted, **{f"{k}@{self.domain}": v for k, v in self.others.items()}}


def _retry(category: str, dsn: str | None = None) -> Wanted:
    return Wanted("soft", category, "retry", dsn)


def _hold(category: str, dsn: str | None = None) -> Wanted:
    return Wanted("policy", category, "hold", dsn)


def _hard(category: str, advice: str, dsn: str | None = None) -> Wanted:
    return Wanted("hard", category, advice, dsn)


NETWORK = _retry("network-error")
UNKNOWN = _hard("invalid-recipient", "suppress", "5.1.1")
FULL = _retry("mailbox-full", "4.2.2")
ZEN = "Service unavailable; Client host [192.0.2.1] blocked using zen.spamhaus.org"
GSMTP = "a1-20020a0 - gsmtp"


def _mixed(address: str) -> str:
    return {"user": "550 5.1.1 user unknown", "full": "452 4.2.2 mailbox full"}.get(address.partition("@")[0], "")


BEHAVIOURS = (
    # -- at connect
    Behaviour("refused", None, NETWORK),
    Behaviour("banner-554", Script(banner=f"554 5.7.1 {ZEN}"), _hold("blocklisted"), text="zen.spamhaus.org"),
    Behaviour(
        "banner-421",
        Script(banner="421 4.7.0 [TSS04] Messages from 192.0.2.1 temporarily deferred due to unexpected volume"),
        _hold("poor-reputation"),
        host="mta5.am0.yahoodns.net",
        operator="yahoo",
        text="[TSS04]",
    ),
    Behaviour("banner-drop", Script(banner=DROP), NETWORK),
    Behaviour("banner-slow", Script(banner="!sleep 20 220 late"), NETWORK),
    # -- at EHLO
    Behaviour(
        "ehlo-refused",
        Script(ehlo="550 5.7.1 no reverse DNS for [192.0.2.1]", helo="550 5.7.1 no reverse DNS for [192.0.2.1]"),
        _hold("rdns-missing"),
        text="reverse DNS",
    ),
    Behaviour("ehlo-drop", Script(ehlo=DROP, helo=DROP), NETWORK),
    # -- STARTTLS
    Behaviour("tls-missing", Script(), _retry("tls-failure"), tls=True),
    Behaviour("tls-454", Script(extensions=("STARTTLS",)), _retry("tls-failure"), tls=True),
    Behaviour(
        "tls-broken",
        Script(extensions=("STARTTLS",), starttls="220 2.0.0 go ahead\n502 oops"),
        _retry("tls-failure"),
        tls=True,
    ),
    # -- at MAIL
    Behaviour(
        "mail-sender",
        Script(mail="553 5.1.8 Domain of sender address does not exist"),
        _hard("sender-rejected", "fix", "5.1.8"),
    ),
    Behaviour("mail-full", Script(mail="452 4.3.1 Insufficient system storage"), _retry("system-full", "4.3.1")),
    Behaviour(
        "mail-size",
        Script(mail="552 5.3.4 Message size exceeds fixed limit"),
        _hard("message-too-large", "fix", "5.3.4"),
    ),
    # -- at RCPT
    Behaviour("rcpt-unknown", Script(rcpt="550 5.1.1 <user@x>: Recipient address rejected: User unknown"), UNKNOWN),
    Behaviour(
        "rcpt-grey", Script(rcpt="450 4.2.0 Recipient address rejected: Greylisted"), _retry("greylisted", "4.2.0")
    ),
    Behaviour("rcpt-full", Script(rcpt="452 4.2.2 The email account that you tried to reach is over quota"), FULL),
    Behaviour("rcpt-full-5xx", Script(rcpt="552 5.2.2 Mailbox full"), _retry("mailbox-full", "5.2.2")),
    Behaviour("rcpt-drop", Script(rcpt=DROP), NETWORK),
    Behaviour("rcpt-slow", Script(rcpt="!sleep 20 250 ok"), NETWORK),
    Behaviour(
        "rcpt-421",
        Script(
            rcpt="421 4.7.28 Gmail has detected an unusual rate of unsolicited mail originating from your IP address"
        ),
        _hold("poor-reputation"),
        host="gmail-smtp-in.l.google.com",
        operator="google",
    ),
    Behaviour(
        "rcpt-lines",
        Script(
            rcpt=f"550-5.1.1 The email account that you tried to reach does not exist.\n550-5.1.1 Please try\n550 5.1.1 {GSMTP}"
        ),
        UNKNOWN,
        host="alt1.gmail-smtp-in.l.google.com",
        operator="google",
    ),
    Behaviour(
        "rcpt-relay", Script(rcpt="554 5.7.1 <user@x>: Relay access denied"), _hard("relay-denied", "fix", "5.7.1")
    ),
    Behaviour(
        "rcpt-disabled",
        Script(rcpt="550 5.2.1 The email account that you tried to reach is disabled"),
        _hard("inactive-mailbox", "suppress", "5.2.1"),
    ),
    Behaviour(
        "rcpt-denied",
        Script(
            rcpt="550 5.4.1 Recipient address rejected: Access denied. [AM0EUR02FT034.eop-EUR02.prod.protection.outlook.com]"
        ),
        _hard("invalid-recipient", "suppress", "5.4.1"),
        host="example-com.mail.protection.outlook.com",
        operator="microsoft-365",
    ),
    Behaviour(
        "rcpt-resolver",
        Script(rcpt=f"554 5.7.1 {ZEN}; Error: open resolver; https://check.spamhaus.org/returnc/pub/192.0.2.1"),
        _retry("system-error", "5.7.1"),
    ),
    Behaviour(
        "rcpt-null-mx",
        Script(rcpt="556 5.1.10 Recipient address has null MX"),
        _hard("invalid-domain", "suppress", "5.1.10"),
    ),
    Behaviour(
        "rcpt-bare",
        Script(rcpt="550 no such user here"),
        _hard("invalid-recipient", "suppress"),
        text="550 no such user here",
    ),
    Behaviour(
        "rcpt-forged",
        Script(rcpt="550 5.1.1 to=<victim@other.test>, relay=none, dsn=2.0.0, status=sent (250 user unknown)"),
        _hard("invalid-recipient", "suppress", "5.1.1"),
    ),
    Behaviour(
        "mixed",
        Script(rcpt=_mixed),
        UNKNOWN,
        others={"full": FULL, "ok": None},
    ),
    # -- at DATA
    Behaviour("data-451", Script(data="451 4.3.0 Error: queue file write error"), _retry("system-error", "4.3.0")),
    Behaviour("data-503", Script(data="503 5.5.1 Bad sequence of commands"), _hard("protocol-error", "fix", "5.5.1")),
    # -- at the end of data
    Behaviour(
        "eod-auth",
        Script(eod=f"550-5.7.26 This mail has been blocked because the sender is unauthenticated.\n550 5.7.26 {GSMTP}"),
        _hold("auth-failure", "5.7.26"),
        host="alt2.gmail-smtp-in.l.google.com",
        operator="google",
    ),
    Behaviour("eod-spam", Script(eod="554 5.7.1 Spam message rejected"), Wanted("policy", "spam-content", "fix")),
    Behaviour(
        "eod-virus",
        Script(eod="554 5.7.1 Message contains a virus: Eicar-Test-Signature"),
        Wanted("policy", "virus", "fix"),
    ),
    Behaviour("eod-drop", Script(eod=DROP), NETWORK),
    Behaviour("eod-slow", Script(eod="!sleep 20 250 ok"), NETWORK),
    Behaviour(
        "eod-disagree",
        Script(
            eod="421 5.7.32 Your email has been rate limited because the From: header (RFC5322) in this message isn't "
            "aligned with either the authenticated SPF or DKIM organizational domain."
        ),
        _hold("auth-failure"),
        host="alt3.gmail-smtp-in.l.google.com",
        operator="google",
    ),
    Behaviour("eod-loop", Script(eod="554 5.4.6 Too many hops"), _hard("routing-loop", "fix", "5.4.6")),
)
