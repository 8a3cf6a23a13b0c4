"""Who went as the probe of a block.

Goes in: a recipient, a block's key, the time. Comes out: whether it is the one
that was let through. Does not: decide that a probe is due (the store does), or
know the time. A restart forgets, at worst with one more probe.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from milter_bounce import limits

if TYPE_CHECKING:
    from datetime import datetime

SAME_QUESTION: Final = timedelta(milliseconds=250)
"""Postfix asks for ``user+ext@domain``, then for ``user@domain`` of one and the same recipient, at once."""

KEYS_LIMIT: Final = limits.BLOCKS_FOLLOWED


@dataclass(frozen=True, slots=True)
class _Claim:
    """Who went as the probe of a block, and when."""

    address: str
    at: datetime


class Probes:
    """Remembers the last probe of each block.

    Args:
        patience: after this long without news another one may go.
    """

    def __init__(self, patience: timedelta) -> None:
        self._patience = patience
        self._claims: dict[str, _Claim] = {}

    def went(self, block: str, address: str, now: datetime) -> bool:
        """Return whether `address` is the probe that was let through a moment ago, asked for once more."""
        last = self._claims.get(block)
        return last is not None and now - last.at <= SAME_QUESTION and _same(address, last.address)

    def recent(self, block: str, now: datetime) -> bool:
        """Return whether a probe went so lately that its news may still come."""
        last = self._claims.get(block)
        return last is not None and now - last.at < self._patience

    def note(self, block: str, address: str, now: datetime) -> None:
        """Remember that `address` goes as the probe of `block`."""
        if len(self._claims) >= KEYS_LIMIT:
            self._claims.clear()
        self._claims[block] = _Claim(address, now)


def _same(address: str, claimed: str) -> bool:
    """Return whether `address` is the recipient `claimed`, with or without its extension."""
    user, _, domain = address.rpartition("@")
    claimed_user, _, claimed_domain = claimed.rpartition("@")
    return domain == claimed_domain and bool(user) and claimed_user.startswith(user)
