"""Reader of Microsoft's reports in words: Exchange 5.5, 2000/2003, 2007 and later, Microsoft 365.

Goes in: the words. Comes out: drafts. The wording changes with version and
language; what stays: the administrators' part lists an address alone on its
line with the reply below it, and 2003 puts the reply in angle brackets.

Raises: nothing.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from milter_bounce.parse.address import ADDRESS, clean
from milter_bounce.parse.draft import Draft
from milter_bounce.parse.told import host_in

if TYPE_CHECKING:
    from milter_bounce.parse.view import View

# "a@b" alone, then within three lines: #550 5.1.1 RESOLVER... ##, or: Remote Server returned '550 ...'
_RETURNED = re.compile(
    rf"^[ \t]{{0,20}}<?({ADDRESS})>?[ \t]{{0,20}}\n(?:[ \t]{{0,20}}[^\s@'\"]{{1,255}}[ \t]{{0,20}}\n){{0,2}}"
    r"(?:[^\n'#“]{0,160}['“]([45][^\n]{0,1000}?(?:\n[^\n]{1,1000}?){0,6}?)['”][ \t]{0,20}$"
    r"|[ \t]{0,20}#<?\s?([45][^\n#]{0,1000}(?:\n[^\n#]{1,1000}){0,6}?)(?:##|\n[ \t]{0,20}\n|$))",
    re.MULTILINE,
)
_MORE_RETURNED = re.compile(r"^[^\n'“]{0,160}['“]([45][0-9]{2} [^\n]{0,1000})$", re.MULTILINE)
# Exchange 2000/2003: <mx.example.net #5.1.1 smtp;550 5.1.1 ...>
_BRACKETED = re.compile(
    r"<([^\s<>#]{1,255})? ?#([45]\.[0-9]\.[0-9]{1,3})(?: (?:smtp|x-[a-z]+);([^<>]*(?:<[^<>]*>[^<>]*)*))?>"
)
_ON_DATE = re.compile(rf"^[ \t]*<?({ADDRESS})>? (?:on|am|le|el|il|op|em|den) [^\n]{{6,60}}$", re.MULTILINE)


def read(view: View) -> list[Draft]:
    """Return the recipients of the administrators' part, or of the 2003 layout; empty for other layouts."""
    words = view.words
    drafts: dict[str, Draft] = {}
    for found in _RETURNED.finditer(words):
        address, reply = clean(found[1]), found[2] or found[3]
        tail = words[found.end() : found.end() + 600].split("\n\n", 1)[0]
        if re.match(r"[45]\d\d [45]\.4\.7", reply) and (more := _MORE_RETURNED.search(tail)):
            reply = f"{reply} <{more[1]}>"
        drafts.setdefault(
            address.lower(),
            Draft(recipient=address, diagnostic=reply, diagnostic_type="smtp", remote_mta=host_in(found[0])[0]),
        )
    if drafts:
        return list(drafts.values())
    return _dated(words)


def _dated(words: str) -> list[Draft]:
    """Return the recipients of ``a@b on Thu, 29 Apr ...`` lines, each with the text to the next."""
    heads = list(_ON_DATE.finditer(words))
    drafts = []
    for number, head in enumerate(heads):
        end = heads[number + 1].start() if number + 1 < len(heads) else len(words)
        text = words[head.end() : end][:3000].strip()
        bracketed = _BRACKETED.search(text)
        reply = (bracketed[3] or bracketed[2]) if bracketed else ""
        draft = Draft(recipient=clean(head[1]), diagnostic=reply or text[:700])
        if bracketed:
            draft.diagnostic = f"{reply} {text[: bracketed.start()].strip()}".strip() if not bracketed[3] else reply
            draft.remote_mta = bracketed[1]
        drafts.append(draft)
    return drafts
