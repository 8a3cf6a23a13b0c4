"""Reader of Lotus Notes and Domino reports: the subject or a section says why, an indented line says who.

Goes in: the words. Comes out: drafts. Raises: nothing.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from milter_bounce.parse.address import addresses_in
from milter_bounce.parse.draft import Draft

if TYPE_CHECKING:
    from milter_bounce.parse.view import View

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
    reasons = _FAILURE_REASONS.search(words)
    if reasons:
        end = _ENDS.search(words, reasons.end())
        section = words[reasons.end() : end.start() if end else len(words)]
        return _by_address(section)
    delivered = _DELIVERED_TO.search(words)
    because = _BECAUSE.search(words, delivered.end()) if delivered else None
    if not delivered or not because:
        return []
    text = words[because.end() : because.end() + 1500].strip()
    return [Draft(recipient=a, diagnostic=text) for a in addresses_in(words[delivered.end() : because.start()])]


def corrected(draft: Draft, view: View) -> None:
    """Correct a recipient of Domino's delivery-status fields by its words.

    Domino names the recipient as its directory rewrote it, in another domain,
    and folds its diagnostic in the middle of words; the words keep what the
    sender wrote.
    """
    told = read(view)
    if len(told) != 1 or not draft.recipient or not told[0].recipient:
        return
    if told[0].recipient.partition("@")[0].lower() == draft.recipient.partition("@")[0].lower():
        draft.recipient = told[0].recipient
    if told[0].diagnostic.split() and "".join(draft.diagnostic.split()).startswith(
        "".join(told[0].diagnostic.split())[:40]
    ):
        draft.diagnostic = told[0].diagnostic


def _by_address(section: str) -> list[Draft]:
    """Return each address line of the section with the lines before it, its reason."""
    drafts, reason = [], ""
    for line in section.split("\n"):
        found = addresses_in(line)
        if found and len(line.strip()) <= len(found[0]) + 4:
            drafts.append(Draft(recipient=found[0], diagnostic=reason))
            reason = ""
        elif line.strip():
            reason = f"{reason} {line.strip()}".strip()
    return drafts
