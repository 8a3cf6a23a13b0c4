"""The few rows that nearly every status asks for, in memory: blocks, back-offs, refusals below the threshold.

Goes in: a connection. Comes out: the rows by key, read anew when another program
changed the file. Does not: write.

Limits: `REFUSALS_LIMIT` refusals, the latest; anybody can cause one.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from milter_bounce import limits
from milter_bounce.decide.advise import domain_of
from milter_bounce.decide.block import is_over

from .sqlite_rows import BACKOFF, BLOCK, backoff_of, block_of, folded

if TYPE_CHECKING:
    import sqlite3
    from datetime import datetime

    from milter_bounce.verdict import Backoff, Block

REFUSALS_LIMIT: Final = limits.REFUSALS_READ


@dataclass(slots=True)
class Hot:
    """Blocks, back-offs and refusals by key."""

    blocks: dict[str, Block] = field(default_factory=dict)
    backoffs: dict[str, Backoff] = field(default_factory=dict)
    refusals: defaultdict[str, dict[str, int]] = field(default_factory=lambda: defaultdict(dict))
    """Key -> evidence -> when, in milliseconds, the oldest first."""

    version: int = -1
    """SQLite's data_version when this was read: it changes when another connection commits."""

    def refresh(self, db: sqlite3.Connection, *, with_refusals: bool = True) -> bool:
        """Read anew what changed in the file since; return whether there was anything."""
        (version,) = db.execute("PRAGMA data_version").fetchone()
        if version == self.version:
            return False
        self.blocks = {
            row[0]: block_of(row) for row in db.execute(f"SELECT {BLOCK} FROM blocks WHERE state != 'closed'")
        }
        self.backoffs = {row[0]: backoff_of(row) for row in db.execute(f"SELECT {BACKOFF} FROM backoffs")}
        self.refusals.clear()
        if with_refusals:
            sql = "SELECT key, evidence, at FROM (SELECT * FROM refusals ORDER BY at DESC LIMIT ?) ORDER BY at"
            for key, evidence, at in db.execute(sql, (REFUSALS_LIMIT,)):
                self.refusals[key][evidence] = at
        self.version = version
        return True

    def block(self, key: str | None, now: datetime) -> Block | None:
        """Return the block under `key`, None where none stands."""
        found = self.blocks.get(key) if key is not None else None
        return None if found is None or is_over(found, now) else found

    def block_at(self, destination: str, sender: str | None, now: datetime) -> Block | None:
        """Return the block of a destination: of our host, else of this sender or his domain where he is known."""
        if not self.blocks:
            return None
        for key in keys_of(destination, sender):
            if (found := self.block(key, now)) is not None:
                return found
        return None


def keys_of(destination: str, sender: str | None) -> tuple[str, ...]:
    """Return the keys that a block of mail from `sender` to `destination` may have."""
    if not sender or sender == "<>":
        return (destination,)
    address = folded(sender)
    return destination, f"{destination}/{domain_of(address)}", f"{destination}/{address}"
