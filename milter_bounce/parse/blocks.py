"""Reader of reports in plain words: which recipients they name, and which lines belong to each.

Goes in: a report's own words. Comes out: `Block`, one per recipient. Does
not: need to know the mail system: a recipient stands at the head of a line,
behind a label, in a reply, or in a sentence; in this order they are believed.

Limits: `LINES_LIMIT`, `LINE_LIMIT`, `SENTENCES_LIMIT`, `BLOCKS_LIMIT`.
Raises: nothing, on any text.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

from milter_bounce import limits

from .address import ADDRESS, clean

if TYPE_CHECKING:
    from collections.abc import Collection

    from .readers import Readers

LINES_LIMIT: Final = limits.WORDS_LINES
LINE_LIMIT: Final = limits.WORDS_LINE
BLOCKS_LIMIT: Final = limits.WORDS_RECIPIENTS
SENTENCES_LIMIT: Final = limits.WORDS_SENTENCES
LEAD: Final = 24
"""Characters before an address by which two sentences are told to say the same."""


_BULLET = r"(?:[*•·‣◦-]{1,3}>?[ \t]+|-{1,2}>[ \t]*|[0-9]{1,3}[.)][ \t]+|>>>[ \t]+|\|[ \t]?)?"
_HEAD = re.compile(rf"[ \t]*{_BULLET}[<\"'\[(]{{0,2}}({ADDRESS})[>\"'\])]{{0,2}}(.*)$")
_LABEL = re.compile(
    rf"[ \t|*-]{{0,20}}([^\s<>@:：\"'][^<>@\n:：]{{0,80}}?)[ \t]*[:：][ \t]*[<\"'\[(]{{0,2}}(?:\[?(?:rfc822;|smtp:|mailto:)[ ]?)?({ADDRESS})[>\"'\])]{{0,2}}(.*)$",
    re.IGNORECASE,
)
_FIELD = re.compile(rf"[ \t]*[A-Za-z-]{{2,20}}:[ \t]*<?({ADDRESS})>?[ \t]*$")
_ANY = re.compile(f"({ADDRESS})")
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
_NUMBER = re.compile(r"[0-9]+")
_GREETING = re.compile(r"\s*(?:様|您好|님)|[,،，]?\s*$")


class Block(NamedTuple):
    """One recipient and the lines about it."""

    recipient: str
    alias: str | None
    lines: str
    line: int = 0
    """Number of the line that names it, from 0: what stands before may be about it, too."""


class _Known(NamedTuple):
    """What other fields tell of addresses, in lower case."""

    excluded: frozenset[str]
    """Whose mail it was and who writes: never believed before anybody else."""

    expected: frozenset[str]
    """Whom the mail was for: believed, whatever they are called."""


class _Found(NamedTuple):
    line: int
    recipient: str
    rest: str
    shape: tuple[str, str] = ("", "")
    """What stands around the address on its line: recipients of one list look alike."""


def read_blocks(
    words: str, readers: Readers, not_recipients: Collection[str], expected: Collection[str] = ()
) -> list[Block]:
    """Return the recipients that the words name, with the lines about each.

    Args:
        words: the report's own words.
        readers: phrases.
        not_recipients: whose mail it was and who writes (lower case): never believed before anybody else.
        expected: whom the mail was for, as other fields tell (lower case): believed even where such mailboxes are
            mostly named for help.
    """
    if "@" not in words:
        return []
    offered = (clean(found[1]).lower() for found in readers.offered.finditer(words))
    known = _Known(frozenset((*not_recipients, *offered)), frozenset(expected))
    lines = [line[:LINE_LIMIT] for line in words.split("\n", LINES_LIMIT)[:LINES_LIMIT]]
    for finder in (_at_head, _behind_label, _in_replies):
        found = finder(lines, readers, known)
        if found:
            return _blocks(lines, found)
    return _in_sentence(words, readers, known)


def _believable(address: str, readers: Readers, known: _Known) -> bool:
    low = address.lower()
    return low not in known.excluded and (low in known.expected or low.partition("@")[0] not in readers.helpers)


def _at_head(lines: list[str], readers: Readers, known: _Known) -> list[_Found]:
    """Return the recipients at the head of a line: alone, before a colon, or before their reason.

    A mailbox that reports mostly name for help is one where it stands in a list with others, or heads its own reason.
    """
    hits: list[_Found] = []
    for number, line in enumerate(lines):
        if "@" not in line or len(hits) >= BLOCKS_LIMIT:
            continue
        matched = _HEAD.match(line)
        if not matched or _SENDERS_WORDS.search(line):
            continue
        address, rest = clean(matched[1]), matched[2]
        if not _introduces(rest) or _is_somebody_elses(lines, number, readers):
            continue
        if hits and hits[-1].recipient.lower() == address.lower():
            continue  # the reply about it names it again
        shape = _shape(line[: matched.start(1)], rest)
        more, end = _listed_after(rest, 0)
        if more:
            hits += [_Found(number, a, "", shape) for a in (address, *more[:-1])]
            address, rest = more[-1], rest[end:]
        hits.append(_Found(number, address, rest, shape))
    believed = [hit for hit in hits if _believable(hit.recipient, readers, known)]
    shapes = {hit.shape for hit in believed}
    wanted = {*believed, *(h for h in hits if h.shape in shapes or _heads_reason(lines, h))}
    found = [hit for hit in hits if hit in wanted and hit.recipient.lower() not in known.excluded]
    named = [hit for hit in hits if hit.shape[1] == ":" or "<" in hit.shape[0]]
    return found or [hit for hit in named if hit.recipient.lower() not in known.excluded] or named


def _shape(before: str, rest: str) -> tuple[str, str]:
    """Return what stands around an address at the head of a line, numbers of a list all alike."""
    mark = rest.strip()[:1]
    return _NUMBER.sub("1", before), mark if mark in ":;(<" else "words"


def _heads_reason(lines: list[str], hit: _Found) -> bool:
    """Tell whether the line below an address that stands alone is set in further, or the address is followed by a colon."""
    if hit.shape[1] == ":":
        return True
    below = lines[hit.line + 1] if hit.line + 1 < len(lines) and not hit.rest.strip() else ""
    indent = len(below) - len(below.lstrip())
    return bool(below.strip()) and indent > len(lines[hit.line]) - len(lines[hit.line].lstrip())


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


def _behind_label(lines: list[str], readers: Readers, known: _Known) -> list[_Found]:
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
        telling = any(word in label for word in readers.reason_labels)
        reason = line.strip() if telling else matched[3]
        reason = f"{matched[1]}: {matched[3]}" if len(label.split()) > 2 else reason
        hit = _Found(number, clean(matched[2]), reason)
        if telling or any(word in label for word in readers.recipient_labels):
            more, end = _listed_after(matched[3], 0)
            sure += [_Found(number, a, "") for a in (hit.recipient, *more[:-1]) if more]
            sure.append(_Found(number, more[-1], matched[3][end:]) if more else hit)
        elif _believable(hit.recipient, readers, known):
            found.append(hit)
    return sure or found


def _in_replies(lines: list[str], readers: Readers, known: _Known) -> list[_Found]:
    """Return the recipients of reply lines: ``550 <a@b>... User unknown``."""
    found: list[_Found] = []
    for number, line in enumerate(lines):
        matched = _IN_REPLY.match(line) if "@" in line else None
        if matched and _believable(clean(matched[1]), readers, known):
            found.append(_Found(number, clean(matched[1]), line.strip()))
    return found


def _in_sentence(words: str, readers: Readers, known: _Known) -> list[Block]:
    """Return the recipients that a sentence names; the only address that is nobody else's where none does."""
    head = words[:SENTENCES_LIMIT]
    for pattern in readers.recipient_sentences:
        named = [found for found in pattern.finditer(head) if clean(found[1]).lower() not in known.excluded]
        first = next((found for found in named if _believable(clean(found[1]), readers, known)), None)
        if first:
            return _by_sentences(words, first, named)
    meant = [clean(found[1]) for found in readers.message_to.finditer(head)]
    meant = [a for a in dict.fromkeys(meant) if a.lower() not in known.excluded]
    if len(meant) == 1:
        return [Block(meant[0], None, "\n" + words, words.count("\n", 0, words.find(meant[0])))]
    return _only_ones(words, head, readers, known)


def _only_ones(words: str, head: str, readers: Readers, known: _Known) -> list[Block]:
    """Return the only address that is nobody else's, or all where the same words stand before each ("收件人 a@b")."""
    head = _CAME_FROM.sub(lambda found: " " * len(found[0]), head)
    named = [found for found in _ANY.finditer(head) if clean(found[1]).lower() not in known.excluded]
    believed = [found for found in named if _believable(clean(found[1]), readers, known)]
    leads = {_lead(head, found) for found in believed}
    alone = len({clean(found[1]).lower() for found in believed}) == 1
    label = next(iter(leads)).strip(" \t:：<") if len(leads) == 1 else ""
    alike = len(label) > 1 and label not in readers.other_labels
    return _by_sentences(words, believed[0], named, plain=True) if alone or alike else []


def _by_sentences(words: str, first: re.Match[str], named: list[re.Match[str]], *, plain: bool = False) -> list[Block]:
    """Return a block per recipient of the first sentence and of those that say the same ("Failed to deliver to 'a@b'")."""
    lead = _lead(words, first)
    alike = list({clean(f[1]).lower(): f for f in reversed(named) if _lead(words, f) == lead}.values())
    alike = sorted(alike, key=lambda found: found.start())[:BLOCKS_LIMIT]
    if len(alike) > 1 and len(lead.strip()) > 1:
        ends = [found.start(1) - len(lead) for found in alike[1:]]
        texts = [words[f.end(1) : end] for f, end in zip(alike, [*ends, len(words)], strict=True)]
        return [
            Block(clean(found[1]), None, text.lstrip("'\">)]:;,. \t"), words.count("\n", 0, found.start()))
            for found, text in zip(alike, texts, strict=True)
        ]
    addresses = dict.fromkeys([clean(first[1]), *([] if plain else _listed_after(words, first.end())[0])])
    return [Block(a, None, "\n" + words, words.count("\n", 0, first.start())) for a in addresses]


def _lead(words: str, found: re.Match[str]) -> str:
    """Return the end of the words before an address."""
    return words[max(0, found.start(1) - LEAD) : found.start(1)].lower().rpartition("\n")[2]


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
    waiting: list[tuple[_Found, str | None]] = []
    for index, hit in enumerate(found):
        end = found[index + 1].line if index + 1 < len(found) else len(lines)
        text = "\n".join([hit.rest.lstrip(":;,. \t"), *lines[hit.line + 1 : end]])
        alias = _ALIAS.search(text[:800])
        if alias:
            text = text[: alias.start()] + text[alias.end() :]
        waiting.append((hit, clean(alias[1]) if alias else None))
        if not text.strip(" \t\n-=*_.()<>") and index + 1 < len(found):
            continue
        for one, its_alias in waiting:
            key = one.recipient.lower()
            if key not in blocks or len(blocks[key].lines.strip()) < 4:
                blocks[key] = Block(one.recipient, its_alias, text, one.line)
        waiting = []
    return list(blocks.values())


def before(words: str, block: Block) -> str:
    """Return the lines before those that name a recipient as such: some report the reason first."""
    above = words.split("\n", block.line)[: block.line]
    for number, line in enumerate(above):
        field = _FIELD.match(line) if "@" in line else None
        if field and clean(field[1]).lower() == block.recipient.lower():
            above = above[:number]
            break
    return "".join(line + "\n" for line in above)
