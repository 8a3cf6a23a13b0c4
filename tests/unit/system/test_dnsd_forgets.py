"""What dnsd remembers of blocks ends with them."""

from __future__ import annotations

from datetime import timedelta
from types import SimpleNamespace

from milter_bounce.config import from_values
from milter_bounce.system import dnsd
from milter_bounce.system.dnsd import Dnsd
from milter_bounce.system.dnsledger import GRACE
from milter_bounce.verdict import Block, Scope
from tests.answering import NOW


class Blocks:
    """A store that knows the blocks it is told of."""

    def __init__(self, *keys: str) -> None:
        self.keys = keys

    def blocks(self):
        return [
            Block(key, key, Scope.SENDING_HOST, "c", "r", NOW, None, NOW + timedelta(days=7), zones=("zen.example",))
            for key in self.keys
        ]


def made(store: Blocks) -> Dnsd:
    setup = SimpleNamespace(settings=from_values({}, "test"), own=(), lists=SimpleNamespace(usable={}))
    return Dnsd(setup, store, None, print)


def test_blocks_that_are_over_are_asked_about_no_more(monkeypatch):
    """Their keys go; those that stand are asked about once an interval, as before."""
    monkeypatch.setattr(dnsd, "_now", lambda: NOW)
    store, asked, wanted = Blocks(*(f"d{number}.example" for number in range(50))), {}, {}
    program = made(store)
    program._blocked(wanted, asked)
    assert (len(asked), wanted) == (50, {"zen.example": set()})
    store.keys, wanted = ("d7.example", "new.example"), {}
    program._blocked(wanted, asked)
    assert asked.keys() == {"d7.example", "new.example"}
    store.keys, wanted = ("d7.example", "new.example"), {}
    program._blocked(wanted, asked)
    assert wanted == {}


def test_lifts_are_remembered_for_their_grace_and_no_longer():
    """Within it a block is not lifted twice."""
    program = made(Blocks())
    program._lifted = {f"d{number}.example": NOW for number in range(50)}
    program._lift(NOW + GRACE / 2)
    assert len(program._lifted) == 50
    program._lift(NOW + GRACE)
    assert program._lifted == {}
