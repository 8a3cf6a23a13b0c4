"""The ledger of reports: kept for people, and no longer than it says."""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime, timedelta

import pytest

from milter_bounce.delivery import Action, DeliveryStatus
from milter_bounce.system import store_reports
from milter_bounce.system.sqlite_store import SqliteStore
from milter_bounce.system.store_reports import KEPT, ReportLedger
from milter_bounce.verdict import CATEGORIES, Advice, Classification, Outcome

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)


def outcome(recipient="bob@example.net"):
    category = CATEGORIES["mailbox-full"]
    verdict = Classification(category.class_, "mailbox-full", category.advice, category.scope, "test")
    return Outcome(DeliveryStatus(recipient, Action.FAILED), verdict, Advice(category.advice, "test"))


@pytest.fixture
def path(tmp_path):
    SqliteStore(tmp_path / "state.db").connection()
    return tmp_path / "state.db"


def rows(path):
    with sqlite3.connect(path) as db:
        return [name for (name,) in db.execute("SELECT recipient FROM reports ORDER BY id")]


def test_old_reports_go_as_new_ones_come(path, monkeypatch):
    """Every so many rows what is past its time goes, and not before."""
    monkeypatch.setattr(store_reports, "PRUNE_EVERY", 3)
    ledger = ReportLedger(str(path))
    for at, name in ((NOW - KEPT, "old"), (NOW, "young"), (NOW + timedelta(hours=1), "new")):
        ledger.add([outcome(name)], at)
        ledger.flush(at)
        assert rows(path) == {"old": ["old"], "young": ["old", "young"], "new": ["young", "new"]}[name]


def test_rows_are_limited(path, monkeypatch):
    """Anybody can send reports: the latest are kept, a stated number of them."""
    monkeypatch.setattr(store_reports, "PRUNE_EVERY", 10)
    monkeypatch.setattr(store_reports, "ROWS_LIMIT", 4)
    ledger = ReportLedger(str(path))
    for number in range(30):
        ledger.add([outcome(f"u{number}")], NOW)
        ledger.flush(NOW)
    assert rows(path) == [f"u{number}" for number in range(26, 30)]
