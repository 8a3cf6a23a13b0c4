"""milterd on a real Postfix: what it does to reports, what it leaves alone, and that mail flows without it."""

from __future__ import annotations

import json
import os
import re
import signal
import smtplib
import socket
import sqlite3
import struct
from pathlib import Path

import pytest

from milter_bounce.system import keys
from tests.integration.postfix import Postfix, needs_postfix
from tests.integration.programs import Program, settings_for
from tests.integration.sink import Script, Sinks
from tests.reports import dsn

pytestmark = [pytest.mark.integration, needs_postfix]

MILTER = {
    "smtpd_milters": "unix:milter-bounce/milter.sock",
    "non_smtpd_milters": "unix:milter-bounce/milter.sock",
    "internal_mail_filter_classes": "bounce",
}


@pytest.fixture
def postfix(tmp_path):
    with Sinks() as sinks:
        bad = sinks.add("bad.test", Script(rcpt="550 5.1.1 <x>: User unknown"))
        with Postfix(tmp_path / "p", main=MILTER, routes={"bad.test": bad, "ok.test": sinks.add("ok.test")}) as mta:
            mta.sinks = sinks
            yield mta


def milterd(postfix, tmp_path, *options, **over) -> Program:
    sockets = postfix.queue_directory / "milter-bounce"
    settings = settings_for(postfix, tmp_path, **over)

    def ready() -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(sockets / "milter.sock")) == 0

    return Program("milterd", tmp_path, settings, *options, ready=ready)


def ours(postfix, recipient: str) -> str:
    """Return the advice line for a recipient, once it stands in Postfix's log."""
    return postfix.wait_log(rf"milter-bounce/milterd\[\d+\]: \w+: to=<{re.escape(recipient)}>, operator=")[0]


def test_report_gets_its_line_header_row_and_event(postfix, tmp_path):
    """A report that comes in by SMTP is reported four ways; a second recipient has a line of its own."""
    with milterd(postfix, tmp_path, "--events", "jsonl") as program:
        postfix.send("", "news@home.example", dsn("gone@bad.test", "lost@bad.test").replace("\n", "\r\n"))
        line = ours(postfix, "gone@bad.test")
        assert "class=hard, category=invalid-recipient" in line
        assert "advice=suppress" in line
        assert "genuine=no" in line
        assert "dsn=5.1.1" in line
        queue_id = re.search(r"milterd\[\d+\]: (\w+):", line)[1]
        assert ours(postfix, "lost@bad.test")
        postfix.wait_for(lambda: postfix.mail("news"))
        (mail,) = postfix.mail("news")
        assert mail.count(b"\nX-Milter-Bounce: kind=dsn; class=hard; category=invalid-recipient; advice=suppress;") == 2
        events = [json.loads(line) for line in program.output().splitlines()]
        assert [e["recipient"] for e in events] == ["gone@bad.test", "lost@bad.test"]
        assert {e["queue_id"] for e in events} == {queue_id}
    with sqlite3.connect(tmp_path / "state.db") as store:
        rows = store.execute("SELECT queue_id, recipient, category, genuine FROM reports ORDER BY recipient").fetchall()
        assert rows == [(queue_id, r, "invalid-recipient", 0) for r in ("gone@bad.test", "lost@bad.test")]
        assert store.execute("SELECT count(*) FROM suppressions").fetchone() == (0,)


def test_own_report_is_believed(postfix, tmp_path):
    """What this Postfix reports itself passes the milter as well, is genuine, and is never rejected."""
    with milterd(postfix, tmp_path):
        postfix.send("news@home.example", "gone@bad.test")
        line = ours(postfix, "gone@bad.test")
        assert "genuine=yes" in line
        postfix.wait_for(lambda: postfix.mail("news"))


def test_ordinary_mail_passes_untouched(postfix, tmp_path):
    """Mail that is no report arrives byte for byte, and no line of ours names it."""
    body = "From: a@home.example\r\nTo: b@ok.test\r\nSubject: x\r\n\r\n" + "line\r\n" * 1000
    with milterd(postfix, tmp_path):
        postfix.send("a@elsewhere.example", "b@ok.test", body)
        postfix.wait_log(r"to=<b@ok.test>.*status=sent")
        (taken,) = postfix.sinks["ok.test"].taken
        assert taken.data.decode().endswith("Subject: x\r\n" + taken.data.decode().partition("Subject: x\r\n")[2])
        assert taken.data.endswith(b"\r\n\r\n" + b"line\r\n" * 1000)
        assert b"X-Milter-Bounce" not in taken.data
        assert not [line for line in postfix.lines() if "milter-bounce/" in line and "to=<" in line]


def test_token_makes_a_returned_report_genuine(postfix, tmp_path):
    """Outgoing mail is stamped; a report that returns its headers is believed and suppresses, one for another is not."""
    keys.new_key(tmp_path / "keys")
    with milterd(postfix, tmp_path):
        postfix.send("news@home.example", "gone@ok.test")
        postfix.wait_log(r"to=<gone@ok.test>.*status=sent")
        headers = postfix.sinks["ok.test"].taken[0].data.decode().replace("\r\n", "\n").partition("\n\n")[0] + "\n"
        assert "X-Milter-Bounce-Token: v1; k=" in headers
        for recipient in ("gone@ok.test", "victim@ok.test"):
            postfix.send("", "news@home.example", dsn(recipient, headers=headers).replace("\n", "\r\n"))
        assert "genuine=yes" in ours(postfix, "gone@ok.test")
        assert "genuine=no" in ours(postfix, "victim@ok.test")
    with sqlite3.connect(tmp_path / "state.db") as store:
        assert store.execute("SELECT recipient FROM suppressions").fetchall() == [("gone@ok.test",)]


@pytest.mark.parametrize("stamps", [True, False])
def test_end_of_headers_is_asked_for_only_without_a_key(postfix, tmp_path, stamps):
    """Each step that an MTA need not send is one that a stamped message does not wait for (SMFIP_NOEOH, 0x40)."""
    if stamps:
        keys.new_key(tmp_path / "keys")
    with milterd(postfix, tmp_path), socket.socket(socket.AF_UNIX) as mta:
        mta.settimeout(30)
        mta.connect(str(postfix.queue_directory / "milter-bounce" / "milter.sock"))
        mta.sendall(struct.pack("!Ic3I", 13, b"O", 6, 0x1FF, 0x1FFFFF))
        head = mta.recv(17, socket.MSG_WAITALL)
    _, kind, _, _, steps = struct.unpack("!Ic3I", head)
    assert (kind, bool(steps & 0x40)) == (b"O", stamps)


def test_suppressed_recipient_is_refused_at_submission(postfix, tmp_path):
    """In mode enforce the milter refuses a suppressed recipient with 5.1.1, since when and why; others pass."""
    keys.new_key(tmp_path / "keys")
    with milterd(postfix, tmp_path, mode="enforce"):
        postfix.send("news@home.example", "gone@bad.test")
        ours(postfix, "gone@bad.test")
        refused = postfix.send("news@home.example", ["gone@bad.test", "fine@ok.test"])
        code, text = refused["gone@bad.test"]
        assert code == 550
        assert text.startswith(b"5.1.1 <gone@bad.test>: milter-bounce: suppressed")
        postfix.wait_log(r"to=<fine@ok.test>.*status=sent")


@pytest.mark.parametrize("wanted", ["reject", "quarantine"])
def test_forged_report_is_treated_as_configured(postfix, tmp_path, wanted):
    """A report that returns headers without our token is rejected or held where the administrator wants that."""
    keys.new_key(tmp_path / "keys")
    with milterd(postfix, tmp_path, token={"on_forged": wanted}):
        message = dsn("victim@bad.test").replace("\n", "\r\n")
        if wanted == "reject":
            with pytest.raises(smtplib.SMTPDataError, match="not about a message of ours"):
                postfix.send("", "news@home.example", message)
        else:
            postfix.send("", "news@home.example", message)
            postfix.wait_log(r"milter triggers HOLD action")
            assert '"queue_name": "hold"' in postfix.queue()


def test_forged_verdict_header_is_removed(postfix, tmp_path):
    """An X-Milter-Bounce field that came from outside does not arrive."""
    message = "From: a@x.example\r\nX-Milter-Bounce: class=none\r\nSubject: s\r\nx-milter-bounce: two\r\n\r\nhi\r\n"
    with milterd(postfix, tmp_path):
        postfix.send("a@x.example", "b@ok.test", message)
        postfix.wait_log(r"to=<b@ok.test>.*status=sent")
    assert b"milter-bounce" not in postfix.sinks["ok.test"].taken[0].data.lower()


def test_diagnostic_cannot_forge_a_log_line(postfix, tmp_path):
    """Newlines, escapes and fake fields in a diagnostic stay inside the quotes of their own line."""
    said = '550 5.1.1 x"\n\tNov 20 10:00:00 mx postfix/smtp[1]: 4cFAKE: to=<v@x>, \x1b[2J status=sent (" y'
    with milterd(postfix, tmp_path):
        postfix.send("", "news@home.example", dsn("gone@bad.test", said=said).replace("\n", "\r\n"))
        line = ours(postfix, "gone@bad.test")
        assert line.isprintable()
        assert not [fake for fake in postfix.lines() if "4cFAKE" in fake and fake != line]
        text = line.partition('text="')[2]
        assert text.count('"') == 1
        assert text.endswith('"')


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        pytest.param("mode = 'strict'\n", "mode = 'strict'", id="word"),
        pytest.param("[advice]\ncategories = { greylisted = [1.0, inf] }\n", "= inf: ", id="endless"),
        pytest.param("mode = 0x" + "f" * 5000, "mode = ", id="digits"),
    ],
)
def test_hup_takes_new_settings_and_keeps_the_old_when_they_are_wrong(postfix, tmp_path, wrong, said):
    """After HUP a wrong file is told in one line and changes nothing; a mended one is taken."""
    with milterd(postfix, tmp_path) as program:
        good = program.path.read_text()
        program.path.write_text(wrong)
        program.signal(signal.SIGHUP)
        (line,) = postfix.wait_log(r"warning: not reloaded, the old configuration stays in force: ")
        assert said in line
        assert str(program.path) in line
        postfix.send("", "news@home.example", dsn("one@bad.test").replace("\n", "\r\n"))
        ours(postfix, "one@bad.test")
        program.path.write_text(good.replace("[milter]", "[milter]\nheader = false"))
        program.signal(signal.SIGHUP)
        postfix.wait_log(r"configuration, rules and keys read again")
        postfix.send("", "two@home.example", dsn("two@bad.test").replace("\n", "\r\n"))
        postfix.wait_for(lambda: postfix.mail("two"))
        assert b"X-Milter-Bounce" not in postfix.mail("two")[0]


# -- mail flows ---------------------------------------------------------------------------------------


def delivered(postfix, number: int) -> None:
    """Send a report and an ordinary mail, and see both arrive."""
    postfix.send("", f"r{number}@home.example", dsn("gone@bad.test").replace("\n", "\r\n"))
    postfix.send("a@x.example", f"o{number}@home.example")
    postfix.wait_for(lambda: postfix.mail(f"r{number}") and postfix.mail(f"o{number}"), 30)


def test_mail_flows_without_the_milter(postfix, tmp_path):
    """With milterd down, mail is accepted and delivered; with it back, reports are read again."""
    delivered(postfix, 1)
    with milterd(postfix, tmp_path):
        delivered(postfix, 2)
        ours(postfix, "gone@bad.test")
    delivered(postfix, 3)


def test_mail_flows_when_the_milter_crashes_in_mid_message(postfix, tmp_path):
    """A kill -9 between two commands of one message loses nothing; the milter is back by itself."""
    with milterd(postfix, tmp_path) as program, smtplib.SMTP("127.0.0.1", postfix.port, timeout=60) as client:
        client.ehlo()
        client.mail("")
        client.rcpt("mid@home.example")
        for pid in children(program.process.pid):
            os.kill(pid, signal.SIGKILL)
        code, _ = client.data(dsn("gone@bad.test").replace("\n", "\r\n"))
        assert code == 250
        postfix.wait_for(lambda: postfix.mail("mid"))
        postfix.wait_log(r"the program died \(signal 9\) and is started again")
        postfix.wait_for(program.ready, 30)
        delivered(postfix, 1)
        ours(postfix, "gone@bad.test")


def test_mail_flows_when_the_milter_hangs(postfix, tmp_path):
    """A stopped milter costs Postfix's own time limits and no mail."""
    with milterd(postfix, tmp_path) as program:
        delivered(postfix, 1)
        program.signal_all(signal.SIGSTOP)
        delivered(postfix, 2)
        program.signal_all(signal.SIGCONT)


def test_mail_flows_when_the_store_cannot_be_written(postfix, tmp_path):
    """A store in the place of a folder costs history: advice, header and mail are there, and one warning."""
    (tmp_path / "state.db").mkdir()
    with milterd(postfix, tmp_path):
        delivered(postfix, 1)
        delivered(postfix, 2)
        assert "class=hard" in ours(postfix, "gone@bad.test")
        assert len(postfix.wait_log(r"warning: the store cannot be used")) == 1
        assert b"X-Milter-Bounce:" in postfix.mail("r1")[0]


def children(pid: int) -> list[int]:
    """Return the process IDs of a process's children."""
    return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))
