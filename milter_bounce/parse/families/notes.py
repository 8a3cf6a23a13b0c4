"""Reader of Lotus Notes and Domino reports: the subject or a section says why, an indented line says who.

Goes in: the words. Comes out: drafts. A report holds a record per failure
("was not delivered to: ... because: ..."); each ends where the next begins.

Limits: `RECORDS_LIMIT`.
Raises: nothing.
"""

from __future__ import annotations

import re
from itertools import islice
from typing import TYPE_CHECKING, Final

from milter_bounce import limits
from milter_bounce.parse.address import addresses_in
from milter_bounce.parse.draft import Draft

if TYPE_CHECKING:
    from milter_bounce.parse.view import View

RECORDS_LIMIT: Final = limits.WORDS_RECIPIENTS
_REASON_LENGTH: Final = 1500

_FAILURE_REASONS = re.compile(r"^-{3,}[ ]*Failure Reasons[ ]*-{3,}[ \t]*$", re.MULTILINE | re.IGNORECASE)
_ENDS = re.compile(r"^---[^\n]{0,120}---[ \t]{0,20}$", re.MULTILINE)
_DELIVERED_TO = re.compile(
    r"^[^\n]{0,60}(?:was not delivered to|wurde nicht zugestellt an|n'a pas été remis à|no se entregó a|non è stato consegnato a|is niet bezorgd bij)[ ]?:",
    re.MULTILINE | re.IGNORECASE,
)
_BECAUSE = re.compile(
    r"^[ \t]*(?:because|weil|da|car|porque|perché|omdat|aus folgendem grund)[ ]?:", re.MULTILINE | re.IGNORECASE
)


def read(view: View) -> list[Draft]:
    """Return the recipients of a Notes or Domino report; empty for another layout."""
    words = view.words
    sections = list(islice(_FAILURE_REASONS.finditer(words), RECORDS_LIMIT))
    if sections:
        ends = [section.start() for section in sections[1:]] + [len(words)]
        return [d for section, end in zip(sections, ends, strict=True) for d in _by_address(words, section.end(), end)]
    heads = list(islice(_DELIVERED_TO.finditer(words), RECORDS_LIMIT))
    if not heads:
        return []
    ends = [head.start() for head in heads[1:]] + [len(words)]
    drafts: list[Draft] = []
    for head, end in zip(heads, ends, strict=True):
        because = _BECAUSE.search(words, head.end(), end)
        if because is None:
            return []  # the reason stands behind another label: the general reader takes all records
        text = words[because.end() : min(end, because.end() + _REASON_LENGTH)].strip()
        drafts += [Draft(recipient=a, diagnostic=text) for a in addresses_in(words[head.end() : because.start()])]
    return drafts


def corrected(draft: Draft, view: View) -> None:
    """Correct a recipient of Domino's delivery-status fields by its words.

    Domino names the recipient as its directory rewrote it, in another domain,
    and folds its diagnostic in the middle of words; the words keep what the
    sender wrote.
    """
    told = read(view)
    name = (draft.recipient or "").partition("@")[0].lower()
    named = [t for t in told if t.recipient and t.recipient.partition("@")[0].lower() == name]
    told = named if len(told) > 1 else told
    if len(told) != 1 or not draft.recipient:
        return
    if named:
        draft.recipient = told[0].recipient
    if told[0].diagnostic.split() and "".join(draft.diagnostic.split()).startswith(
        "".join(told[0].diagnostic.split())[:40]
    ):
        draft.diagnostic = told[0].diagnostic


def _by_address(words: str, start: int, end: int) -> list[Draft]:
    """Return each address line of a section with the lines before it, its reason; addresses in a row share theirs."""
    ends = _ENDS.search(words, start, end)
    drafts: list[Draft] = []
    reason, given = "", ""
    for line in words[start : ends.start() if ends else end].split("\n"):
        found = addresses_in(line)
        if found and len(line.strip()) <= len(found[0]) + 4:
            given = reason or given
            drafts.append(Draft(recipient=found[0], diagnostic=given))
            reason = ""
        elif line.strip():
            reason = f"{reason} {line.strip()}".strip()
    return drafts
