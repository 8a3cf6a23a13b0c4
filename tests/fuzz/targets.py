"""The table of targets: what is fed, what it starts from, how long an input may be.

An input may raise nothing: what a parser declares (`ProtocolError`, `ConfigError`,
`RulesError`) is caught in the target, everything else is a find.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from tests.conftest import ROOT
from tests.dialog import dialogs, read_dialog

from . import reading, wires


@dataclass(frozen=True)
class Target:
    """One parser or protocol core."""

    feed: Callable[[bytes], None]
    seeds: Callable[[], list[bytes]]
    longest: int = 4096
    words: tuple[str, ...] = ()
    """What the fuzzer puts in, besides what it learns by itself."""


MAIL_WORDS = (
    "\nFinal-Recipient: rfc822; ", "\nOriginal-Recipient: ", "\nAction: failed", "\nAction: delayed", "\nStatus: 5.1.1", "\nDiagnostic-Code: smtp; ",
    "\nRemote-MTA: dns; ", "\nReporting-MTA: dns; ", "\nContent-Type: ", "multipart/report; boundary=", "message/delivery-status", "message/rfc822",
    "message/feedback-report", "text/html", "\nContent-Transfer-Encoding: ", "base64", "quoted-printable", "charset=", "=?utf-8?B?", "?=", "\n--", "--\n",
    "\n\n", "\r\n", "\nSubject: ", "\nFrom: MAILER-DAEMON", "\nX-Failed-Recipients: ", "<a@b.example>:", "550 5.1.1 ", "550-", ">>> RCPT TO:", "<<< ",
    "said: ", '"notificationType"', "Feedback-Type: abuse", "----- Original message", "\nAuto-Submitted: ",
)  # fmt: skip
LOG_WORDS = (
    "to=<", ">, ", "orig_to=<", "relay=", "relay=none", "delay=", "delays=", "dsn=", "status=bounced", "status=deferred", "status=sent", "status=expired",
    "from=<", "message-id=<", "removed", "postfix/smtp[", "postfix/qmgr[", "sm-mta[", "stat=", "reply=", "mailer=", "ctladdr=", "said: ", "refused to talk to me",
    "(in reply to RCPT TO command)", "host ", "delivery temporarily suspended: ", "Nov 20 10:00:01 ", "2026-11-20T10:00:01+01:00 ",
)  # fmt: skip
TOML_WORDS = (
    "[[rule]]\n", "[[blocklist]]\n", "[[time]]\n", "[operator]\n", "id = ", "category = ", "text = ", "unless = ", "reply = ", "status = ", "command = ",
    "source = ", "examples = ", "zone = ", "lists = ", "codes = ", "bits = ", "class = ", "advice = ", "scope = ", '"5xx"', '"x.7.1"', "(?P<n>[0-9]+)", "= [",
)  # fmt: skip


def _said(pattern: str) -> Callable[[], list[bytes]]:
    """Return what clients say in the dialogue files."""
    return lambda: [b"".join(turn.said for turn in read_dialog(path).turns) for path in dialogs(pattern)]


def _milter_seeds() -> list[bytes]:
    made = []
    for path in sorted((ROOT / "tests" / "dialogs" / "milter").glob("*.txt")):
        lines = re.findall(r"(?m)^(mail|rcpt|header|eoh|body) ?(.*?)(?: -> .*)?$", path.read_text(encoding="utf-8"))
        made.append("\n".join(verb[0] + rest for verb, rest in lines).encode())
    return made


TARGETS = {
    "report": Target(reading.mail_report, reading.mail_seeds, 16_384, MAIL_WORDS),
    "reply": Target(reading.smtp_reply, reading.reply_seeds),
    "log": Target(reading.log_lines, reading.log_seeds, words=LOG_WORDS),
    "filter": Target(reading.filter_question, reading.filter_seeds),
    "classify": Target(reading.classified, reading.status_seeds, 2500),
    "rules": Target(reading.rule_text, reading.rule_seeds, words=TOML_WORDS),
    "config": Target(reading.settings_text, reading.settings_seeds, 8192),
    "socketmap": Target(wires.socketmap_wire, _said("socketmap-*.txt"), 2048),
    "memcache": Target(wires.memcache_wire, _said("memcache-*.txt"), 2048),
    "policy": Target(wires.policy_wire, _said("policy-*.txt"), 2048),
    "dns": Target(wires.dns_answer, wires.dns_seeds, 1232),
    "token": Target(wires.token_value, wires.token_seeds, 1200),
    "milter": Target(wires.milter_message, _milter_seeds, 2048),
}
