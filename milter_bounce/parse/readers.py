"""What makes each kind of report recognisable: the phrases of rules/readers/reports.toml, ready to compare.

Goes in: the file's text (system/readers.py reads it). Comes out: `Readers`.
Does not: read a message.

Raises: `ReadersError` for a file that is not as documented in its head; nothing afterwards.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from typing import Any, Final

from .address import ADDRESS

KNOWN_KEYS: Final = frozenset({"name", "text", "also", "subject", "from", "header", "reason"})


class ReadersError(ValueError):
    """The phrases file is broken: says which entry and what to do."""


@dataclass(frozen=True, slots=True)
class Family:
    """How one family of reports is recognised."""

    name: str
    text: tuple[str, ...]
    also: tuple[str, ...] = ()
    subject: tuple[str, ...] = ()
    sender: tuple[str, ...] = ()
    header: tuple[tuple[str, str], ...] = ()
    reason_before: bool = False
    """Whether the reason stands above the recipients, and what follows them is the same in every report."""


@dataclass(frozen=True, slots=True)
class Complaint:
    """How a complaint in no standard form is recognised."""

    type: str
    text: str = ""
    sender: str = ""
    subject: str = ""


@dataclass(frozen=True, slots=True)
class Readers:
    """All phrases, in lower case."""

    families: tuple[Family, ...]
    daemons: tuple[str, ...]
    failure_subjects: tuple[str, ...]
    failure_phrases: tuple[str, ...]
    delay_subjects: tuple[str, ...]
    delay_phrases: tuple[str, ...]
    final_phrases: tuple[str, ...]
    """Words that end a delay: nothing is tried any more."""

    success_phrases: tuple[str, ...]
    delivered: re.Pattern[str]
    """How the lines about a recipient begin that the message reached, in a report on several."""

    markers: tuple[str, ...]
    marker_line: re.Pattern[str]
    commands: tuple[tuple[str, str], ...]
    """(phrase, command): first match tells what was refused."""

    noise: tuple[str, ...]
    recipient_sentences: tuple[re.Pattern[str], ...]
    """Sentences that name a recipient; group 1 is the address."""

    message_to: re.Pattern[str]
    """What names the mail's own address, even where such mailboxes are mostly named for help; group 1."""

    because: tuple[str, ...]
    """Words before a reason: a line that has one is no noise."""

    reason_label: re.Pattern[str]
    """How a line begins that gives the reason behind a label."""

    offered: re.Pattern[str]
    """An address that is there to be written to, or is greeted, with the words before it."""

    other_labels: frozenset[str]
    sender_words: tuple[str, ...]
    """How a line ends whose next names the sender."""

    recipient_labels: tuple[str, ...]
    reason_labels: tuple[str, ...]
    """Words of a label before a recipient that tells the reason, too ("Unknown user: a@b")."""

    helpers: frozenset[str]
    auto_subjects: tuple[str, ...]
    auto_certain: tuple[str, ...]
    auto_headers: tuple[str, ...]
    auto_precedence: frozenset[str]
    auto_values: tuple[tuple[str, str], ...]
    auto_texts: tuple[str, ...]
    complaints: tuple[Complaint, ...]
    complained_recipient: tuple[str, ...]
    list_headers: tuple[str, ...]
    notices: tuple[str, ...]
    own_mailbox: tuple[str, ...]
    """Words of a notice to a mailbox's own holder."""

    reply_subjects: tuple[re.Pattern[str], ...]

    @classmethod
    def from_toml(cls, text: str) -> Readers:
        """Return the phrases of a readers file.

        Raises: `ReadersError`: not TOML, a key missing or misspelt, a pattern that is none.
        """
        try:
            data = tomllib.loads(text)
            general, auto, feedback, not_bounce = (data[k] for k in ("general", "auto_reply", "feedback", "not_bounce"))
            return cls(
                families=tuple(_family(entry) for entry in data["reader"]),
                daemons=_lower(general["daemons"]),
                failure_subjects=_lower(general["failure_subjects"]),
                failure_phrases=_lower(general["failure_phrases"]),
                delay_subjects=_lower(general["delay_subjects"]),
                delay_phrases=_lower(general["delay_phrases"]),
                final_phrases=_lower(general["final_phrases"]),
                success_phrases=_lower(general["success_phrases"]),
                delivered=re.compile(general["delivered_re"], re.IGNORECASE),
                markers=_lower(general["original_markers"]),
                marker_line=_marker(general["original_markers"]),
                commands=tuple(
                    (p.lower(), command) for command, phrases in general["commands"].items() for p in phrases
                ),
                noise=_lower(general["noise"]),
                recipient_sentences=tuple(map(_naming, general["recipient_sentences_re"])),
                message_to=_naming(general["message_to_re"]),
                because=_lower(general["because"]),
                reason_label=re.compile(general["reason_label_re"], re.IGNORECASE | re.MULTILINE),
                offered=_naming(general["offered_re"]),
                other_labels=frozenset(_lower(general["other_labels"])),
                sender_words=_lower(general["sender_words"]),
                recipient_labels=_lower(general["recipient_labels"]),
                reason_labels=_lower(general["reason_labels"]),
                helpers=frozenset(_lower(general["helpers"])),
                auto_subjects=_lower(auto["subjects"]),
                auto_certain=_lower(auto["certain_subjects"]),
                auto_headers=_lower(auto["headers"]),
                auto_precedence=frozenset(_lower(auto["precedence"])),
                auto_values=tuple((k.lower(), v.lower()) for k, v in auto["header_values"].items()),
                auto_texts=_lower(auto["texts"]),
                complaints=tuple(_complaint(entry) for entry in (*feedback["texts"], *feedback["senders"])),
                complained_recipient=_lower(feedback["original_recipient_headers"]),
                list_headers=_lower(not_bounce["headers"]),
                notices=_lower(not_bounce["notices"]),
                own_mailbox=_lower(not_bounce["own_mailbox"]),
                reply_subjects=tuple(re.compile(p, re.IGNORECASE) for p in not_bounce["subjects_re"]),
            )
        except (tomllib.TOMLDecodeError, KeyError, TypeError, AttributeError, re.error) as error:
            raise ReadersError(
                f"readers/reports.toml: {type(error).__name__} {error}: compare with the shipped file"
            ) from error


def _lower(phrases: list[str]) -> tuple[str, ...]:
    return tuple(phrase.lower() for phrase in phrases)


def _family(entry: dict[str, Any]) -> Family:
    unknown = entry.keys() - KNOWN_KEYS
    if unknown:
        raise ReadersError(
            f"readers/reports.toml: reader {entry.get('name')!r}: unknown key {min(unknown)!r}: remove it"
        )
    return Family(
        name=entry["name"],
        text=_lower(entry.get("text", [])),
        also=_lower(entry.get("also", [])),
        subject=_lower(entry.get("subject", [])),
        sender=_lower(entry.get("from", [])),
        header=tuple((k.lower(), v.lower()) for k, v in entry.get("header", {}).items()),
        reason_before=entry.get("reason") == "before",
    )


def _complaint(entry: dict[str, str]) -> Complaint:
    return Complaint(entry["type"], entry.get("text", ""), entry.get("from", ""), entry.get("subject", ""))


def _marker(phrases: list[str]) -> re.Pattern[str]:
    """Return the pattern of a line that only announces the returned message."""
    words = "|".join(re.escape(p.lower()) for p in sorted(phrases, key=len, reverse=True))
    return re.compile(
        rf"^[ \t>]{{0,20}}[-=*_|#+~ \t]{{0,80}}(?:here is |this is |below is |the |your )?(?:{words})"
        r"(?:,? including all the headers|, including[^\n]{0,40}| is following| follows| below)?[.:]?[ \t]*[-=*_|#+~ \t]{0,80}$",
        re.MULTILINE | re.IGNORECASE,
    )


def _naming(pattern: str) -> re.Pattern[str]:
    """Return a pattern of the file, in which ADDRESS stands for any mail address."""
    return re.compile(pattern.replace("ADDRESS", ADDRESS), re.IGNORECASE)
