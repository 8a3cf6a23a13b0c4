"""Nouns of the mail log: the envelope of one line, and the events that lines tell of.

Goes in: one line of a log as text, its newline taken off. Comes out: a
`LogLine` (time, host, tag, process, text) or None, and the event types that
the readers of each MTA make of it. Does not: know Postfix from Sendmail.

Section: RFC 3164 4.1 (traditional), RFC 3339 (the form of rsyslog's and
journald's files and of ``maillog_file_rotate_suffix`` users), RFC 5424 6.2.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from typing import TYPE_CHECKING, Final, NamedTuple

from milter_bounce import limits

if TYPE_CHECKING:
    from milter_bounce.delivery import DeliveryStatus

LINE_LIMIT: Final = limits.LOG_LINE


@dataclass(frozen=True, slots=True)
class Delivery:
    """One recipient, one attempt, as the MTA logged it."""

    status: DeliveryStatus
    log_status: str
    """The MTA's own word: sent, deferred, bounced, undeliverable ... (Postfix), the first words of stat= (Sendmail)."""

    ours: bool = False
    """True where our own gate spoke: nothing was attempted, so it is no failure and no refusal."""

    suspended: bool = False
    """True where the MTA made no attempt, but repeats the reason of an earlier one (Postfix: ``delivery temporarily
    suspended``); Sendmail: host status of the same queue run."""

    probe: bool = False
    """True for an address verification probe: no message stands behind it."""

    annotation: str | None = None
    """What our own status filter had put in front of the text, brackets included; None where nothing."""


@dataclass(frozen=True, slots=True)
class Removed:
    """The message left the queue, whatever became of its recipients."""

    queue_id: str
    at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Expired:
    """The MTA gave the message up as too old: every recipient still waiting is returned to the sender."""

    queue_id: str
    sender: str | None
    at: datetime | None = None


@dataclass(frozen=True, slots=True)
class MessageId:
    """A queue ID has got its Message-ID, without angle brackets."""

    queue_id: str
    message_id: str


@dataclass(frozen=True, slots=True)
class Ignored:
    """A line that tells of no delivery; `why` in one word (``own`` for our own advice lines)."""

    why: str = "other"


LogEvent = Delivery | Removed | Expired | MessageId | Ignored
"""Everything that a reader of log lines can return."""


class LogLine(NamedTuple):
    """One line without its newline: when, where, who, what."""

    at: datetime | None
    """Aware UTC; None where the line has no time (Sendmail's -D form) or one that is none."""

    host: str | None
    tag: str
    """Program as it called itself: ``postfix/smtp``, ``sm-mta``; empty where the line names none."""

    pid: str | None
    text: str


_MONTHS: Final = {
    name: number
    for number, name in enumerate(
        ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"), 1
    )
}

# [priority] TIMESTAMP [HOSTNAME] TAG["[" pid "]"] ":" SP text. The two kinds of time stamp are told apart by their
# first character; a host may be missing (some rsyslog templates). "[ID 197553 mail.info]" is Solaris syslogd's.
_ENVELOPE: Final = re.compile(
    r"(?:<[0-9]{1,3}>(?:1 )?)?"
    r"([A-Z][a-z]{2} [ 0-3][0-9] [0-9:.]{8,15}|[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9:.,]{8,16}(?:Z|[+-][0-9]{2}:?[0-9]{2})?)"
    r" (?:([^ ]{1,255}) )?([^ \[\]:]{1,128})(?:\[([0-9]{1,10})\])?: (?:\[ID [0-9]{1,9} [a-z0-9.]{1,20}\] )?"
)
# RFC 5424, 6: PRI VERSION TIMESTAMP HOSTNAME APP-NAME PROCID MSGID STRUCTURED-DATA [BOM] MSG; "-" = nil
_PROTOCOL: Final = re.compile(
    r"<[0-9]{1,3}>1 ([^ ]{1,40}) ([^ ]{1,255}) ([^ ]{1,128}) ([^ ]{1,128}) [^ ]{1,32} (?:-|\[[^\]]{0,4096}\]) \ufeff?"
)
# at most eleven digits: the year 5138, within the calendar
_EPOCH: Final = re.compile(r"([0-9]{9,11}\.[0-9]{1,9}) (?=[A-Za-z0-9]{5,30}: )")
_UNSTAMPED: Final = re.compile(r"(?=[A-Za-z0-9]{8,30}: )")


class Stamps:
    """Time stamps to aware UTC datetimes.

    A traditional stamp has no year: it gets the latest one that does not put
    it more than a day after `now`. `now` is the time of reading for a log that
    is being written and the file's last change for an old one; the caller sets
    it again as time goes by.

    The hour that comes twice at the end of summer time is the second one as
    soon as it can be, while it lasts. Read later on, it is the first one until
    the stamps step back.
    """

    def __init__(self, now: datetime, zone: tzinfo = UTC) -> None:
        self.now = now
        self.zone = zone
        self._last = ("", now, None)  # type: tuple[str, datetime, datetime | None]
        self._before: datetime | None = None

    def read(self, text: str) -> datetime | None:
        """Return the time that `text` states; None where it states none."""
        last, now, when = self._last
        if text == last and now is self.now:
            return when
        try:
            when = self._traditional(text) if text[0] > "9" else self._iso(text)
        except (ValueError, OverflowError):
            when = None
        self._last = (text, self.now, when)
        self._before = when or self._before
        return when

    def _iso(self, text: str) -> datetime:
        when = datetime.fromisoformat(text)
        return when.astimezone(UTC) if when.tzinfo else self._of_zone(when.replace(tzinfo=self.zone))

    def _of_zone(self, when: datetime) -> datetime:
        """Return the UTC time of a local one; of one that came twice (PEP 495), the likelier."""
        first, second = when.astimezone(UTC), when.replace(fold=1).astimezone(UTC)
        if second <= first or second > self.now + limits.STAMP_AHEAD:
            return first
        is_read_later = self.now - second >= second - first
        in_order = self._before is not None and self._before <= first + limits.STAMP_AHEAD
        return first if is_read_later and in_order else second

    def _traditional(self, text: str) -> datetime | None:
        month, day = _MONTHS.get(text[:3]), int(text[4:6])
        if month is None:
            return None
        clock = text[7:].partition(".")[0]
        hour, minute, second = int(clock[:2]), int(clock[3:5]), int(clock[6:8])
        latest = self.now + timedelta(days=1)
        # a 29th of February may be eight years back (1900, 2100 are no leap years)
        for year in range(latest.year, latest.year - 9, -1):
            try:
                # 60 is a leap second (RFC 3339, 5.7)
                local = datetime(year, month, day, hour, minute, min(second, 59), tzinfo=self.zone)
                when = self._of_zone(local)
            except ValueError:
                if (month, day) == (2, 29):
                    continue
                raise
            if when <= latest:
                return when
        return None


def split_line(line: str, stamps: Stamps) -> LogLine | None:
    """Return the parts of one log line; None where it has no form of a mail log's.

    Sendmail's ``-D`` forms (queue ID first, or seconds since 1970) come out
    with an empty tag.

    Limits: the first `LINE_LIMIT` characters.
    Raises: nothing, on any text.
    """
    found = _ENVELOPE.match(line)
    if found:
        stamp, host, tag, pid = found.groups()
        return LogLine(stamps.read(stamp), host, tag, pid, line[found.end() : LINE_LIMIT])
    if found := _PROTOCOL.match(line):
        stamp, host, tag, pid = found.groups()
        return LogLine(stamps.read(stamp), _nil(host), tag, _nil(pid), line[found.end() : LINE_LIMIT])
    if found := _EPOCH.match(line):
        return LogLine(datetime.fromtimestamp(float(found[1]), UTC), None, "", None, line[found.end() : LINE_LIMIT])
    return LogLine(None, None, "", None, line[:LINE_LIMIT]) if _UNSTAMPED.match(line) else None


def _nil(text: str) -> str | None:
    return None if text == "-" else text
