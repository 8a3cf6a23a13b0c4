"""The writer of advice lines: each way out, and no way for a line to break out of itself."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading

import pytest

from milter_bounce.config import LogSection
from milter_bounce.system import logoutput, maillog
from milter_bounce.system.maillog import LINE_LIMIT, MailLog
from tests.conftest import ROOT


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
    assert log.close()
    assert capsys.readouterr().out == f"milter-bounce/logd[{os.getpid()}]: hello\n"


def test_auto_finds_a_postfix_that_starts_after_us_at_the_next_line(tmp_path, listener, capsys):
    """Not one line more goes to standard output once Postfix's own log is there."""
    log = MailLog(LogSection(queue_directory=str(tmp_path), syslog_socket=str(tmp_path / "none")), "milterd")
    assert log.line("before")
    assert log.flush()
    server = listener(tmp_path / "public" / "postlog")
    assert log.line("after")
    assert server.recv(4096).decode().endswith(": after")
    assert log.close()
    assert capsys.readouterr().out.count("\n") == 1


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


def syslog(path) -> MailLog:
    return MailLog(LogSection(output="syslog", syslog_socket=str(path)), "milterd")


def received(server, count: int) -> list[str]:
    return [server.recv(4096).decode().split("]: ", 1)[1] for _ in range(count)]


def test_what_a_log_that_is_away_does_not_take_waits_for_it(tmp_path, listener):
    """A log that is away costs no line while there is room, and order is kept."""
    log = syslog(tmp_path / "log")
    assert all(log.line(text) for text in ("one", "two"))
    assert not log.flush(0.01)
    server = listener(tmp_path / "log")
    assert log.line("three")
    assert received(server, 3) == ["one", "two", "three"]
    assert log.close()


def test_lines_beyond_the_bound_are_counted_and_told_once(tmp_path, listener, monkeypatch):
    """What had no room is told in one line as soon as the log takes lines again."""
    monkeypatch.setattr(maillog, "LINES_WAITING", 2)
    log = syslog(tmp_path / "log")
    assert [log.line(str(number)) for number in range(5)] == [True, True, False, False, False]
    server = listener(tmp_path / "log")
    assert received(server, 3) == ["0", "warning: 3 lines were lost while the log was away", "1"]
    assert log.close()
    assert log.line("more")
    assert received(server, 1) == ["more"]
    assert log.close()


class Hung:
    """A way out that takes a line only when it is let; it notes which thread writes."""

    kind = "syslog"

    def __init__(self) -> None:
        self.let, self.entered = threading.Event(), threading.Event()
        self.written: list[str] = []
        self.threads: set[int] = set()

    def write(self, lines):
        self.threads.add(threading.get_ident())
        self.entered.set()
        self.let.wait()
        texts = [line.text for line in lines]
        if texts[0] == "poison":
            raise logoutput.UnwritableError("no")
        taken = texts.index("poison") if "poison" in texts else len(texts)
        self.written += texts[:taken]
        return taken

    def close(self):
        pass


def test_caller_never_waits_for_a_log_that_hangs(tmp_path):
    """While the writing thread stands in the log, every other line is taken at once, by no more than that thread."""
    log, hung = syslog(tmp_path / "log"), Hung()
    log._output = hung
    assert log.line("first")
    assert hung.entered.wait(30)
    assert all(log.line(f"line {number}") for number in range(100))
    assert not log.flush(0.01)
    assert hung.written == []
    hung.let.set()
    assert log.flush(30)
    assert hung.written == ["first", *(f"line {number}" for number in range(100))]
    assert len(hung.threads) == 1
    assert threading.get_ident() not in hung.threads
    log.close()


def test_full_socket_costs_no_line(tmp_path, listener):
    """A daemon that listens and does not read: lines wait, and come in order once it reads."""
    server = listener(tmp_path / "log")
    log, filler = syslog(tmp_path / "log"), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    filler.setblocking(False)
    filler.connect(str(tmp_path / "log"))
    filled = 0
    with contextlib.suppress(BlockingIOError):
        while filler.send(b"x"):
            filled += 1
    assert all(log.line(f"line {number}") for number in range(30))
    assert [server.recv(16) for _ in range(filled)] == [b"x"] * filled
    assert received(server, 30) == [f"line {number}" for number in range(30)]
    assert log.close()


def test_line_that_cannot_be_written_holds_up_no_other(tmp_path):
    """It is counted with the lost ones, and the next lines go on."""
    log, hung = syslog(tmp_path / "log"), Hung()
    log._output = hung
    hung.let.set()
    assert all(log.line(text) for text in ("poison", "fine"))
    assert log.close(30)
    assert hung.written == ["fine", "warning: 1 lines were lost while the log was away"]


@pytest.mark.parametrize("output", ["file", "syslog"])
def test_lines_are_written_many_at_a_time(tmp_path, listener, output):
    """What waits goes out in one turn, in order, and the line that no way out takes is the only one that is lost."""
    path = tmp_path / "log"
    server = listener(path) if output == "syslog" else None
    way = logoutput.LogOutput(LogSection(output=output, output_file=str(path), syslog_socket=str(path)), "logd")
    lines = [logoutput.Line(f"line {number}", "info", 0.0) for number in range(5)]
    assert way.write(lines) == 5
    written = received(server, 5) if server else [t.split("]: ")[1] for t in path.read_text().splitlines()]
    assert written == [line.text for line in lines]
    if server:
        huge = logoutput.Line("x" * 1_000_000, "info", 0.0)
        assert way.write([lines[0], huge, lines[1]]) == 1
        with pytest.raises(logoutput.UnwritableError):
            way.write([huge, lines[1]])
        assert received(server, 1) == ["line 0"]
    way.close()


def test_disk_that_fills_up_takes_the_lines_that_fitted(tmp_path, monkeypatch):
    """The torn one is written again: none is lost."""
    path, write = tmp_path / "log", os.write
    way = logoutput.LogOutput(LogSection(output="file", output_file=str(path)), "logd")
    lines = [logoutput.Line(f"line {number}", "info", 0.0) for number in range(4)]
    with monkeypatch.context() as full:
        full.setattr(os, "write", lambda target, data: write(target, data[: len(data) // 2 + 5]))
        assert way.write(lines) == 2
    assert way.write(lines[2:]) == 2
    assert [f"line {number}\n" in path.read_text() for number in range(4)] == [True] * 4


@pytest.mark.parametrize(
    ("said", "written"),
    [
        ("warning: a", "warning: a"),
        ("error: a", "error: a"),
        ("info: a", "a"),
        ("probe: a", "probe: a"),
        ("plain", "plain"),
    ],
)
def test_say_reads_the_severity_in_front(tmp_path, listener, said, written):
    """What the answers say may state how bad it is."""
    server = listener(tmp_path / "log")
    log = syslog(tmp_path / "log")
    assert log.say(said)
    priority, _, text = server.recv(4096).decode().partition(">")
    assert text.endswith(f"]: {written}")
    assert priority == {"warning": "<20", "error": "<19"}.get(said.partition(":")[0], "<22")


CHILD = """
import os, sys
from milter_bounce.config import LogSection
from milter_bounce.system.maillog import MailLog
log = MailLog(LogSection(output="file", output_file=sys.argv[1]), "milterd")
log.line("parent")
log.flush(30)
if not (pid := os.fork()):
    log.line(f"child {os.getpid()}")
    os._exit(not log.close(30))
assert os.waitpid(pid, 0)[1] == 0
for number in range(500):
    log.line(f"end {number}")
"""


def test_program_that_forks_and_ends_loses_no_line(tmp_path):
    """The child writes through a thread and under a number of its own; an orderly end writes what still waits."""
    path = tmp_path / "log"
    subprocess.run([sys.executable, "-c", CHILD, str(path)], check=True, timeout=60, cwd=ROOT)
    words = [line.split("milterd[", 1)[1].split("]: ") for line in path.read_text().splitlines()]
    parent, child = words[0][0], words[1][0]
    assert parent != child
    assert words[1] == [child, f"child {child}"]
    assert [words[0], *words[2:]] == [[parent, "parent"], *([parent, f"end {number}"] for number in range(500))]


def test_lost_lines_are_told_once_on_standard_error(tmp_path, capsys):
    """While the log is away somebody at the terminal or the journal learns of it, once, with place and option."""
    path = tmp_path / "none" / "log"
    output = logoutput.LogOutput(LogSection(output="file", output_file=str(path)), "logd")
    for text in ("one", "two"):
        assert output.write([logoutput.Line(text, "info", 0.0)]) == 0
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
    assert log.flush()
    first.close()
    second = listener(path)
    assert log.line("two")
    assert second.recv(4096).decode().endswith("two")


def test_postfix_that_starts_later_gets_the_lines(tmp_path, listener, monkeypatch):
    """What was standard output becomes Postfix's own log once that is there."""
    monkeypatch.setattr(logoutput, "CHOOSE_AGAIN_S", 0.0)
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
    assert log.line("one")
    assert not log.close(0.5)
    assert target.read_text() == ""
