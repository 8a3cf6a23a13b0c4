"""system.due and system.queue_postfix: what is due is asked for, once, by whole queue IDs."""

from __future__ import annotations

import pytest

from milter_bounce.config import DueSection
from milter_bounce.system import due
from milter_bounce.system.due import FLUSHED_AT_ONCE, Awaited, Flusher
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

    def queue_ids(self):
        return {entry.queue_id for entry in self.entries}

    def gone(self, queue_ids):
        self.entries = [entry for entry in self.entries if entry.queue_id not in queue_ids]
        return len(queue_ids)


class Asked:
    """A queue that notes what it was asked for."""

    installed = True

    def __init__(self, answer: str | None = None, queue: set[str] | None = None) -> None:
        self.ids: list[str] = []
        self.answer, self.queue, self.lists = answer, queue, 0

    def retry(self, queue_id):
        self.ids.append(queue_id)
        return self.answer

    def listed(self):
        self.lists += 1
        return None if self.queue is None else frozenset(self.queue)


def flusher(store, mta, said=None, **section) -> Flusher:
    options = {"every_s": 1, "per_second": 1000, **section}
    told = said if said is not None else []
    return Flusher(store, mta, DueSection(**options), told.append, settle_s=0)


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
    assert work._stop.waits == [0, *[1 / 50] * 5]


def test_flusher_that_is_told_to_stop_ends_after_the_message_at_hand():
    """What was asked for is noted, the rest stays due."""
    store, mta = Calendar(5), Asked()
    work = flusher(store, mta)
    work._stop = Stop(3)  # the first wait is the settling one
    assert work.turn() == 2
    assert (len(mta.ids), store.told) == (2, [2])


def test_flusher_awaits_the_questions_that_it_causes():
    """The gate knows them before Postfix is asked; those of a block's share it does not, nobody gives them up."""
    store, awaited = Calendar(1), Awaited()
    store.entries.append(Due("4cBlock", "held@example.net", "example.net"))

    class Asks(Asked):
        def retry(self, queue_id):
            self.ids.append((queue_id, awaited.take("u0@example.net"), awaited.take("held@example.net")))

    mta = Asks()
    Flusher(store, mta, DueSection(per_second=1000), print, awaited=awaited, settle_s=0).turn()
    assert mta.ids == [("4cXyz00000", True, False), ("4cBlock", False, False)]


def test_awaited_questions_count_once_each_and_not_for_long(monkeypatch):
    """Two messages of one recipient are two; what Postfix did not ask in time is not awaited any more."""
    now = [100.0]
    monkeypatch.setattr(due.time, "monotonic", lambda: now[0])
    awaited = Awaited()
    awaited.note("a@example.net")
    awaited.note("a@example.net")
    awaited.note("b@example.net")
    assert [awaited.take("a@example.net") for _ in range(3)] == [True, True, False]
    now[0] += due.AWAITED_S + 1
    assert not awaited.take("b@example.net")
    for number in range(50):
        awaited.note(f"u{number}@example.net")
        now[0] += due.AWAITED_S / 10
    assert len(awaited._moments) < 15


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


@pytest.fixture
def eager(monkeypatch):
    """Lists of the queue may follow each other at once, however long one took."""
    monkeypatch.setattr(due, "LISTING_SHARE", 0)


@pytest.mark.usefixtures("eager")
def test_ghosts_are_forgotten_and_give_way_to_the_probe():
    """What left the queue without a line of its own is neither tried nor given up: two lists, then it is forgotten."""
    store, said = Calendar(1000), []
    alive = store.entries[-1].queue_id
    store.entries = [Due(one.queue_id, one.recipient, "small.test") for one in store.entries]
    mta = Asked(queue={alive})
    work = flusher(store, mta, said)
    assert work.turn() == 1
    assert (len(store.entries), mta.ids) == (999, [alive])  # missing once may be on its way from queue to queue
    store.entries = [*store.entries, Due(alive, "x@small.test", "small.test")]
    work.turn()
    assert {entry.queue_id for entry in store.entries} <= {alive}
    assert said == ["info: 999 messages are in the queue no more; they are not waited for"]
    assert set(mta.ids) == {alive}


@pytest.mark.usefixtures("eager")
def test_message_missing_in_one_list_only_is_tried():
    """It was on its way from one queue to the other."""
    store, mta = Calendar(2), Asked(queue={"4cXyz00000"})
    work = flusher(store, mta)
    assert work.turn() == 1
    mta.queue.add("4cXyz00001")
    assert work.turn() == 1
    assert (mta.ids, store.entries) == (["4cXyz00000", "4cXyz00001"], [])


def test_queue_is_listed_once_for_what_stands_on_the_list():
    """A long queue costs one list a minute, not one a look; where it cannot be listed all is tried."""
    store = Calendar(3)
    entries, mta = list(store.entries), Asked(queue={entry.queue_id for entry in store.entries})
    work = flusher(store, mta)
    assert work.turn() == 3
    store.entries = entries
    assert (work.turn(), mta.lists) == (3, 1)
    blind, store = Asked(), Calendar(3)
    work = flusher(store, blind)
    assert (work.turn(), work.turn(), blind.lists, len(blind.ids)) == (3, 0, 1, 3)


POSTQUEUE = """#!/bin/sh
printf '%s\\n' '{"queue_name": "deferred", "queue_id": "4cXyz00001", "recipients": [{"address": "\\"queue_id\\": x"}]}'
"""


@pytest.mark.parametrize(
    ("more", "found"),
    [
        pytest.param("", {"4cXyz00001"}, id="whole"),
        pytest.param("echo odd", None, id="unknown-form"),
        pytest.param("exit 69", None, id="fails"),
    ],
)
def test_postfix_queue_is_listed_or_unknown(tmp_path, monkeypatch, more, found):
    """Half a list is none: what stands on the other half would be taken for gone."""
    command = tmp_path / "postqueue"
    command.write_text(POSTQUEUE + more)
    command.chmod(0o755)
    queue = PostfixQueue()
    monkeypatch.setattr(queue, "_postqueue", str(command))
    assert queue.listed() == (None if found is None else frozenset(found))


@pytest.mark.parametrize("queue_id", ["", "4cX", "../../etc", "4cXyz -f", "ALL;x", "4cXyz\n", "-fxxxx"])
def test_queue_id_that_is_none_reaches_no_command_line(queue_id):
    """Whatever a log said, only a whole queue ID is asked for."""
    assert "is no queue ID" in (PostfixQueue().retry(queue_id) or "") or not PostfixQueue().installed
