"""Reader of Sendmail's log lines, 8.12 to 8.18.

Goes in: `LogLine` by `LogLine`, in their order. Comes out: events: a
`Delivery` per recipient and attempt, `Expired`, `MessageId`, `Removed`.
Does not: judge, nor believe ``stat=``.

The delivery line, as deliver.c (logdelivery) writes it; the fields never
change their order, those in brackets may be missing::

    QID: to=LIST[, [more]][, ctladdr=A (UID/GID)], delay=T[, xdelay=T][, mailer=M][, pri=N]
        [, relay=HOST[ [IP]]][, dsn=D][, quarantine=R][, reply=CODE TEXT], stat=WORDS

What stands where (seen on 8.17.1):

- ``reply=`` is the first line of the remote reply and may hold ``, `` and ``;``.
- ``dsn=`` repeats the reply's enhanced status, or is Sendmail's own guess: 5.1.1
  for any bare 550 at RCPT, 5.5.0 for a 554 banner, 5.0.0 for a 554 at DATA.
- ``stat=`` is made from the reply code alone (a 550-5.7.26 is "User unknown"),
  so it counts only where no server spoke: connection and name server trouble.
- ``relay=`` without a second, bracketed part: no connection was made.

Limits: sender, gate's word and stage of `MEMO_LIMIT` queue IDs are remembered.
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
    from collections.abc import Callable
    from datetime import datetime

    from .reply import ReplyParts

MEMO_LIMIT: Final = limits.SENDMAIL_MESSAGES

# Eight characters of time and counter, five digits or more of the process (8.12); three letters and digits before.
# At least eight in all, so that no word of another program's "error: to=" passes.
_QUEUE_ID: Final = r"([0-9A-Za-z]{8,20}): "
_LINE: Final = re.compile(_QUEUE_ID)
# fields that other releases and patches put in between: passed over
_OTHER: Final = r"(?:, (?!(?:relay|dsn|quarantine|reply|stat)=)[A-Za-z_]{2,20}=[^,]{0,200}){0,6}"
_FIELDS: Final = re.compile(
    r", delay=(?:([0-9]{1,5})\+)?([0-9]{2}):([0-9]{2}):([0-9]{2})(?:, xdelay=[0-9:+]{1,20})?(?:, mailer=([^ ,]{1,64}))?"
    rf"(?:, pri=[0-9-]{{1,20}})?{_OTHER}(?:, relay=([^ ,]{{1,255}})(?: \[([^\] ,]{{1,64}})\](?::[0-9]{{1,5}})?)?)?"
    rf"{_OTHER}(?:, dsn=([245]\.[0-9]{{1,3}}\.[0-9]{{1,3}}))?{_OTHER}(, quarantine=)?"
)
# most of every log: one plain recipient, taken by a server
_SENT: Final = re.compile(
    r"to=<([^<>\",]{1,320})>, delay=[^ ]{1,20}, xdelay=[^ ]{1,20}, mailer=[^ ,]{1,64}, pri=[0-9]{1,20}, "
    r"relay=([^ ,]{1,255}) \[([^\] ,]{1,64})\], dsn=(2\.[0-9]{1,3}\.[0-9]{1,3}), stat=(Sent)(?: \((.*)\))?$"
)
_FROM: Final = re.compile(
    r"from=(.{0,1000}?), size=[0-9-]{1,20}, class=[0-9-]{1,20}, nrcpts=[0-9]{1,20}(?:, msgid=<?([^<> ]{1,998})>?, )?"
)
_BORN: Final = re.compile(
    r"([0-9A-Za-z]{8,20}): (DSN|sender notify|return to sender|postmaster notify|[A-Za-z -]{3,40}): (.{0,500})"
)
_GATE: Final = re.compile(
    r"ruleset=check_compat, arg1=(.{0,322}), arg2=(.{1,322}), relay=(.{0,322}), reject=(.{0,2000})"
)
# our own demands on a server's TLS (access map, tls_server): a line without queue ID, by the process that delivers
_TLS: Final = re.compile(r"ruleset=tls_[a-z]{4,8}, arg1=.{0,100}, relay=.{0,322}, reject=(.{0,500})")
_STAGE: Final = re.compile(r"timeout waiting for input from .{1,100} during client ([A-Za-z]{4,8})( status)?")
_CTLADDR: Final = re.compile(r", (?:ctladdr|from)=.{1,1000}$")
# one address of to=: in brackets with quoted parts, or a bare word; the list is cut with one match after the other
_ADDRESS: Final = re.compile(r'<((?:[^<>"]|"(?:[^"\\]|\\.)*")*)>(?:,|$)|((?:[^<>",]|"(?:[^"\\]|\\.)*"){1,1000})(?:,|$)')
_DELAY: Final = ", delay="
_STAT: Final = ", stat="
_REPLY: Final = ", reply="
_DEFERRED: Final = "Deferred: "

_OWN_REPLIES: Final = (
    "421 4.4.1 Connection ",
    "451 4.4.1 reply: read error",
    "451 4.4.0 smtpinit",
    "451 4.4.1 timeout ",
    "403 4.7.0 TLS handshake ",
)
"""What Sendmail itself puts into its reply buffer when the connection breaks (usersmtp.c): no remote word."""

_DNS_WORDS: Final = ("Name server", "DNS failure")
"""How Sendmail words trouble of its resolver, inside stat=."""

_STAGES: Final = {"greeting": "CONNECT", "LHLO": "EHLO"}

_UNKNOWN: Final = (None, None)
_NOTHING: Final = Ignored()
_GATE_LINE: Final = Ignored("gate")
_HELD: Final = Ignored("quarantine")
_QUEUED: Final = Ignored("queued")
_REFUSED: Final = Ignored("refused-on-submission")


class _Fields(NamedTuple):
    """One delivery line, cut up."""

    recipients: list[str]
    mailer: str | None
    relay: str | None
    ip: str | None
    dsn: str | None
    reply: str | None
    stat: str
    """Empty where the log cut the line before it."""

    age: tuple[str | None, ...] = ()
    """Days, hours, minutes and seconds since the message came in."""


class _Verdict(NamedTuple):
    """What one delivery line says, the same for all its recipients."""

    action: Action
    log_status: str
    status: EnhancedStatus | None = None
    reply_code: int | None = None
    diagnostic: str | None = None
    diagnostic_type: str | None = None
    local: bool = False
    suspended: bool = False
    defects: tuple[str, ...] = ()


def _split_reply(rest: str) -> tuple[str, str]:
    """Return what stands behind reply= and behind stat=; the latter is empty where the log cut the line.

    A reply may hold ``, stat=`` itself. ``stat=Deferred: `` repeats it in full,
    so where both halves are equal the middle is known; else the last one counts.
    """
    middle = _STAT + _DEFERRED
    half = (len(rest) - len(middle)) // 2
    if half > 0 and rest.startswith(middle, half) and rest[:half] == rest[half + len(middle) :]:
        return rest[:half], rest[half + len(_STAT) :]
    reply, _, stat = rest.rpartition(_STAT)
    return (reply, stat) if reply else (rest, "")


def _addresses(text: str) -> list[str]:
    """Return the recipients of to=, without their brackets; what cannot be read ends the list."""
    text = text.removesuffix(", [more]")
    if ", ctladdr=" in text or ", from=" in text:
        text = _CTLADDR.sub("", text).removesuffix(", [more]")
    if text.count("<") == 1 and text[0] == "<" and text[-1] == ">":
        return [text[1:-1]]
    found, at = [], 0
    while match := _ADDRESS.match(text, at):
        found.append(match[1] if match[1] is not None else match[2])
        at = match.end()
        if at >= len(text):
            break
    return found


def _fields(text: str) -> _Fields | None:
    """Return the parts of ``to=...``, `text` beginning behind the ``to=``; None where it is no delivery line."""
    found = _tail(text)
    if found is None:
        return None
    *age, mailer, relay, ip, dsn, held = found.groups()
    if held:
        return _Fields([], mailer, relay, ip, dsn, None, "quarantined")
    rest = text[found.end() :]
    if rest.startswith(_STAT):
        reply, stat = None, rest[len(_STAT) :]
    elif rest.startswith(_REPLY):
        reply, stat = _split_reply(rest[len(_REPLY) :])
    else:
        return None
    return _Fields(_addresses(text[: found.start()]), mailer, relay, ip, dsn, reply, stat, tuple(age))


def _tail(text: str) -> re.Match[str] | None:
    """Return where the list of recipients ends: a quoted local part may itself hold ``, delay=`` and all the rest."""
    at, first = text.find(_DELAY), None
    while at > 0:
        found = _FIELDS.match(text, at)
        if found and text.count('"', 0, at) % 2 == 0:
            return found
        first = first or found
        at = text.find(_DELAY, at + 1)
    return first


def _action(dsn: EnhancedStatus | None, code: int | None, stat: str) -> Action:
    """Return what became of the recipient.

    The reply code is what Sendmail itself goes by: a ``421 5.7.32`` stays queued, though dsn= says 5.7.32 (seen).
    """
    digit = code // 100 if code else dsn.class_ if dsn else {"Sen": 2, "Def": 4, "que": 4}.get(stat[:3], 5)
    return {2: Action.DELIVERED, 4: Action.DELAYED}.get(digit, Action.FAILED)


def _said(fields: _Fields) -> str | None:
    """Return the remote reply: reply=, or where an older Sendmail logs none, the one that ``Deferred: `` repeats."""
    reply = fields.reply
    if reply is None and fields.ip and fields.stat.startswith(_DEFERRED) and fields.stat[10:13].isdecimal():
        reply = fields.stat[10:]
    return None if reply is None or reply.startswith(_OWN_REPLIES) or not reply[:3].isdecimal() else reply


def _verdict(fields: _Fields) -> _Verdict:
    """Return what a delivery line says: by reply=, then dsn=, and stat= only where nobody spoke."""
    dsn = EnhancedStatus.from_text(fields.dsn) if fields.dsn else None
    word = _word(fields.stat)
    if reply := _said(fields):
        parts = parse_reply(reply)
        if parts.code:
            defects = _defects(parts, dsn) if fields.stat else (*_defects(parts, dsn), "cut-line")
            action = _action(dsn, parts.code, fields.stat)
            return _Verdict(action, word, parts.status or dsn, parts.code, parts.text, "smtp", defects=defects)
    action = _action(dsn, None, fields.stat)
    if action is Action.DELIVERED:
        spoke = "smtp" if fields.ip else "x-unix"
        return _Verdict(action, word, dsn, None, _inside(fields.stat), spoke, local=not fields.ip)
    if fields.reply is None and fields.ip and not fields.stat.startswith(_DEFERRED) and action is Action.FAILED:
        # an older release logs no reply= for a refusal: a server spoke, its words are lost, and stat= does not stand in for them
        return _Verdict(action, word, dsn, None, None, "smtp")
    # a bare "Deferred" or "queued" says nothing that dsn= does not say better
    text = "" if fields.stat in {"queued", "Deferred"} else fields.stat.removeprefix(_DEFERRED)
    if fields.reply is not None and fields.reply.startswith(_OWN_REPLIES):
        text = fields.reply
    spoke = "dns" if any(w in fields.stat for w in _DNS_WORDS) else "x-unix"
    cached = fields.relay is not None and fields.ip is None and fields.stat.startswith(_DEFERRED) and spoke == "x-unix"
    return _Verdict(action, word, dsn, None, text or None, spoke, local=True, suspended=cached)


def _defects(parts: ReplyParts, dsn: EnhancedStatus | None) -> tuple[str, ...]:
    """Return what is wrong with the status: Sendmail made it up, or the reply contradicts itself."""
    if parts.status is None:
        return () if dsn is None else ("status-by-mta",)
    return ("status-contradicts-reply",) if parts.code and parts.code // 100 != parts.status.class_ else ()


def _inside(stat: str) -> str | None:
    """Return the server's words of ``Sent (words)``; None for a bare Sent."""
    return stat[6:-1] or None if stat.startswith("Sent (") and stat.endswith(")") else None


def _is_gate(fields: _Fields) -> bool:
    """Return whether this is a deferral by check_compat: no server, no words (SENDMAIL.md, 3)."""
    return (
        fields.stat == "Deferred"
        and fields.dsn == "4.2.0"
        and fields.reply is None
        and not fields.ip
        and bool(fields.relay)
    )


class SendmailReader:
    """Reader of Sendmail's lines."""

    def __init__(self) -> None:
        self._senders: dict[str, tuple[str, str | None]] = {}
        self._gate: dict[tuple[str, str], str] = {}
        self._stages: dict[str, str] = {}
        self._tls: dict[str | None, str] = {}
        self._by_word: dict[str, Callable[[LogLine, str, str], list[LogEvent]]] = {
            word[:3]: reader
            for word, reader in (
                ("to=", self._delivery),
                ("from=", self._from),
                ("ruleset=", self._ruleset),
                ("timeout", self._timeout),
                ("done", self._done),
                ("quarantine=", self._quarantine),
                ("unquarantine", self._quarantine),
                ("milter=", self._quarantine),
            )
        }

    def read(self, line: LogLine) -> list[LogEvent]:
        """Return what `line` tells; one `Ignored` where it tells nothing.

        Raises: nothing, on any text.
        """
        text = line.text
        found = _LINE.match(text)
        if found is None:
            return self._tls_refusal(line)
        at = found.end()
        return self._by_word.get(text[at : at + 3], self._other)(line, found[1], text[at:])

    def _delivery(self, line: LogLine, queue_id: str, text: str) -> list[LogEvent]:
        if line.host and line.host[-1] == ":":
            return [_NOTHING]  # that is another program's tag, and all this is what it quotes
        if found := _SENT.match(text):
            return [self._sent(line, queue_id, found)]
        fields = _fields(text[3:])
        if fields is None:
            return [_NOTHING]
        if fields.stat == "quarantined":
            return [_HELD]
        if fields.mailer is None:
            return [_REFUSED]
        if fields.stat == "queued" and fields.dsn is None:
            return [_QUEUED]
        word = self._tls.pop(line.pid, None) if self._tls else None
        verdict = _verdict(fields) if word is None or fields.reply else _refused_by_us(fields, word)
        return [self._one(line, queue_id, recipient, fields, verdict) for recipient in fields.recipients] or [_NOTHING]

    def _sent(self, line: LogLine, queue_id: str, found: re.Match[str]) -> LogEvent:
        recipient, relay, ip, dsn, word, said = found.groups()
        sender, message_id = self._senders.get(queue_id, _UNKNOWN)
        status = DeliveryStatus(
            recipient,
            Action.DELIVERED,
            status=EnhancedStatus.from_text(dsn),
            diagnostic=said or None,
            diagnostic_type="smtp",
            remote_mta=_host(relay),
            remote_ip=_ip(ip),
            reporting_mta=line.host,
            sender=sender,
            queue_id=queue_id,
            message_id=message_id,
            last_attempt=line.at,
            at=line.at,
            source=Source.LOG,
        )
        return Delivery(status, word)

    def _one(self, line: LogLine, queue_id: str, recipient: str, fields: _Fields, verdict: _Verdict) -> LogEvent:
        """Return the event for one recipient of a delivery line."""
        sender, message_id = self._senders.get(queue_id, _UNKNOWN)
        ours = False
        if self._gate or fields.reply is None:
            word = self._gate.pop((queue_id, recipient), None)
            if word is not None or _is_gate(fields):
                ours, verdict = True, _gated(verdict, word)
        relay, connected = fields.relay, fields.ip is not None
        status = DeliveryStatus(
            recipient=recipient or None,
            action=verdict.action,
            status=verdict.status,
            reply_code=verdict.reply_code,
            diagnostic=verdict.diagnostic,
            diagnostic_type=verdict.diagnostic_type,
            remote_mta=_host(relay) if connected else None,
            remote_ip=_ip(fields.ip),
            reporting_mta=line.host,
            command=self._stages.pop(queue_id, None) if self._stages and verdict.local else None,
            sender=sender,
            queue_id=queue_id,
            message_id=message_id,
            nexthop=None if connected else _host(relay),
            arrival_date=None if verdict.action is Action.DELIVERED else _before(line.at, fields.age),
            last_attempt=line.at,
            at=line.at,
            source=Source.LOG,
            local=verdict.local,
            defects=verdict.defects,
        )
        return Delivery(status, verdict.log_status, ours=ours, suspended=verdict.suspended and not ours)

    def _from(self, line: LogLine, queue_id: str, text: str) -> list[LogEvent]:
        del line
        found = _FROM.match(text)
        if found is None:
            return [_NOTHING]
        sender, message_id = found.groups()
        self._remember(queue_id, "<>" if sender == "<>" else sender.strip("<>"), message_id)
        return [MessageId(queue_id, message_id)] if message_id else [_NOTHING]

    def _remember(self, queue_id: str, sender: str, message_id: str | None) -> None:
        self._senders[queue_id] = (sender, message_id)
        if len(self._senders) > MEMO_LIMIT:
            del self._senders[next(iter(self._senders))]

    def _ruleset(self, line: LogLine, queue_id: str, text: str) -> list[LogEvent]:
        """Take note of the gate's word: the to= line that follows has none."""
        del line
        found = _GATE.match(text)
        if found is None:
            return [_NOTHING]
        self._gate_word(queue_id, found[2].removeprefix("<").removesuffix(">"), found[4])
        return [_GATE_LINE]

    def _gate_word(self, queue_id: str, recipient: str, word: str) -> None:
        self._gate[queue_id, recipient] = word
        if len(self._gate) > MEMO_LIMIT:
            del self._gate[next(iter(self._gate))]

    def _tls_refusal(self, line: LogLine) -> list[LogEvent]:
        """Take note of our own refusal of a server's TLS: the to= line that follows looks like the server's word."""
        if line.text.startswith("ruleset=tls_") and (found := _TLS.match(line.text)):
            if len(self._tls) >= MEMO_LIMIT:
                self._tls.clear()
            self._tls[line.pid] = found[1]
        return [_NOTHING]

    def _timeout(self, line: LogLine, queue_id: str, text: str) -> list[LogEvent]:
        """Take note of the stage at which the remote server fell silent."""
        del line
        if found := _STAGE.match(text):
            if len(self._stages) >= MEMO_LIMIT:
                self._stages.clear()
            self._stages[queue_id] = "EOD" if found[2] else _STAGES.get(found[1], found[1].upper())
        return [_NOTHING]

    def _done(self, line: LogLine, queue_id: str, text: str) -> list[LogEvent]:
        return [Removed(queue_id, line.at)] if text.startswith("done; ") else [_NOTHING]

    def _quarantine(self, line: LogLine, queue_id: str, text: str) -> list[LogEvent]:
        del line, queue_id
        return [_HELD if "quarantine" in text[:200] else _NOTHING]

    def _other(self, line: LogLine, queue_id: str, text: str) -> list[LogEvent]:
        """Read ``NEWQID: DSN: words``: a report was made, and perhaps the message given up."""
        found = _BORN.match(text)
        if found is None:
            return [_NOTHING]
        report, _, words = found.groups()
        self._remember(report, "<>", None)
        if words.startswith("Cannot send message "):
            sender, _ = self._senders.get(queue_id, _UNKNOWN)
            return [Expired(queue_id, sender, line.at)]
        return [Ignored("report")]


def _refused_by_us(fields: _Fields, word: str) -> _Verdict:
    """Return the verdict where our own side did not want a server as it is."""
    dsn = EnhancedStatus.from_text(fields.dsn) if fields.dsn else None
    return _Verdict(_action(dsn, None, fields.stat), _word(fields.stat), dsn, None, word, "x-unix", local=True)


def _word(stat: str) -> str:
    """Return the first words of stat=, without a reply or a host name."""
    return stat.partition(":")[0].partition(" (")[0]


def _gated(verdict: _Verdict, word: str | None) -> _Verdict:
    """Return the verdict with our gate's own word in it, where the log had it."""
    # Sendmail takes the text apart into tokens: the blank behind our mark is gone (seen with 8.17.1)
    mark = GATE_MARK.rstrip()
    parts = parse_reply(re.sub(rf"{mark}(?! )", GATE_MARK, word, count=1)) if word else None
    return verdict._replace(
        status=(parts.status if parts else None) or verdict.status,
        diagnostic=parts.text if parts else None,
        diagnostic_type="x-unix",
        local=True,
    )


def _before(at: datetime | None, age: tuple[str | None, ...]) -> datetime | None:
    """Return when the message came in; None where the line has no time or the age is beyond the calendar."""
    if at is None or not age:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in age)
    try:
        return at - timedelta(days, seconds, 0, 0, minutes, hours)
    except OverflowError:
        return None


def _host(relay: str | None) -> str | None:
    """Return the host name of relay=, its final dot and brackets off."""
    return None if relay is None else relay.rstrip(".").strip("[]") or None


def _ip(bracketed: str | None) -> str | None:
    return None if bracketed is None else bracketed.removeprefix("IPv6:")
