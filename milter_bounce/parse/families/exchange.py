"""Reader of Microsoft's reports in words: Exchange 5.5, 2000/2003, 2007 and later, Microsoft 365.

Goes in: the words. Comes out: drafts. The wording changes with version and
language; what stays: the administrators' part lists an address alone on its
line with the reply below it, and 2003 puts the reply in angle brackets. One
report may write its replies in several ways; each recipient's lines end where
the next recipient stands. Whom only the part for people names is taken from there.

Limits: `RECIPIENTS_LIMIT`, and `_RECORD_LENGTH` characters a recipient.
Raises: nothing.
"""

from __future__ import annotations

import re
from itertools import islice
from typing import TYPE_CHECKING, Final, NamedTuple

from milter_bounce import limits
from milter_bounce.parse.address import ADDRESS, clean
from milter_bounce.parse.blocks import read_blocks
from milter_bounce.parse.draft import Draft
from milter_bounce.parse.told import host_in, told_by

if TYPE_CHECKING:
    from collections.abc import Iterator

    from milter_bounce.parse.view import View

RECIPIENTS_LIMIT: Final = limits.WORDS_RECIPIENTS
_RECORD_LENGTH: Final = 8000

_ALONE = re.compile(
    rf"^[ \t]{{0,20}}<?({ADDRESS})>?(?:[ \t]?<mailto:[^\s<>]{{1,320}}>)?[ \t]{{0,20}}$", re.MULTILINE | re.IGNORECASE
)
_LINK = re.compile(r"[ \t]?<mailto:[^\s<>]{1,320}>", re.IGNORECASE)
# at most two lines without blanks between an address and its reply: the host that gave it
_HOST_LINES = r"\n(?:[ \t]{0,20}[^\s@'\"#]{1,255}[ \t]{0,20}\n){0,2}"
# Remote Server at mx.example.net (192.0.2.1) returned '550 ...'
_QUOTED = re.compile(
    rf"{_HOST_LINES}[^\n'#“]{{0,160}}['“]([45][^\n]{{0,1000}}?(?:\n[^\n]{{1,1000}}?){{0,6}}?)['”][ \t]{{0,20}}$",
    re.MULTILINE,
)
# #550 5.1.1 RESOLVER... ##, mx.example.net #550 5.1.1 ... ##, #<mx.example.net #5.1.1 smtp;550 5.1.1 ...> #SMTP#
_MARKED = re.compile(
    rf"{_HOST_LINES}[ \t]{{0,20}}(?:([^\s@'\"#]{{1,255}})[ \t]{{1,4}})?#(?=<?\s?[45][^\n]|<[^\n]{{0,256}}#[45])"
)
_MARK_ENDS = re.compile(r"##|[ \t]#SMTP#|\n[ \t]{0,20}\n")
_MORE_RETURNED = re.compile(r"^[^\n'“]{0,160}['“]([45][0-9]{2} [^\n]{0,1000})$", re.MULTILINE)
# Exchange 2000/2003: <mx.example.net #5.1.1 smtp;550 5.1.1 ...>
_BRACKETED = re.compile(
    r"<([^\s<>#]{1,255})? ?#([45]\.[0-9]\.[0-9]{1,3})(?: (?i:smtp|x-[a-z]+);([^<>]*(?:<[^<>]*>[^<>]*)*))?>"
)
_ON: Final = r" (?:on|am|le|el|il|op|em|den) "
_ON_DATE = re.compile(rf"^[ \t]*(?:(?i:smtp|rfc822|mailto):)?<?({ADDRESS})>?{_ON}[^\n]{{6,60}}$", re.MULTILINE)
# a recipient of the address book, by name: no address, but the next one's lines do not belong to the last one
_NAME_ON_DATE = re.compile(
    rf"(?<=\n\n)[ \t]{{0,20}}[^\n@<>#]{{1,120}}?{_ON}[^\n]{{0,40}}[0-9]:[0-9][0-9][^\n]{{0,30}}$", re.MULTILINE
)


class _Record(NamedTuple):
    """An address that stands alone, with the lines below it up to the next one."""

    address: str
    start: int
    end: int


def read(view: View) -> list[Draft]:
    """Return the recipients of the administrators' part, or of the 2003 layout; empty for other layouts."""
    words = view.words
    drafts: dict[str, Draft] = {}
    first = len(words)
    for record in _records(words):
        key = record.address.lower()
        draft = _replied(words, record) if key not in drafts else None
        if draft is not None:
            drafts[key] = draft
            first = min(first, record.start)
    if drafts:
        top = words[: words.rfind("\n", 0, first) + 1]
        return _completed(drafts, _LINK.sub("", top), view)
    return _dated(words)


def _records(words: str) -> Iterator[_Record]:
    """Return the addresses that stand alone, each with the end of its lines: where another address stands alone."""
    heads = list(islice(_ALONE.finditer(words), RECIPIENTS_LIMIT))
    end, named = len(words), ""
    records = []
    for number in range(len(heads) - 1, -1, -1):
        address = clean(heads[number][1])
        if number + 1 < len(heads) and address.lower() != named:
            end = heads[number + 1].start()
        named = address.lower()
        records.append(_Record(address, heads[number].end(), min(end, heads[number].end() + _RECORD_LENGTH)))
    return reversed(records)


def _replied(words: str, record: _Record) -> Draft | None:
    """Return the recipient of a record with the reply that stands below its address; None where none does."""
    address, start, end = record
    if quoted := _QUOTED.match(words, start, end):
        reply = quoted[1]
        tail = words[quoted.end() : min(end, quoted.end() + 600)].split("\n\n", 1)[0]
        if re.match(r"[45]\d\d [45]\.4\.7", reply) and (more := _MORE_RETURNED.search(tail)):
            reply = f"{reply} <{more[1]}>"
        return Draft(recipient=address, diagnostic=reply, diagnostic_type="smtp", remote_mta=host_in(quoted[0])[0])
    marked = _MARKED.match(words, start, end)
    if marked is None:
        return None
    # #<mx.example.net #5.1.1 smtp;550 5.1.1 ...> #SMTP#
    if enclosed := _BRACKETED.match(words, marked.end(), end):
        return _bracketed(address, enclosed, marked[1])
    closed = _MARK_ENDS.search(words, marked.end(), end)
    line = words.find("\n", marked.end(), end)
    at = closed.start() if closed and closed[0].strip() else line if line >= 0 else end
    reply = words[marked.end() : at].lstrip("< ")
    return Draft(recipient=address, diagnostic=reply, diagnostic_type="smtp", remote_mta=marked[1])


def _bracketed(address: str, found: re.Match[str], host: str | None) -> Draft:
    """Return the recipient of ``<host #5.1.1 smtp;550 ...>``: the reply where it is given, else the status."""
    return Draft(
        recipient=address,
        diagnostic=found[3] or found[2],
        diagnostic_type="smtp" if found[3] else None,
        remote_mta=found[1] or host,
    )


def _completed(drafts: dict[str, Draft], top: str, view: View) -> list[Draft]:
    """Return the drafts with what the part for people adds: the reason behind a bare status, a recipient left out.

    Where that part does not name every recipient of the other, it names groups, and the other their members: a group
    has not failed because a member has.
    """
    told = {
        b.recipient.lower(): b for b in read_blocks(top, view.readers, view.addressees | {view.sender_address or ""})
    }
    for key, draft in drafts.items():
        if draft.diagnostic_type is None and key in told:
            draft.diagnostic = f"{draft.diagnostic} {told_by(told[key].lines, view.readers).diagnostic}".strip()
    if not drafts.keys() <= told.keys():
        return list(drafts.values())
    for key, block in told.items():
        if key not in drafts:
            said = told_by(block.lines, view.readers)
            drafts[key] = Draft(
                recipient=block.recipient, diagnostic=said.diagnostic, diagnostic_type="smtp" if said.quoted else None
            )
    return list(drafts.values())


def _dated(words: str) -> list[Draft]:
    """Return the recipients of ``a@b on Thu, 29 Apr ...`` lines, each with the text to the next."""
    heads = list(islice(_ON_DATE.finditer(words), RECIPIENTS_LIMIT))
    drafts = []
    for number, head in enumerate(heads):
        end = heads[number + 1].start() if number + 1 < len(heads) else len(words)
        end = min(end, head.end() + 3000)
        named = _NAME_ON_DATE.search(words, head.end(), end)
        text = words[head.end() : named.start() if named else end].strip()
        bracketed = _BRACKETED.search(text)
        reply = (bracketed[3] or bracketed[2]) if bracketed else ""
        draft = Draft(recipient=clean(head[1]), diagnostic=reply or text[:700])
        if bracketed:
            draft.diagnostic = f"{reply} {text[: bracketed.start()].strip()}".strip() if not bracketed[3] else reply
            draft.remote_mta = bracketed[1]
        drafts.append(draft)
    return drafts
