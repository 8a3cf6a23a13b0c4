"""Reader of Postfix's log lines: delivery agents, queue manager, cleanup.

Goes in: `LogLine`s of programs named ``syslog_name/program``, of any number of
instances. Comes out: events of ``parse.logline``. Does not: judge, or believe
what a reply pretends to be: the first ``to=<`` and the first ``status=`` at
Postfix's own places count, whatever stands in the text behind them.

Section: Postfix's own sources. One line per recipient and attempt (log_adhoc.c)::

    QUEUEID: to=<RCPT>, [orig_to=<RCPT>, ]relay=HOST[ADDR]:PORT, [conn_use=N, ...]delay=S, delays=A/B/C/D, dsn=D.S.N,
    status=WORD (TEXT)

Releases before 2.3 have no ``delays`` and ``dsn``. TEXT is ours but for what
follows ``said: `` and the like (smtp_trouble.c, smtp_proto.c, smtp_sasl_glue.c).
"""

from __future__ import annotations

import re
from datetime import timedelta
from typing import TYPE_CHECKING, Final, NamedTuple

from milter_bounce import limits
from milter_bounce.delivery import Action, DeliveryStatus, EnhancedStatus, Source
from milter_bounce.verdict import GATE_MARK

from .logline import Delivery, Expired, Ignored, LogEvent, LogLine, MessageId, Removed
from .reply import parse_reply

if TYPE_CHECKING:
    from datetime import datetime

AGENTS: Final = frozenset(
    {"smtp", "lmtp", "relay", "local", "virtual", "pipe", "error", "retry", "discard", "qmgr", "oqmgr", "nqmgr"}
    | {"cleanup", "postsuper"}
)
"""Programs that tell of deliveries."""

SILENT: Final = frozenset(
    {"smtpd", "anvil", "postscreen", "master", "pickup", "scache", "tlsmgr", "tlsproxy", "bounce", "trivial-rewrite"}
    | {"dnsblog", "verify", "proxymap", "postfix-script", "flush", "showq", "qmqpd", "sendmail", "postlog", "postalias"}
)
"""Programs that never do; what they log is full of clients' own words."""

MEMO_LIMIT: Final = limits.POSTFIX_MESSAGES

_QUEUE_ID: Final = r"([0-9A-Za-z]{5,20})"
# Postfix 3.5 and later quote a local part as RFC 5321 4.1.2 does; older ones, and info_log_address_format = internal,
# do not, so that "<" and ">" may stand in it; what begins with a quote and does not end it was cut there
_ADDRESS: Final = r'("(?:[^"\\]|\\.)*"@[^>]*|(?!")[^>]*(?:>(?!, (?:orig_to|relay|size|status)=)[^>]*)*)'
_DELIVERY: Final = re.compile(
    rf"{_QUEUE_ID}: to=<{_ADDRESS}>, (?:orig_to=<{_ADDRESS}>, )?relay=([^ ]+), (?:(?!delay=)[a-z_]{{2,20}}=[^ ,]{{1,200}}, ){{0,4}}"
    r"delay=([0-9]{1,9}(?:\.[0-9]{1,9})?), (?:delays=[0-9./e+-]+, )?(?:dsn=([245]\.[0-9]{1,3}\.[0-9]{1,3}), )?"
    r"status=([A-Za-z-]{1,20})(?: \((.*))?$",
    re.DOTALL,
)
_FROM: Final = re.compile(
    rf"{_QUEUE_ID}: from=<{_ADDRESS}>, (?:size=[0-9]+, nrcpt=|status=([a-z-]*expired), returned to sender$)", re.DOTALL
)
_REMOVED: Final = re.compile(rf"{_QUEUE_ID}: removed$")
_MESSAGE_ID: Final = re.compile(rf"{_QUEUE_ID}: (?:resent-)?message-id=(.*)", re.DOTALL)
_RELAY: Final = re.compile(r"([^\[\]]*)\[([^\[\]]*)\](?::([0-9]{1,5}))?")
# what a recipient with a forged tail, or a reply that quotes a log line, leaves behind in the text
_SECOND_LINE: Final = re.compile(r">, (?:orig_to=<[^>]*>, )?relay=[^ ]+, (?:conn_use=[0-9]+, )?delay=[0-9.]+, ")

_HOST: Final = r"([^ \[\]]+)\[([^\[\]]*)\](?::([0-9]{1,5}))?"
_SAID: Final = re.compile(rf"host {_HOST} (said|refused to talk to me): ")
_SERVER_SAID: Final = re.compile(
    rf"(?:SASL authentication failed; server {_HOST} said"
    rf"|TLS is required, but host {_HOST} refused to start TLS): "
)
_LOST: Final = re.compile(rf"(?:lost connection with|conversation with) {_HOST} (?:timed out )?while (.*)", re.DOTALL)
_CONNECT: Final = re.compile(rf"connect to {_HOST}: ")
_NAMED_HOST: Final = re.compile(rf"(?:host|server|by host|was not offered by host) {_HOST}(?=[ :]|$)")
_IN_REPLY: Final = " (in reply to "
_SUSPENDED: Final = "delivery temporarily suspended: "
# what our status filter puts in front of a text (DESIGN.md section 2); a remote's own words never stand first
_ANNOTATION: Final = re.compile(r"\[class=[a-z-]{1,20}(?: [a-z_]{1,20}=[^\[\]\s]{0,200}){0,8}\] ?")
_BEFORE: Final = re.compile(r" was=([245]\.[0-9]{1,3}\.[0-9]{1,3})\]")
_UNIX: Final = re.compile(r"Command (?:died|output|time limit)|\bCommand output: |unknown mailer error")

_COMMANDS: Final = (
    ("end of data", "EOD"),
    ('final "."', "EOD"),
    ("message body", "EOD"),
    ("message content", "EOD"),
    ("MAIL", "MAIL"),
    ("RCPT", "RCPT"),
    ("end of DATA", "EOD"),
    ("DATA", "DATA"),
    ("EHLO", "EHLO"),
    ("LHLO", "EHLO"),
    ("HELO", "HELO"),
    ("STARTTLS", "STARTTLS"),
    ("TLS", "STARTTLS"),
    ("AUTH", "AUTH"),
    ("greeting", "CONNECT"),
    ("initial protocol handshake", "CONNECT"),
)
"""Words of Postfix's ``in reply to`` and ``while`` phrases -> the command; the first that occurs."""

_ACTIONS: Final = {
    "sent": Action.DELIVERED,
    "deliverable": Action.DELIVERED,
    "deferred": Action.DELAYED,
    "SOFTBOUNCE": Action.DELAYED,
}
_PROBES: Final = frozenset({"deliverable", "undeliverable"})
_NOTHING: Final[list[LogEvent]] = [Ignored()]


class Words(NamedTuple):
    """What the text of one failed attempt says: who spoke, about which command, and the words alone."""

    diagnostic: str
    command: str | None = None
    remote: bool = False
    name: str | None = None
    address: str | None = None
    port: str | None = None


def _command(phrase: str) -> str | None:
    return next((name for word, name in _COMMANDS if word in phrase), None)


def _reply_in(text: str) -> tuple[str, str | None]:
    """Return the remote's words and the command, taking ``(in reply to ... command)`` off the end, even a cut one."""
    said, mark, phrase = text.rpartition(_IN_REPLY)
    # the remote's own words may hold the mark too: only the last one can be Postfix's, and nothing follows it
    if mark and re.fullmatch(r"[A-Za-z ]{0,40}\)?", phrase):
        return said, _command(phrase)
    return text, None


def read_words(text: str) -> Words:
    """Return who says what in the text of a delivery that failed.

    Raises: nothing, on any text.
    """
    if found := _SAID.match(text):
        name, address, port, verb = found.groups()
        said, command = _reply_in(text[found.end() :])
        return Words(said, command or ("CONNECT" if verb[0] == "r" else None), True, name, address, port)
    if found := _SERVER_SAID.match(text):
        first, sasl = found.groups(), found[1] is not None
        name, address, port = first[:3] if sasl else first[3:]
        return Words(text[found.end() :], "AUTH" if sasl else "STARTTLS", True, name, address, port)
    if found := _LOST.match(text):
        return Words(text, _command(found[4]), False, *found.groups()[:3])
    if found := _CONNECT.match(text):
        return Words(text, "CONNECT", False, *found.groups())
    command = "STARTTLS" if text.startswith(("TLS ", "Cannot start TLS", "Server certificate")) else None
    named = _NAMED_HOST.search(text, 0, 300)
    return Words(text, command, False, *(named.groups() if named else ()))


def _status_of(logged: str | None, words: Words, *, corrected: bool) -> tuple[EnhancedStatus | None, int | None, bool]:
    """Return enhanced status, reply code, and whether the reply contradicts itself.

    The log's ``dsn=`` counts but where Postfix made it up (x.0.0) or our own
    filter corrected it, and the reply states one.
    """
    status = EnhancedStatus.from_text(logged) if logged else None
    if not words.remote:
        return status, None, False
    reply = parse_reply(words.diagnostic)
    if reply.status and (status is None or corrected or (status.subject, status.detail) == (0, 0)):
        status = reply.status
    return status, reply.code, bool(reply.status and reply.code and reply.code // 100 != reply.status.class_)


def _port(text: str | None) -> int | None:
    return int(text) if text and int(text) < 65536 else None


class PostfixReader:
    """Reader of Postfix's lines; remembers who sent which queue ID."""

    def __init__(self) -> None:
        self.senders: dict[str, str] = {}
        """Queue ID -> envelope sender."""

        self._message_ids: dict[str, str] = {}

    def read(self, line: LogLine) -> list[LogEvent]:
        """Return what `line` tells; one `Ignored` where it tells nothing."""
        text = line.text
        if found := _DELIVERY.match(text):
            # a "host" of this form is another program's tag, and all this is what it quotes
            if (line.host and line.host[-1] == ":") or _is_forged_success(found, text):
                return _NOTHING
            return [self._delivery(line, found)]
        program = line.tag.rpartition("/")[2]
        if program == "cleanup":
            return self._message_id(text)
        if program in {"qmgr", "oqmgr", "nqmgr", "postsuper"}:
            return self._queue(line)
        return _NOTHING

    def _message_id(self, text: str) -> list[LogEvent]:
        found = _MESSAGE_ID.match(text)
        if not found:
            return _NOTHING
        queue_id, value = found[1], found[2].strip()
        value = value[1:-1] if value[:1] == "<" and value[-1:] == ">" else value
        if not value:
            return _NOTHING
        self._remember(self._message_ids, queue_id, value[:998])  # RFC 5322, 2.1.1: the longest line
        return [MessageId(queue_id, value[:998])]

    def _queue(self, line: LogLine) -> list[LogEvent]:
        if (found := _FROM.match(line.text)) and len(line.text) <= limits.LOG_LINE_CUT:
            queue_id, sender = found[1], found[2] or "<>"
            if found[3]:
                return [Expired(queue_id, sender, line.at)]
            self._remember(self.senders, queue_id, sender)
            return _NOTHING
        if found := _REMOVED.match(line.text):
            self.senders.pop(found[1], None)
            self._message_ids.pop(found[1], None)
            return [Removed(found[1], line.at)]
        return _NOTHING

    @staticmethod
    def _remember(memo: dict[str, str], queue_id: str, value: str) -> None:
        if len(memo) >= MEMO_LIMIT:
            del memo[next(iter(memo))]
        memo[queue_id] = value

    def _delivery(self, line: LogLine, found: re.Match[str]) -> Delivery:
        queue_id, recipient, original, relay, delay, dsn, word, tail = found.groups()
        text, whole = (tail[:-1], True) if tail and tail[-1] == ")" else (tail or "", not tail)
        if word in {"sent", "deliverable"}:
            return self._sent(line, found, text)
        annotation, text = _own_annotation(text)
        suspended = text.startswith(_SUSPENDED)
        text = text.removeprefix(_SUSPENDED)
        words = read_words(text)
        before = _BEFORE.search(annotation) if annotation else None
        status, code, contradicts = _status_of(before[1] if before else dsn, words, corrected=annotation is not None)
        # a line that holds a second one, or was cut where one may have stood, may name a wrong recipient: it convicts nobody
        cut = not whole and len(line.text) > limits.LOG_LINE_CUT
        twice = cut or (", relay=" in text and _SECOND_LINE.search(text) is not None)
        flags = (not whole, "cut-line"), (contradicts, "status-contradicts-reply"), (twice, "ambiguous-line")
        host = _RELAY.fullmatch(relay)
        name, address, port = host.groups() if host else (words.name, words.address, words.port)
        socket_path = bool(address and "/" in address)
        unix = not words.remote and _UNIX.search(text) is not None
        return Delivery(
            DeliveryStatus(
                recipient=recipient or None,
                action=_ACTIONS.get(word, Action.FAILED),
                original_recipient=original,
                status=status,
                reply_code=code,
                diagnostic=words.diagnostic or None,
                diagnostic_type="smtp" if words.remote else "x-unix" if unix else "x-postfix",
                remote_mta=name or None,
                remote_ip=None if socket_path else _bare(address),
                remote_port=_port(port),
                command=words.command,
                sender=self.senders.get(queue_id),
                queue_id=queue_id,
                message_id=self._message_ids.get(queue_id),
                arrival_date=_before(line.at, delay),
                last_attempt=line.at,
                at=line.at,
                source=Source.LOG,
                local=not words.remote or socket_path or twice or suspended,
                defects=tuple(defect for holds, defect in flags if holds),
            ),
            word,
            ours=text.startswith(GATE_MARK) and relay == "none",
            suspended=suspended,
            probe=word in _PROBES,
            annotation=annotation,
        )

    def _sent(self, line: LogLine, found: re.Match[str], text: str) -> Delivery:
        """Return a success: most of every log, so nothing is looked at that nobody asks for."""
        queue_id, recipient, original, relay, _, dsn, word, _ = found.groups()
        host = _RELAY.fullmatch(relay)
        name, address, port = host.groups() if host else (None, None, None)
        remote = host is not None and text[:1] == "2" and text[:3].isdecimal() and text[:3].isascii()
        return Delivery(
            DeliveryStatus(
                recipient=recipient or None,
                action=Action.DELIVERED,
                original_recipient=original,
                status=EnhancedStatus.from_text(dsn) if dsn else None,
                reply_code=int(text[:3]) if remote else None,
                diagnostic=text or None,
                diagnostic_type="smtp" if remote else "x-postfix",
                remote_mta=name or None,
                remote_ip=None if address and "/" in address else _bare(address),
                remote_port=_port(port),
                sender=self.senders.get(queue_id),
                queue_id=queue_id,
                message_id=self._message_ids.get(queue_id),
                last_attempt=line.at,
                at=line.at,
                source=Source.LOG,
                local=not remote,
            ),
            word,
            probe=word in _PROBES,
        )


def _is_forged_success(found: re.Match[str], text: str) -> bool:
    """Return whether a success stands in an address: a second line behind it, or cut where one may have stood."""
    if found[7] not in {"sent", "deliverable"} or found[8] is None:
        return False
    cut = len(text) > limits.LOG_LINE_CUT and found[8][-1:] != ")"
    return cut or (", relay=" in found[8] and _SECOND_LINE.search(found[8]) is not None)


def _own_annotation(text: str) -> tuple[str | None, str]:
    """Return what our status filter had put in front, and the text as it was before."""
    found = _ANNOTATION.match(text)
    return (found[0].rstrip(), text[found.end() :]) if found else (None, text)


def _bare(address: str | None) -> str | None:
    """Return an address without Postfix's ``IPv6:`` prefix."""
    return address.removeprefix("IPv6:") or None if address else None


def _before(at: datetime | None, delay: str) -> datetime | None:
    """Return when the message came in; None where the line has no time or the delay is longer than the calendar."""
    try:
        return None if at is None else at - timedelta(seconds=float(delay))
    except OverflowError:
        return None
