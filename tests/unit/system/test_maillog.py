"""The writer of advice lines: each way out, and no way for a line to break out of itself."""

from __future__ import annotations

import os
import socket

import pytest

from milter_bounce.config import LogSection
from milter_bounce.system import maillog
from milter_bounce.system.maillog import LINE_LIMIT, MailLog


@pytest.fixture
def listener():
    """A datagram socket like syslog's or postlogd's."""

    def at(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        server = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        server.bind(str(path))
        server.settimeout(5)
        return server

    return at


def test_syslog_line_has_facility_mail_and_program(tmp_path, listener):
    """The line goes out as <22>milter-bounce/NAME[PID]: text."""
    server = listener(tmp_path / "log")
    log = MailLog(LogSection(output="syslog", syslog_socket=str(tmp_path / "log")), "milterd")
    assert log.line("4cX: to=<a@example.net>, class=hard")
    assert (
        server.recv(4096).decode() == f"<22>milter-bounce/milterd[{os.getpid()}]: 4cX: to=<a@example.net>, class=hard"
    )


def test_postlog_is_chosen_where_postfix_keeps_its_own_log(tmp_path, listener):
    """With public/postlog in the queue directory, auto means Postfix's own log, with a time stamp in front."""
    server = listener(tmp_path / "public" / "postlog")
    settings = LogSection(queue_directory=str(tmp_path), syslog_socket=str(tmp_path / "none"))
    log = MailLog(settings, "logd")
    assert log.output == "postlog"
    assert log.line("hello")
    words = server.recv(4096).decode().split()
    assert words[-2:] == [f"milter-bounce/logd[{os.getpid()}]:", "hello"]
    assert len(words[2].split(":")) == 3


def test_auto_falls_back_to_standard_output(tmp_path, capsys):
    """Without postlog and without syslog the line stands on standard output."""
    log = MailLog(LogSection(queue_directory=str(tmp_path), syslog_socket=str(tmp_path / "none")), "logd")
    assert log.line("hello")
    assert capsys.readouterr().out == f"milter-bounce/logd[{os.getpid()}]: hello\n"


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("x\nNov 20 10:00:00 mx postfix/smtp[1]: 4cFAKE: to=<a@b>, status=sent", id="newline"),
        pytest.param("x\r\x1b[2Jcleared", id="terminal-escape"),
        pytest.param("x\x00y", id="nul"),
        pytest.param("x\u2028y\u202ez", id="line-separator-and-bidi"),
        pytest.param("x" * 10_000, id="long"),
        pytest.param("x\udc80y", id="lone-surrogate"),
    ],
)
def test_no_text_breaks_out_of_its_line(tmp_path, listener, text):
    """What arrives is one printable line of bounded length, whatever a caller hands in."""
    server = listener(tmp_path / "log")
    log = MailLog(LogSection(output="syslog", syslog_socket=str(tmp_path / "log")), "milterd")
    assert log.line(text)
    arrived = server.recv(65536).decode()
    assert arrived.isprintable()
    assert len(arrived) < LINE_LIMIT + 60


def test_lost_lines_are_told_when_the_log_is_back(tmp_path, listener):
    """A log that is away costs lines but never an exception; their number is told."""
    path = tmp_path / "log"
    log = MailLog(LogSection(output="syslog", syslog_socket=str(path)), "milterd")
    assert not log.line("one")
    assert not log.line("two")
    server = listener(path)
    assert log.line("three")
    assert "warning: 2 lines were lost" in server.recv(4096).decode()
    assert server.recv(4096).decode().endswith("three")


def test_lost_lines_are_told_once_on_standard_error(tmp_path, capsys):
    """While the log is away somebody at the terminal or the journal learns of it, once, with place and option."""
    path = tmp_path / "none" / "log"
    log = MailLog(LogSection(output="file", output_file=str(path)), "logd")
    assert not log.line("one")
    assert not log.line("two")
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert f"{path}: No such file or directory; " in told
    assert "log.output" in told


def test_log_restarted_is_found_again(tmp_path, listener):
    """A syslog daemon that was started anew gets the next line without a loss."""
    path = tmp_path / "log"
    first = listener(path)
    log = MailLog(LogSection(output="syslog", syslog_socket=str(path)), "milterd")
    assert log.line("one")
    first.close()
    second = listener(path)
    assert log.line("two")
    assert second.recv(4096).decode().endswith("two")


def test_postfix_that_starts_later_gets_the_lines(tmp_path, listener, monkeypatch):
    """What was standard output becomes Postfix's own log once that is there."""
    monkeypatch.setattr(maillog, "CHOOSE_AGAIN_S", 0.0)
    log = MailLog(LogSection(queue_directory=str(tmp_path), syslog_socket=str(tmp_path / "none")), "logd")
    assert log.output == "stdout"
    server = listener(tmp_path / "public" / "postlog")
    assert log.line("hello")
    assert server.recv(4096).decode().endswith("hello")


def test_file_output_does_not_follow_a_symlink(tmp_path):
    """A symlink in place of the log file is not written through."""
    target = tmp_path / "target"
    target.write_text("")
    (tmp_path / "log").symlink_to(target)
    log = MailLog(LogSection(output="file", output_file=str(tmp_path / "log")), "milterd")
    assert not log.line("one")
    assert target.read_text() == ""
