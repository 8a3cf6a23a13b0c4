"""Reader of Sendmail's transcripts, old (version 5) and new (version 8), and of the systems that copied them.

Goes in: the words with ``Transcript of session follows``. Comes out: drafts.

A transcript speaks of several recipients in turn: the remote replies
(``<<< 550 ...``) since the last own line belong to the recipient that the
next own line (``550 <a@b>... User unknown``) names. The first error counts.

The list above or below it may name programs, files and mailboxes of the
system itself (``"|/usr/bin/procmail"``, ``schultz``): their recipient is the
address that led to them, or that the message was sent to under this name.

Section: sendmail 8's savemail.c and deliver.c, BSD sendmail 5.
Raises: nothing.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

from milter_bounce import limits
from milter_bounce.delivery import Action, EnhancedStatus
from milter_bounce.parse.address import ADDRESS, clean, same
from milter_bounce.parse.blocks import BLOCKS_LIMIT, read_blocks
from milter_bounce.parse.draft import Draft
from milter_bounce.parse.told import Told, command_in, told_by

from .local import by_local_part

if TYPE_CHECKING:
    from milter_bounce.parse.blocks import Block
    from milter_bounce.parse.readers import Readers
    from milter_bounce.parse.view import View

LINES_LIMIT: Final = limits.TRANSCRIPT_LINES

_TRANSCRIPT = re.compile(
    r"^[ \t]{0,20}-{0,40}[ \t]{0,20}(?:session )?transcript(?: of session follows)?[ \t]{0,20}:?-{0,40}[ \t]{0,20}$",
    re.IGNORECASE | re.MULTILINE,
)
_SECTION = re.compile(
    r"^[ \t]{0,20}-{2,40}[ \t]{0,20}the following addresses [^\n]{1,80}-{2,40}[ \t]{0,20}$",
    re.IGNORECASE | re.MULTILINE,
)
_LOCAL: Final = (
    r"(?:\"((?:\||/|:include:)[^\n]{1,500})\"|((?:\||/|:include:)[^\s\"]{1,500})|<?([A-Za-z0-9][\w.+-]{0,63})>?)"
)
_LOCAL_HEAD = re.compile(rf"[ \t]{{0,3}}{_LOCAL}(?:[ \t]{{1,20}}\([^\n]{{0,200}}\))?[ \t]{{0,20}}$", re.ASCII)
_OWN_LOCAL = re.compile(
    rf"[ \t]{{0,20}}(?:[45][0-9][0-9][ -](?:[45]\.[0-9]\.[0-9]{{1,3}} )?)?{_LOCAL}\.{{3}}", re.ASCII
)
_EXPANDED_FROM = re.compile(r"\(expanded from:?[ \t]{0,20}<?([^\s<>()]{1,320})>?\)")
_TALKING = re.compile(r"[. \t]*[Ww]hile talking to ([^\s:]{1,255}?)\.?:?[ \t]*$")
_ASKED = re.compile(r"[ \t]*>>> ([A-Za-z]{4})")
_REPLIED = re.compile(r"[ \t]*<<< (.*)")
_OWN = re.compile(rf"[ \t]*(?:([245][0-9][0-9][ -](?:[245]\.[0-9]\.[0-9]{{1,3}} )?))?<?({ADDRESS})>?\.{{3}}[ \t]*(.*)")
_OWN_HOST = re.compile(r"[ \t]*([245][0-9][0-9]) ([^\s@<>]{1,255}) \([^()]{1,30}\)\.{3}[ \t]*(.*)")
_REASON = re.compile(r"\(reason:[ \t]{0,20}([^\n]{0,1000}?)\)[ \t]{0,20}$", re.MULTILINE)
_VERBS: Final = {"MAIL": "MAIL", "RCPT": "RCPT", "DATA": "DATA", "EHLO": "EHLO", "HELO": "HELO", "STAR": "STARTTLS"}


class _Session:
    """What was said since the last own line."""

    def __init__(self) -> None:
        self.host: str | None = None
        self.verb: str | None = None
        self.reply: list[str] = []
        self.closed = False
        self.aside = ""

    def replied(self, text: str) -> None:
        """Take in a remote reply's line; only the first refusal is kept."""
        if self.closed or (not self.reply and text[:1] not in {"4", "5"}):
            return
        self.reply.append(text.strip())
        self.closed = text[3:4] != "-"

    def clear(self) -> None:
        self.reply, self.closed, self.aside = [], False, ""


class _Local(NamedTuple):
    """A program, file or mailbox of the reporting system, with the bracketed lines below it."""

    name: str
    details: str


def read(view: View) -> list[Draft]:
    """Return the recipients of a report with a transcript."""
    words = view.words
    marked = _TRANSCRIPT.search(words)
    if not marked:
        return []
    transcript, above = words[marked.end() :], words[: marked.start()]
    if below := _SECTION.search(transcript):
        transcript, above = transcript[: below.start()], f"{above}\n{transcript[below.start() :]}"
    spoken = transcribed(transcript, view.readers)
    above, local = _without_local(above)
    listed = read_blocks(above, view.readers, view.addressees)
    alone = len(listed) + len(local) == 1
    drafts = [_of_list(block, spoken, transcript, view, alone=alone) for block in listed]
    return (drafts or spoken) + _of_local(local, transcript, view, alone=alone)


def _without_local(listed: str) -> tuple[str, list[_Local]]:
    """Return the list without the system's own programs, files and mailboxes, and those."""
    kept: list[str] = []
    found: list[tuple[str, list[str]]] = []
    inside = taken = False
    for line in listed.split("\n"):
        if _SECTION.match(line):
            inside, taken = True, False
        elif not line.strip():
            inside = taken = False
        elif inside and (head := _LOCAL_HEAD.match(line)):
            taken = len(found) < BLOCKS_LIMIT
            found += [(head[1] or head[2] or head[3], [])] if taken else []
        elif taken and line.lstrip().startswith("("):
            found[-1][1].append(line.strip())
            continue
        else:
            taken = False
        if not taken:
            kept.append(line)
    return "\n".join(kept), [_Local(name, "\n".join(details)) for name, details in found]


def _of_local(local: list[_Local], transcript: str, view: View, *, alone: bool) -> list[Draft]:
    """Return the recipients that stand behind the system's own programs, files and mailboxes, where that is certain.

    A number as reason is the program's exit status; the transcript says so in words.
    """
    lines = transcript.split("\n", LINES_LIMIT)[:LINES_LIMIT] if local else []
    own = {own[1] or own[2] or own[3]: line.strip() for line in reversed(lines) if (own := _OWN_LOCAL.match(line))}
    addresses = by_local_part(view) if local else {}
    drafts = []
    for name, details in local:
        expanded = _EXPANDED_FROM.search(details)
        mailbox = name if name[:1].isalnum() else expanded[1] if expanded else ""
        recipient = mailbox if "@" in mailbox else addresses.get(mailbox.lower())
        if recipient is None:
            continue
        found = _REASON.search(details)
        reason = found[1].strip() if found else ""
        if reason.isdigit():
            ends = f"mailer error {reason}"
            reason = next((line.strip() for line in lines if line.rstrip().endswith(ends)), reason)
        said = own.get(name) or reason or (told_by(transcript, view.readers).diagnostic if alone else "")
        drafts.append(Draft(recipient=recipient, diagnostic=said))
    return drafts


def _of_list(block: Block, spoken: list[Draft], transcript: str, view: View, *, alone: bool) -> Draft:
    """Return the draft of a recipient of the list above the transcript."""
    draft = next((d for d in spoken if same(d.recipient, block.recipient)), None)
    if draft is None:
        found = _REASON.search(block.lines)
        reason = found[1].strip() if found else ""
        told = told_by(transcript, view.readers)
        # what is not said about this recipient by name is its own only if nobody else is listed, or if it says the same
        if reason and not (told.quoted and (alone or told.diagnostic.startswith(reason))):
            told = Told(reason, quoted=reason[:1].isdigit())
        draft = Draft(
            recipient=block.recipient,
            diagnostic=told.diagnostic,
            diagnostic_type="smtp" if told.quoted else None,
            command=told.command,
            remote_mta=told.host,
        )
    draft.original_recipient = draft.original_recipient or block.alias
    return draft


def transcribed(transcript: str, readers: Readers) -> list[Draft]:
    """Return the recipients that a transcript's own lines name, with what was said about each."""
    session = _Session()
    drafts: dict[str, Draft] = {}
    for line in transcript.split("\n", LINES_LIMIT)[:LINES_LIMIT]:
        if talking := _TALKING.match(line):
            session.host = talking[1].lower()
            session.clear()
        elif asked := _ASKED.match(line):
            session.verb = _VERBS.get(asked[1].upper(), session.verb)
        elif replied := _REPLIED.match(line):
            session.replied(replied[1])
        elif own := _OWN.match(line):
            address = clean(own[2])
            drafts.setdefault(address.lower(), _draft(address, own[1], own[3], session, readers))
            session.clear()
        elif own_host := _OWN_HOST.match(line):
            session.aside = session.aside or f"{own_host[1]} {own_host[3]}"
    return list(drafts.values())


def _draft(address: str, code: str | None, text: str, session: _Session, readers: Readers) -> Draft:
    """Return what the own line and the session before it tell about one recipient."""
    if session.reply:
        diagnostic, speaker = " ".join(session.reply), "smtp"
    else:
        # "554 <a@b>... 550 Host unknown": the inner code is the cause
        inner = re.match(r"[45][0-9][0-9][ -]", text)
        diagnostic, speaker = (text if inner or not code else f"{code}{text}"), None
    # where the remote reply has no status, Sendmail's own line states what it took the code for, as its Status field does
    stated = EnhancedStatus.from_text((code or "")[4:].strip()) if session.reply else None
    return Draft(
        recipient=address,
        action=Action.FAILED,
        status=stated if stated and str(stated)[:1] == diagnostic[:1] else None,
        diagnostic=diagnostic.strip(),
        diagnostic_type=speaker,
        command=session.verb if session.reply else command_in(text, readers),
        remote_mta=session.host if session.reply else None,
    )


def whole_reply(words: str, beginning: str) -> str | None:
    """Return the whole of a reply whose first line alone stands in Diagnostic-Code (Sendmail cuts it there)."""
    head = re.sub(r"\s+", " ", beginning)[:60]
    lines = [replied[1].strip() for line in words.split("\n", LINES_LIMIT) if (replied := _REPLIED.match(line))]
    for number, line in enumerate(lines):
        if re.sub(r"\s+", " ", line).startswith(head):
            kept = [line]
            while (
                kept[-1][3:4] == "-" and number + len(kept) < len(lines) and lines[number + len(kept)][:3] == line[:3]
            ):
                kept.append(lines[number + len(kept)])
            return " ".join(kept)
    return None
