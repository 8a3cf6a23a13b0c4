"""Letting mail go again: one probe through a block that stands, a rising share after it is lifted.

Goes in: who asks, about which block, when. Comes out: whether this one may go.
Does not: know the time or the store; what was let through is counted here, in
memory, and a restart begins anew - at worst one more probe.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from datetime import datetime

    from milter_bounce.verdict import Block

SAME_QUESTION: Final = timedelta(seconds=1)
"""Postfix asks for ``user+ext@domain``, then for ``user@domain`` of one and the same recipient, at once."""

KEYS_LIMIT: Final = 10_000
"""Blocks that are followed at one time; a host with more of them is not sending mail any more."""


@dataclass(slots=True)
class _Passed:
    """What was let through under one key since `since`."""

    since: datetime
    count: int = 0
    last: str = ""
    at: datetime | None = None

    def same(self, address: str, now: datetime) -> bool:
        """Return whether `address` is the recipient that went last, asked for once more."""
        if self.at is None or now - self.at > SAME_QUESTION:
            return False
        user, _, domain = address.rpartition("@")
        last_user, _, last_domain = self.last.rpartition("@")
        return domain == last_domain and bool(user) and last_user.startswith(user)


class Release:
    """Counts what goes out to destinations that block us or did until lately.

    Args:
        probe_patience: after this long without news of a probe another one goes.
        step: length of one step after a block is lifted.
        steps: after so many mail is free again.
    """

    def __init__(self, probe_patience: timedelta, step: timedelta, steps: int) -> None:
        self._patience, self._step, self._steps = probe_patience, step, steps
        self._probes: dict[str, _Passed] = {}
        self._shares: dict[str, _Passed] = {}

    def probe(self, block: Block, address: str, now: datetime) -> bool:
        """Return whether `address` may go as the one probe of a block that stands."""
        if block.probe_at is None or now < block.probe_at:
            return False
        passed = self._probes.get(block.key)
        if passed is not None and passed.since == block.probe_at:
            if passed.at is not None and now - passed.at < self._patience:
                return passed.same(address, now)
        elif len(self._probes) >= KEYS_LIMIT:
            self._probes.clear()
        self._probes[block.key] = _Passed(block.probe_at, 1, address, now)
        return True

    def allowance(self, lifted_at: datetime, now: datetime) -> int | None:
        """Return how many may have gone since a block was lifted: 1, 3, 7 ... step by step; None = no limit."""
        step = max(0, (now - lifted_at) // self._step)
        return None if step >= self._steps else 2 ** (step + 1) - 1

    def share(self, block: Block, address: str, now: datetime) -> bool:
        """Return whether `address` may go to a destination whose block was lifted."""
        if block.lifted_at is None or (allowed := self.allowance(block.lifted_at, now)) is None:
            return True
        passed = self._shares.get(block.key)
        if passed is None or passed.since != block.lifted_at:
            if len(self._shares) >= KEYS_LIMIT:
                self._shares.clear()
            passed = self._shares[block.key] = _Passed(block.lifted_at)
        if passed.same(address, now):
            return True
        if passed.count >= allowed:
            return False
        passed.count, passed.last, passed.at = passed.count + 1, address, now
        return True

    def left(self, block: Block, now: datetime) -> int | None:
        """Return how many more may go to a destination whose block was lifted; None = no limit."""
        if block.lifted_at is None or (allowed := self.allowance(block.lifted_at, now)) is None:
            return None
        passed = self._shares.get(block.key)
        return allowed - passed.count if passed is not None and passed.since == block.lifted_at else allowed
