"""Targets of what is read: mail, logs, replies, rules and settings, on to the line that we write about them."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from functools import cache

from milter_bounce import config
from milter_bounce.decide import template
from milter_bounce.decide.rule_toml import RulesError
from milter_bounce.decide.ruleset import RuleSet
from milter_bounce.decide.scan import MATCHED_LIMIT
from milter_bounce.delivery import Action, DeliveryStatus, EnhancedStatus, Kind, Source
from milter_bounce.parse import reply, sendmail_cf
from milter_bounce.parse.draft import DIAGNOSTIC_LIMIT
from milter_bounce.parse.log import LogReader
from milter_bounce.parse.logline import Delivery
from milter_bounce.parse.postfix_filter import read_filter_question
from milter_bounce.system.readers import load_readers
from milter_bounce.system.rulefiles import load_rules, status_of
from milter_bounce.verdict import CATEGORIES, Advice, AdviceKind, Outcome, annotation, log_line
from tests.conftest import ROOT

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)


@cache
def rules() -> RuleSet:
    """Return the shipped rules."""
    return load_rules(config.Settings(rules=config.RulesSection(local="/nonexistent")))


def _written(status: DeliveryStatus) -> None:
    """The status is classified, and the line about it is one line without anything that a terminal acts on."""
    verdict = rules().classify(status)
    assert verdict.category in CATEGORIES
    if status.source is not Source.TEXT and status.action in {Action.FAILED, Action.DELAYED}:
        assert verdict.category != "delivered"
    assert len(verdict.matched.encode()) <= MATCHED_LIMIT * 3
    assert verdict.retry_after is None or timedelta(0) <= verdict.retry_after < timedelta(days=3650)
    line = log_line(Outcome(status, verdict, Advice(AdviceKind.RETRY)))
    assert line.isprintable(), line
    assert line.count(", text=") >= 1
    assert re.match(r"[^ ]+(?: [^ ]+)*: to=<[^<> ]*>, ", line), line
    assert annotation(verdict).isprintable()


def _stated(status: DeliveryStatus) -> None:
    """What is not stated is None, and figures are in their range."""
    assert status.recipient != ""
    assert status.diagnostic != ""
    assert status.reply_code is None or 100 <= status.reply_code <= 599
    assert status.at is None or status.at.tzinfo is not None


def mail_report(data: bytes) -> None:
    """A message: some report, its limits kept."""
    report = load_readers().read(data)
    assert report.kind in Kind
    for status in report.statuses[:3]:
        _stated(status)
        assert len(status.diagnostic or "") <= DIAGNOSTIC_LIMIT
        assert "\n" not in (status.diagnostic or "")
        _written(status)


def smtp_reply(data: bytes) -> None:
    """A reply: codes in range, and a second reading of its text says the same."""
    text = data.decode("utf-8", "replace")
    parts = reply.parse_reply(text)
    assert parts.code is None or 100 <= parts.code <= 599
    assert len(parts.text) <= reply.TEXT_LIMIT
    assert reply.parse_reply(parts.text) == parts
    found = reply.codes_in(text)
    assert found.reply is None or 400 <= found.reply <= 599
    start = reply.reply_start(text)
    assert start is None or 0 <= start < len(text)
    masked = template.template_of(text)
    assert "\n" not in masked
    sendmail_cf.read_cf(text)
    sendmail_cf.read_limits(text)


def log_lines(data: bytes) -> None:
    """Lines of a log: the same events at a second reading, and a line about each."""
    lines = data.decode("utf-8", "replace").split("\n")
    events = [event for line in lines for event in LogReader(NOW).feed(line)]
    reader = LogReader(NOW)
    together = [event for line in lines for event in reader.feed(line)]
    assert len(together) >= len(lines) > 0
    assert events
    for event in together:
        if isinstance(event, Delivery):
            _stated(event.status)
            _written(event.status)


def filter_question(data: bytes) -> None:
    """A question of Postfix's status filter."""
    asked = read_filter_question(data.decode("utf-8", "replace"))
    if asked is not None:
        _stated(asked.status)
        _written(asked.status)


_HOSTS = (None, "gmail-smtp-in.l.google.com", "mx.example.net", "example-com.mail.p...ction.outlook.com")


def classified(data: bytes) -> None:
    """A status with any text, codes and host: a verdict, the same at the second time, and an explanation that fits it."""
    head, text = data[:4].ljust(4, b"\0"), data[4:].decode("utf-8", "replace")
    said = status_of(text)
    status = DeliveryStatus(
        "bob@example.net",
        action=list(Action)[head[0] % 5],
        status=said.status or (EnhancedStatus(4 + head[1] % 2, head[1] % 9, head[2]) if head[1] & 64 else None),
        reply_code=said.reply_code or (200 + head[2] + (head[3] & 63) if head[3] & 64 else None),
        diagnostic=said.diagnostic or None,
        remote_mta=_HOSTS[head[3] % 4] if head[3] & 128 else said.remote_mta,
        command=("RCPT", "EOD", "CONNECT", None)[head[0] // 5 % 4],
    )
    verdict = rules().classify(status)
    assert rules().classify(status) == verdict
    _written(status)
    if status.action in {Action.FAILED, Action.DELAYED} and verdict.category != "delivered" and not verdict.gate:
        assert verdict.rule in {row.rule.id for row in rules().explain(status)}


def settings_text(data: bytes) -> None:
    """A configuration: settings, or one line that names the file."""
    said, mode = "fuzz.toml: ", "advise"
    try:
        mode = config.load(data.decode("utf-8", "replace"), "fuzz.toml").mode
    except config.ConfigError as error:
        said = str(error)
    assert said.startswith("fuzz.toml: ")
    assert said.isprintable()
    assert mode in {"advise", "enforce"}


def rule_text(data: bytes) -> None:
    """A local rule file: rules that classify, or one line that names file, rule and reason."""
    said, made = "own.toml: ", None
    try:
        made = RuleSet.load({}, {"own.toml": data.decode("utf-8", "replace")})
    except RulesError as error:
        said = str(error)
    assert said.startswith("own.toml: ")
    assert said.isprintable()
    if made is not None:
        text = "550 5.1.1 <bob@example.net>: user unknown, blocked using bl.example.net; try in 5 minutes"
        assert made.classify(status_of(text)).category in CATEGORIES


# -- seeds ------------------------------------------------------------------------------------------------


def mail_seeds() -> list[bytes]:
    """Return the own mails of tests/corpus."""
    return [path.read_bytes() for path in sorted((ROOT / "tests" / "corpus").glob("*.eml"))]


@cache
def _examples() -> list[str]:
    return [example.text for rule in rules().all_rules() for example in rule.examples]


def reply_seeds() -> list[bytes]:
    """Return the shipped rules' examples."""
    return [text.encode() for text in _examples()]


def status_seeds() -> list[bytes]:
    """Return the shipped rules' examples, with codes and host before them."""
    return [bytes((n % 256, n % 7 * 16, n % 251, n % 13 * 20)) + text.encode() for n, text in enumerate(_examples())]


def filter_seeds() -> list[bytes]:
    """Return the examples as Postfix quotes them."""
    said = "{} host mx.example.net[192.0.2.9] said: {} (in reply to RCPT TO command)"
    return [said.format("4.0.0" if n % 2 else "5.1.1", text).encode() for n, text in enumerate(_examples())]


POSTFIX = (
    "Nov 20 10:00:01 mx postfix/smtp[7]: 4cXyz: to=<bob@example.net>, orig_to=<b@x.example>, relay=mx.example.net[192.0.2.9]:25, "
    "delay=2, delays=1/0/0/1, dsn=5.1.1, status=bounced (host mx.example.net[192.0.2.9] said: {} (in reply to RCPT TO command))\n"
    "Nov 20 10:00:01 mx postfix/qmgr[7]: 4cXyz: from=<a@home.example>, size=1, nrcpt=1 (queue active)\n"
    "2026-11-20T10:00:01.5+01:00 mx postfix/cleanup[7]: 4cXyz: message-id=<1@home.example>\n"
    "Nov 20 10:00:01 mx postfix/qmgr[7]: 4cXyz: from=<a@home.example>, status=expired, returned to sender\n"
    "Nov 20 10:00:01 mx postfix/qmgr[7]: 4cXyz: removed"
)
SENDMAIL = (
    "Nov 20 10:00:01 mx sm-mta[7]: 5AKA01x7000001: from=<a@home.example>, size=1, nrcpts=1, msgid=<1@home.example>, relay=l [127.0.0.1]\n"
    "Nov 20 10:00:01 mx sm-mta[7]: 5AKA01x7000001: to=<bob@example.net>, ctladdr=<a@home.example> (1/1), delay=00:00:01, "
    "mailer=esmtp, pri=1, relay=mx.example.net. [192.0.2.9], dsn=5.1.1, reply={}, stat=User unknown"
)


def log_seeds() -> list[bytes]:
    """Return lines of Postfix and Sendmail with the examples in them."""
    forms = (POSTFIX, SENDMAIL)
    own = [line for path in (ROOT / "tests").glob("corpus/*.log") for line in path.read_bytes().splitlines()]
    return [forms[n % 2].format(text).encode() for n, text in enumerate(_examples()[::5])] + own


def settings_seeds() -> list[bytes]:
    """Return the broken ones, and the sample with every option set."""
    broken = [path.read_bytes() for path in sorted((ROOT / "tests" / "bad_config").glob("*.toml"))]
    return [*broken, re.sub(r"(?m)^#(?=[a-z_]+ = )", "", config.sample()).encode()]


def rule_seeds() -> list[bytes]:
    """Return single rules, lists, operators and phrases of the shipped files."""
    found = []
    for path in sorted((ROOT / "rules").glob("**/*.toml")):
        tables = re.split(r"(?m)^(?=\[\[)", path.read_text(encoding="utf-8"))
        found += [table.encode() for table in tables[:: max(1, len(tables) // 6)]]
    return found
