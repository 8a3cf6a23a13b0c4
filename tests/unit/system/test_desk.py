"""The desk: what a report teaches is remembered once, and no message waits for the store."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time

import pytest

from milter_bounce.config import from_values
from milter_bounce.protocol.genuine import Arrival
from milter_bounce.protocol.token import Proof
from milter_bounce.system import desk as desks
from milter_bounce.system import keeper
from milter_bounce.system.advising import make_store
from milter_bounce.system.desk import Desk
from milter_bounce.system.maillog import MailLog
from milter_bounce.system.store import LogPosition, StoreError
from milter_bounce.system.store_reports import ReportLedger
from milter_bounce.verdict import Suppression
from tests.answering import NOW
from tests.reports import dsn

OWN = Arrival(("news@home.example",), own=True)
FULL = {"said": "452 4.2.2 mailbox full", "status": "4.2.2"}


class House:
    """A desk with its store and its log."""

    def __init__(self, folder):
        self.path = folder / "state.db"
        self.settings = from_values(
            {
                "user": "",
                "store": {"path": str(self.path), "lock_wait_s": 0},
                "rules": {"local": str(folder / "rules.d")},
                "token": {"keys": str(folder / "keys")},
                "log": {"output": "file", "output_file": str(folder / "log")},
            },
            "test",
        )
        self.log = MailLog(self.settings.log, "milterd")
        self.desk = Desk(self.settings, self.log)
        self.store = make_store(self.settings)
        self.said = folder / "log"

    def report(self, *recipients, arrival=OWN, **more):
        """Hand a report in; return its outcomes."""
        return self.desk.handle(dsn(*recipients, **more).encode(), "4cReport", arrival).outcomes

    def suppressed(self):
        return sorted(one.recipient for one in self.store.suppressions())

    def lines(self, word=""):
        assert self.log.flush(30)
        return [line for line in self.said.read_text().splitlines() if word in line] if self.said.exists() else []

    @contextlib.contextmanager
    def locked(self):
        """Let another program write for a long time."""
        self.store.recipient("anybody@example.net")  # the file is there
        other = sqlite3.connect(self.path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        try:
            yield
        finally:
            other.execute("ROLLBACK")
            other.close()


@pytest.fixture
def house(tmp_path):
    made = House(tmp_path)
    yield made
    made.log.close()
    made.store.close()


def counted(monkeypatch, store) -> list[int]:
    """Return a list that grows with each transaction that is tried."""
    tries, writing = [], store.writing

    def tried():
        tries.append(1)
        return writing()

    monkeypatch.setattr(store, "writing", tried)
    return tries


def followed(house) -> None:
    """Let logd have read a log into the store."""
    with house.store.batch() as batch:
        batch.position(LogPosition("mail.log", cursor="here"))


def people(number: int) -> list[str]:
    return [f"u{n}@example.net" for n in range(number)]


def test_report_is_remembered_in_one_transaction(house, monkeypatch):
    """However many recipients it names."""
    tries = counted(monkeypatch, house.desk.store)
    outcomes = house.report(*people(40))
    assert len(tries) == 1
    assert len(outcomes) == 40
    assert house.suppressed() == sorted(people(40))
    assert len(house.lines("class=hard")) == 40


def test_locked_store_is_tried_once_and_nothing_is_lost(house, monkeypatch):
    """One try for a report, none for those right after it, one warning; all is remembered when the store is free."""
    tries = counted(monkeypatch, house.desk.store)
    with house.locked():
        assert len(house.report(*people(40))) == 40
        assert len(tries) == 1
        assert len(house.report("later@example.net")) == 1
        assert len(tries) == 1
        house.desk.flush()
        assert house.suppressed() == []
    assert len(house.lines("the store cannot be used")) == 1
    assert len(house.lines("class=hard")) == 41
    house.desk.flush()
    assert house.suppressed() == sorted([*people(40), "later@example.net"])
    house.desk.flush()
    assert [count.number for count in house.store.counts(NOW.min.replace(tzinfo=NOW.tzinfo))] == [41]


def test_store_that_is_free_again_is_asked_again(house, monkeypatch):
    """After the rest, once what waited is written."""
    monkeypatch.setattr(desks, "STORE_REST_S", 0.0)
    tries = counted(monkeypatch, house.desk.store)
    with house.locked():
        house.report("a@example.net")
    house.report("b@example.net")
    assert len(tries) == 1, "what comes after waits behind what came before"
    house.desk.flush()
    house.report("c@example.net")
    assert len(tries) == 2
    assert house.suppressed() == ["a@example.net", "b@example.net", "c@example.net"]


def test_what_waits_is_judged_by_what_is_remembered_by_then(house):
    """A failure that waits is one more attempt of the episode that stands, not a first contact."""
    house.report("full@example.net", **FULL)
    with house.locked():
        (outcome,) = house.report("full@example.net", **FULL)
    assert outcome.advice.attempt == 2, "reading needs no lock"
    house.desk.flush()
    assert house.store.recipient("full@example.net").episode.attempts == 2


def test_reports_that_wait_keep_their_order(house):
    """A delivery that was reported after a failure ends the episode, though both came while the store was away."""
    with house.locked():
        house.report("full@example.net", **FULL)
        house.report("full@example.net", said="250 2.1.5 ok", status="2.1.5", action="delivered")
    house.desk.flush()
    assert house.store.recipient("full@example.net").episode is None


def test_only_so_many_wait_and_the_rest_is_told(house, monkeypatch):
    """The backlog has a bound; what was over it is counted in one warning."""
    monkeypatch.setattr(keeper, "LESSONS_WAITING", 10)
    with house.locked():
        house.report(*people(14))
    house.desk.flush()
    assert house.suppressed() == sorted(people(10))
    assert len(house.lines("4 recipients of reports are not remembered")) == 1


def test_lesson_that_we_stumble_over_is_left_out(house, monkeypatch):
    """A bug of ours costs one recipient and a warning, not all that waits behind it."""
    with house.locked():
        house.report("a@example.net", "odd@example.net", "b@example.net")
    remember = desks._remember

    def stumble(batch, outcome, now):
        if outcome.status.recipient == "odd@example.net":
            raise RecursionError("too deep")
        return remember(batch, outcome, now)

    monkeypatch.setattr(desks, "_remember", stumble)
    house.desk.flush()
    assert house.suppressed() == ["a@example.net", "b@example.net"]
    assert len(house.lines("left out what cannot be learnt (RecursionError: too deep)")) == 1


def done_in_time(act) -> bool:
    """Return whether `act` ends although this thread holds something; half a minute is for a machine under load."""
    done = threading.Event()

    def run():
        act()
        done.set()

    threading.Thread(target=run, daemon=True).start()
    return done.wait(30)


def test_nobody_queues_behind_a_report_that_is_being_written(house):
    """While one message is at the store, RCPT is answered by a reader of its own, and the next report waits for later."""
    house.store.suppress([Suppression("gone@example.net", NOW, "invalid-recipient", "r", "no such user")])
    refused = []
    with house.desk._store_lock:
        assert done_in_time(lambda: refused.append(house.desk.refusal("<gone@example.net>", "me@home.example")))
        assert done_in_time(lambda: house.report("late@example.net"))
        assert done_in_time(house.desk.flush)
    assert "suppressed" in refused[0]
    assert house.suppressed() == ["gone@example.net", "late@example.net"]
    assert house.lines("the store cannot be used") == []


def test_flush_waits_for_another_one_no_longer_than_it_may(house):
    """Two at a time would write twice; the second leaves when its time is over."""
    with house.desk._keeper._turn:
        assert done_in_time(house.desk.flush)


def test_ledger_is_written_by_a_thread_of_its_own(house):
    """Started once, it needs no call any more."""
    house.desk.start()
    house.report("gone@example.net")
    ledger, until = ReportLedger(str(house.path)), time.monotonic() + 30
    while not (rows := ledger.about("gone@example.net")) and time.monotonic() < until:
        time.sleep(0.05)
    assert [row["category"] for row in rows] == ["invalid-recipient"]


@pytest.mark.parametrize("waits", [False, True], ids=["at-once", "later"])
def test_own_report_is_not_counted_twice_where_the_log_is_followed(house, waits):
    """The log told of the delivery that this MTA's report tells of, be the store free or away when it comes."""
    followed(house)
    with house.locked() if waits else contextlib.nullcontext():
        house.report("gone@example.net")
    house.desk.flush()
    assert house.suppressed() == []
    assert len(house.lines("to=<gone@example.net>")) == 1


def test_own_report_counts_where_no_log_is_followed(house):
    """Then nobody else tells of it."""
    house.report("gone@example.net")
    assert house.suppressed() == ["gone@example.net"]


@pytest.mark.parametrize(
    ("type_", "convicted"), [("smtp", True), ("x-postfix", False), ("x-unix", False), ("dns", False)]
)
def test_own_side_s_trouble_convicts_nobody(house, type_, convicted):
    """In this MTA's own report only what a remote MTA said may suppress."""
    text = dsn("gone@example.net", said="550 5.1.1 unknown user").replace(
        "Diagnostic-Code: smtp;", f"Diagnostic-Code: {type_};"
    )
    (outcome,) = house.desk.handle(text.encode(), "4cReport", OWN).outcomes
    assert outcome.status.local is not convicted
    assert house.suppressed() == (["gone@example.net"] if convicted else [])


def test_report_that_is_not_believed_changes_nothing_and_asks_no_store(house, monkeypatch):
    """Anybody can send us one, however often."""
    tries = counted(monkeypatch, house.desk.store)
    monkeypatch.setattr(house.desk.store, "recall", None)
    (outcome,) = house.report("gone@example.net", arrival=Arrival(("news@home.example",)))
    house.desk.flush()
    assert (outcome.genuine, tries, house.suppressed()) == (False, [], [])


def test_log_that_cannot_be_told_whether_it_is_followed_is_asked_later(house, monkeypatch):
    """A store that fails at that very question leaves it to the keeper."""
    followed(house)

    def fails():
        raise StoreError("state.db: gone")

    monkeypatch.setattr(house.desk.store, "log_is_followed", fails)
    house.report("gone@example.net")
    house.desk.flush()
    assert house.suppressed() == []
    assert len(house.lines("state.db: gone")) == 1


def test_store_that_failed_is_left_alone_for_a_while(house, monkeypatch):
    """The next messages do not ask it one by one, not even to read."""
    asked = []

    def fails():
        asked.append(1)
        raise StoreError("state.db: gone")

    monkeypatch.setattr(house.desk.store, "log_is_followed", fails)
    for number in range(5):
        house.report(f"u{number}@example.net")
    assert len(asked) == 1
    house.desk.flush()
    assert house.suppressed() == people(5)


def test_only_the_believed_recipients_of_a_report_are_remembered(house, monkeypatch):
    """A delivery that is not believed ends no episode, though another recipient of the same report is believed."""
    house.report("full@example.net", **FULL)
    proofs = {"full@example.net": Proof(False, "forged"), "ok@example.net": Proof(True, "a token")}
    monkeypatch.setattr(desks, "believe", lambda _report, status, *_: proofs[status.recipient])
    house.report("full@example.net", "ok@example.net", said="250 2.1.5 ok", status="2.1.5", action="delivered")
    assert house.store.recipient("full@example.net").episode.attempts == 1
