"""HUP: what can be renewed is, what cannot is named, and no file ends what listens for the next one."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import subprocess
import sys
import threading
from datetime import timedelta
from operator import attrgetter

import pytest

from milter_bounce.config import ConfigError, Settings, load
from milter_bounce.decide.rule_toml import RulesError
from milter_bounce.system import answerd, dnsd, logd
from milter_bounce.system.desk import Desk
from milter_bounce.system.maillog import MailLog
from milter_bounce.system.notify import Notifier
from milter_bounce.system.reloading import AT_START, renewed, tell_at_start
from milter_bounce.system.settings import load_settings
from milter_bounce.system.sqlite_store import SqliteStore
from tests.conftest import ROOT


class Host:
    """A configuration file that changes, and the log."""

    def __init__(self, folder) -> None:
        self.folder, self.conf = folder, folder / "c.toml"
        self.write()

    def write(self, *, threshold: int = 10, days: int = 90, mode: str = "advise", more: str = "") -> Settings:
        d = self.folder
        self.conf.write_text(
            f'user = ""\nmode = "{mode}"\n[log]\noutput = "file"\noutput_file = "{d}/o.log"\nfollow = "{d}/mail.log"\n'
            f'[store]\npath = "{d}/s.db"\ncounts_days = {days}\n[token]\nkeys = "{d}/keys"\n[dns]\nwatch = false\n'
            f'[answer]\nsocket = ""\ngate_socket = ""\npolicy_socket = ""\n[rules]\nlocal = "{d}/none"\n'
            f"[block]\nthreshold = {threshold}\n[notify]\ncommand = ['n{threshold}']\n{more}"
        )
        return load_settings(self.conf)

    def log(self, *said: MailLog) -> str:
        """Return what stands in the log once what was `said` is written."""
        assert all(log.flush() for log in said)
        path = self.folder / "o.log"
        return path.read_text() if path.exists() else ""


@pytest.fixture
def host(tmp_path):
    return Host(tmp_path)


def in_force(store: SqliteStore) -> tuple[int, int, timedelta]:
    return store.limits.block_threshold, store._gate._limits.block_threshold, store.retention.counts


RENEWED = (3, 3, timedelta(days=7))


@pytest.mark.parametrize("error", [ConfigError("c.toml: x"), RulesError("r.toml", None, "y"), OverflowError("inf")])
def test_renewed_survives_any_error_with_one_line(error):
    """The old stays, and the line says why."""
    lines = []

    def make() -> int:
        raise error

    assert renewed(make, lines.append) is None
    (line,) = lines
    assert line.startswith("not reloaded, the old configuration stays in force: ")
    assert str(error) in line


@pytest.mark.parametrize("program", AT_START)
def test_options_that_need_a_start_exist_and_are_told(program):
    """Each name is an option; one that differs from what the program began with is told, at every reload."""
    began, lines = Settings(), []
    assert [attrgetter(name)(began) for name in AT_START[program]]
    tell_at_start(program, began, began, lines.append)
    tell_at_start(program, began, load('[log]\noutput = "stdout"\n[block]\nthreshold = 3\n', "x"), lines.append)
    assert lines == ["changed, but in force from the next start only: log.output"]


def test_logd_renews_the_store_and_names_what_it_cannot(host):
    """Thresholds, retention and notices are new; the file that it holds open is told of."""
    daemon = logd.Logd(load_settings(host.conf), host.conf, events=False)
    host.write(threshold=3, days=7)
    daemon._do_reload()
    assert in_force(daemon.store) == RENEWED
    assert daemon._notifier._section.command == ["n3"]
    assert "next start only" not in host.log(daemon.log)
    host.conf.write_text(host.conf.read_text().replace("s.db", "other.db"))
    for _ in range(2):
        daemon._do_reload()
    assert host.log(daemon.log).count("warning: changed, but in force from the next start only: store.path") == 2


def test_desk_renews_the_store_at_a_reload(host):
    """What milterd remembers by is what it advises by."""
    desk = Desk(load_settings(host.conf), MailLog(load_settings(host.conf).log, "milterd"))
    desk.reload(host.write(threshold=3, days=7))
    assert in_force(desk.store) == RENEWED
    assert desk._notifier._section.command == ["n3"]


def test_dnsd_renews_store_notices_and_grace(host, monkeypatch):
    """Everything that is made from the settings; and the next reload of something that breaks leaves it."""
    began = load_settings(host.conf)
    store, log, notifier = SqliteStore(began.store.path), MailLog(began.log, "dnsd"), Notifier(began.notify, None)
    seen = []

    async def until_told(program, reload, _):
        host.write(threshold=3, days=7, more="[advice]\ntime_scale = 0.5\n")
        program.setup = reload()
        with monkeypatch.context() as broken:
            broken.setattr(dnsd, "load_settings", lambda _: 1 / 0)
            seen.append((program, reload()))

    monkeypatch.setattr(dnsd, "_until_told", until_told)
    monkeypatch.setattr(dnsd, "make_store", lambda _: store)
    monkeypatch.setattr(dnsd, "Notifier", lambda *_: notifier)
    monkeypatch.setattr(dnsd, "MailLog", lambda *_: log)
    dnsd.main(began, host.conf)
    ((program, none),) = seen
    assert none is None
    assert in_force(store) == RENEWED
    assert notifier._section.command == ["n3"]
    assert program.setup.settings.advice.time_scale == 0.5
    assert "stays in force: ZeroDivisionError" in host.log()


def test_logd_outlives_a_reload_that_raises_anything(host, monkeypatch):
    """Not only what a wrong file raises."""
    daemon = logd.Logd(load_settings(host.conf), host.conf, events=False)
    host.write(threshold=3)
    monkeypatch.setattr(logd, "make_adviser", lambda _: 1 / 0)
    daemon._do_reload()
    assert daemon.store.limits.block_threshold == 10
    assert "warning: not reloaded, the old configuration stays in force: ZeroDivisionError" in host.log(daemon.log)


class Answering:
    """answerd without sockets, its reloads held up where a test wants it."""

    def __init__(self, host, monkeypatch) -> None:
        self.program = answerd.Program(
            load_settings(host.conf), host.conf, MailLog(load_settings(host.conf).log, "answerd")
        )
        self.loads, self.loading, self.go_on = [], threading.Event(), threading.Event()
        monkeypatch.setattr(answerd, "load_settings", self._load)

    def _load(self, path):
        settings = load_settings(path)
        self.loads.append(settings.mode)
        self.loading.set()
        assert self.go_on.wait(30)
        return settings

    async def settle(self) -> None:
        """Wait for the end of the reload under way; HUPs that came meanwhile are part of it."""
        await self.program._reloading

    def end(self) -> None:
        self.program._put_flusher_to_work(None)
        self.program._lines.close()


def test_answerd_takes_the_last_of_files_that_come_close_together(host, monkeypatch):
    """While a reload is under way, further HUPs make one more, of the file as it is then."""
    host.write(mode="enforce")
    answering = Answering(host, monkeypatch)

    async def run() -> None:
        answering.program.hang_up()
        await asyncio.to_thread(answering.loading.wait, 30)
        host.write(mode="advise")
        for _ in range(3):
            answering.program.hang_up()
        answering.go_on.set()
        await answering.settle()

    asyncio.run(run())
    answering.end()
    assert answering.loads == ["enforce", "advise"]
    assert answering.program._settings.mode == "advise"


def test_answerd_hears_the_next_hup_after_a_reload_that_raised(host, monkeypatch):
    """Anything at all, in what is made and in what puts it to work; each is told."""
    answering = Answering(host, monkeypatch)
    answering.go_on.set()

    async def hup() -> None:
        answering.program.hang_up()
        await answering.settle()

    with monkeypatch.context() as broken:
        broken.setattr(answerd, "make_answers", lambda *_: 1 / 0)
        asyncio.run(hup())
    with monkeypatch.context() as broken:
        broken.setattr(answerd, "settle", lambda: 1 / 0)
        asyncio.run(hup())
    host.write(mode="enforce", more="[due]\nenabled = false\n")
    asyncio.run(hup())
    answering.end()
    assert answering.program._settings.mode == "enforce"
    assert "warning: not reloaded, the old configuration stays in force: ZeroDivisionError" in host.log()
    assert "error: the reload ended half way: ZeroDivisionError" in host.log()
    assert "reloaded, mode enforce" in host.log()


NANNY = """
import os, sys
from milter_bounce.config import load
from milter_bounce.system import nanny

class Log:
    def warning(self, text): print("warning:", text, flush=True)

def settings(): return load(open(sys.argv[1]).read(), "c.toml")

def serve(settings, orders):
    print("child", os.getpid(), settings.mode, flush=True)
    while os.read(orders, 1):
        print("told", os.getpid(), flush=True)
    os._exit(0)

print("ended", nanny.supervise(serve, settings(), settings, Log()), flush=True)
"""


@pytest.fixture
def nanny(tmp_path):
    """Start a nanny whose child tells its mode; yield the process, and a function for its next line of that kind."""
    (tmp_path / "c.toml").write_text('mode = "advise"\n')
    words = [sys.executable, "-c", NANNY, str(tmp_path / "c.toml")]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT)

    def line(kind: str) -> list[str]:
        while select.select([process.stdout], [], [], 60)[0] and (words := process.stdout.readline().decode().split()):
            if words[0] == kind:
                return words
        raise AssertionError(process.stderr.read().decode())

    # unbuffered, or select() would not see what has been read ahead
    process.stdout = os.fdopen(os.dup(process.stdout.fileno()), "rb", buffering=0)
    yield process, line
    process.kill()
    process.wait()


@pytest.mark.parametrize(("text", "mode"), [('mode = "enforce"\n', "enforce"), ("mode = 7\n", "advise")])
def test_nanny_outlives_a_hup_that_comes_as_the_child_dies(nanny, tmp_path, text, mode):
    """The next child starts from the file as it was at that HUP; from the last good one where it is broken."""
    process, line = nanny
    child = int(line("child")[1])
    process.send_signal(signal.SIGSTOP)
    os.kill(child, signal.SIGKILL)
    (tmp_path / "c.toml").write_text(text)
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGCONT)
    assert line("child")[2] == mode
    process.send_signal(signal.SIGHUP)
    line("told")
    process.send_signal(signal.SIGTERM)
    assert line("ended") == ["ended", "0"]


def test_nanny_starts_a_child_with_the_settings_of_the_last_hup(nanny, tmp_path):
    """A HUP that the first child heard counts for the second one too."""
    process, line = nanny
    child = int(line("child")[1])
    (tmp_path / "c.toml").write_text('mode = "enforce"\n')
    process.send_signal(signal.SIGHUP)
    line("told")
    os.kill(child, signal.SIGKILL)
    assert line("child")[2] == "enforce"
