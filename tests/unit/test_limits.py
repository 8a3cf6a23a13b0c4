"""Every limit of limits.py at its edge, and no limit anywhere else."""

from __future__ import annotations

import ast
import asyncio
import atexit
import contextlib
import json
import re
import shutil
import tempfile
from datetime import UTC, datetime, timedelta
from functools import cache
from types import SimpleNamespace

import pytest

from milter_bounce import limits
from milter_bounce.cli.rules import _templates
from milter_bounce.config import ConfigError, LogSection, from_values
from milter_bounce.decide import answer, release, template, words
from milter_bounce.decide.advise import Limits
from milter_bounce.decide.rule_toml import Rule, RulesError, Tier, TimePhrase
from milter_bounce.decide.ruleset import RuleSet
from milter_bounce.decide.scan import Scan
from milter_bounce.decide.times import Times
from milter_bounce.delivery import DeliveryReport, DeliveryStatus, Kind, Source
from milter_bounce.parse import blocks, draft, dsn, header, mime, reply, sendmail_cf, told
from milter_bounce.parse.families import sendmail, ses
from milter_bounce.parse.log import LogReader
from milter_bounce.parse.logline import Stamps, split_line
from milter_bounce.parse.postfix_log import PostfixReader
from milter_bounce.parse.sendmail_log import SendmailReader
from milter_bounce.protocol import (
    ProtocolError,
    dnsbl,
    dnswire,
    mailhost,
    memcache,
    milter,
    policy,
    socketmap,
    token,
    verp,
)
from milter_bounce.protocol.genuine import Arrival
from milter_bounce.system import dnslists, keys, rulefiles, serve, settings, sqlite_rows
from milter_bounce.system.advising import make_adviser, make_store
from milter_bounce.system.desk import Desk
from milter_bounce.system.dnsd import Dnsd
from milter_bounce.system.learner import Learner
from milter_bounce.system.logtally import Counting
from milter_bounce.system.maillog import MailLog
from milter_bounce.system.readers import ReportRules, load_readers
from milter_bounce.system.sqlite_gate import Gate
from milter_bounce.system.sqlite_store import SqliteStore
from milter_bounce.system.store import Due
from milter_bounce.system.store_dns import Named
from milter_bounce.verdict import AdviceKind, Classification, Episode, FailureClass, Outcome, Scope, printable
from tests.conftest import ROOT

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
KEY = token.Key("k1", b"k" * 32)


def accepted(size: int, take) -> int:
    """Return `size` where it is taken, 0 where it is refused."""
    try:
        return size if take() else 0
    except (ProtocolError, ConfigError, RulesError):
        return 0


# -- what is kept of an input of so many bytes, characters, fields, lines ... -------------------------------


def multipart(parts: int) -> bytes:
    return b"Content-Type: multipart/mixed; boundary=a\n\n" + b"--a\n\nx\n" * (parts - 1) + b"--a--\n"


def report(recipients: int) -> bytes:
    each = b"Final-Recipient: rfc822; u%d@example.net\nAction: failed\nStatus: 5.1.1\n\n"
    return (
        b"Content-Type: multipart/report; report-type=delivery-status; boundary=a\nReturn-Path: <>\n\n--a\n\nx\n"
        b"--a\nContent-Type: message/delivery-status\n\n" + b"".join(each % n for n in range(recipients)) + b"--a--\n"
    )


def statuses(message: bytes) -> int:
    return len(load_readers().read(message).statuses)


def header_bytes(size: int) -> int:
    block = b"a: " + b"x" * (size - 5) + b"\n\n"
    return mime.header_at(block + b"body", 0)[1]


def message_headers(size: int) -> int:
    message = milter.Message(1 << 22)
    message.header("a", b"x" * (size - 5))
    return size if message.headers else 0


def envelope(count: int) -> int:
    message = milter.Message(1 << 20)
    for _ in range(count):
        message.rcpt(b"a")
    return len(message.recipients)


def message_bytes(size: int) -> int:
    read = mime.read_message(b"Subject: x\n\n" + b"y" * (size - 12))
    return limits.MESSAGE_BYTES if "cut-at-size-limit" in read.defects else size


def depth(count: int) -> int:
    return mime.read_message(b"Content-Type: message/rfc822\n\n" * count + b"Subject: x\n\nx").parts[-1].depth


def part_bytes(size: int) -> int:
    return len(mime.read_message(b"Content-Type: text/plain\n\n" + b"y" * size).parts[0].text())


def delimiters(count: int) -> int:
    lines = b"--x\n" * (count - 1)
    read = mime.read_message(b"Content-Type: multipart/mixed; boundary=a\n\n" + lines + b"--a\n\nfound\n--a--\n")
    return count if any(part.text().startswith("found") for part in read.parts) else 0


def status_lines(count: int) -> int:
    found = dsn.read_status("-\n" * (count - 1) + "Final-Recipient: rfc822; u@b.example").recipients
    return count if found else 0


def address(size: int) -> int:
    pattern = verp.compile_pattern("b+{user}={domain}@l.example")
    domain = "x" * (size - len("b+" + "u" * 64 + "=@l.example"))
    return accepted(size, lambda: verp.decode(f"b+{'u' * 64}={domain}@l.example", [pattern]))


def matched(size: int) -> int:
    rule = Rule("r", "f", Tier.TEXT, "undetermined", text=("a+",))
    return len(Scan([rule]).matched(0, b"a" * size))


def stated(seconds: int) -> int:
    phrase = TimePhrase("t", "f", r"in (?P<n>[0-9]+) (?P<unit>seconds)", "x, 2026", ())
    wait = Times([phrase], {"seconds": 1}).stated(0, b"try in %d seconds" % seconds)
    return 0 if wait is None else int(wait.total_seconds())


def answered(size: int) -> int:
    text = answer._answer("4.2.2", "x" * size).text
    return len(text.removeprefix("milter-bounce: "))


def log_line(size: int) -> int:
    line = "Nov 20 10:00:00 mx a[1]: "
    return len(line) + len(split_line(line + "x" * (size - len(line)), Stamps(NOW)).text)


def cut_line(size: int) -> int:
    """Return the characters of a line without its end that may still convict a recipient."""
    text = "4cXyz12345: to=<a@b.example>, relay=mx[192.0.2.1]:25, delay=3, delays=0/0/0/3, dsn=5.1.1, status=bounced (host mx[192.0.2.1] said: 550 5.1.1 "
    head = "Nov 20 10:00:00 mx postfix/smtp[1]: "
    (found,) = LogReader(NOW).feed(head + text + "x" * (size - len(text)))
    return 0 if found.status.local else size


def written(size: int, folder) -> int:
    log = MailLog(LogSection(output="file", output_file=str(folder / "log")), "x")
    assert log.line("x" * size)
    assert log.close()
    return len((folder / "log").read_text().rpartition("]: ")[2].rstrip("\n"))


def question(size: int) -> int:
    return accepted(size, lambda: list(socketmap.Connection().receive(b"%d:%b," % (size, b"x" * size))))


def socketmap_answer(size: int) -> int:
    return len(socketmap.send_ok("x" * (size - 3)).partition(b":")[2]) - 1


def memcache_key(size: int) -> int:
    events = list(memcache.Connection().receive(b"get %b\r\n" % (b"k" * size)))
    return len(events[0].keys[0]) if events[0].keys else 0


def memcache_line(size: int) -> int:
    return accepted(size, lambda: list(memcache.Connection().receive(b"x" * size + b"\n")))


def memcache_value(size: int) -> int:
    return int(memcache.send([("k", "x" * size)]).split(b"\r\n")[0].split()[-1])


def policy_request(size: int) -> int:
    return accepted(size, lambda: list(policy.Connection().receive(b"a=" + b"x" * (size - 2) + b"\n\n")))


def dns_records(count: int) -> int:
    asked = dnswire.encode_question("example.net", "A")
    record = b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4\x7f\0\0\2"
    wire = b"\0\1\x81\x80\0\1" + count.to_bytes(2, "big") + b"\0\0\0\0" + asked + record * count
    reply_ = dnswire.read_plain(wire, asked)
    return 0 if reply_ is None else len(reply_.values)


def dns_name(size: int) -> int:
    # labels of 49 bytes with their length are 50 on the wire; the root is one more
    left = size - 1 - 200
    name = ".".join(["x" * 49] * 4 + ["y" * (left - 1)])
    return accepted(size, lambda: dnswire.encode_question(name, "A"))


def token_recipients(count: int) -> int:
    covered = token.mint(KEY, 1, "a@b", "id", [f"u{n}@example.net" for n in range(count)]).partition("r=")[2]
    return len(covered.split(",")) if count == 1 or "," in covered else 0


def token_value(size: int) -> int:
    value = token.mint(KEY, 1, "a@b", "id", ["u@example.net"])
    padded = value.replace("; d=", "; " + " " * (size - len(value)) + "d=")
    known = {"today": 1, "max_age": 1, "senders": ["a@b"], "message_id": "id", "recipients": ["u@example.net"]}
    return size if token.check(padded, token.Keyring([KEY]), **known).genuine else 0


def keys_read(count: int, folder) -> int:
    for number in range(count):
        path = folder / f"k{number:03d}.key"
        path.touch(0o400)
        path.chmod(0o600)
        path.write_text(f"v1 1 {'ab' * 32}\n")
    return len(keys.read_keyring(folder)[0].keys)


def settings_bytes(size: int, folder) -> int:
    path = folder / "x.toml"
    path.write_bytes(b"#" * size)
    return accepted(size, lambda: settings.load_settings(path))


def rule_bytes(size: int, folder) -> int:
    (folder / "x.toml").write_bytes(b"#" * size)
    return accepted(size, lambda: rulefiles.local_values(folder))


def rule_files(count: int, folder) -> int:
    for number in range(count):
        (folder / f"{number}.toml").touch()
    return len(rulefiles.local_values(folder))


def list_keys(size: int, folder) -> int:
    path = folder / "keys"
    path.touch(0o600)
    path.write_text("z.example " + "k" * (size - 10))
    return 10 + len(next(iter(dnslists.read_keys(str(path)).values())))


def hosts(count: int) -> int:
    rules = RuleSet([])
    for number in range(count):
        rules.operator_of(f"mx{number}.example.net")
    return len(rules._hosts)


def decisions(count: int) -> int:
    rules = RuleSet([])
    for number in range(count):
        rules.classify(DeliveryStatus(None, reply_code=400 + number % 200, diagnostic="a" * (number // 200 + 1)))
    return len(rules._decisions)


def decision_words(size: int) -> int:
    rules = RuleSet([])
    rules.classify(DeliveryStatus(None, diagnostic="a" * size))
    return size if rules._decisions else 0


def codes(count: int) -> int:
    scan = Scan([Rule("r", "f", Tier.TEXT, "undetermined", reply=frozenset({550}))])
    for number in range(count):
        scan.bare((number, None, None))
    return len(scan._bare_known)


def stored(size: int) -> int:
    kept = sqlite_rows.folded("x" * size)
    return len(kept) if "#" not in kept else 0


def episode_text(size: int) -> int:
    gone = Episode(NOW, NOW, 1, text="x" * size)
    return len(sqlite_rows.episode_of(sqlite_rows.episode_row(gone)).text)


def cf(size: int) -> int:
    option = "\nO QueueTimeout=5d"
    found = sendmail_cf.read_cf("#" * (size - len(option)) + option).options
    return size if found.get("QueueTimeout") == "5d" else 0


def blocks_followed(count: int) -> int:
    probes = release.Probes(timedelta(hours=1))
    for number in range(count):
        probes.note(str(number), "a@example.net", NOW)
    return len(probes._claims)


READERS = load_readers().readers


def words_lines(count: int) -> int:
    return count if blocks.read_blocks("-\n" * (count - 1) + "<u@example.net>: 550 5.1.1 no", READERS, ()) else 0


def words_line(size: int) -> int:
    address_ = "u@" + "x." * 20 + "example.net"
    found = blocks.read_blocks("no:" + " " * (size - len(address_) - 3) + address_, READERS, ())
    return size if found and found[0].recipient == address_ else 0


def words_sentences(size: int) -> int:
    """Return `size` where a recipient that ends there is read whole."""
    named = "could not be delivered to u@example.net"
    found = blocks.read_blocks("\n" * (size - len(named)) + named, READERS, ())
    return size if found and found[0].recipient == "u@example.net" else 0


def words_recipients(count: int) -> int:
    return len(blocks.read_blocks("".join(f"<u{n}@example.net>: no\n" for n in range(count)), READERS, ()))


def json_notification(count: int, padding: int = 0) -> bytes:
    who = [{"emailAddress": f"u{n}@example.net"} for n in range(count)]
    value = {
        "notificationType": "Complaint",
        "complaint": {"complainedRecipients": who},
        "mail": {},
        "x": "y" * padding,
    }
    return json.dumps(value)


def json_recipients(count: int) -> int:
    return len(ses.read_notification(json_notification(count)).statuses)


def json_characters(size: int) -> int:
    text = json_notification(1, size - len(json_notification(1)))
    return len(text) if ses.read_notification(text) is not None else 0


def complaint(count: int) -> int:
    who = b"".join(b"Original-Rcpt-To: u%d@example.net\n" % n for n in range(count))
    return statuses(
        b"Content-Type: multipart/report; report-type=feedback-report; boundary=a\n\n--a\n\nx\n--a\n"
        b"Content-Type: message/feedback-report\n\nFeedback-Type: abuse\nUser-Agent: x/1\nVersion: 1\n"
        + who
        + b"\n--a--\n"
    )


def transcript(count: int) -> int:
    said = ">>> RCPT To:<u@example.net>\n<<< 550 5.1.1 no\n550 5.1.1 <u@example.net>... User unknown"
    return count if sendmail.transcribed("-\n" * (count - 3) + said, READERS) else 0


def status_recipients(count: int) -> int:
    return len(
        dsn.read_status(
            "".join(f"Final-Recipient: rfc822; u{n}@b.example\nStatus: 5.1.1\n\n" for n in range(count))
        ).recipients
    )


def told_reason(size: int) -> int:
    return len(told.reason_in("x" * size, READERS))


def postfix_messages(count: int) -> int:
    memo = {}
    for number in range(count):
        PostfixReader._remember(memo, str(number), "a")
    return len(memo)


def sendmail_messages(count: int) -> int:
    reader = SendmailReader()
    for number in range(count):
        reader._remember(str(number), "a", None)
    return len(reader._senders)


@cache
def desk() -> Desk:
    """Return what milterd judges reports with; nothing of them is shown genuine, so nothing is stored."""
    folder = tempfile.mkdtemp(prefix="mb-desk-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    values = {
        "user": "",
        "store": {"path": f"{folder}/state.db"},
        "rules": {"local": f"{folder}/rules.d"},
        "token": {"keys": f"{folder}/keys"},
        "log": {"output": "file", "output_file": f"{folder}/log"},
    }
    made = from_values(values, "test")
    return Desk(made, MailLog(made.log, "milterd"), events=False, explain=False)


def judged(count: int) -> int:
    return len(desk().handle(report(count), "4cX", Arrival()).outcomes)


def wordings(count: int) -> int:
    """Return in how many of so many wordings of one report a recipient is found to be unknown; codes alone do not tell."""
    said = [
        DeliveryStatus(f"u{n}@b.example", diagnostic=f"550 user unknown {lettered(n)}", reply_code=550)
        for n in range(count)
    ]
    judge = ReportRules(DeliveryReport(Kind.DSN, tuple(said)), desk().engine.rules)
    found = [judge.classify(status).category for status in [*said, *said]]
    assert found[:count] == found[count:], "a wording once heeded stays so"
    return found[:count].count("invalid-recipient")


def added_fields(count: int) -> int:
    return len(desk().handle(report(count), "4cX", Arrival()).headers)


def lines_waiting(count: int) -> int:
    log = MailLog(LogSection(output="file", output_file="/nonexistent/log"), "x")
    log._output = SimpleNamespace(write=lambda *_: False, close=lambda: None)
    taken = [log.line("x") for _ in range(count)]
    log.close(0)
    return sum(taken)


def held_s(key: str):
    """Return a probe of seconds that a conversation of `serve` may take."""

    def kept(seconds: int) -> int:
        service = serve.Service("x", "", socketmap.Connection, lambda _: b"")
        one = serve._Conversation(service)
        one.begun = 0.0 if key == "request_s" else None
        one.heard = 0.0 if key == "idle_s" else float(seconds)
        return 0 if one.overdue(seconds) else seconds

    return kept


class NoTransport(asyncio.Transport):
    def abort(self) -> None:
        pass


def connections(count: int) -> int:
    service = serve.Service("x", "", socketmap.Connection, lambda _: b"", warn=lambda _: None)
    for _ in range(count):
        serve._Conversation(service).connection_made(NoTransport())
    return len(service.open)


LETTERS = str.maketrans("0123456789", "abcdefghij")


def lettered(number: int) -> str:
    """Return a word of its own for each number, without a digit: digits are left out of templates."""
    return str(number).translate(LETTERS)


def templates(count: int) -> int:
    statuses_ = (DeliveryStatus(None, reply_code=550, diagnostic=lettered(n)) for n in range(count))
    return len(_templates(RuleSet([]), statuses_)[0])


@cache
def counted(count: int) -> dict[str, int]:
    """Return how much is kept of a piece of a log with so many different refusals."""
    text = "".join(
        f"Nov 20 10:00:00 mx postfix/smtp[1]: 4cXyz: to=<u@example.net>, relay=mx[192.0.2.1]:25, delay=1, "
        f"delays=0/0/0/1, dsn=5.0.0, status=bounced (host mx[192.0.2.1] said: 550 {lettered(number)})\n"
        for number in range(count)
    )
    counting = Counting(RuleSet([]), LogReader(NOW))
    refusals = counting.count(text).refusals
    return {"refusals": len(refusals), "templates": len(counting._templates), "verdicts": len(counting._verdicts)}


def operators(count: int) -> int:
    store = SqliteStore("never-opened")
    for number in range(count):
        store.learnt({f"d{number}.example.net": ("yahoo", 1)})
    return len(store._operators)


def blocks_held(count: int, folder) -> int:
    """Return how many single domains are held after each of so many refused us once."""
    made = from_values({"store": {"path": f"{folder}/state.db"}}, "test")
    store, adviser = make_store(made), make_adviser(made)
    listed = Classification(FailureClass.POLICY, "blocklisted", AdviceKind.HOLD, Scope.SENDING_HOST, "r")
    with contextlib.closing(store), store.batch() as batch:
        for number in range(count):
            said = DeliveryStatus(
                f"u@d{number}.example.net", queue_id=f"4c{number}", reply_code=550, at=NOW, source=Source.LOG
            )
            advice = adviser.advise(said, listed, batch.recall(said, listed), NOW)
            batch.record(Outcome(said, listed, advice), NOW)
    return len(store.blocks())


def domains(count: int) -> int:
    learner = Learner("x", None, RuleSet([]), None, None, None, None)
    changes = SimpleNamespace(learn_operator=lambda *_: None)
    for number in range(count):
        learner._learn_operator(changes, f"u@d{number}.example.net", "yahoo", NOW)
    return len(learner._domains)


def flushed(count: int) -> int:
    gate = Gate("never-opened", Limits())
    gate.flushed([Due(str(number), "u@example.net", "b") for number in range(count)], NOW)
    return len(gate._flushed)


def named(count: int, *, learn: bool = True) -> Dnsd:
    """Return a dnsd without addresses of its own, and refusals that name so many."""
    setup = SimpleNamespace(settings=from_values({"dns": {"learn": learn}}, "test"), own=())
    made = Dnsd(setup, None, None, print)
    made._names = [Named("zen.example", f"192.0.2.{number}", NOW, NOW, 2) for number in range(count)]
    return made


def named_on(count: int) -> int:
    return len(named(count)._named_on(dnsbl.Zone("zen.example", "Zen")))


def asked_at_once(count: int) -> int:
    made, wanted = named(count), {}
    made._dns = SimpleNamespace(names=lambda **_: made._names, asked=lambda _: None)
    made._wishes(wanted)
    return len(wanted["zen.example"])


def records(count: int) -> int:
    made = named(count, learn=False)
    made.setup.lists = SimpleNamespace(usable={"zen.example": dnsbl.Zone("zen.example", "Zen")})
    made._dns = SimpleNamespace(forget_listings=lambda _: None)
    made._records = {(name.subject, name.zone): None for name in made._names}
    made._trim()
    return len(made._records)


CUT, REFUSED, CLEARED = "cut", "refused", "cleared"
EDGES = {
    # limit: what is kept of so many, and what becomes of one more
    "MESSAGE_BYTES": (message_bytes, CUT),
    "ENVELOPE_RECIPIENTS": (envelope, CUT),
    "MESSAGE_HEADER_BYTES": (message_headers, REFUSED),
    "HEADER_BYTES": (header_bytes, CUT),
    "HEADER_FIELDS": (lambda n: len(list(header.parse_fields(b"X-A: b\n" * n))), CUT),
    "HEADER_VALUE": (lambda n: len(header.decoded("x" * n)), CUT),
    "MIME_PARTS": (lambda n: len(mime.read_message(multipart(n)).parts) + 1, CUT),
    "MIME_DEPTH": (depth, CUT),
    "MIME_DELIMITERS": (delimiters, REFUSED),
    "PART_BYTES": (part_bytes, CUT),
    "STATUS_LINES": (status_lines, REFUSED),
    "STATUS_RECIPIENTS": (status_recipients, CUT),
    "DIAGNOSTIC": (lambda n: len(draft.finished(draft.Draft(diagnostic="x" * n), None, None, None).diagnostic), CUT),
    "ADDRESS": (address, REFUSED),
    "REPLY": (lambda n: len(reply.parse_reply("x" * n).text), CUT),
    "RULE_WORDS": (lambda n: len(words.words_of("x" * n, None, frozenset())), CUT),
    "MATCHED_BYTES": (matched, CUT),
    "STATED_WAIT": (stated, REFUSED),
    "TEMPLATE": (lambda n: len(template.template_of("!" * n)), CUT),
    "LOG_LINE_CUT": (cut_line, REFUSED),
    "LOGGED_TEXT": (lambda n: len(printable("x" * n)), CUT),
    "ANSWERED_TEXT": (answered, CUT),
    "LOG_LINE": (log_line, CUT),
    "WRITTEN_LINE": (written, CUT),
    "SOCKETMAP_QUESTION_BYTES": (question, REFUSED),
    "SOCKETMAP_ANSWER_BYTES": (socketmap_answer, CUT),
    "MEMCACHE_KEY_BYTES": (memcache_key, REFUSED),
    "MEMCACHE_LINE_BYTES": (memcache_line, REFUSED),
    "MEMCACHE_VALUE_BYTES": (memcache_value, CUT),
    "POLICY_REQUEST_BYTES": (policy_request, REFUSED),
    "DNS_NAME_BYTES": (dns_name, REFUSED),
    "DNS_LABEL_BYTES": (lambda n: accepted(n, lambda: dnswire.encode_question("x" * n, "A")), REFUSED),
    "DNS_RECORDS": (dns_records, REFUSED),
    "DNS_REASON": (lambda n: len(dnsbl.reason_text(dnswire.DnsReply(dnswire.Outcome.ANSWER, ("x" * n,)))), CUT),
    "MX_HOSTS": (lambda n: len(mailhost.mx_hosts(["10 mx.example.net."] * n)), CUT),
    "TOKEN_RECIPIENTS": (token_recipients, REFUSED),
    "TOKEN_VALUE": (token_value, REFUSED),
    "KEYS": (keys_read, CUT),
    "SETTINGS_BYTES": (settings_bytes, REFUSED),
    "RULE_FILE_BYTES": (rule_bytes, REFUSED),
    "RULE_FILES": (rule_files, CUT),
    "LIST_KEYS_BYTES": (list_keys, CUT),
    "SENDMAIL_CF": (cf, REFUSED),
    "CODES_KEPT": (codes, CUT),
    "HOSTS_KEPT": (hosts, CUT),
    "DECISIONS_KEPT": (decisions, CLEARED),
    "DECISION_WORDS": (decision_words, REFUSED),
    "STORED_ADDRESS": (stored, REFUSED),
    "EPISODE_TEXT": (episode_text, CUT),
    "BLOCKS_FOLLOWED": (blocks_followed, CLEARED),
    "WORDS_LINES": (words_lines, REFUSED),
    "WORDS_LINE": (words_line, REFUSED),
    "WORDS_SENTENCES": (words_sentences, REFUSED),
    "WORDS_RECIPIENTS": (words_recipients, CUT),
    "JSON_CHARACTERS": (json_characters, REFUSED),
    "JSON_RECIPIENTS": (json_recipients, CUT),
    "FEEDBACK_RECIPIENTS": (complaint, CUT),
    "TRANSCRIPT_LINES": (transcript, REFUSED),
    "TOLD_REASON": (told_reason, CUT),
    "POSTFIX_MESSAGES": (postfix_messages, CUT),
    "SENDMAIL_MESSAGES": (sendmail_messages, CUT),
    "JUDGED_RECIPIENTS": (judged, CUT),
    "REPORT_WORDINGS": (wordings, CUT),
    "ADDED_FIELDS": (added_fields, CUT),
    "LINES_WAITING": (lines_waiting, CUT),
    "CONNECTIONS": (connections, CUT),
    "REQUEST_S": (held_s("request_s"), REFUSED),
    "IDLE_S": (held_s("idle_s"), REFUSED),
    "TEMPLATES": (templates, CUT),
    "TALLIED_REFUSALS": (lambda n: counted(n)["refusals"], CUT),
    "BLOCKS_HELD": (blocks_held, CUT),
    "OPERATORS_KEPT": (operators, CLEARED),
    "DOMAINS_KEPT": (domains, CLEARED),
    "FLUSHED_KEPT": (flushed, CUT),
    "SUBJECTS_LEARNT": (lambda n: len(named(n).subjects()), CUT),
}
ALSO = [
    # other places that keep one of these limits
    ("TALLIED_REFUSALS", lambda n: counted(n)["templates"], CUT),
    ("TALLIED_REFUSALS", lambda n: counted(n)["verdicts"], CLEARED),
    ("SUBJECTS_LEARNT", named_on, CUT),
    ("SUBJECTS_LEARNT", asked_at_once, CUT),
    ("SUBJECTS_LEARNT", records, CUT),
]
PLACES = [*((name, *edge) for name, edge in EDGES.items()), *ALSO]


@pytest.mark.parametrize(("name", "kept", "above"), PLACES, ids=[place[0] for place in PLACES])
@pytest.mark.parametrize("beside", [-1, 0, 1], ids=["below", "at", "above"])
def test_limit_holds_at_its_edge(name, kept, above, beside, tmp_path):
    """One less and the limit itself come through whole; one more is cut to the limit, refused, or clears a memory."""
    value = getattr(limits, name)
    limit = int(value.total_seconds()) if isinstance(value, timedelta) else value
    folder = [tmp_path] if "folder" in kept.__code__.co_varnames[: kept.__code__.co_argcount] else []
    expected = limit + beside if beside <= 0 else {CUT: limit, REFUSED: 0, CLEARED: 1}[above]
    assert kept(limit + beside, *folder) == expected


ELSEWHERE = {
    # limit: the test that tries it where it is kept, with the store or the files that it needs
    "STORE_ROOM_BYTES": "tests/unit/system/test_wiring.py::test_room_is_warned_of_below_the_limit",
    "MIME_GUESSES": "tests/fuzz/test_report_fuzz.py::test_hostile_mail_is_read_within_bounds",
    "WORDS_CHARACTERS": "tests/fuzz/test_report_fuzz.py::test_hostile_mail_is_read_within_bounds",
    "TOLD_CHARACTERS": "tests/fuzz/test_report_fuzz.py::test_a_long_line_anywhere_costs_no_more_than_its_length",
    "STAMP_AHEAD": "tests/unit/system/test_logd_learner.py::test_time_stamp_ahead_is_not_believed",
    "PIPE_LINE_BYTES": "tests/unit/system/test_logd_files.py::test_line_without_end_is_cut_at_its_limit",
    "LOG_LINE_BYTES": "tests/unit/system/test_logd_tail.py::test_line_without_end_is_cut",
    "ROTATED_FILES": "tests/unit/system/test_logd_tail.py::test_rotations_while_away_are_caught_up",
    "UNPACKED_RATIO": "tests/unit/system/test_logd_files.py::test_bomb_is_refused",
    "UNPACKED_FREE_BYTES": "tests/unit/system/test_logd_files.py::test_bomb_is_refused",
    "XZ_MEMORY_BYTES": "tests/unit/system/test_logd_files.py::test_xz_that_asks_for_too_much_memory_is_refused",
    "CLOCK_AHEAD": "tests/unit/decide/test_clock_jumps.py::test_what_is_remembered_from_a_time_to_come_holds_nobody",
    "LOG_BEHIND": "tests/unit/decide/test_clock_jumps.py::test_block_of_a_time_to_come_is_over",
    "EPISODE_GAP": "tests/unit/decide/test_clock_jumps.py::test_a_failure_long_ago_is_another_episode",
    "SUBJECTS_NAMED": "tests/unit/system/test_dnsd_store.py::test_named_lists_are_limited",
}
ENGINE = {
    "RULE_SET_BYTES": "RE2's own budget, counted by it",
    "RULE_BYTES": "RE2's own budget, counted by it",
    "DNS_PAYLOAD_BYTES": "told to the server, which keeps to it",
    "TEXTS_KEPT": "size of an lru_cache",
    "CLIENTS_KEPT": "size of an lru_cache",
    "PAGE_CACHE_KIB": "SQLite's own count",
    "LEDGER_CACHE_KIB": "SQLite's own count",
    "REPORT_ROWS_WAITING": "size of a deque",
    "NOTICES_RUNNING": "count of a semaphore",
    "POSTQUEUE_S": "timeout of subprocess.run",
    "QUEUE_LISTING_S": "a timer that kills postqueue -j",
    "SENDMAIL_COMMAND_S": "timeout of subprocess.run",
    "POSTCONF_S": "timeout of subprocess.run",
    "QUARANTINE_REASON": "a slice",
    "TALLIED_TEXT": "a slice",
    "IMPORT_LINE": "size given to readline",
    "IMPORT_ARRAY": "size given to read",
    "SHARE_LOOKED_AT": "LIMIT of a query",
    "REFUSALS_READ": "LIMIT of a query",
    "REPORT_ROWS": "bound of a DELETE",
}
"""Kept by a library or the language by the very number: nothing of ours has an edge there."""


def names() -> dict[str, ast.AnnAssign]:
    tree = ast.parse((ROOT / "milter_bounce" / "limits.py").read_text(encoding="utf-8"))
    return {node.target.id: node for node in tree.body if isinstance(node, ast.AnnAssign)}


def test_each_limit_is_accounted_for_once():
    """Every constant of limits.py stands in one of the tables, and each named test exists."""
    tables = [*EDGES, *ELSEWHERE, *ENGINE]
    assert sorted(tables) == sorted(names())
    for place in ELSEWHERE.values():
        path, _, test = place.partition("::")
        assert f"def {test}(" in (ROOT / path).read_text(encoding="utf-8")


def test_each_limit_has_its_reason_and_is_used():
    """A docstring stands below each constant, and some module keeps it."""
    tree = ast.parse((ROOT / "milter_bounce" / "limits.py").read_text(encoding="utf-8"))
    reasons = [
        type(after) is ast.Expr
        for node, after in zip(tree.body, tree.body[1:], strict=False)
        if type(node) is ast.AnnAssign
    ]
    assert all(reasons)
    code = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "milter_bounce").rglob("*.py"))
    assert [name for name in names() if f"limits.{name}" not in code] == []


NO_PROTECTION = {
    "decide/template.py:_PATTERN_LIMIT": "how long a suggested pattern may be: a matter of taste",
    "parse/report.py:ORIGINAL_RECIPIENTS_LIMIT": "how many the returned message may supply: a matter of truth",
    "system/dnswatch.py:SILENT_LIMIT": "when a list counts as silent",
}
_LIMIT_NAME = re.compile(r"_?(?:[A-Z_]*LIMIT[A-Z_]*|MAX_[A-Z_]+|[A-Z_]+_(?:KEPT|CAP|MAX))")


def own_limits(path) -> list[str]:
    """Return the limits that a module states by itself."""
    found = []
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        target = (
            node.target
            if isinstance(node, ast.AnnAssign)
            else node.targets[0]
            if isinstance(node, ast.Assign)
            else None
        )
        if isinstance(target, ast.Name) and _LIMIT_NAME.fullmatch(target.id):
            value = ast.unparse(node.value) if node.value else ""
            if not value.startswith("limits.") and isinstance(
                ast.parse(value, mode="eval").body, ast.Constant | ast.BinOp
            ):
                found.append(f"{path.relative_to(ROOT / 'milter_bounce')}:{target.id}")
    return found


def test_no_module_states_a_limit_of_its_own():
    """What is called a limit comes from limits.py, but for figures that protect nobody."""
    modules = [path for path in (ROOT / "milter_bounce").rglob("*.py") if path.name != "limits.py"]
    assert sorted(name for path in modules for name in own_limits(path)) == sorted(NO_PROTECTION)
