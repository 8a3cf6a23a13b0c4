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
    "report": Target(reading.mail_report, reading.mail_seeds, 16_384),
    "reply": Target(reading.smtp_reply, reading.reply_seeds),
    "log": Target(reading.log_lines, reading.log_seeds),
    "filter": Target(reading.filter_question, reading.filter_seeds),
    "classify": Target(reading.classified, reading.status_seeds, 2500),
    "rules": Target(reading.rule_text, reading.rule_seeds),
    "config": Target(reading.settings_text, reading.settings_seeds, 8192),
    "socketmap": Target(wires.socketmap_wire, _said("socketmap-*.txt"), 2048),
    "memcache": Target(wires.memcache_wire, _said("memcache-*.txt"), 2048),
    "policy": Target(wires.policy_wire, _said("policy-*.txt"), 2048),
    "dns": Target(wires.dns_answer, wires.dns_seeds, 1232),
    "token": Target(wires.token_value, wires.token_seeds, 1200),
    "milter": Target(wires.milter_message, _milter_seeds, 2048),
}
