"""system.due and system.queue_postfix: what is due is asked for, once, by whole queue IDs."""

from __future__ import annotations

import pytest

from milter_bounce.config import DueSection
from milter_bounce.system.due import FLUSHED_AT_ONCE, Flusher
from milter_bounce.system.queue_postfix import PostfixQueue
from milter_bounce.system.store import Due, StoreError


class Calendar:
    """A list of what is due; `flushed` takes off."""

    def __init__(self, count: int = 0) -> None:
        self.entries = [Due(f"4cXyz{n:05d}", f"u{n}@example.net") for n in range(count)]
        self.fails = ""
        self.told: list[int] = []

    def due(self, now, limit=100):
        assert now.tzinfo is not None
        if self.fails:
            raise StoreError(self.fails)
        return self.entries[:limit]

    def flushed(self, due, now):
        assert now.tzinfo is not None
        done = list(due)
        self.told.append(len(done))
        self.entries = [entry for entry in self.entries if entry not in done]


class Asked:
    """A queue that notes what it was asked for."""

    installed = True

    def __init__(self, answer: str | None = None) -> None:
        self.ids: list[str] = []
        self.answer = answer

    def retry(self, queue_id):
        self.ids.append(queue_id)
        return self.answer


def flusher(store, mta, said=None, **section) -> Flusher:
    options = {"every_s": 1, "per_second": 1000, **section}
    return Flusher(store, mta, DueSection(**options), (said if said is not None else []).append)


def test_flusher_asks_for_each_due_message_once():
    """In the store's order, and tells the store in portions."""
    store, mta = Calendar(FLUSHED_AT_ONCE + 20), Asked()
    wanted = [entry.queue_id for entry in store.entries]
    work = flusher(store, mta)
    assert work.turn() == len(wanted)
    assert work.turn() == 0
    assert mta.ids == wanted
    assert store.told == [FLUSHED_AT_ONCE, 20]


def test_flusher_takes_no_more_than_its_pace_allows():
    """A thousand messages due at once do not come in one look."""
    store, mta = Calendar(1000), Asked()
    assert flusher(store, mta, per_second=100, every_s=0.1).turn() == 100


class Stop:
    """Notes how long it was waited for, and is set after so many times."""

    def __init__(self, after: int = 1_000_000) -> None:
        self.waits: list[float] = []
        self.after = after

    def wait(self, timeout=None):
        self.waits.append(timeout)
        return len(self.waits) > self.after


def test_flusher_keeps_its_pace():
    """Between two messages passes the time that the pace allows."""
    store, mta = Calendar(5), Asked()
    work = flusher(store, mta, per_second=50)
    work._stop = Stop()
    assert work.turn() == 5
    assert work._stop.waits == [1 / 50] * 5


def test_flusher_that_is_told_to_stop_ends_after_the_message_at_hand():
    """What was asked for is noted, the rest stays due."""
    store, mta = Calendar(5), Asked()
    work = flusher(store, mta)
    work._stop = Stop(2)
    assert work.turn() == 2
    assert (len(mta.ids), store.told) == (2, [2])


def test_flusher_tells_of_a_store_that_fails_once_and_goes_on():
    """One warning for one trouble, and the next look does what it can."""
    store, mta, said = Calendar(1), Asked(), []
    store.fails = "state.db: locked"
    work = flusher(store, mta, said)
    assert [work.turn(), work.turn()] == [0, 0]
    store.fails = ""
    assert work.turn() == 1
    assert said == ["warning: what is due cannot be read: state.db: locked"]


def test_flusher_goes_on_after_a_message_that_cannot_be_asked_for():
    """One message's trouble is told and holds no other up."""
    store, mta, said = Calendar(3), Asked("no such message"), []
    assert flusher(store, mta, said).turn() == 3
    assert len(mta.ids) == 3
    assert said[0] == "warning: 4cXyz00000: is due and could not be tried: no such message"


@pytest.mark.parametrize("queue_id", ["", "4cX", "../../etc", "4cXyz -f", "ALL;x", "4cXyz\n", "-fxxxx"])
def test_queue_id_that_is_none_reaches_no_command_line(queue_id):
    """Whatever a log said, only a whole queue ID is asked for."""
    assert "is no queue ID" in (PostfixQueue().retry(queue_id) or "") or not PostfixQueue().installed
