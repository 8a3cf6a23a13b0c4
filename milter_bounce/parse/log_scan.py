"""Fast walk through whole logs: the deliveries in a piece of text, all other lines passed over.

Goes in: a piece of a log, whole lines. Comes out: the same that
``log.LogReader`` finds there, successes of Postfix as a shorter noun, for
they are most of every log. Does not: judge.

Why `scan` may pass lines over: each delivery line of either MTA holds " stat"
(``status=``, ``stat=``), and most lines of a log do not.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

from milter_bounce.limits import LOG_LINE_CUT

from .log_wrapped import BYTES_MARK, EXPORT_MARK
from .logline import Delivery, Ignored

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from .log import LogReader
    from .logline import LogEvent

MARK: Final = " stat"
_ENTRY_SIZE: Final = 65_536
"""Characters in which an entry of the journal's export form begins, if the log is of that form."""
SENDMAIL_MARK: Final = " stat="

# One success in Postfix's plainest form; anything out of the ordinary (quotes and brackets in an address, an odd time
# stamp) is left to LogReader, which knows all forms.
_HEAD: Final = (
    r"([A-Z][a-z]{2} [ 0-3][0-9] [0-9:]{8}|[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]{8,15}(?:Z|[+-][0-9:]{5})) [^ \n]{1,255}(?<!:) "
    r"[^ \[\]:\n]{1,100}/(?:smtp|lmtp|local|virtual|pipe|error|discard)\[[0-9]{1,10}\]: ([0-9A-Za-z]{5,20}): "
    r'to=<([^>"\n]+)>, (?:orig_to=<[^>"\n]*>, )?'
)
_DELAYS: Final = r"(?:conn_use=[0-9]+, )?delay=[0-9.]{1,19}, delays=[0-9./e+-]+, "
_SENT: Final = re.compile(
    rf"{_HEAD}relay=([^\[ ,\n]+)[^ \n]*, {_DELAYS}dsn=2\.[0-9]{{1,3}}\.[0-9]{{1,3}}, status=sent \("
)
_FAILED: Final = re.compile(
    rf"{_HEAD}relay=([^ \n]+), {_DELAYS}(dsn=[0-9.]{{5,11}}, status=(?:deferred|bounced) \(.*\))$"
)
MASK: Final = "<@>"


class Sent(NamedTuple):
    """One delivery by Postfix: all that a count needs."""

    stamp: str
    """Time stamp as it stands; `Stamps.read` makes a time of it."""

    queue_id: str
    recipient: str
    relay: str


class Failed(NamedTuple):
    """One failure by Postfix in its plain form, not read yet: most of them repeat one that was."""

    queue_id: str
    recipient: str
    template: tuple[str, str]
    """Relay, and codes and text with the recipient masked: what is the same here means the same."""

    line: str


def _is_plain(text: str, found: re.Match[str], end: int) -> bool:
    """Return whether what follows a success is its reply, whole, and no second line behind the first address."""
    return end - found.start() <= LOG_LINE_CUT and text.find(", relay=", found.end(), end) < 0


def unix(text: str) -> str:
    """Return `text` with the line ends that a log has before it goes through Windows."""
    # one character is found many times faster than two
    return text.replace("\r\n", "\n") if "\r" in text else text


def leaning(text: str) -> bool:
    """Return whether lines of `text` lean on lines before them.

    Sendmail's do (our gate's word, the sender), and the journal's export form has several for an entry.
    """
    return SENDMAIL_MARK in text or text.find(EXPORT_MARK, 0, _ENTRY_SIZE) >= 0


def scan(text: str, reader: LogReader, sent: list[tuple[str, ...]]) -> Iterator[Failed | Delivery]:
    """Return the deliveries in `text`, which holds whole lines; Postfix's plain successes go to `sent` instead.

    Args:
        text: whole lines.
        reader: reads what is no plain success.
        sent: takes the fields of a `Sent` for each success, as a bare tuple: there are a great many.

    Raises: nothing, on any text. Limits: as `LogReader`.
    """
    text = unix(text)
    if leaning(text) or (text[:1] == "{" and BYTES_MARK in text):
        # none may be passed over
        yield from (event for event in reader.feed_all(text.split("\n")) if type(event) is Delivery)
        return
    find, rfind, match, failed, note = text.find, text.rfind, _SENT.match, _FAILED.match, sent.append
    start = end = 0
    at = find(MARK)
    while at >= 0:
        start = rfind("\n", end, at) + 1 or end
        if (newline := find("\n", at)) < 0:
            newline = len(text)
        if (found := match(text, start, newline)) and _is_plain(text, found, newline):
            note(found.groups())
        elif found := failed(text, start, newline):
            _, queue_id, recipient, relay, words = found.groups()
            # a bare word may be part of the text's own words; an address is masked by the rules, too
            words = words.replace(recipient, MASK) if "@" in recipient else words
            yield Failed(queue_id, recipient, (relay, words), text[start:newline])
        else:
            for event in reader.feed(text[start:newline]):
                if type(event) is Delivery:
                    yield event
        end = newline
        at = find(MARK, newline)


def events(lines: Iterable[str], reader: LogReader) -> Iterator[Sent | LogEvent]:
    """Return what the lines of a log tell, in their order; lines that tell nothing left out.

    Raises: nothing, on any text. Limits: as `LogReader`.
    """
    match, feed = _SENT.match, reader.feed
    for line in lines:
        if (found := match(line)) and _is_plain(line, found, len(line)):
            yield Sent._make(found.groups())
            continue
        for event in feed(line):
            if type(event) is not Ignored:
                yield event
