"""A small memory with a fixed content, and answers made of it: what the dialogue files presuppose."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from milter_bounce.config import Settings, from_values
from milter_bounce.system.answers import Answers, Powers
from milter_bounce.system.store import StoreError
from milter_bounce.verdict import (
    FREE,
    AdviceKind,
    Classification,
    FailureClass,
    Scope,
    Standing,
    Suppression,
)

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
SINCE = datetime(2026, 11, 19, 8, 10, tzinfo=UTC)
UNTIL = datetime(2026, 11, 20, 21, 34, tzinfo=UTC)

STANDINGS = {
    "gone@example.com": Standing(
        AdviceKind.SUPPRESS, since=SINCE, category="invalid-recipient", rule="user-unknown", text="no such user"
    ),
    "full@example.net": Standing(
        AdviceKind.RETRY, until=UNTIL, since=SINCE, category="mailbox-full", rule="over-quota", attempts=2
    ),
    "tired@example.net": Standing(
        AdviceKind.GIVE_UP, since=SINCE, category="mailbox-full", rule="over-quota", attempts=5
    ),
    "busy@slow.example": Standing(
        AdviceKind.RETRY, until=UNTIL, since=SINCE, category="rate-limited", rule="rate", backoff="slow.example"
    ),
    "one@blocked.example": Standing(
        AdviceKind.HOLD, until=UNTIL, since=SINCE, category="blocklisted", rule="listed", block="blocked.example"
    ),
    "probe@probing.example": Standing(
        AdviceKind.HOLD,
        since=SINCE,
        category="blocklisted",
        rule="listed",
        block="probing.example",
        probe="probing.example",
    ),
}


class FixedMemory:
    """Knows `STANDINGS` and nothing else; can be told to fail."""

    def __init__(self) -> None:
        self.standings = dict(STANDINGS)
        self.claimed: set[str] = set()
        self.fails: str | None = None
        self.asked: list[str] = []

    def gate_lookup(self, recipient, now, *, operator=None, sender=None, queue_id=None):
        del now, operator, sender, queue_id
        self.asked.append(recipient)
        if self.fails:
            raise StoreError(self.fails)
        return self.standings.get(recipient, FREE)

    def suppressed(self, recipient):
        if self.fails:
            raise StoreError(self.fails)
        found = self.standings.get(recipient, FREE)
        if found.kind is not AdviceKind.SUPPRESS:
            return None
        return Suppression(recipient, found.since, found.category, found.rule, found.text)

    def rest(self):
        pass

    def stranger(self, recipient):
        if self.fails:
            raise StoreError(self.fails)
        return recipient not in self.standings

    def claim_probe(self, key, now):
        del now
        if key in self.claimed:
            return False
        self.claimed.add(key)
        return True


class WordRules:
    """Classifies by a word in the text: what the answers need of a rule set, without loading one."""

    def classify(self, status):
        words = {
            "mailbox full": (FailureClass.SOFT, "mailbox-full", AdviceKind.RETRY, Scope.RECIPIENT, "over-quota"),
            "user unknown": (
                FailureClass.HARD,
                "invalid-recipient",
                AdviceKind.SUPPRESS,
                Scope.RECIPIENT,
                "user-unknown",
            ),
            "blocked": (FailureClass.POLICY, "blocklisted", AdviceKind.HOLD, Scope.SENDING_HOST, "listed"),
        }
        for word, (class_, category, advice, scope, rule) in words.items():
            if word in (status.diagnostic or "").lower():
                return Classification(class_, category, advice, scope, rule, word)
        return Classification(FailureClass.SOFT, "undetermined", AdviceKind.RETRY, Scope.RECIPIENT, "default")


def make_answers(memory=None, settings: Settings | None = None, said: list[str] | None = None, now=NOW) -> Answers:
    """Return answers in mode enforce at a fixed time."""
    settings = settings or enforcing()
    return Answers(
        Powers.of(settings),
        memory or FixedMemory(),
        WordRules(),
        (said if said is not None else []).append,
        (lambda: now) if isinstance(now, datetime) else now,
    )


def enforcing(**sections) -> Settings:
    """Return settings in mode enforce with these sections."""
    return from_values({"mode": "enforce", **sections}, "test")


def later(seconds: float) -> datetime:
    """Return a time after `NOW`."""
    return NOW + timedelta(seconds=seconds)
