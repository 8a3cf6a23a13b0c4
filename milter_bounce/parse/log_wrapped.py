"""Lines of a mail log inside something else: what Docker, Kubernetes, the journal and small syslogds make of them.

Goes in: a line that `logline.split_line` does not know. Comes out: the
`LogLine` inside it, or None. Does not: know Postfix from Sendmail.

Forms: Docker's json-file and ``docker logs -t``, docker compose's and
kubectl's prefixes, CRI (``stdout F``), ``journalctl -o json``, ``export``,
``short-full``, ``short-unix``, ``short-monotonic`` and ``cat``, one JSON object
a line of rsyslog, syslog-ng, Fluent Bit and Filebeat, the priority of busybox's, OpenWrt's
and FreeBSD's syslogd, grep's file names. The stamp of a container's runtime counts more than the
stamp inside: it has a year and a zone.

Limits: JSON of more than `JSON_LIMIT` characters is passed over; of an entry of
the export form only the six fields of a mail log are kept.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from milter_bounce import limits

from .logline import LINE_LIMIT, LogLine, split_line

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .logline import Stamps

JSON_LIMIT: Final = limits.LOG_LINE_BYTES
"""A whole line in a JSON object, most of its characters written as escapes, and the fields around it."""

EXPORT_MARK: Final = "\n__REALTIME_TIMESTAMP="
BYTES_MARK: Final = '"MESSAGE":['
"""How journalctl writes a text that is not all UTF-8: bytes as numbers, in which no word can be found."""

_RFC3339: Final = r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]{8,18}(?:Z|[+-][0-9]{2}:[0-9]{2})"
# "mail-1  | " (compose, swarm; in colours on a terminal), "[pod/mail-0/postfix] " (kubectl --prefix), "STAMP " (docker
# logs -t), "STAMP stdout F " (CRI), "STAMP\tmail.info\t{" (fluentd), "data: {" and a record separator (journalctl), a
# length (RFC 6587, 3.4.1), "mail.log:12:" (grep)
_PREFIX: Final = re.compile(
    r"(?:\[pod/[^\] ]{1,300}\] |(?:\x1b\[[0-9;]{1,10}m)?[A-Za-z0-9][A-Za-z0-9_.@-]{0,200} {0,60}\|(?:\x1b\[[0-9;]{0,10}m)? "
    r"|data: (?=\{)|\x1e(?=\{)|[0-9]{1,5} (?=<[0-9])"
    r"|(?:[^ :]{1,255}:)?(?:[0-9]{1,9}:)?(?=[A-Z][a-z]{2} [ 0-3][0-9] |[0-9]{4}-[0-9]{2}-|<[0-9]{1,3}>))?"
    rf"(?:({_RFC3339})(?: std(?:out|err) [FP] |\t[a-z.]{{1,40}}\t(?=\{{)| ))?"
)
# a time stamp that split_line does not know, or a priority in front of the host or of the tag
_ODD: Final = re.compile(
    r"(?:([0-9]{9,11}\.[0-9]{1,9})|\[ {0,8}[0-9]{1,12}\.[0-9]{1,9}\]"
    r"|[A-Z][a-z]{2} ([0-9]{4}-[0-9]{2}-[0-9]{2} [0-9:.]{8,15}) ([A-Z]{1,5}|[+-][0-9]{2,4})"
    r"|[A-Z][a-z]{2} ([A-Z][a-z]{2} [ 0-3][0-9] [0-9:]{8}) ([0-9]{4})"
    r"|([A-Z][a-z]{2} [ 0-3][0-9] [0-9:.]{8,15}|[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9:.,]{8,16}(?:Z|[+-][0-9]{2}:?[0-9]{2})?))"
    r" (?:<[a-z0-9.]{1,20}> )?(?:([^ ]{1,255}) )??(?:[a-z0-9]{2,8}\.[a-z]{3,7} )?"
    r"([^ \[\]:<>]{1,128})(?:\[([0-9]{1,10})\])?: "
)
# RFC 5424, 6.3: several elements, and brackets that a backslash goes before
_ELEMENTS: Final = re.compile(
    r"<[0-9]{1,3}>1 ([^ ]{1,40}) ([^ ]{1,255}) ([^ ]{1,128}) ([^ ]{1,128}) [^ ]{1,32} "
    r"(?:\[(?:[^\]\\]|\\.){0,4096}+\]){1,16}+ \ufeff?"
)
_HOSTLESS: Final = re.compile(r"([^ \[\]:]{1,128})(?:\[([0-9]{1,10})\])?:")
_TAG: Final = re.compile(r"([A-Za-z0-9][^ \[\]:<>=]{0,127})\[([0-9]{1,10})\]: ")
_BARE: Final = re.compile(r"[0-9A-Za-z]{5,30}: (?:to=|from=|message-id=|removed$)")
_MONTHS: Final = "JanFebMarAprMayJunJulAugSepOctNovDec"

_TEXTS: Final = ("MESSAGE", "log", "message", "msg", "Message")
_TIMES: Final = ("time", "@timestamp", "timestamp", "timereported", "ts", "date", "ISODATE")
_TAGS: Final = (
    "SYSLOG_IDENTIFIER", "syslog_identifier", "syslogtag", "ident", "program", "programname", "PROGRAM", "appname",
    "app-name", "app_name",
)  # fmt: skip
_HOSTS: Final = ("_HOSTNAME", "host", "hostname", "HOST", "fromhost")
_PIDS: Final = ("SYSLOG_PID", "_PID", "pid", "procid", "PID")

_EXPORT: Final = re.compile(
    r"(__REALTIME_TIMESTAMP|_HOSTNAME|SYSLOG_IDENTIFIER|SYSLOG_PID|_PID|MESSAGE)(?:=(.*))?$", re.DOTALL
)
# the length of a field that is not one line of text: 64 bits, the lowest first; a mail log's lines need two bytes of them
_LENGTH: Final = re.compile(r"(.{0,2})\0{6,7}", re.DOTALL)


class Wrappings:
    """Reader of wrapped lines; remembers the entry of the export form that it is in."""

    def __init__(self, stamps: Stamps) -> None:
        self._stamps = stamps
        self._entry: dict[str, str] = {}
        self._field = ""
        self._missing = 0
        """Bytes that are still to come of a field of the export form."""

    def read(self, line: str) -> LogLine | None:
        """Return the line of a mail log that ends with `line`; None where none does.

        Raises: nothing, on any text.
        """
        if self._field or self._missing > 0:
            self._bytes(line)
            return None
        if not line:
            entry, self._entry = self._entry, {}
            return self._of_fields(entry) if entry else None
        if found := _EXPORT.match(line):
            if found[2] is None:
                self._field = found[1]
            else:
                self._entry[found[1]] = found[2][:LINE_LIMIT]
            return None
        rest, outer = _unwrapped(line)
        return self._dated(self._of_json(rest), outer) if rest[:1] == "{" else self._inside(line)

    def _inside(self, line: str) -> LogLine | None:
        """Return the line behind prefixes; a time stamp among them may be the line's own."""
        found = _PREFIX.match(line)
        if found is None:
            return self._plain(line)
        inner = self._plain(line[found.end() :])
        return self._plain(line[found.start(1) :]) if inner is None and found[1] else self._dated(inner, found[1])

    def _dated(self, inner: LogLine | None, outer: object) -> LogLine | None:
        """Return `inner` with the time that its wrapping states, if it states one with a zone."""
        if inner is None or not isinstance(outer, str) or not outer[:4].isdecimal():
            return inner
        at = self._stamps.read(outer[:64])
        return inner if at is None else inner._replace(at=at)

    def _plain(self, line: str) -> LogLine | None:
        """Return the parts of a line without wrapping, of forms that only other programs than syslogd write."""
        if parts := split_line(line, self._stamps):
            return parts
        if found := _ELEMENTS.match(line):
            stamp, host, tag, pid = found.groups()
            return LogLine(self._stamps.read(stamp), host, tag, pid, line[found.end() : LINE_LIMIT])
        if found := _ODD.match(line):
            epoch, full, zone, ctime, year, usual, host, tag, pid = found.groups()
            if epoch:
                at: datetime | None = datetime.fromtimestamp(float(epoch), UTC)
            elif full:
                at = self._stamps.read(full + ("Z" if zone in {"UTC", "GMT", "Z"} else ""))
            elif ctime:
                month = _MONTHS.find(ctime[:3]) // 3 + 1
                at = self._stamps.read(f"{year}-{month:02}-{ctime[4:6].replace(' ', '0')}T{ctime[7:]}")
            else:
                at = self._stamps.read(usual) if usual else None
            return LogLine(at, host, tag, pid, line[found.end() : LINE_LIMIT])
        if found := _TAG.match(line):
            return LogLine(None, None, found[1], found[2], line[found.end() : LINE_LIMIT])
        return LogLine(None, None, "", None, line[:LINE_LIMIT]) if _BARE.match(line) else None

    def _of_json(self, text: str) -> LogLine | None:
        if len(text) > JSON_LIMIT:
            return None
        try:
            fields = json.loads(text)
        except (ValueError, RecursionError):
            return None
        return self._of_fields(fields) if isinstance(fields, dict) else None

    def _of_fields(self, fields: Mapping[str, object]) -> LogLine | None:
        """Return the line that named fields hold, with an envelope of its own or in fields beside it."""
        text = _first(fields, _TEXTS)
        if text is None:
            return None
        # several lines in one field: joined, so that none of them can pass for a line of its own
        text = text.rstrip("\r\n").replace("\n", " ")
        tag = _first(fields, _TAGS)
        # where a program is named, its text is no line of another one, whatever it looks like; a container only hands on
        output = tag is None or "log" in fields or "CONTAINER_NAME" in fields
        inner = self._inside(text) if output else None
        if tag is not None and (inner is None or not inner.tag):
            tag, _, pid = tag.rstrip(": ").rstrip("]").partition("[")
            host, process = _first(fields, _HOSTS), pid or _first(fields, _PIDS)
            inner = LogLine(inner.at if inner else None, host, tag, process, text[:LINE_LIMIT])
        if inner is not None and (since_1970 := fields.get("__REALTIME_TIMESTAMP")) is not None:
            return inner._replace(at=_microseconds(since_1970) or inner.at)
        return self._dated(inner, _first(fields, _TIMES))

    def _bytes(self, line: str) -> None:
        """Take one line of a field of the export form that is not one line of text.

        The log was decoded, so a byte of the length may be lost: then its least value counts. Nothing in the field
        itself can pass for fields of an entry.
        """
        if self._field:
            found = _LENGTH.match(line)
            if found is None:  # a newline in the length itself: 10, 266 ... bytes
                self._missing = -1 if line else self._missing
                self._field = self._field if len(line) < 2 else ""
                return
            low, high = (*map(_byte, found[1]), 0, 0)[:2]
            self._missing = low + 256 * high
            line = line[found.end() :]
            self._entry[self._field] = line[:LINE_LIMIT]
            self._field = ""
        # a byte that is no UTF-8 became one character of three
        self._missing -= len(line.encode("utf-8", "replace")) - 2 * line.count("\ufffd") + 1


def without_host(line: LogLine) -> LogLine:
    """Return a line whose envelope names no host as it was meant: its tag was taken for the host."""
    found = _HOSTLESS.fullmatch(line.host or "")
    pid = f"[{line.pid}]" if line.pid else ""
    return LogLine(line.at, None, found[1], found[2], f"{line.tag}{pid}: {line.text}") if found else line


def _unwrapped(line: str) -> tuple[str, str | None]:
    """Return what stands behind the prefixes of container runtimes and of grep, and the time that they state."""
    found = _PREFIX.match(line)
    return (line[found.end() :], found[1]) if found else (line, None)


def _byte(character: str) -> int:
    return min(ord(character), 128)


def _first(fields: Mapping[str, object], names: tuple[str, ...]) -> str | None:
    """Return the first of several fields that is text, or a list of bytes or of one text."""
    for name in names:
        value = fields.get(name)
        if isinstance(value, str):
            return value
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)[:20]
        if isinstance(value, list) and value:
            try:
                return bytes(value).decode("utf-8", "replace")
            except (TypeError, ValueError):
                continue
        if isinstance(value, dict) and isinstance(value.get("name"), str):  # Filebeat's host
            return str(value["name"])
    return None


def _microseconds(value: object) -> datetime | None:
    try:
        return datetime.fromtimestamp(int(str(value)[:17]) / 1_000_000, UTC)
    except (ValueError, OverflowError, OSError):
        return None
