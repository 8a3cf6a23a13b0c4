"""The gate's side of the store: probes that are claimed, what is handed out, what is forgotten."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from milter_bounce.system.sqlite_store import SqliteStore
from milter_bounce.system.store import Due
from milter_bounce.verdict import Block, Scope

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
HOUR, MINUTE, DAY = timedelta(hours=1), timedelta(minutes=1), timedelta(days=1)


def block(key: str = "big.example", **changes) -> Block:
    """Return a block whose probe is due now."""
    plain = Block(
        key, key, Scope.SENDING_HOST, "blocklisted", "r", NOW - HOUR, NOW, NOW + DAY, probe_after=HOUR
    )  # fmt: skip
    return replace(plain, **changes)


@pytest.fixture
def store(tmp_path):
    opened = SqliteStore(tmp_path / "state.db")
    yield opened
    opened.close()


def waits(store, key: str) -> None:
    """Let one message wait for a block."""
    with store.writing() as db:
        db.execute(
            "INSERT INTO waiting (recipient, queue_id, since, block) VALUES (?, ?, 0, ?)", (f"u@{key}", f"4c{key}", key)
        )


def test_probe_that_nothing_was_heard_of_is_claimed_again_after_a_while(store):
    """Not at once, but before the block's next probe time."""
    store.add_block(block())
    assert store.claim_probe("big.example", NOW)
    assert not store.claim_probe("big.example", NOW + 5 * MINUTE)
    assert store.claim_probe("big.example", NOW + 11 * MINUTE)


def test_probe_of_a_later_time_is_claimed_at_once(store):
    """A probe time that came after the last claim is a new probe, however short ago that claim was."""
    store.add_block(block())
    assert store.claim_probe("big.example", NOW)
    store.add_block(block(probe_at=NOW + MINUTE))
    assert store.claim_probe("big.example", NOW + MINUTE)


def test_probe_is_handed_out_anew_when_its_time_was_set_anew(store):
    """A block that is lifted a minute after its probe went has its probe at once, not ten minutes later."""
    store.add_block(block())
    waits(store, "big.example")
    probe = Due("4cbig.example", "u@big.example", "big.example")
    assert store.due(NOW) == [probe]
    store._gate._probed["big.example"] = NOW  # handed out with another message of the same block
    assert store.due(NOW + MINUTE) == []
    store.lift("big.example", "admin", NOW + MINUTE)
    assert store.due(NOW + MINUTE) == [probe]


def test_probes_of_blocks_that_are_over_are_forgotten(store):
    """Whoever owns a wildcard domain makes as many blocks as he likes; only those that stand are remembered."""
    for number in range(20):
        key = f"d{number}.example"
        store.add_block(block(key, ends=NOW + (DAY if number == 7 else MINUTE)))
        store.due(NOW)
        store.flushed([Due(f"4c{number}", f"u@{key}", key)], NOW)
    assert len(store._gate._probed) == 20
    store.expire(NOW + HOUR)
    store.due(NOW + HOUR)
    store.flushed([Due("4c7", "u@d7.example", "d7.example")], NOW + HOUR)
    assert store._gate._probed == {"d7.example": NOW + HOUR}
