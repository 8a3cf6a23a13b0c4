"""Reader of mail logs: which MTA wrote a line, and what it tells.

Goes in: lines of one log in their order, of Postfix, Sendmail or both.
Comes out: events (``parse.logline``); a `Delivery` per recipient and attempt.
Does not: read files, know the time, judge.

Limits: the reader remembers sender and Message-ID of `MEMO_LIMIT` queue IDs;
beyond that the oldest are forgotten, and "sender" becomes "not stated".
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, tzinfo
from typing import TYPE_CHECKING, Final, Protocol

from .log_wrapped import Wrappings, without_host
from .logline import Delivery, Ignored, LogEvent, LogLine, Stamps, split_line
from .postfix_log import AGENTS, SILENT, PostfixReader
from .sendmail_log import SendmailReader

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

OWN_TAG: Final = "milter-bounce"
_OWN: Final = [Ignored("own")]
_OTHER: Final = [Ignored()]
# Postfix's lines that only its queue manager and cleanup write, told apart from Sendmail's of the same beginning
_QUEUE: Final = re.compile(
    r"[0-9A-Za-z]{5,20}: (?:removed$|from=<.{0,1000}>, (?:size=[0-9]+, nrcpt=|status=[a-z-]*expired))"
)
_MESSAGE_ID: Final = re.compile(r"[0-9A-Za-z]{5,20}: (?:resent-)?message-id=")


class LineReader(Protocol):
    """What the reader of one MTA's lines is."""

    def read(self, line: LogLine) -> list[LogEvent]:
        """Return what `line` tells; one `Ignored` where it tells nothing."""


class _Nothing:
    """Reader of programs that never tell of a delivery."""

    def __init__(self, answer: list[Ignored]) -> None:
        self._answer: list[LogEvent] = list(answer)

    def read(self, line: LogLine) -> list[LogEvent]:
        del line
        return self._answer


class _Untagged:
    """Reader of lines that name no program (``journalctl -o cat``, Sendmail's -D): their form tells who wrote them."""

    def __init__(self, postfix: LineReader, sendmail: LineReader) -> None:
        self._postfix, self._sendmail = postfix, sendmail

    def read(self, line: LogLine) -> list[LogEvent]:
        text = line.text
        if ": to=<" in text[:30]:
            # no line of Sendmail's has the form of a delivery by Postfix: its delay= stands before its relay=
            events = self._postfix.read(line._replace(tag="postfix/smtp"))
            return events if type(events[0]) is Delivery else self._sendmail.read(line)
        if _QUEUE.match(text):
            return self._postfix.read(line._replace(tag="postfix/qmgr"))
        if _MESSAGE_ID.match(text):
            return self._postfix.read(line._replace(tag="postfix/cleanup"))
        return self._sendmail.read(line)


class LogReader:
    """Reader of a whole log, line by line.

    Args:
        now: aware time that traditional stamps lie before (see `Stamps`).
        zone: time zone of stamps that name none.
    """

    def __init__(self, now: datetime, zone: tzinfo = UTC) -> None:
        self.stamps = Stamps(now, zone)
        self._postfix = PostfixReader()
        self._sendmail = SendmailReader()
        self._own, self._other = _Nothing(_OWN), _Nothing(_OTHER)
        self._by_tag: dict[str, LineReader] = {"": _Untagged(self._postfix, self._sendmail)}
        self._wrapped = Wrappings(self.stamps)
        self._enveloped = False
        """Whether the MTA's lines in this log have a time and a host: then none without is the MTA's."""

    def feed(self, line: str) -> list[LogEvent]:
        """Return what one line tells, its newline already off.

        Raises: nothing, on any text.
        """
        parts = split_line(line, self.stamps) or self._wrapped.read(line)
        if parts is None or (parts.at is None and parts.host is None and self._enveloped):
            return list(_OTHER)
        reader = self._by_tag.get(parts.tag)
        return self._first_of(parts) if reader is None else reader.read(parts)

    def _first_of(self, parts: LogLine) -> list[LogEvent]:
        """Return what the first line of a program tells."""
        parts = without_host(parts)
        reader = self._by_tag.get(parts.tag) or self._choose(parts.tag)
        if len(self._by_tag) < 1000:  # a log has a few dozen tags; a hostile one must not fill the memory
            self._by_tag[parts.tag] = reader
        self._enveloped = self._enveloped or (reader is self._postfix and None not in {parts.at, parts.host})
        return reader.read(parts)

    def sender_of(self, queue_id: str | None) -> str | None:
        """Return the envelope sender of a message of Postfix's; None where the log has not told."""
        return self._postfix.senders.get(queue_id or "")

    def time_of(self, line: str) -> datetime | None:
        """Return when a line was written; None where it does not tell."""
        # not by the reader's own wrappings: a question must not end the entry that a log is in
        parts = split_line(line, self.stamps) or Wrappings(self.stamps).read(line)
        return parts.at if parts else None

    def feed_all(self, lines: Iterable[str]) -> Iterator[LogEvent]:
        """Return the events of many lines, those that tell nothing left out."""
        for line in lines:
            for event in self.feed(line):
                if type(event) is not Ignored:
                    yield event

    def _choose(self, tag: str) -> LineReader:
        """Return the reader for a program's lines: Postfix names its programs ``syslog_name/program``."""
        if tag.startswith("postfix") and tag.endswith(".service"):  # journalctl -o with-unit
            return self._by_tag[""]
        instance, _, program = tag.rpartition("/")
        if OWN_TAG in (instance, tag):
            return self._own
        if instance and program in AGENTS:
            return self._postfix
        if instance and program in SILENT:
            return self._other
        # Sendmail's -L gives any tag: its reader knows its own lines by their form
        return self._sendmail if not instance else self._other
