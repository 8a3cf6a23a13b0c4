"""Reader of what a stretch of a report tells about one failure: the reply, who gave it, to which command.

Goes in: the lines that belong to one recipient. Comes out: `Told`.
Does not: know which mail system wrote them: the ways to quote a reply are few.

Section: RFC 5321 4.2 (replies).
Limits: `STRETCH_LIMIT`.
Raises: nothing.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Final, NamedTuple

from milter_bounce import limits

from .address import address_in
from .draft import Draft
from .reply import reply_start

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .readers import Readers

STRETCH_LIMIT: Final = limits.TOLD_CHARACTERS
REASON_LIMIT: Final = limits.TOLD_REASON

# ">>> RCPT TO:<a>" and "<<< 550 ..."; InterScan draws its arrows the other way round
_SAID = re.compile(
    r"^(?:[ \t>]{0,8}?|[^<>\n]{0,40}: (?:\[[0-9:]{1,20}\] )?)(?:<<<|Received >>>|SMTP<<:?|<<-|<--)[ \t]*([245][0-9]{2}[^\n]*|[^\n]+)$",
    re.MULTILINE,
)
_ASKED = re.compile(
    r"^(?:[ \t>]{0,8}?|[^<>\n]{0,40}: (?:\[[0-9:]{1,20}\] )?)(?:>>>|Sent <<<|SMTP>>:?|->>|-->)[ \t]*([A-Za-z]{4}[^\n]*)$",
    re.MULTILINE,
)
_TRANSCRIPT_MARK = re.compile(r"<<< |Received >>>|SMTP<<|<-- [245]")
_VERBS: Final = {
    "MAIL": "MAIL",
    "RCPT": "RCPT",
    "DATA": "DATA",
    "EHLO": "EHLO",
    "HELO": "HELO",
    "STAR": "STARTTLS",
    "AUTH": "AUTH",
    "QUIT": "",
    "RSET": "",
}
_HOST: Final = r"([A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63}){1,10})\.?"
_HOSTS: Final = (
    re.compile(rf"\bhost:?[ \t]{{1,4}}{_HOST}(?:[ \t]?[\[(]([0-9A-Fa-f.:]{{3,45}})[\])])?"),
    re.compile(rf"[Ww]hile talking to {_HOST}:?"),
    re.compile(rf"\b(?:[Rr]emote )?[Ss]erver (?:at )?<?{_HOST}>?(?: ?[\[(]([0-9A-Fa-f.:]{{3,45}})[\])])?"),
    re.compile(rf"recipient domain [^\s]{{1,255}} by {_HOST}(?: \[([0-9A-Fa-f.:]{{3,45}})\])?"),
    re.compile(rf"^[ \t]*{_HOST} ?\[([0-9A-Fa-f.:]{{3,45}})\]:?[ \t]*$", re.MULTILINE),
    re.compile(rf"^[ \t]*{_HOST}(?: rejected your message| gave this error)", re.MULTILINE),
    re.compile(rf"^{_HOST} (?:does not like recipient|failed after I sent)|Connected to {_HOST} but", re.MULTILINE),
    re.compile(rf"connect(?:ion)? (?:to|with) {_HOST}(?:\[([0-9A-Fa-f.:]{{3,45}})\])?"),
)  # fmt: skip
_QUOTES: Final = {"'": "'", '"': '"', "(": ")", "[": "]", "<": ">", "“": "”", "‘": "’", "「": "」"}
_NO_RECIPIENT = re.compile(
    r"<<< 5[05][34][ -][^\n]{0,20}(?:[Nn]eed RCPT|RCPT first|no valid recipients|Valid RCPT|need RCPT|rcpt)"
)
_BARE_CODES = re.compile(r"[45][0-9]{2}(?:[ #-]{1,2}[45]\.[0-9]\.[0-9]{1,3})?[\s.]*")
_REPLIED_TO = re.compile(r"\s{0,10}\(in reply to [^()]{2,60}\)")
_PARAGRAPH = re.compile(r"\n[ \t]*\n")
_RULE_LINE = re.compile(r"[ \t]*(?:-{3}|={3}|\*{3}|_{3})")
_NEXT_LABEL = re.compile(r"[ \t]*[A-Z][A-Za-z-]{2,20}(?: [a-z]{2,12})?:[ \t]")
_RULE = re.compile(r"[-=*_#~|+. ]{3,}")


class Told(NamedTuple):
    """What a stretch of text tells; None and empty where it does not."""

    diagnostic: str = ""
    quoted: bool = False
    """Whether the diagnostic is a reply with a code, not just words."""

    command: str | None = None
    host: str | None = None
    ip: str | None = None


def drafted(told: Told, recipient: str | None, original_recipient: str | None = None) -> Draft:
    """Return what is told about one recipient as a draft."""
    return Draft(
        recipient=recipient,
        original_recipient=original_recipient,
        diagnostic=told.diagnostic,
        diagnostic_type="smtp" if told.quoted else None,
        command=told.command,
        remote_mta=told.host,
        remote_ip=told.ip,
    )


def told_by(stretch: str, readers: Readers) -> Told:
    """Return what the lines about one recipient tell."""
    stretch = stretch[:STRETCH_LIMIT]
    host, address = host_in(stretch)
    if _TRANSCRIPT_MARK.search(stretch):
        reply, verb = first_refusal(stretch)
        if reply:
            return Told(reply, quoted=True, command=verb or command_in(stretch, readers), host=host, ip=address)
    reply = quoted_reply(stretch, readers)
    if _BARE_CODES.fullmatch(reply):
        # "does not exist (550 5.1.1)": the words around the codes are the reply
        words = _paragraph_with(reply, stretch, readers) or reason_in(stretch, readers)
        return Told(words, quoted=True, command=command_in(stretch, readers), host=host, ip=address)
    if reply:
        return Told(reply, quoted=True, command=command_in(stretch, readers), host=host, ip=address)
    return Told(reason_in(stretch, readers), quoted=False, command=command_in(stretch, readers), host=host, ip=address)


def refused_command(words: str, readers: Readers) -> str | None:
    """Return the command that a report's words or its transcript show as refused."""
    if "<<< " not in words:
        return command_in(words, readers)
    verb = first_refusal(words)[1]
    # a pipelined RCPT is shown under DATA: the DATA then fails for want of a recipient
    return "RCPT" if verb == "DATA" and _NO_RECIPIENT.search(words) else verb or command_in(words, readers)


def command_in(text: str, readers: Readers) -> str | None:
    """Return the SMTP command that was refused, where the text tells."""
    low = " ".join(text.lower().split())
    return next((command for phrase, command in readers.commands if phrase in low), None)


def host_in(text: str) -> tuple[str | None, str | None]:
    """Return name and address of the host that spoke, where the text tells."""
    for pattern in _HOSTS:
        found = pattern.search(text)
        if found:
            groups = [group for group in found.groups() if group]
            if groups and not groups[0].replace(".", "").isdigit():
                return groups[0].lower(), (groups[1] if len(groups) > 1 else None)
            return None, groups[0] if groups else None
    return None, None


def own_part(told: Told, stretch: str, recipient: str | None) -> Told | None:
    """Return what `told`, told by `stretch`, means for one recipient: of a transcript that asks for several, its own reply.

    That is the one to its RCPT, else one to a command that meant all of them; None where only others were refused.
    """
    if recipient is None or not _TRANSCRIPT_MARK.search(stretch[:STRETCH_LIMIT]):
        return told
    by_recipient, shared = _refusals_of(stretch[:STRETCH_LIMIT])
    if len(by_recipient) < 2:
        return told
    reply, verb = by_recipient.get(recipient.lower(), shared)
    return told._replace(diagnostic=reply, quoted=True, command=verb or told.command) if reply else None


def first_refusal(transcript: str) -> tuple[str, str | None]:
    """Return the first reply of a transcript that refuses, its lines joined, and the command before it."""
    return next(((reply, verb) for reply, verb, _ in _refusals(transcript)), ("", None))


@lru_cache(maxsize=4)
def _refusals_of(transcript: str) -> tuple[dict[str, tuple[str, str | None]], tuple[str, str | None]]:
    """Return the first refusal of each recipient, and the first that meant none of them; a transcript is often shared."""
    by_recipient: dict[str, tuple[str, str | None]] = {}
    shared: tuple[str, str | None] = ("", None)
    for reply, verb, address in _refusals(transcript):
        if address:
            by_recipient.setdefault(address, (reply, verb))
        elif not shared[0]:
            shared = (reply, verb)
    return by_recipient, shared


def _refusals(transcript: str) -> Iterator[tuple[str, str | None, str | None]]:
    """Yield each reply of a transcript that refuses: its lines joined, the command before it, the recipient of a RCPT."""
    verb: str | None = None
    address: str | None = None
    reply: list[str] = []
    for line in transcript.split("\n"):
        said = _SAID.match(line)
        if said:
            text = said[1].strip()
            if reply or text[:1] in {"4", "5"}:
                reply.append(text)
                if text[3:4] != "-":
                    yield " ".join(reply), verb or None, address
                    reply = []
            continue
        if reply:
            yield " ".join(reply), verb or None, address
            reply = []
        asked = _ASKED.match(line)
        if asked:
            verb = _VERBS.get(asked[1][:4].upper(), verb)
            address = (address_in(asked[1]) or "").lower() if verb == "RCPT" else None
    if reply:
        yield " ".join(reply), verb or None, address


def quoted_reply(stretch: str, readers: Readers) -> str:
    """Return the reply with its code that the text quotes, to the end of its paragraph; empty for none."""
    start = reply_start(stretch)
    if start is None:
        return ""
    rest = _PARAGRAPH.split(stretch[start:], maxsplit=1)[0]
    opened = stretch[start - 1 : start]
    closing = _QUOTES.get(opened)
    if closing:
        end = _closing(rest, opened, closing)
        rest = rest[:end] if end else rest
    reply = _REPLIED_TO.sub("", _without_tail(rest, stretch, start, readers)).rstrip(" #\n\t")
    # "(reason: 550 ... User unknown)": the bracket was opened before the reply
    return reply[:-1] if reply.endswith(")") and reply.count(")") > reply.count("(") else reply


def _paragraph_with(codes: str, stretch: str, readers: Readers) -> str:
    """Return the paragraph that ends in codes where it begins as boilerplate does ("Your message ..."); else empty."""
    at = stretch.find(codes.strip())
    paragraph = stretch[stretch.rfind("\n\n", 0, at) + 1 : at + len(codes)].strip()
    return " ".join(paragraph.split())[:REASON_LIMIT] if paragraph.lower().startswith(readers.noise) else ""


def _without_tail(rest: str, stretch: str, start: int, readers: Readers) -> str:
    """Return the lines of a reply up to a rule, the reporter's own words, or (behind a label) the next label."""
    lines = rest.split("\n")
    if len(lines) == 1:
        return rest
    labelled = ":" in stretch[stretch.rfind("\n", 0, start) + 1 : start]
    kept = lines[:1]
    for line in lines[1:]:
        bare = line.strip().lower()
        if bare.startswith(readers.noise) or _RULE_LINE.match(line) or (labelled and _NEXT_LABEL.match(line)):
            break
        kept.append(line)
    return "\n".join(kept)


def _closing(rest: str, opened: str, closing: str) -> int:
    """Return where the quotation that began before `rest` ends; 0 where it never does."""
    if opened in "'\"":
        end = rest.rfind(closing)
        # an apostrophe inside a word closes nothing
        return end if end > 3 and not rest[end + 1 : end + 2].isalpha() else 0
    depth = 1
    for at, char in enumerate(rest[:3000]):
        depth += (char == opened) - (char == closing)
        if depth == 0:
            return at
    return 0


def reason_in(stretch: str, readers: Readers) -> str:
    """Return the words that give a reason: without rules, greetings and advice, at most `REASON_LIMIT` characters."""
    kept: list[str] = []
    size = 0
    inline = bool(stretch.partition("\n")[0].strip())
    for line in stretch.split("\n"):
        bare = line.strip()
        if inline and kept and not bare:
            break  # "a@b: the reason" ends with its paragraph
        if not bare or _RULE.fullmatch(bare) or size > REASON_LIMIT:
            continue
        low = bare.lower()
        if low.startswith(readers.noise) and not any(0 < low.find(word) < len(low) - 12 for word in readers.because):
            continue
        kept.append(bare)
        size += len(bare) + 1
    return " ".join(kept)[:REASON_LIMIT].lstrip("-–:;, ").strip("\"' ")
