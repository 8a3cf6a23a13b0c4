"""Reader of GroupWise's reports: a list of recipients, those of its own domain by name alone, each with its reason in brackets.

Goes in: the words, and whom the returned message was sent to. Comes out:
drafts. A list of whole addresses with their reasons is left to the general
reader; so is a name that the returned message's To does not complete.

Limits: `RECIPIENTS_LIMIT`.
Raises: nothing.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

from milter_bounce import limits
from milter_bounce.parse.address import ADDRESS, clean
from milter_bounce.parse.told import drafted, told_by

from .local import by_local_part

if TYPE_CHECKING:
    from milter_bounce.parse.draft import Draft
    from milter_bounce.parse.view import View

RECIPIENTS_LIMIT: Final = limits.WORDS_RECIPIENTS

_LIST = re.compile(
    r"^[^\n]{0,80}undeliverable (?:to the following|recipient)[^\n]{0,40}:[ \t]{0,20}\n", re.MULTILINE | re.IGNORECASE
)
_TRANSCRIPT = re.compile(r"^[ \t]{0,20}transcript of session follows:?[ \t]{0,20}$", re.MULTILINE | re.IGNORECASE)
# a@b (reason), name (reason), name (a@b) reason
_ENTRY = re.compile(
    rf"[ \t]{{0,20}}(?:<?({ADDRESS})>?|([A-Za-z0-9][\w.+-]{{0,63}})(?:[ \t]{{1,20}}\(({ADDRESS})\))?)(?:[ \t]{{1,20}}(\S[^\n]*))?$"
)


class _Entry(NamedTuple):
    """A recipient of the list: address or name, and the reason beside it."""

    address: str | None
    name: str
    reason: str


def read(view: View) -> list[Draft]:
    """Return the recipients of a list that names some without domain, or no reason beside them; empty for other lists."""
    listed = _LIST.search(view.words)
    entries = _entries(view.words[listed.end() :]) if listed else []
    session = _TRANSCRIPT.search(view.words, listed.end()) if listed else None
    if not session and (all(not e.name for e in entries) or (len(entries) == 1 and entries[0].address)):
        return []
    addresses = by_local_part(view) if any(e.address is None for e in entries) else {}
    common = told_by(view.words[session.end() :], view.readers) if session else None
    drafts = []
    for entry in entries:
        address = entry.address or addresses.get(entry.name.lower())
        if address is None:
            continue
        told = common if common and not entry.reason else told_by(entry.reason, view.readers)
        drafts.append(drafted(told, address))
    return drafts


def _entries(text: str) -> list[_Entry]:
    """Return the entries of the list that begins `text`: it ends with an empty line; other lines go on with a reason."""
    entries: list[_Entry] = []
    for line in text.split("\n"):
        if not line.strip():
            if entries:
                break
            continue
        found = _ENTRY.match(line)
        reason = (found[4] or "") if found else ""
        # "name" alone or before a bracket: two words are no name with a reason
        if found and (found[1] or found[3] or not reason or reason.startswith("(")) and len(entries) < RECIPIENTS_LIMIT:
            address = found[1] or found[3]
            entries.append(_Entry(clean(address) if address else None, found[2] or "", reason))
        elif entries:
            entries[-1] = entries[-1]._replace(reason=f"{entries[-1].reason}\n{line}")
    return entries
