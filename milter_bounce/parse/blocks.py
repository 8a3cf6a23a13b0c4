"""Reader of reports in plain words: which recipients they name, and which lines belong to each.

Goes in: a report's own words. Comes out: `Block`, one per recipient. Does
not: need to know the mail system: a recipient stands at the head of a line,
behind a label, in a reply, or in a sentence; in this order they are believed.

Limits: `LINES_LIMIT`, `LINE_LIMIT`, `BLOCKS_LIMIT`.
Raises: nothing, on any text.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

from milter_bounce import limits

from .address import ADDRESS, addresses_in, clean

if TYPE_CHECKING:
    from collections.abc import Collection

    from .readers import Readers

LINES_LIMIT: Final = limits.WORDS_LINES
LINE_LIMIT: Final = limits.WORDS_LINE
BLOCKS_LIMIT: Final = limits.WORDS_RECIPIENTS

_BULLET = r"(?:[*•·‣◦-]{1,3}>?[ \t]+|-{1,2}>[ \t]*|[0-9]{1,3}[.)][ \t]+|>>>[ \t]+|\|[ \t]?)?"
_HEAD = re.compile(rf"[ \t]*{_BULLET}[<\"'\[(]{{0,2}}({ADDRESS})[>\"'\])]{{0,2}}(.*)$")
_LABEL = re.compile(
    rf"[ \t|*-]{{0,20}}([^\s<>@:：\"'][^<>@\n:：]{{0,80}}?)[ \t]*[:：][ \t]*[<\"'\[(]{{0,2}}(?:\[?(?:rfc822;|smtp:|mailto:)[ ]?)?({ADDRESS})[>\"'\])]{{0,2}}(.*)$",
    re.IGNORECASE,
)
_IN_REPLY = re.compile(rf"[ \t]*(?:<<<[ \t]*)?[245][0-9][0-9][- ][^\n]{{0,40}}?<?({ADDRESS})>?\.{{3}}(.*)$")
_NEXT_OF_LIST = re.compile(
    rf"[>\"')]{{0,2}}[ \t\n]{{0,4}}(?:[,;、，]|\b(?:and|und|et|y|e|en|och|og)\b)[ \t\n]{{0,8}}[<\"'(]{{0,2}}({ADDRESS})"
)
_SENDERS_WORDS = re.compile(
    r"^[ \t>]*(?:>>>|Sent <<<|SMTP>>)|MAIL FROM|^\s*\(?(?:expanded|generated) from", re.IGNORECASE
)
_ALIAS = re.compile(
    rf"\(?(?:expanded|generated|originally|redirected) (?:from|to):?[ \t\n]+<?({ADDRESS})>?[\s)]*:?", re.IGNORECASE
)
_CAME_FROM = re.compile(r"(?m)^[ \t]*from[ \t]+\S{1,320}[ \t]*(?:\[[0-9A-Fa-f.:]{3,45}\])?[ \t]*$", re.IGNORECASE)
"""Sendmail's second line, "from ann@localhost": who handed the message in."""

_ALIAS_BEGINS = re.compile(r"\((?:expanded|generated|originally|redirected) (?:from|to):?\s*$", re.IGNORECASE)
_GREETING = re.compile(r"\s*(?:様|您好|님)|[,،，]?\s*$")


class Block(NamedTuple):
    """One recipient and the lines about it."""

    recipient: str
    alias: str | None
    lines: str


class _Found(NamedTuple):
    line: int
    recipient: str
    rest: str


def read_blocks(words: str, readers: Readers, not_recipients: Collection[str]) -> list[Block]:
    """Return the recipients that the words name, with the lines about each.

    Args:
        words: the report's own words.
        readers: phrases.
        not_recipients: whose mail it was and who writes (lower case): never believed before anybody else.
    """
    if "@" not in words:
        return []
    not_recipients = {*not_recipients, *(clean(found[1]).lower() for found in readers.offered.finditer(words))}
    lines = [line[:LINE_LIMIT] for line in words.split("\n", LINES_LIMIT)[:LINES_LIMIT]]
    for finder in (_at_head, _behind_label, _in_replies):
        found = finder(lines, readers, not_recipients)
        if found:
            return _blocks(lines, found)
    return [Block(named, None, "\n" + words) for named in _in_sentence(words, readers, not_recipients)]


def _believable(address: str, readers: Readers, not_recipients: Collection[str]) -> bool:
    low = address.lower()
    return low not in not_recipients and low.partition("@")[0] not in readers.helpers


def _at_head(lines: list[str], readers: Readers, not_recipients: Collection[str]) -> list[_Found]:
    """Return the recipients at the head of a line: alone, before a colon, or before their reason."""
    found: list[_Found] = []
    helpers: list[_Found] = []
    for number, line in enumerate(lines):
        if "@" not in line or len(found) >= BLOCKS_LIMIT:
            continue
        matched = _HEAD.match(line)
        if not matched or _SENDERS_WORDS.search(line):
            continue
        address, rest = clean(matched[1]), matched[2]
        if not _introduces(rest) or _is_somebody_elses(lines, number, readers):
            continue
        if found and found[-1].recipient.lower() == address.lower():
            continue  # the reply about it names it again
        more, end = _listed_after(rest, 0)
        if more:
            found += [_Found(number, a, "") for a in (address, *more[:-1]) if _believable(a, readers, not_recipients)]
            address, rest = more[-1], rest[end:]
        hit = _Found(number, address, rest)
        if _believable(address, readers, not_recipients):
            found.append(hit)
        elif rest.strip()[:1] == ":" or line.lstrip()[:1] == "<":
            helpers.append(hit)
    return found or [h for h in helpers if h.recipient.lower() not in not_recipients] or helpers


def _is_somebody_elses(lines: list[str], number: int, readers: Readers) -> bool:
    """Tell whether the words before line `number` say that its address is the sender's, or another name of the last one."""
    above = next((line for line in reversed(lines[max(0, number - 3) : number]) if line.strip()), "")
    words = above.strip().rstrip(":").rstrip().lower()
    return words in readers.other_labels or words.endswith(readers.sender_words) or bool(_ALIAS_BEGINS.search(above))


def _introduces(rest: str) -> bool:
    """Tell whether what follows an address at the head of a line can belong to a failed recipient."""
    bare = rest.strip()
    if not bare:
        return True
    if bare[0] in ":;(<.,-–":
        return True
    # "a@b on Thu, ...", "a@b Invalid Address", "a@b ... unknown host"; not "a@b 様" and the like
    return rest[0] in " \t" and not _GREETING.match(bare) and bare[0].isascii()


def _behind_label(lines: list[str], readers: Readers, not_recipients: Collection[str]) -> list[_Found]:
    """Return the recipients behind a label: ``Recipient: a@b``, ``Could not be delivered to: <a@b>``."""
    found: list[_Found] = []
    sure: list[_Found] = []
    for number, line in enumerate(lines):
        if "@" not in line or len(found) >= BLOCKS_LIMIT:
            continue
        matched = _LABEL.match(line)
        if not matched:
            continue
        label = matched[1].strip().lower()
        if label in readers.other_labels or label.endswith(("from", "by")) or _SENDERS_WORDS.search(line):
            continue
        # "User's mailbox is full: <a@b>": a label of several words tells the reason
        reason = f"{matched[1]}: {matched[3]}" if len(label.split()) > 2 else matched[3]
        hit = _Found(number, clean(matched[2]), reason)
        if any(word in label for word in readers.recipient_labels):
            more, end = _listed_after(matched[3], 0)
            sure += [_Found(number, a, "") for a in (hit.recipient, *more[:-1]) if more]
            sure.append(_Found(number, more[-1], matched[3][end:]) if more else hit)
        elif _believable(hit.recipient, readers, not_recipients):
            found.append(hit)
    return sure or found


def _in_replies(lines: list[str], readers: Readers, not_recipients: Collection[str]) -> list[_Found]:
    """Return the recipients of reply lines: ``550 <a@b>... User unknown``."""
    found: list[_Found] = []
    for number, line in enumerate(lines):
        matched = _IN_REPLY.match(line) if "@" in line else None
        if matched and _believable(clean(matched[1]), readers, not_recipients):
            found.append(_Found(number, clean(matched[1]), line.strip()))
    return found


def _in_sentence(words: str, readers: Readers, not_recipients: Collection[str]) -> list[str]:
    """Return the recipients that a sentence names; the only address that is nobody else's where none does."""
    head = words[:6000]
    for pattern in readers.recipient_sentences:
        for found in pattern.finditer(head):
            if _believable(clean(found[1]), readers, not_recipients):
                return list(dict.fromkeys([clean(found[1]), *_listed_after(head, found.end())[0]]))
    meant = [clean(found[1]) for found in readers.message_to.finditer(head)]
    meant = [a for a in dict.fromkeys(meant) if a.lower() not in not_recipients]
    if len(meant) == 1:
        return meant
    others = [a for a in addresses_in(_CAME_FROM.sub("", head)) if _believable(a, readers, not_recipients)]
    return others if len(others) == 1 else []


def _listed_after(text: str, at: int) -> tuple[list[str], int]:
    """Return the addresses that go on a list (``a@b, c@d and e@f``) from `at`, and where the list ends."""
    more: list[str] = []
    while (found := _NEXT_OF_LIST.match(text, at)) and len(more) < BLOCKS_LIMIT:
        more.append(clean(found[1]))
        at = found.end()
    return more, at


def _blocks(lines: list[str], found: list[_Found]) -> list[Block]:
    """Return a block per recipient: its lines reach to the next; those without lines of their own share the next's."""
    blocks: dict[str, Block] = {}
    waiting: list[tuple[str, str | None]] = []
    for index, hit in enumerate(found):
        end = found[index + 1].line if index + 1 < len(found) else len(lines)
        text = "\n".join([hit.rest.lstrip(":;,. \t"), *lines[hit.line + 1 : end]])
        alias = _ALIAS.search(text[:800])
        if alias:
            text = text[: alias.start()] + text[alias.end() :]
        named = clean(alias[1]) if alias else None
        if not text.strip(" \t\n-=*_.()<>") and index + 1 < len(found):
            waiting.append((hit.recipient, named))
            continue
        for recipient, its_alias in [*waiting, (hit.recipient, named)]:
            key = recipient.lower()
            if key not in blocks or len(blocks[key].lines.strip()) < 4:
                blocks[key] = Block(recipient, its_alias, text)
        waiting = []
    return list(blocks.values())


def before_first(words: str, recipient: str) -> str:
    """Return the lines before the first mention of a recipient: some report the reason first."""
    at = words.find(recipient)
    return words[: words.rfind("\n", 0, at) + 1] if at > 0 else ""
