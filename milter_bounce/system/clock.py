"""Whether the wall clock can be trusted to tell how old things are.

Goes in: the wall clock beside one that nobody sets. Comes out: yes, or not yet. Does
not: set anything, or hold anything back but what forgets.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

JUMP_S: Final = 86_400.0
"""Seconds by which the wall clock must have moved against the other to count as a jump: suspended machines and wrong
time zones move it by hours, a dead battery or a lying time server by years."""

REST_S: Final = 86_400.0
"""Seconds after a jump before the new time is believed: time to notice, and no harm if what is old is kept a day longer."""


class SteadyClock:
    """Compares the wall clock with the monotonic one.

    Args:
        wall: seconds since 1970, as anybody may set them.
        monotonic: seconds since any time, never set.
    """

    def __init__(self, wall: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._wall, self._monotonic = wall, monotonic
        self._offset = wall() - monotonic()
        self._believed_at: float | None = None

    def jumped_s(self) -> float:
        """Return by how many seconds the clock jumped since the last call, 0.0 where it did not."""
        monotonic = self._monotonic()
        moved = self._wall() - monotonic - self._offset
        self._offset += moved
        if abs(moved) < JUMP_S:
            return 0.0
        self._believed_at = monotonic + REST_S
        return moved

    @property
    def steady(self) -> bool:
        """Whether no jump was seen for `REST_S`."""
        return self._believed_at is None or self._monotonic() >= self._believed_at
