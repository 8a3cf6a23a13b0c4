"""milterd under a real Sendmail with its default settings: reports, token, refusals, and that mail flows without it."""

from __future__ import annotations

import json
import os
import re
import signal
import smtplib
import sqlite3
from pathlib import Path

import pytest

from milter_bounce.system import keys
from tests.integration.programs import Program
from tests.integration.sendmail import Sendmail, listening, real_sendmail, settings_for  # noqa: F401 - a fixture
from tests.integration.sink import Script, Sinks
from tests.reports import dsn

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("real_sendmail")]


@pytest.fixture
def sendmail(tmp_path):
    with Sinks() as sinks:
        bad = sinks.add("bad.test", Script(rcpt="550 5.1.1 <x>: User unknown"))
        folder = tmp_path / "s"
        defines = {"MILTER_BOUNCE_MILTER": f"unix:{folder}/milter.sock"}
        routes = {"bad.test": bad, "ok.test": sinks.add("ok.test")}
        with Sendmail(folder, routes=routes, fragments=["milter"], defines=defines) as mta:
            mta.sinks = sinks
            yield mta


def milterd(sendmail, tmp_path, *options, **over) -> Program:
    settings = settings_for(sendmail, tmp_path, **over)
    return Program("milterd", tmp_path, settings, *options, ready=lambda: listening(sendmail.folder / "milter.sock"))


def crlf(text: str) -> str:
    return text.replace("\n", "\r\n")


def ours(sendmail, recipient: str) -> str:
    """Return the advice line for a recipient, once it stands in Sendmail's log."""
    return sendmail.wait_log(rf"milter-bounce/milterd\[\d+\]: \w+: to=<{re.escape(recipient)}>")[0]


def test_report_gets_its_line_header_row_and_event(sendmail, tmp_path):
    """A report that comes in by SMTP is reported four ways under Sendmail's queue ID."""
    with milterd(sendmail, tmp_path, "--events", "jsonl") as program:
        sendmail.send("", "news@home.example", crlf(dsn("gone@bad.test", "lost@bad.test")))
        line = ours(sendmail, "gone@bad.test")
        assert "class=hard, category=invalid-recipient" in line
        assert "genuine=no" in line
        queue_id = re.search(r"milterd\[\d+\]: (\w+):", line)[1]
        sendmail.wait_log(rf"sm-mta\[\d+\]: {queue_id}: from=<>")
        assert ours(sendmail, "lost@bad.test")
        (mail,) = sendmail.wait_for(lambda: sendmail.mail("news"))
        assert mail.count(b"\nX-Milter-Bounce: kind=dsn; class=hard; category=invalid-recipient; advice=suppress;") == 2
        events = [json.loads(line) for line in program.output().splitlines()]
        assert [e["recipient"] for e in events] == ["gone@bad.test", "lost@bad.test"]
        assert {e["queue_id"] for e in events} == {queue_id}
    with sqlite3.connect(tmp_path / "state.db") as store:
        rows = store.execute("SELECT queue_id, recipient, category FROM reports ORDER BY recipient").fetchall()
        assert rows == [(queue_id, r, "invalid-recipient") for r in ("gone@bad.test", "lost@bad.test")]


def test_ordinary_mail_passes_untouched(sendmail, tmp_path):
    """Mail of strangers that is no report gets nothing added, and no line of ours names it."""
    with milterd(sendmail, tmp_path):
        sendmail.send("a@elsewhere.example", "b@ok.test", "Subject: x\r\n\r\n" + "line\r\n" * 1000)
        sendmail.wait_log(r"to=<b@ok.test>.*stat=Sent")
        (taken,) = sendmail.sinks["ok.test"].taken
        assert taken.data.endswith(b"\r\n\r\n" + b"line\r\n" * 1000)
        assert b"X-Milter-Bounce" not in taken.data
        assert not [line for line in sendmail.lines() if "milter-bounce/" in line and "to=<" in line]


@pytest.mark.parametrize("macros", ["defaults", "none-asked-for"])
def test_token_makes_a_returned_report_genuine(sendmail, tmp_path, macros):
    """Outgoing mail is stamped; a report that returns its headers is believed and suppresses, one for another is not.

    With ``none-asked-for`` Sendmail sends only the macros that its own file names, without {client_addr}:
    the address then comes from ``_``.
    """
    if macros == "none-asked-for":
        sendmail.stop()
        text = sendmail.cf.read_text()
        sendmail.cf.write_text(re.sub(r"(O Milter.macros.envfrom=).*", r"\1i", text))
        sendmail.start()
    keys.new_key(tmp_path / "keys")
    with milterd(sendmail, tmp_path):
        sendmail.send("news@home.example", "gone@ok.test")
        sendmail.wait_log(r"to=<gone@ok.test>.*stat=Sent")
        headers = sendmail.sinks["ok.test"].taken[0].data.decode().replace("\r\n", "\n").partition("\n\n")[0] + "\n"
        assert "X-Milter-Bounce-Token: v1; k=" in headers
        for recipient in ("gone@ok.test", "victim@ok.test"):
            sendmail.send("", "news@home.example", crlf(dsn(recipient, headers=headers)))
        assert "genuine=yes" in ours(sendmail, "gone@ok.test")
        assert "genuine=no" in ours(sendmail, "victim@ok.test")
    with sqlite3.connect(tmp_path / "state.db") as store:
        assert store.execute("SELECT recipient FROM suppressions").fetchall() == [("gone@ok.test",)]


def test_token_of_a_crowd_comes_back_whole(sendmail, tmp_path):
    """A message to 120: its token is folded over lines, and a report about the last recipient is believed."""
    keys.new_key(tmp_path / "keys")
    crowd = [f"u{number}@ok.test" for number in range(120)]
    with milterd(sendmail, tmp_path):
        sendmail.send("news@home.example", crowd)
        taken = sendmail.wait_for(lambda: sendmail.sinks["ok.test"].taken)[0]
        headers = taken.data.decode().replace("\r\n", "\n").partition("\n\n")[0] + "\n"
        assert all(len(line) < 200 for line in headers.split("\n"))
        for recipient in (crowd[-1], "victim@ok.test"):
            sendmail.send("", "news@home.example", crlf(dsn(recipient, headers=headers)))
        assert "genuine=yes" in ours(sendmail, crowd[-1])
        assert "genuine=no" in ours(sendmail, "victim@ok.test")


def test_suppressed_recipient_is_refused_at_rcpt(sendmail, tmp_path):
    """In mode enforce a suppressed recipient is refused with 5.1.1, since when and why; the others pass."""
    keys.new_key(tmp_path / "keys")
    with milterd(sendmail, tmp_path, mode="enforce"):
        sendmail.send("news@home.example", "gone@ok.test")
        sendmail.wait_log(r"to=<gone@ok.test>.*stat=Sent")
        headers = sendmail.sinks["ok.test"].taken[0].data.decode().replace("\r\n", "\n").partition("\n\n")[0] + "\n"
        sendmail.send("", "news@home.example", crlf(dsn("gone@ok.test", headers=headers)))
        assert "genuine=yes" in ours(sendmail, "gone@ok.test")
        refused = sendmail.send("news@home.example", ["gone@ok.test", "fine@ok.test"])
        code, text = refused["gone@ok.test"]
        assert code == 550
        # Sendmail itself puts "<gone@ok.test>... " in front
        assert text.startswith(b"5.1.1 <gone@ok.test>... ")
        assert b"milter-bounce: suppressed, invalid-recipient since " in text
        sendmail.wait_log(r"to=<fine@ok.test>.*stat=Sent")
        assert sendmail.sinks["ok.test"].attempts["gone@ok.test"] == 1
        # reports and mail to it pass all the same: the null sender is never refused
        assert sendmail.send("", "gone@ok.test", "Subject: report\r\n\r\nx\r\n") == {}


@pytest.mark.parametrize("wanted", ["reject", "quarantine"])
def test_forged_report_is_treated_as_configured(sendmail, tmp_path, wanted):
    """A report that returns headers without our token is rejected or held where the administrator wants that."""
    keys.new_key(tmp_path / "keys")
    with milterd(sendmail, tmp_path, token={"on_forged": wanted}):
        message = crlf(dsn("victim@bad.test"))
        if wanted == "reject":
            with pytest.raises(smtplib.SMTPDataError, match="not about a message of ours"):
                sendmail.send("", "news@home.example", message)
        else:
            sendmail.send("", "news@home.example", message)
            sendmail.wait_log(r"milter=milter-bounce, quarantine=milter-bounce: report without a valid token")
            assert "QUARANTINE" in sendmail.run("-bp", "-qQ")


def test_forged_verdict_header_is_removed(sendmail, tmp_path):
    """X-Milter-Bounce fields that came from outside do not arrive."""
    message = "From: a@x.example\r\nX-Milter-Bounce: class=none\r\nSubject: s\r\nx-milter-bounce: two\r\n\r\nhi\r\n"
    with milterd(sendmail, tmp_path):
        sendmail.send("a@x.example", "b@ok.test", message)
        sendmail.wait_log(r"to=<b@ok.test>.*stat=Sent")
    assert b"milter-bounce" not in sendmail.sinks["ok.test"].taken[0].data.lower()


def test_mail_from_the_command_line_is_stamped_by_way_of_the_daemon(sendmail, tmp_path):
    """Mail handed to sendmail(1) passes the milter without an address of the client; nothing breaks."""
    with milterd(sendmail, tmp_path):
        sendmail.submit("me@home.example", ["b@ok.test"], "Subject: x\n\nhello\n")
        sendmail.wait_log(r"to=b@ok.test.*stat=Sent")
    assert sendmail.sinks["ok.test"].delivered("b@ok.test") == 1


# -- mail flows ---------------------------------------------------------------------------------------


def delivered(sendmail, number: int) -> None:
    """Send a report and an ordinary mail, and see both arrive, once."""
    sendmail.send("", f"r{number}@home.example", crlf(dsn("gone@bad.test")))
    sendmail.send("a@x.example", f"o{number}@home.example")
    sendmail.wait_for(lambda: sendmail.mail(f"r{number}") and sendmail.mail(f"o{number}"), 30)
    assert len(sendmail.mail(f"r{number}")) == len(sendmail.mail(f"o{number}")) == 1


def test_mail_flows_without_the_milter(sendmail, tmp_path):
    """With milterd down, mail is accepted and delivered; with it back, reports are read again."""
    delivered(sendmail, 1)
    with milterd(sendmail, tmp_path):
        delivered(sendmail, 2)
        ours(sendmail, "gone@bad.test")
    delivered(sendmail, 3)


def test_mail_flows_when_the_milter_crashes_in_mid_message(sendmail, tmp_path):
    """A kill -9 between two commands of one message loses nothing; the milter is back by itself."""
    with milterd(sendmail, tmp_path) as program, smtplib.SMTP("127.0.0.1", sendmail.port, timeout=60) as client:
        client.ehlo()
        client.mail("")
        client.rcpt("mid@home.example")
        for pid in Path(f"/proc/{program.process.pid}/task/{program.process.pid}/children").read_text().split():
            os.kill(int(pid), signal.SIGKILL)
        code, _ = client.data(crlf(dsn("gone@bad.test")))
        assert code == 250
        sendmail.wait_for(lambda: sendmail.mail("mid"))
        sendmail.wait_log(r"the program died \(signal 9\) and is started again")
        sendmail.wait_for(program.ready)
        delivered(sendmail, 1)
        ours(sendmail, "gone@bad.test")


def test_mail_flows_when_the_milter_hangs(sendmail, tmp_path):
    """A stopped milter costs the limits of milter.mc and no mail."""
    with milterd(sendmail, tmp_path) as program:
        delivered(sendmail, 1)
        program.signal_all(signal.SIGSTOP)
        delivered(sendmail, 2)
        program.signal_all(signal.SIGCONT)
