"""`milter-bounce run`: programs that die or hang are started again, all end together."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from milter_bounce.config import LogSection
from milter_bounce.system import supervise
from milter_bounce.system.heartbeat import PIPE_VARIABLE, Heartbeat, notify_systemd
from milter_bounce.system.maillog import MailLog
from milter_bounce.system.supervise import Supervisor, commands
from tests.conftest import ROOT
from tests.integration.logd_run import MailLog as Written
from tests.integration.logd_run import Runs, settings_for
from tests.integration.programs import toml

pytestmark = pytest.mark.integration

PROGRAM = """
import sys, time, os, signal
sys.path.insert(0, {root!r})
from milter_bounce.system.heartbeat import Heartbeat
heart = Heartbeat()
with open({file!r}, "a") as starts:
    starts.write(f"{{os.getpid()}}\\n")
heart.ready()
signal.signal(signal.SIGHUP, lambda *_: open({file!r} + ".hup", "a").close())
{body}
"""
LIVES = "while True:\n    heart.beat(); time.sleep(0.1)"


class House:
    """A supervisor in a thread, with programs that are a few lines of Python."""

    def __init__(self, folder, monkeypatch, **bodies):
        self.folder = folder
        made = {name: self.command(name, body) for name, body in bodies.items()}
        log = MailLog(LogSection(output="file", output_file=str(folder / "log")), "run")
        monkeypatch.setattr(supervise, "FIRST_REST_S", 0.05)
        self.supervisor = Supervisor(made, log)
        for child in self.supervisor.children:
            child.rest_s = 0.05
        self.status = None
        self.thread = threading.Thread(target=self._run)

    def command(self, name, body):
        script = self.folder / f"{name}.py"
        script.write_text(PROGRAM.format(root=str(ROOT), file=str(self.folder / name), body=body))
        return [sys.executable, str(script)]

    def _run(self):
        self.status = self.supervisor.run()

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.supervisor.stop()
        self.thread.join(20)

    def starts(self, name):
        path = self.folder / name
        return [int(pid) for pid in path.read_text().split()] if path.exists() else []

    def said(self):
        path = self.folder / "log"
        return path.read_text() if path.exists() else ""


def wait_for(ready, seconds=20):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := ready():
            return found
        time.sleep(0.05)
    pytest.fail("waited in vain")


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_program_that_dies_is_started_again(tmp_path, monkeypatch):
    """Its end is told with the reason; the others go on untouched."""
    with House(tmp_path, monkeypatch, dies="sys.exit(7)", lives=LIVES) as house:
        wait_for(lambda: len(house.starts("dies")) >= 3)
        assert len(house.starts("lives")) == 1
        wait_for(lambda: "dies ended with status 7; starting it again in" in house.said())


def test_program_killed_is_started_again(tmp_path, monkeypatch):
    """Signal 9 is answered by a new process."""
    with House(tmp_path, monkeypatch, lives=LIVES) as house:
        (first,) = wait_for(lambda: house.starts("lives"))
        os.kill(first, signal.SIGKILL)
        wait_for(lambda: len(house.starts("lives")) == 2)
        wait_for(lambda: "lives ended by signal 9" in house.said())


def test_program_that_hangs_is_ended_and_started_again(tmp_path, monkeypatch):
    """A loop that stalls falls silent: it is killed, with all that it has started."""
    hang = "import subprocess\nchild = subprocess.Popen(['sleep', '60'])\nopen(__file__ + '.child', 'w').write(str(child.pid))\ntime.sleep(60)"
    with House(tmp_path, monkeypatch, hangs=hang) as house:
        first = wait_for(lambda: house.starts("hangs"))[0]
        wait_for(lambda: len(house.starts("hangs")) == 2)
        wait_for(lambda: "hangs hung: no sign of life for 4" in house.said())
        assert not alive(first)
    left = int((tmp_path / "hangs.py.child").read_text())
    wait_for(lambda: not alive(left))


def test_program_that_stops_answers_no_one(tmp_path, monkeypatch):
    """SIGSTOP, as good as a hang, ends alike."""
    with House(tmp_path, monkeypatch, lives=LIVES) as house:
        (first,) = wait_for(lambda: house.starts("lives"))
        time.sleep(0.5)
        os.kill(first, signal.SIGSTOP)
        wait_for(lambda: len(house.starts("lives")) == 2)
        assert not alive(first)


def test_wrong_configuration_ends_the_whole(tmp_path, monkeypatch):
    """A program that refuses its configuration at the first start ends `run` with its status."""
    with House(tmp_path, monkeypatch, lives=LIVES) as house:
        script = tmp_path / "refuses.py"
        other = repr(str(tmp_path / "lives"))
        wait = f"while not (os.path.exists({other}) and os.path.getsize({other})): time.sleep(0.05)"
        script.write_text(f"import os, sys, time\n{wait}\nsys.exit(2)")
        house.supervisor.children.append(supervise.Child("refuses", [sys.executable, str(script)]))
        house.thread.join(20)
    assert house.status == 2
    assert [alive(pid) for pid in house.starts("lives")] == [False]


def test_hang_up_reaches_every_program(tmp_path, monkeypatch):
    """SIGHUP is handed on."""
    with House(tmp_path, monkeypatch, one=LIVES, two=LIVES) as house:
        wait_for(lambda: house.starts("one") and house.starts("two"))
        time.sleep(0.3)
        house.supervisor.hang_up()
        wait_for(lambda: (tmp_path / "one.hup").exists() and (tmp_path / "two.hup").exists())


def test_all_end_with_the_supervisor(tmp_path, monkeypatch):
    """Nothing is left behind, even of a program that ignores SIGTERM."""
    monkeypatch.setattr(supervise, "LEAVE_S", 1.0)
    stubborn = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + LIVES
    with House(tmp_path, monkeypatch, lives=LIVES, stubborn=stubborn) as house:
        wait_for(lambda: house.starts("lives") and house.starts("stubborn"))
        time.sleep(0.3)
    assert house.status == 0
    wait_for(lambda: "stubborn did not leave within 1 s and is killed" in house.said())
    assert not any(alive(pid) for name in ("lives", "stubborn") for pid in house.starts(name))


def test_programs_leave_when_the_supervisor_is_killed(tmp_path, monkeypatch):
    """A supervisor that was killed leaves no program behind on the sockets of the next one."""
    house = House(tmp_path, monkeypatch, lives=LIVES)
    pid = os.fork()
    if pid == 0:
        house.supervisor.run()
        os._exit(0)
    (program,) = wait_for(lambda: house.starts("lives"))
    time.sleep(0.3)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    wait_for(lambda: not alive(program))


@pytest.fixture
def systemd(tmp_path, monkeypatch):
    """Return a function that returns what systemd was told so far."""
    heard = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))

        def so_far():
            with contextlib.suppress(BlockingIOError):
                while True:
                    heard.append(listener.recv(1000).decode())
            return heard

        yield so_far


def test_systemd_hears_of_readiness_and_life(tmp_path, monkeypatch, systemd):
    """READY=1 once everything serves, WATCHDOG=1 from then on, STOPPING=1 at the end; the programs say nothing."""
    with House(tmp_path, monkeypatch, one=LIVES, two=LIVES) as house:
        wait_for(lambda: any("READY=1" in text for text in systemd()))
        wait_for(lambda: "WATCHDOG=1" in systemd())
        assert house.starts("one")
    said = systemd()
    assert [text for text in said if "READY" in text] == ["READY=1\nSTATUS=running: one, two"]
    assert said[-1] == "STOPPING=1"


def test_program_alone_speaks_to_systemd_itself(monkeypatch, systemd):
    """Without `run`, a program's own signs of life go to systemd."""
    monkeypatch.delenv(PIPE_VARIABLE, raising=False)
    heart = Heartbeat()
    heart.ready()
    heart.beat()
    heart.beat()
    heart.stopping()
    assert systemd() == ["READY=1", "WATCHDOG=1", "STOPPING=1"]


@pytest.mark.parametrize("address", ["", "/no/such/socket", "@no-such-abstract-socket", "x" * 200])
def test_missing_systemd_is_no_fault(address):
    """Nobody to tell is told nothing."""
    assert notify_systemd("READY=1", {"NOTIFY_SOCKET": address}) is False


def test_command_lines_name_the_configuration(tmp_path):
    """Each program runs by itself with the same configuration."""
    made = commands(tmp_path / "c.toml", ("logd", "dnsd"))
    assert list(made) == ["logd", "dnsd"]
    assert made["logd"][1:] == ["-m", "milter_bounce", "logd", "-c", str(tmp_path / "c.toml")]
    assert list(commands(None)) == ["milterd", "answerd", "logd", "dnsd"]


def test_run_keeps_logd_at_work(tmp_path):
    """The real `milter-bounce run`: logd learns, is killed, learns on; TERM ends all with status 0."""
    settings = settings_for(tmp_path)
    log = Written(tmp_path / "mail.log")
    log.write(100)
    conf = tmp_path / "c.toml"
    conf.write_text(toml({"user": "", **settings.model_dump(include={"store": {"path"}, "log": True})}))
    words = [sys.executable, "-m", "milter_bounce", "run", "-c", str(conf), "--only", "logd"]
    runs = Runs(settings)
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            assert sum(runs.wait_counted(100).values()) == 100
            wait_for(lambda: any("running: logd" in line for line in runs.advice()))
            logd = next(line for line in runs.advice() if "logd[" in line).split("logd[")[1].split("]")[0]
            os.kill(int(logd), signal.SIGKILL)
            log.write(50)
            assert sum(runs.wait_counted(150).values()) == 150
        finally:
            process.terminate()
        assert process.wait(20) == 0
    wait_for(lambda: any("logd ended by signal 9" in line for line in runs.advice()))
