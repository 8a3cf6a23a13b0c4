"""One probe through a block that stands.

Goes in: who asks, about which block, when. Comes out: whether this one may go.
Does not: know the time or the store. What was let through is remembered here,
in memory; a restart begins anew, at worst with one more probe.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from datetime import datetime

SAME_QUESTION: Final = timedelta(seconds=1)
"""Postfix asks for ``user+ext@domain``, then for ``user@domain`` of one and the same recipient, at once."""

KEYS_LIMIT: Final = 10_000
"""Blocks that are followed at one time; a host with more of them is not sending mail any more."""


@dataclass(frozen=True, slots=True)
class _Claim:
    """Who went as the probe of a block, and when."""

    address: str
    at: datetime


class Probes:
    """Lets one recipient through per block, until the store has heard what became of it.

    Args:
        patience: after this long without news (the block still asks for a probe) another one goes.
    """

    def __init__(self, patience: timedelta) -> None:
        self._patience = patience
        self._claims: dict[str, _Claim] = {}

    def claim(self, block: str, address: str, now: datetime) -> bool:
        """Return whether `address` may go as the probe of the block with that key."""
        last = self._claims.get(block)
        if last is not None and now - last.at < self._patience:
            return now - last.at <= SAME_QUESTION and _same(address, last.address)
        if len(self._claims) >= KEYS_LIMIT:
            self._claims.clear()
        self._claims[block] = _Claim(address, now)
        return True

    def settle(self, blocks_waiting: frozenset[str]) -> None:
        """Forget the claims of blocks that wait for no probe any more: their next one may go at once."""
        self._claims = {key: claim for key, claim in self._claims.items() if key in blocks_waiting}


def _same(address: str, claimed: str) -> bool:
    """Return whether `address` is the recipient `claimed`, with or without its extension."""
    user, _, domain = address.rpartition("@")
    claimed_user, _, claimed_domain = claimed.rpartition("@")
    return domain == claimed_domain and bool(user) and claimed_user.startswith(user)
