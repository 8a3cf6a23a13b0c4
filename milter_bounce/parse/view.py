"""A message as the readers of reports look at it: who wrote it, its own words, and the message it returns.

Goes in: `mime.Message` and how deep in it the report lies. Comes out: `View`,
which decodes what is asked for and no more. Does not: judge what it is.

Raises: nothing.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, Generic, TypeVar, overload

from milter_bounce import limits

from .address import address_in, addresses_in
from .header import Fields, decoded, fields_of, parse_fields
from .plaintext import text_of_html

if TYPE_CHECKING:
    from collections.abc import Callable

    from .mime import Message, Part
    from .readers import Readers

WORDS_LIMIT: Final = limits.WORDS_CHARACTERS

_STATUS_TYPES: Final = frozenset(
    {
        "message/delivery-status",
        "message/global-delivery-status",
        "text/delivery-status",
        "message/xdelivery-status",
        "application/x-delivery-status",
    }
)
_STATUS_FIELDS = re.compile(r"^(?:Reporting-MTA|Final-Recipient|Diagnostic-Code)[ \t]*:", re.IGNORECASE | re.MULTILINE)
_HEADER_TYPES: Final = frozenset({"text/rfc822-headers", "message/global-headers", "text/rfc822-header"})
_HEADER_LINE = r"(?:Received|Return-[Pp]ath|Message-I[Dd]|DKIM-Signature|MIME-[Vv]ersion|X-(?!Actual-Recipient|Display-Name|Postfix-|Supplementary-Info|PowerMTA-)[A-Z][A-Za-z-]{2,40}|Delivered-To|ARC-Seal|DomainKey-Signature|Envelope-to)[ \t]*:[^\n]*"
_STARTS_AS_HEADER = re.compile(rf"\s*(?:From [^\n]*\n)?{_HEADER_LINE}\n(?:[ \t][^\n]*\n|[A-Za-z-]{{1,60}}[ \t]*:)")
_HEADER_IN_TEXT = re.compile(
    rf"^(?:>?From [^\n]{{3,200}}\n)?(?:{_HEADER_LINE}\n)(?:[ \t][^\n]*\n)*[A-Za-z][A-Za-z0-9-]{{1,60}}:[^\n]*",
    re.MULTILINE,
)


Value = TypeVar("Value")


class lazy(Generic[Value]):  # noqa: N801 - used as property is
    """A property that is worked out once per object; functools.cached_property takes a lock each time (Python 3.11)."""

    def __init__(self, work_out: Callable[[View], Value]) -> None:
        self.work_out = work_out
        self.name = work_out.__name__
        self.__doc__ = work_out.__doc__

    @overload
    def __get__(self, view: None, owner: type[View]) -> lazy[Value]: ...
    @overload
    def __get__(self, view: View, owner: type[View]) -> Value: ...
    def __get__(self, view: View | None, owner: type[View]) -> Value | lazy[Value]:
        if view is None:
            return self
        value = self.work_out(view)
        view.__dict__[self.name] = value
        return value


class View:
    """One report, seen at a depth of envelopes: 0 = the message itself, 1 = a message forwarded in it."""

    def __init__(self, mail: Message, readers: Readers, depth: int = 0, first: int = 0) -> None:
        self.mail = mail
        self.readers = readers
        self.depth = depth
        self.first = first
        self.fields = mail.fields if depth == 0 else mail.parts[first].fields
        self.defects = list(mail.defects)

    @lazy
    def parts(self) -> list[Part]:
        """The parts of this message and of what it returns."""
        if self.depth == 0:
            return list(self.mail.parts)
        found = []
        for part in self.mail.parts[self.first + 1 :]:
            if part.depth < self.depth or (part.depth == self.depth and part.type == "message/rfc822"):
                break
            found.append(part)
        return found

    @lazy
    def own(self) -> list[Part]:
        """The parts of this message, without those of the message it returns."""
        return [part for part in self.parts if part.depth == self.depth]

    @lazy
    def subject(self) -> str:
        """The subject, decoded."""
        return decoded(self.fields.get("subject"))

    @lazy
    def sender(self) -> str:
        """The From field, decoded, in lower case."""
        return decoded(self.fields.get("from")).lower()

    @lazy
    def sender_address(self) -> str | None:
        """The address in From, in lower case."""
        found = address_in(self.sender)
        return found.lower() if found else None

    @lazy
    def addressees(self) -> set[str]:
        """The addresses in To and Delivered-To: whose mail it was that failed."""
        fields = ("to", "delivered-to", "x-original-to", "envelope-to")
        return {a.lower() for name in fields for v in self.fields.all(name) for a in addresses_in(decoded(v))}

    @lazy
    def null_sender(self) -> bool:
        """Whether the reverse-path is empty, as far as Return-Path tells."""
        value = self.fields.get("return-path")
        return value is not None and value.strip() in {"<>", "", "<MAILER-DAEMON>", "MAILER-DAEMON", "<null>", "null"}

    @lazy
    def personal_path(self) -> bool:
        """Whether the reverse-path is stated and names no mail system: reports have none (RFC 3464, 2)."""
        found = address_in(self.fields.get("return-path") or "")
        local = (found or "").lower().partition("@")[0] + "@"
        return found is not None and not any(word in local for word in self.readers.daemons)

    @lazy
    def wants_answers(self) -> bool:
        """Whether the reverse-path is stated and where From says, be it a postmaster's: whoever wrote it can be answered."""
        path = (address_in(self.fields.get("return-path") or "") or "").lower()
        return path != "" and path == self.sender_address and not path.startswith(("mailer-daemon@", "mdaemon@"))

    @lazy
    def from_daemon(self) -> bool:
        """Whether the From field names a mail system, not a person."""
        sender = self.sender
        return not sender.strip() or "<>" in sender or any(word in sender for word in self.readers.daemons)

    @lazy
    def has_daemon_address(self) -> bool:
        """Whether the address in From, not only the name beside it, is a mail system's."""
        local = (self.sender_address or "").partition("@")[0] + "@"
        return local == "@" or any(word in local for word in self.readers.daemons)

    @lazy
    def status_parts(self) -> list[Part]:
        """The delivery-status parts of this message."""
        declared = [part for part in self.own if part.type in _STATUS_TYPES]
        return declared or [part for part in self.own if _is_status_file(part)]

    @lazy
    def words(self) -> str:
        """The report's own words, without the returned message."""
        return self._words_and_rest[0]

    @lazy
    def first_text(self) -> str:
        """The first plain part as it stands: what a standard report's writer says."""
        return next((part.text() for part in self.own if part.type == "text/plain"), "")

    @lazy
    def low(self) -> str:
        """The beginning of the words, in lower case, curly apostrophes straight."""
        return self.words[:8000].lower().replace("’", "'")

    @lazy
    def _words_and_rest(self) -> tuple[str, str]:
        pieces: list[str] = []
        headers = ""
        for part in self.own:
            if part.type != "text/plain" and not (part.type in {"text/html", "text/x-html"} and not _has_words(pieces)):
                continue
            text = part.text()
            if part.type != "text/plain":
                text = text_of_html(text)
            if pieces and _STARTS_AS_HEADER.match(text):
                headers = headers or text
            elif text.strip():
                pieces.append(text)
        joined = "\n\n".join(pieces)[:WORDS_LIMIT]
        at = self._original_at(joined)
        return (joined[:at], headers or joined[at:]) if at is not None else (joined, headers)

    def _original_at(self, text: str) -> int | None:
        """Return where the returned message begins in the words: at an announcement, or at its first field."""
        # a marker before any address announces nothing yet ("the following message ... to <a@b>")
        first = 0 if self.fields.get("x-failed-recipients") else max(text.find("@"), 0)
        headed = _HEADER_IN_TEXT.search(text)
        places = [headed.start()] if headed and headed.start() > 0 else []
        low = text.lower()
        if len(low) != len(text):
            low = text  # a letter that changes its length: positions would be off
        for phrase in self.readers.markers:
            at = low.find(phrase, first)
            while at >= 0:
                line = low.rfind("\n", 0, at) + 1
                if line and self.readers.marker_line.match(low, line):
                    places.append(line)
                    break
                at = low.find(phrase, at + len(phrase))
        return min(places, default=None)

    @lazy
    def rest(self) -> str:
        """What stands in the text behind the announcement of the returned message."""
        return self._words_and_rest[1]

    @lazy
    def original(self) -> Fields:
        """The header fields of the returned message; empty where it is not returned."""
        for part in self.parts:
            if part.type == "message/rfc822" and part.depth == self.depth + 1:
                return part.fields
            if part.type in _HEADER_TYPES and part.depth == self.depth:
                return parse_fields(part.body.lstrip(b"\n")[:60_000])
        if not self.words and not self.rest:
            return Fields(())
        return _fields_in_text(self.rest)

    @lazy
    def whole_text(self) -> str:
        """The text of all own parts, the returned message in it included: where fields may stand in running text."""
        return "\n\n".join(part.text() for part in self.own if part.type == "text/plain")[:WORDS_LIMIT]

    @lazy
    def returns_message(self) -> bool:
        """Whether it returns a message, or the header of one."""
        return len(self.original) > 0

    def type_of_wrapper(self) -> str:
        """Return the media type of the message itself."""
        return self.mail.type

    def is_list_mail(self) -> bool:
        """Whether a mailing list or a tracker distributed it."""
        return any(self.fields.get(name) for name in self.readers.list_headers)

    def has_failure_subject(self) -> bool:
        """Whether the subject is one of a report."""
        low, readers = self.subject.lower().replace("’", "'"), self.readers
        return any(p in low for p in readers.failure_subjects) or any(p in low for p in readers.delay_subjects)

    def has_failure_words(self) -> bool:
        """Whether the words say that mail was not delivered, or not yet."""
        low, readers = self.low, self.readers
        return any(p in low for p in readers.failure_phrases) or any(p in low for p in readers.delay_phrases)

    def is_delay(self) -> bool:
        """Whether it warns that the mail is still being tried."""
        low, subject = self.low, self.subject.lower()
        if any(p in low for p in self.readers.final_phrases):
            return False
        return any(p in low for p in self.readers.delay_phrases) or any(
            p in subject for p in self.readers.delay_subjects
        )

    def is_success(self) -> bool:
        """Whether it tells that the mail arrived, or was passed on to a system that sends no notices."""
        return any(p in self.low for p in self.readers.success_phrases)


def _is_status_file(part: Part) -> bool:
    """Tell whether a part of a report is its fields under a type that says nothing (gateways: ``details.txt``)."""
    if part.type != "application/octet-stream" or part.parent not in {"multipart/report", "multipart/mixed"}:
        return False
    text = part.text()[:4000]
    return len(_STATUS_FIELDS.findall(text)) > 1


def _has_words(pieces: list[str]) -> bool:
    return any(len(piece.strip()) > 20 for piece in pieces)


def _fields_in_text(rest: str) -> Fields:
    """Return the header fields of a message quoted in running text."""
    lines = rest[:60_000].lstrip().split("\n")
    start = next(
        (i for i, line in enumerate(lines[:40]) if re.match(r"\s{0,8}[A-Za-z][A-Za-z0-9-]{1,60}[ \t]*:[ \t]?\S", line)),
        None,
    )
    if start is None:
        return Fields(())
    block = "\n".join(lines[start:])
    indent = len(lines[start]) - len(lines[start].lstrip())
    if indent:
        block = "\n".join(line[indent:] for line in lines[start:])
    return fields_of(block.split("\n\n", 1)[0])
