"""logd's loop: a second of judging at a time, beats all along, and no line lost or counted twice when it is killed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest

from milter_bounce.config import from_values
from milter_bounce.system import logd
from milter_bounce.system.advising import make_store
from milter_bounce.system.heartbeat import STALL_S, Heartbeat
from milter_bounce.system.learner import PORTION_S
from milter_bounce.system.logd import Logd
from milter_bounce.system.logtail import Position
from milter_bounce.system.rulefiles import load_rules
from milter_bounce.system.store import StoreError

RULES = load_rules()
LINES = 40
COST_S = 0.3
"""Of the clock that these tests turn: what judging one line takes."""


class Killed(BaseException):
    """Stands for SIGKILL: nothing of ours catches it."""


class Clock:
    """Seconds that pass when a reply is judged, and only then."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def settings(tmp_path):
    return from_values(
        {
            "user": "",
            "store": {"path": str(tmp_path / "state.db")},
            "log": {
                "output": "file",
                "output_file": str(tmp_path / "advice.log"),
                "follow": str(tmp_path / "mail.log"),
                "from_start": True,
            },
        },
        "test",
    )


@pytest.fixture
def log(tmp_path):
    """Return a log of failures, each of a recipient of its own, in words never met before."""
    at = datetime.now(UTC) - timedelta(hours=1)
    path = tmp_path / "mail.log"
    path.write_text(
        "".join(
            f"{at.isoformat()} mx postfix/smtp[7]: 4cXyz{number:03}: to=<u{number}@example.net>, "
            "relay=mx.example.net[192.0.2.9]:25, delay=1, delays=0/0/0/1, dsn=4.2.2, status=deferred "
            f"(host mx.example.net[192.0.2.9] said: 452 4.2.2 mailbox full (in reply to RCPT TO command))\n"
            for number in range(LINES)
        )
    )
    return path


@pytest.fixture
def beats(monkeypatch, clock):
    """Return when logd gave signs of life."""
    found = []
    monkeypatch.setattr(Heartbeat, "beat", lambda _: found.append(clock.now))
    return found


class SlowRules:
    """Rules that take their time, as the clock says."""

    def __init__(self, clock):
        self._clock = clock

    def __getattr__(self, name):
        return getattr(RULES, name)

    def classify(self, status):
        self._clock.now += COST_S
        return RULES.classify(status)


@pytest.fixture
def start(monkeypatch, clock, settings):
    monkeypatch.setattr(logd, "load_rules", lambda _: SlowRules(clock))
    monkeypatch.setattr(logd, "settle", lambda: None)
    monkeypatch.setattr(logd, "TURN_S", 0.0)

    def started():
        daemon = Logd(settings, None, events=False)
        daemon.learner._clock = clock
        return daemon

    return started


def attempts(settings):
    """Return how often each recipient's failure was learnt."""
    store = make_store(settings)
    episodes = [store.recipient(f"u{number}@example.net").episode for number in range(LINES)]
    store.close()
    return [episode.attempts if episode else 0 for episode in episodes]


def stop_after(daemon, commits):
    """Have `daemon` stop after so many commits; return the list that grows with each."""
    done, commit = [], daemon.learner.commit

    def counted(now):
        done.append(commit(now))
        if len(done) >= commits or not daemon.learner.busy:
            daemon.stop()
        return done[-1]

    daemon.learner.commit = counted
    return done


@pytest.mark.usefixtures("log")
def test_long_batch_is_committed_a_second_at_a_time(settings, start, clock, beats):
    """Each portion ends by time, holds the place behind it, and logd beats at every line of it."""
    daemon = start()
    done = stop_after(daemon, LINES)
    assert daemon.run() == 0
    per_portion = int(PORTION_S // COST_S) + 1
    assert done == [per_portion] * (LINES // per_portion)
    assert attempts(settings) == [1] * LINES
    silent = max(after - before for before, after in pairwise(beats))
    assert silent == pytest.approx(COST_S)
    assert clock.now == pytest.approx(LINES * COST_S), "each line was judged once"


@pytest.mark.usefixtures("log")
def test_killed_after_any_portion_loses_and_doubles_nothing(settings, start):
    """However often logd is killed within one batch, it comes to its end."""
    starts = 0
    while sum(attempts(settings)) < LINES:
        starts += 1
        assert starts <= LINES
        daemon = start()
        commit, done = daemon.learner.commit, []

        def killed(now, daemon=daemon, commit=commit, done=done):
            if done:
                raise Killed
            done.append(commit(now))
            if not daemon.learner.busy:
                daemon.stop()

        daemon.learner.commit = killed
        try:
            daemon.run()
        except Killed:
            continue
    assert attempts(settings) == [1] * LINES
    assert starts == LINES // (int(PORTION_S // COST_S) + 1)


def test_place_is_exactly_behind_what_was_judged(log, settings, start):
    """TERM in the middle of a batch: the place in the store is that of the next line, and it is read next."""
    daemon = start()
    (count,) = stop_after(daemon, 1) or ([daemon.run()] and [sum(attempts(settings))])
    store = make_store(settings)
    position = Position.from_text(store.log_position(str(log)).cursor)
    store.close()
    assert 0 < count < LINES
    assert position.offset == sum(len(line) for line in log.read_bytes().splitlines(keepends=True)[:count])


@pytest.mark.usefixtures("log")
def test_portion_that_the_store_refuses_is_judged_again_and_read_once(settings, start):
    """A locked store in the middle of a batch: the same lines are learnt when it is back, once."""
    daemon = start()
    done, batch, refused = stop_after(daemon, LINES), daemon.store.batch, []

    def refusing():
        if len(done) == 2 and len(refused) < 3:
            refused.append(1)
            raise StoreError("locked")
        return batch()

    daemon.store.batch = refusing
    logd.REST_S, rest = (0.0,), logd.REST_S
    try:
        assert daemon.run() == 0
    finally:
        logd.REST_S = rest
    assert len(refused) == 3
    assert attempts(settings) == [1] * LINES


def test_wait_for_the_store_is_shorter_than_a_stall(settings, start):
    """A locked store must not be what logd is killed for; whoever wants it shorter gets it."""
    for wanted, ms in ((30.0, STALL_S / 2 * 1000), (0.5, 500)):
        section = settings.store.model_copy(update={"lock_wait_s": wanted})
        patient = logd._patient(settings.model_copy(update={"store": section}))
        assert make_store(patient).connection().execute("PRAGMA busy_timeout").fetchone() == (ms,)
    daemon = start()
    assert daemon.store.connection().execute("PRAGMA busy_timeout").fetchone()[0] <= STALL_S / 2 * 1000
    daemon.store.close()


@pytest.mark.usefixtures("log")
def test_housekeeping_goes_step_by_step(start, monkeypatch):
    """One step of an hour's pruning in a turn of the loop; the log does not wait for all of them."""
    daemon = start()
    steps, order = iter([3, 3, 3]), []
    monkeypatch.setattr(logd, "PRUNE_EVERY_S", -1.0)

    def pruning(_now):
        monkeypatch.setattr(logd, "PRUNE_EVERY_S", 1e9)
        for step in steps:
            order.append("step")
            yield step

    daemon.store.pruning = pruning
    commit = daemon.learner.commit
    daemon.learner.commit = lambda now: order.append("commit") or commit(now)
    stop_after(daemon, 5)
    assert daemon.run() == 0
    assert order == ["commit", "step"] * 3 + ["commit"] * 2
