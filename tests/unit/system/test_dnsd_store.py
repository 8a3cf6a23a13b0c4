"""Tables of dnsd in the store's file: kept, shared, pruned, and never in the way."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from milter_bounce.protocol.dnsbl import State
from milter_bounce.system.sqlite_store import SqliteStore
from milter_bounce.system.store import StoreError
from milter_bounce.system.store_dns import DnsStore, ListingRecord, MailDomain, MailKind, Mentions
from milter_bounce.verdict import BlocklistMention

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.fixture
def store(tmp_path):
    made = DnsStore(tmp_path / "state.db")
    yield made
    made.close()


def test_listings_come_back_as_they_went(store):
    """Every field survives, also of a listing that was never known."""
    full = ListingRecord(
        "192.0.2.1",
        "zen.example",
        State.LISTED,
        NOW,
        NOW,
        NOW + HOUR,
        NOW,
        "advise",
        ("127.0.0.2",),
        ("SBL",),
        "bad",
        "why",
    )
    bare = ListingRecord("192.0.2.1", "cop.example", State.UNKNOWN, NOW, None, NOW, None)
    store.put_listings([full, bare])
    assert store.listings() == {("192.0.2.1", "zen.example"): full, ("192.0.2.1", "cop.example"): bare}
    store.forget_listings([("192.0.2.1", "cop.example")])
    assert list(store.listings()) == [("192.0.2.1", "zen.example")]


def test_health_is_news_only_when_it_changes(store):
    """A list that fails and one that is well again are news; the same again is not, nor a good first word."""
    told = [store.put_health("z.example", "ipv4", ok=ok, why="", now=NOW) for ok in (True, True, False, False, True)]
    assert told == [False, False, True, False, True]


def test_named_lists_are_asked_once_each_time(store):
    """A refusal's word waits until dnsd asked; one that comes meanwhile waits again."""
    store.named("zen.example", "192.0.2.1", NOW)
    store.named("zen.example", None, NOW)
    first = store.names(unasked=True)
    assert {(name.zone, name.subject, name.times) for name in first} == {
        ("zen.example", "192.0.2.1", 1),
        ("zen.example", None, 1),
    }
    store.named("zen.example", "192.0.2.1", NOW + HOUR)
    store.asked(first)
    assert [(name.subject, name.times, name.last) for name in store.names(unasked=True)] == [
        ("192.0.2.1", 2, NOW + HOUR)
    ]
    store.asked(store.names(unasked=True))
    assert store.names(unasked=True) == []
    assert len(store.names()) == 2
    store.prune(NOW + HOUR, NOW + 2 * HOUR)
    assert [name.subject for name in store.names()] == ["192.0.2.1"]


def test_named_lists_are_limited(store, monkeypatch):
    """Strangers' refusals cannot fill the file."""
    monkeypatch.setattr("milter_bounce.system.store_dns.NAMED_LIMIT", 3)
    for number in range(10):
        store.named("zen.example", f"192.0.2.{number}", NOW)
    assert len(store.names()) == 3


def test_operators_are_believed_for_their_time(store):
    """An operator comes back until its time is over; kinds and names are kept."""
    store.put_operators(
        [
            MailDomain("a.example", MailKind.MX, "yahoo", NOW + HOUR),
            MailDomain("b.example", MailKind.NULL_MX, None, NOW + HOUR),
            MailDomain("c.example", MailKind.MX, "yahoo", NOW + HOUR),
        ]
    )
    assert store.operator("a.example", NOW) == MailDomain("a.example", MailKind.MX, "yahoo", NOW + HOUR)
    assert store.operator("b.example", NOW) == MailDomain("b.example", MailKind.NULL_MX, None, NOW + HOUR)
    assert store.operator("a.example", NOW + HOUR) is None
    assert store.operator("none.example", NOW) is None
    store.prune(NOW + 3 * HOUR, NOW + 4 * HOUR)
    assert store.operator("a.example", NOW) is None


def test_unknown_domains_are_those_that_nobody_knows(store, tmp_path):
    """Recipients that failed lately at domains without an operator, from log or DNS, are to be looked up."""
    store.listings()
    at = int(NOW.timestamp() * 1000)
    main = SqliteStore(tmp_path / "state.db")
    with main.batch() as batch:
        batch.learn_operator("known.example", "yahoo", NOW)
    db = main.connection()
    for address, when in (("a@known.example", at), ("a@new.example", at), ("b@new.example", at), ("a@old.example", at - 99**5),
                          ("a@asked.example", at), ("no-domain", at)):  # fmt: skip
        db.execute(
            "INSERT INTO recipients VALUES (?, ?, ?, 1, NULL, NULL, 'x', 'x', NULL, NULL, 1, '')", (address, when, when)
        )
    db.close()
    store.put_operators([MailDomain("asked.example", MailKind.MX, None, NOW + HOUR)])
    assert store.unknown_domains(NOW - HOUR, NOW, 10) == ["new.example"]
    assert store.unknown_domains(NOW - HOUR, NOW + 2 * HOUR, 10) == ["asked.example", "new.example"]
    assert len(store.unknown_domains(NOW - HOUR, NOW + 2 * HOUR, 1)) == 1


def test_things_are_told_once(store):
    """The first telling counts, until it is over."""
    assert [store.tell_once("x", NOW), store.tell_once("x", NOW)] == [True, False]
    assert [store.untell("x"), store.untell("x")] == [True, False]
    assert store.tell_once("x", NOW)


def test_watch_sees_other_programs_write(store, tmp_path):
    """The first look is news; our own writes are not, another connection's are."""
    changed = store.watch()
    assert [changed(), changed()] == [True, False]
    store.named("z.example", None, NOW)
    assert not changed()
    other = DnsStore(tmp_path / "state.db")
    other.named("z.example", None, NOW)
    other.close()
    assert [changed(), changed()] == [True, False]


def test_mentions_are_written_once_a_minute(store, tmp_path):
    """A thousand refusals in one minute are one row and one write."""
    mentions = Mentions(tmp_path / "state.db")
    for second in (0, 1, 59, 60, 61):
        mentions.note([BlocklistMention("zen.example", "Zen", "192.0.2.1")], NOW + timedelta(seconds=second))
    assert [name.times for name in store.names()] == [2]


def test_mentions_survive_a_store_that_is_away(tmp_path):
    """A folder that is missing costs the hint, and raises nothing."""
    Mentions(tmp_path / "none" / "state.db").note([BlocklistMention("zen.example", "Zen")], NOW)
    assert not (tmp_path / "none").exists()


def test_fault_of_the_file_is_a_store_error(tmp_path):
    """Garbage in place of the file, and a missing folder, are told in one line."""
    (tmp_path / "state.db").write_bytes(b"no database" * 1000)
    for path in (tmp_path / "state.db", tmp_path / "none" / "x.db"):
        with pytest.raises(StoreError, match=path.name):
            DnsStore(path).listings()


def test_file_that_is_replaced_is_opened_anew(store):
    """When the file goes away under us the next use makes a new one."""
    store.named("z.example", None, NOW)
    for path in store.path.parent.iterdir():
        path.unlink()
    assert store.names() == []
    store.named("z.example", None, NOW)
    assert len(store.names()) == 1
