"""What logd does with a batch: the store, the lines, the notices - all or nothing."""

from __future__ import annotations

import json
import sqlite3
import stat
import time
from datetime import UTC, datetime, timedelta

import pytest

from milter_bounce.config import NotifySection, from_values
from milter_bounce.parse.log import LogReader
from milter_bounce.system import learner, maillog
from milter_bounce.system.advising import make_adviser, make_store
from milter_bounce.system.learner import Learner
from milter_bounce.system.logoutput import LogOutput
from milter_bounce.system.logtail import Batch
from milter_bounce.system.maillog import MailLog
from milter_bounce.system.notify import Notifier, as_mail
from milter_bounce.system.rulefiles import load_rules
from milter_bounce.system.store import StoreError
from milter_bounce.verdict import Block, Notice, NoticeKind, Scope

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
RULES = load_rules()
SAID = "host {relay}[192.0.2.9] said: {reply} (in reply to RCPT TO command)"


def line(
    reply, to="bob@example.net", status="deferred", dsn="4.2.2", queue_id="4cXyz", relay="mx.example.net", after_s=0
):
    """Return one delivery line, `after_s` seconds after the first."""
    at = (NOW + timedelta(seconds=after_s)).isoformat()
    said = reply if status == "sent" else SAID.format(relay=relay, reply=reply)
    return (
        f"{at} mx postfix/smtp[7]: {queue_id}: to=<{to}>, relay={relay}[192.0.2.9]:25, delay=1, delays=0/0/0/1, "
        f"dsn={dsn}, status={status} ({said})"
    )


FULL = "452 4.2.2 mailbox full"


class Desk:
    """A learner with a store, a log and a notifier of its own."""

    def __init__(self, folder, **notify):
        self.settings = from_values(
            {
                "store": {"path": str(folder / "state.db"), "lock_wait_s": 0},
                "log": {"output": "file", "output_file": str(folder / "advice.log")},
                "notify": notify,
            },
            "test",
        )
        self.path = folder / "advice.log"
        self.store = make_store(self.settings)
        self.log = log = MailLog(self.settings.log, "logd")
        self.learner = Learner(
            "mail.log",
            LogReader(NOW),
            RULES,
            make_adviser(self.settings),
            self.store,
            log,
            Notifier(self.settings.notify, log),
        )

    def learn(self, *lines, position="here", now=NOW + timedelta(hours=1)):
        self.learner.take(Batch(list(lines), position), now)
        return self.learner.commit(now)

    def lines(self):
        assert self.log.flush()
        return [text.split("]: ", 1)[1] for text in self.path.read_text().splitlines()] if self.path.exists() else []


@pytest.fixture
def desk(tmp_path):
    return Desk(tmp_path)


def test_failed_attempt_has_its_line_and_its_place(desk):
    """One advice line, one episode, the position: together."""
    assert desk.learn(line(FULL)) == 1
    (said,) = desk.lines()
    assert said.startswith(
        "4cXyz: to=<bob@example.net>, operator=none, relay=mx.example.net[192.0.2.9]:25, dsn=4.2.2, "
    )
    assert "class=soft, category=mailbox-full" in said
    assert desk.store.recipient("bob@example.net").episode.attempts == 1
    assert desk.store.log_position("mail.log").cursor == "here"


def test_more_lines_than_the_log_has_room_for_wait_for_it(desk, monkeypatch):
    """A night's backlog is told faster than a log takes it: none is lost, and the order stays."""
    monkeypatch.setattr(maillog, "LINES_WAITING", 3)
    write = LogOutput.write

    def slowly(output, lines):
        time.sleep(0.002)
        return write(output, lines[:1])

    monkeypatch.setattr(LogOutput, "write", slowly)
    desk.learn(*(line(FULL, f"u{number}@example.net", queue_id=f"4cXy{number:02}") for number in range(40)))
    assert [said.partition(":")[0] for said in desk.lines()] == [f"4cXy{number:02}" for number in range(40)]


def test_log_that_takes_nothing_stops_no_learning(desk, monkeypatch):
    """Two seconds are waited in all, the heart beats meanwhile, and what is lost is counted."""
    beats = []
    monkeypatch.setattr(maillog, "LINES_WAITING", 3)
    monkeypatch.setattr(learner, "ROOM_S", 0.001)
    monkeypatch.setattr(LogOutput, "write", lambda *_: 0)
    monkeypatch.setattr(desk.learner, "_alive", lambda: beats.append(1))
    recipients = [f"u{number}@example.net" for number in range(9)]
    assert desk.learn(*(line(FULL, to, queue_id="4cHung") for to in recipients)) == 9
    assert all(desk.store.recipient(to).episode for to in recipients)
    assert len(beats) >= learner.ROOM_TRIES
    assert desk.log._lost == 6


def test_delivery_ends_the_episode_with_a_line(desk):
    """A success after failures is told with attempts and hours; one without is not."""
    desk.learn(line(FULL), line(FULL, after_s=10_800), line("250 2.0.0 Ok", status="sent", dsn="2.0.0", after_s=14_400))
    desk.learn(line("250 2.0.0 Ok", status="sent", dsn="2.0.0", to="new@example.net"))
    told = desk.lines()
    assert len(told) == 3
    assert "notice=delivered" in told[2]
    assert "attempts=2" in told[2]
    assert desk.store.recipient("bob@example.net").episode is None


def test_operator_is_learnt_from_the_relay(desk):
    """Who runs a domain's mail comes from the log, for deliveries and for failures."""
    google = "aspmx.l.google.com"
    desk.learn(
        line("250 2.0.0 Ok", status="sent", dsn="2.0.0", to="a@one.example", relay=google),
        line(FULL, to="b@two.example", relay=google),
    )
    assert desk.store.recipient("a@one.example").operator == "google"
    assert desk.store.recipient("x@two.example").operator == "google"


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(
            "postfix/error[1]: 4cXyz: to=<a@example.net>, relay=none, delay=1, delays=0/0/0/1, dsn=4.7.1, "
            "status=deferred (milter-bounce: held until 2026-11-21)",
            id="gate",
        ),
        pytest.param(
            "postfix/smtp[1]: 4cXyz: to=<a@example.net>, relay=mx[192.0.2.1]:25, delay=1, delays=0/0/0/1, dsn=5.1.1, "
            "status=undeliverable (host mx[192.0.2.1] said: 550 5.1.1 no (in reply to RCPT TO command))",
            id="probe",
        ),
        pytest.param("milter-bounce/logd[1]: 4cXyz: to=<a@example.net>, operator=none, class=soft", id="own-line"),
    ],
)
def test_what_is_no_attempt_leaves_no_trace(desk, text):
    """Our gate's answers, probes and our own lines count for nothing."""
    assert desk.learn(f"{NOW.isoformat()} mx {text}") == 0
    assert desk.lines() == []
    assert desk.store.recipient("a@example.net").episode is None


def held(queue_id="4cHLD", to="a@example.net", text="held until lifted, block example.net, policy", after_s=60):
    """Return the line of a message that our gate kept in the queue."""
    at = (NOW + timedelta(seconds=after_s)).isoformat()
    return (
        f"{at} mx postfix/error[1]: {queue_id}: to=<{to}>, relay=none, delay=1, delays=0/0/0/1, dsn=4.7.1, "
        f"status=deferred (milter-bounce: {text})"
    )


def block_by_hand(desk, key="example.net"):
    desk.store.add_block(
        Block(key, key, Scope.SENDING_HOST, "policy-rejection", "r", NOW, None, NOW + timedelta(days=7))
    )


def test_message_held_from_its_first_attempt_waits_for_its_block(desk):
    """It is the probe after a lift; no attempt, refusal or episode is counted for it, and once sent it waits no more."""
    block_by_hand(desk)
    assert desk.learn(held(), held("4cHL2", "b@example.net", after_s=61)) == 0
    assert (desk.lines(), desk.store.recipient("a@example.net").episode) == ([], None)
    assert desk.store.due(NOW + timedelta(minutes=2)) == []
    desk.store.lift("example.net", "me", NOW + timedelta(minutes=2))
    (probe,) = desk.store.due(NOW + timedelta(minutes=2))
    assert (probe.queue_id, probe.block) == ("4cHLD", "example.net")
    assert desk.store.blocks()[0].refusals == 1
    sent = line("250 2.0.0 Ok", status="sent", dsn="2.0.0", to="a@example.net", queue_id="4cHLD", after_s=180)
    desk.learn(sent)
    assert desk.store.recipient("a@example.net").waiting == ()
    assert [queue_id for queue_id, _ in desk.store.recipient("b@example.net").waiting] == ["4cHL2"]


def test_message_held_before_its_recipients_time_is_due_then(desk):
    """A second message to a full mailbox is due with the first, and has failed no more than that."""
    desk.learn(line(FULL, to="a@example.net"))
    before = desk.store.recipient("a@example.net").episode
    desk.learn(held(text=f"not before {before.not_before:%Y-%m-%dT%H:%MZ}, mailbox-full"))
    assert desk.store.recipient("a@example.net").episode == before
    assert desk.store.due(before.not_before - timedelta(seconds=1)) == []
    assert {due.queue_id for due in desk.store.due(before.not_before)} == {"4cXyz", "4cHLD"}


def test_message_held_for_a_sender_waits_for_his_block_on_sendmail(desk):
    """Sendmail's gate knows the sender; the recipient's line follows the gate's word."""
    block_by_hand(desk, "example.net/me@example.com")
    at, sm, who = (NOW + timedelta(minutes=1)).isoformat(), "6AKJOvLA019656", "a@example.net"
    desk.learn(
        f"{at} mx sm-mta[1]: {sm}: from=<me@example.com>, size=1, class=0, nrcpts=1, msgid=<x@y>, relay=localhost",
        f"{at} mx sm-mta[1]: {sm}: ruleset=check_compat, arg1=<me@example.com>, arg2=<{who}>, relay=[127.0.0.1], "
        "reject=451 4.7.1 milter-bounce:held until lifted block example.net/me@example.com policy",
        f"{at} mx sm-mta[1]: {sm}: to=<{who}>, delay=00:00:01, xdelay=00:00:00, mailer=esmtp, pri=1, "
        "relay=example.net., dsn=4.7.1, stat=Deferred",
    )
    assert desk.store.recipient(who).episode is None
    desk.store.lift("example.net/me@example.com", "me", NOW + timedelta(minutes=2))
    assert [due.queue_id for due in desk.store.due(NOW + timedelta(minutes=2))] == [sm]


def test_message_held_by_nothing_that_we_know_is_asked_for_at_leisure(desk):
    """Its block was over before we read of it; should gate and store not agree, nothing turns in a circle."""
    desk.learn(held())
    due = desk.store.due(NOW + timedelta(minutes=2))
    assert [one.queue_id for one in due] == ["4cHLD"]
    desk.store.flushed(due, NOW + timedelta(minutes=2))
    desk.learn(held(after_s=180))
    assert desk.store.due(NOW + timedelta(minutes=12)) == []
    assert [one.queue_id for one in desk.store.due(NOW + timedelta(minutes=13))] == ["4cHLD"]


def test_message_that_was_only_held_and_expires_is_nobodys_failure(desk):
    """No attempt was made: no notice, and a recipient who failed otherwise is not given up for it."""
    desk.learn(line(FULL, to="a@example.net"), held(text="not before 2026-11-21T00:00Z, mailbox-full"))
    told = len(desk.lines())
    desk.learn(
        f"{NOW.isoformat()} mx postfix/qmgr[1]: 4cHLD: from=<me@example.com>, status=expired, returned to sender"
    )
    assert len(desk.lines()) == told
    assert desk.store.recipient("a@example.net").episode.given_up is None
    assert [queue_id for queue_id, _ in desk.store.recipient("a@example.net").waiting] == ["4cXyz"]


def test_first_failure_of_a_held_message_is_not_dated_back(desk):
    """Three days held and then tried: its schedule begins with the attempt, not with the holding."""
    block_by_hand(desk)
    desk.learn(held())
    desk.learn(line(FULL, to="a@example.net", queue_id="4cHLD", after_s=3 * 86_400), now=NOW + timedelta(days=3))
    record = desk.store.recipient("a@example.net")
    assert (record.episode.given_up, record.episode.attempts) == (None, 1)
    assert "advice=retry" in desk.lines()[-1]


def test_expired_message_is_told_for_its_recipients(desk):
    """The queue manager names no recipient; the store knows who waited."""
    desk.learn(line(FULL))
    desk.learn(
        f"{NOW.isoformat()} mx postfix/qmgr[1]: 4cXyz: from=<me@example.com>, status=expired, returned to sender"
    )
    assert "to=<bob@example.net>" in desk.lines()[1]
    assert "notice=" in desk.lines()[1]


def test_removed_message_waits_no_more(desk):
    """A message that left the queue is not asked for again."""
    desk.learn(line(FULL))
    assert [queue_id for queue_id, _ in desk.store.recipient("bob@example.net").waiting] == ["4cXyz"]
    desk.learn(f"{NOW.isoformat()} mx postfix/qmgr[1]: 4cXyz: removed")
    assert desk.store.recipient("bob@example.net").waiting == ()


def test_success_in_an_odd_form_counts_alike(desk):
    """A quoted recipient goes the long way and ends its episode as well."""
    odd = '"bob b"@example.net'
    desk.learn(line(FULL, to=odd), line("250 2.0.0 Ok", status="sent", dsn="2.0.0", to=odd))
    assert "notice=delivered" in desk.lines()[1]


def test_remote_that_speaks_our_mark_is_not_remembered(desk):
    """A reply that begins like our own text gains nothing but silence."""
    desk.learn(line("550 5.1.1 milter-bounce: held", status="bounced", dsn="5.1.1"))
    assert desk.store.suppressed("bob@example.net") is None


def test_block_that_expires_is_told(desk):
    """What the housekeeping ends has its line, too."""
    blocked(desk)
    desk.learner.notices(desk.store.expire(NOW + timedelta(days=400)))
    assert "notice=block-ended" in desk.lines()[-1]


def test_outcomes_are_printed_as_events(desk, capsys):
    """With events, each failure is a line of JSON on standard output."""
    desk.learner._events = True
    desk.learn(line(FULL))
    assert json.loads(capsys.readouterr().out)["category"] == "mailbox-full"


def test_locked_store_learns_and_tells_nothing_until_it_is_free(desk, tmp_path):
    """Nothing is told that was not remembered; the same batch is taken again, once."""
    desk.learn(line("250 2.0.0 Ok", status="sent", dsn="2.0.0"))
    with sqlite3.connect(tmp_path / "state.db", isolation_level=None) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StoreError):
            desk.learn(line(FULL), position="there")
        other.execute("ROLLBACK")
    assert desk.lines() == []
    assert desk.learner.commit(NOW) == 1
    assert desk.learner.commit(NOW) == 0
    assert len(desk.lines()) == 1
    assert desk.store.log_position("mail.log").cursor == "there"


@pytest.mark.parametrize(
    ("at", "believed"),
    [
        pytest.param(NOW - timedelta(days=400), True, id="long-ago"),
        pytest.param(NOW + timedelta(minutes=1), True, id="just-ahead"),
        pytest.param(NOW + timedelta(days=4000), False, id="years-ahead"),
    ],
)
def test_time_stamp_ahead_is_not_believed(desk, at, believed):
    """A wrong clock's future does not put advice off for years."""
    desk.learn(line(FULL, after_s=(at - NOW).total_seconds()), now=NOW)
    first = desk.store.recipient("bob@example.net").episode.first_failure
    assert first == (at if believed else NOW)


def test_suspended_deliveries_do_not_add_up_to_a_block(desk):
    """One refusal that the retry agent repeats for 50 messages is one refusal."""
    reply = (
        "host mta5.am0.yahoodns.net[192.0.2.74] refused to talk to me: 421 4.7.0 [TSS04] Messages temporarily deferred"
    )
    desk.learn(
        *(
            f"{NOW.isoformat()} mx postfix/error[1]: 4d{n:05}: to=<u{n}@yahoo.example>, relay=none, delay=1, delays=0/0/0/1, "
            f"dsn=4.7.0, status=deferred (delivery temporarily suspended: {reply})"
            for n in range(50)
        )
    )
    assert len(desk.lines()) == 50
    assert desk.store.blocks() == []


def test_reply_quoting_an_operator_does_not_block_him(desk):
    """Any server can speak Gmail's words: they count for the host that spoke."""
    reply = "421 4.7.28 Gmail has detected an unusual rate of unsolicited mail originating from your IP address. gsmtp"
    desk.learn(
        *(
            line(reply, dsn="4.7.28", to=f"u{n}@evil.example", queue_id=f"4d{n:05}", relay="mx.evil.example")
            for n in range(40)
        )
    )
    assert {block.key for block in desk.store.blocks()} == {"evil.example"}


def blocked(desk, wait=lambda: True):
    desk.learn(line("554 5.7.1 your host is blocked using zen.spamhaus.org", status="bounced", dsn="5.7.1"))
    end = time.monotonic() + 10
    while not wait() and time.monotonic() < end:
        time.sleep(0.02)


def test_block_is_told_once_to_program_and_mail(tmp_path):
    """notify.command gets the block as JSON, notify.mail_to a mail; a second refusal tells nobody again."""
    program = tmp_path / "notify"
    program.write_text(f"#!/bin/sh\ncat >> {tmp_path}/$1\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    sendmail = tmp_path / "sendmail"
    sendmail.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/words\ncat >> {tmp_path}/mail\n')
    sendmail.chmod(sendmail.stat().st_mode | stat.S_IXUSR)
    desk = Desk(tmp_path, command=[str(program), "told"], mail_to=["root@example.com"], sendmail=str(sendmail))
    blocked(desk, lambda: (tmp_path / "told").exists() and (tmp_path / "mail").exists())
    blocked(desk)
    time.sleep(0.3)
    (told,) = (tmp_path / "told").read_text().splitlines()
    assert json.loads(told)["notice"] == "block-began"
    assert json.loads(told)["key"] == "example.net"
    mail = (tmp_path / "mail").read_text()
    assert mail.count("Subject: ") == 1
    assert "Auto-Submitted: auto-generated" in mail
    assert "root@example.com" in (tmp_path / "words").read_text()
    assert any("notice=block-began" in text for text in desk.lines())


@pytest.mark.parametrize(
    ("script", "said"),
    [
        pytest.param("#!/bin/sh\necho broken >&2\nexit 3\n", "ended with status 3: broken", id="fails"),
        pytest.param("#!/bin/sh\nexec sleep 30\n", "was ended after 1 s", id="hangs"),
        pytest.param(None, "cannot be run", id="missing"),
    ],
)
def test_program_that_fails_is_told(tmp_path, script, said):
    """A notify.command that fails, hangs or is missing costs a warning, nothing else."""
    program = tmp_path / "notify"
    if script:
        program.write_text(script)
        program.chmod(0o755)
    desk = Desk(tmp_path, command=[str(program)], timeout_s=1)
    blocked(desk, lambda: any(said in text for text in desk.lines()))
    assert any(said in text for text in desk.lines())


def test_mail_cannot_be_forged_by_a_reply():
    """Newlines and foreign letters in a key or a text do not reach the header as they are."""
    notice = Notice(
        NoticeKind.BLOCK_BEGAN, "evil.example\nBcc: all@example.org", NOW, text="554 \r\n\r\nnext \u202e line"
    )
    mail = as_mail(notice, NotifySection(mail_to=["root@example.com"], mail_from="mb@example.com"), "mx")
    head, _, body = mail.partition(b"\n\n")
    assert [text.partition(b":")[0] for text in head.splitlines()].count(b"Bcc") == 0
    assert b"\\u202e" in body
    assert mail.isascii()


def test_line_that_we_stumble_over_is_left_out(desk, monkeypatch):
    """A bug of ours costs one line and a warning, not logd: the same line would end every start."""
    classify = RULES.classify

    def stumble(status):
        if status.recipient == "odd@example.net":
            raise RecursionError("too deep")
        return classify(status)

    monkeypatch.setattr(desk.learner._rules, "classify", stumble)
    assert desk.learn(line(FULL), line(FULL, to="odd@example.net"), line(FULL, to="next@example.net")) == 2
    assert "left out what cannot be learnt (RecursionError: too deep)" in desk.lines()[-1]
    assert desk.store.recipient("next@example.net").episode.attempts == 1
