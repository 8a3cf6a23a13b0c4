"""milterd's parent: what it makes of a child that dies, and of a socket that cannot be had."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from milter_bounce.config import ConfigError, from_values
from milter_bounce.system import milterd, nanny
from tests.integration.programs import toml

PARENT = """
import sys, types
from milter_bounce.system import nanny
nanny.REST_S, nanny.LONGEST_REST_S = 0.01, 0.05
said = types.SimpleNamespace(warning=lambda text: print(text, flush=True))
left = int(sys.argv[1])
class Counted(nanny._Nanny):
    def start(self):
        global left
        left -= 1
        super().start()
nanny._Nanny = Counted
raise SystemExit(nanny.supervise(lambda settings, orders: 1 if left else int(sys.argv[2]), None, None, said))
"""


def parent(*words: object, **more: object) -> subprocess.CompletedProcess[str]:
    """Return what came of a parent whose child dies with 1 for all but the last of so many starts."""
    command = [sys.executable, "-c", PARENT, *map(str, words)]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=120, **more)


def test_child_that_dies_early_rests_longer_each_time():
    """A broken start neither spins nor fills the log: the rest doubles, up to its limit."""
    ran = parent(6, nanny.NO_SOCKET)
    rests = [line.rpartition(" in ")[2] for line in ran.stdout.splitlines()]
    assert len(rests) == 5
    # each rest is counted from the start before: on a slow machine the child has used up some of the first ones
    assert all(0 <= float(rest.removesuffix(" s")) <= 0.1 for rest in rests)


def test_rest_doubles_up_to_its_limit(monkeypatch):
    """1, 2, 4 ... 30 s for a child that dies at once; it begins anew with one that lived."""
    rests: list[float] = []
    keeper = nanny._Nanny(lambda _, __: 0, None, None, SimpleNamespace(warning=lambda _: None))
    monkeypatch.setattr(nanny.time, "monotonic", lambda: 1000.0)
    monkeypatch.setattr(keeper, "start", lambda: None)
    monkeypatch.setattr(keeper, "_told_to_end", lambda seconds: bool(rests.append(seconds)))
    for _ in range(7):
        keeper._started = 1000.0
        assert keeper.again(1)
    keeper._started = 1000.0 - nanny.STEADY_S
    assert keeper.again(1)
    keeper._started = 1000.0
    assert keeper.again(1)
    assert rests == [1, 2, 4, 8, 16, 30, 30, 0, 2]


def test_child_without_its_socket_is_not_started_again():
    """The parent ends with status 1: whoever started it decides what comes next."""
    ran = parent(1, nanny.NO_SOCKET)
    assert (ran.returncode, ran.stdout) == (1, "")


def test_parent_that_rests_leaves_at_once_when_told_to():
    """TERM during a long rest ends the program with status 0."""
    script = PARENT.replace("0.01, 0.05", "3600.0, 3600.0")
    with subprocess.Popen([sys.executable, "-c", script, "9", "0"], stdout=subprocess.PIPE, text=True) as process:
        assert "is started again in 3" in process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


def test_clear_socket_names_what_stands_in_its_way(tmp_path):
    """A missing folder and a program that listens cost the socket; a file that is none is the configuration's fault."""
    with pytest.raises(nanny.SocketFault, match=rf"its folder is missing; install -d -m 2750 .* {tmp_path}/none$"):
        nanny.clear_socket(f"{tmp_path}/none/s")
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="is no socket"):
        nanny.clear_socket(f"{tmp_path}/file")
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(f"{tmp_path}/s")
        other.listen()
        with pytest.raises(nanny.SocketFault, match="another program listens there; stop it first"):
            nanny.clear_socket(f"{tmp_path}/s")
        assert (tmp_path / "s").is_socket()
    nanny.clear_socket(f"{tmp_path}/s")
    assert not (tmp_path / "s").exists()


def test_clear_socket_tells_the_remedy_for_a_closed_folder(tmp_path, monkeypatch):
    """Permission denied comes with the command that opens the folder."""

    def closed(_path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(nanny.os, "lstat", closed)
    with pytest.raises(nanny.SocketFault, match=r"Permission denied; install -d -m 2750 -o milter-bounce -g postfix"):
        nanny.clear_socket(f"{tmp_path}/s")


def test_user_that_root_may_not_become_is_told_with_the_remedy(monkeypatch):
    """Under a unit without User= the filter forbids setgroups(2): one line, no traceback."""

    def forbidden(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(nanny.os, "geteuid", lambda: 0)
    monkeypatch.setattr(nanny.os, "initgroups", forbidden)
    with pytest.raises(ConfigError, match="root may not become it here; set User=nobody in the systemd unit"):
        nanny.drop_privileges(from_values({"user": "nobody"}, "test"))


@pytest.mark.parametrize("path", [Path("/etc/x.toml"), None])
def test_user_that_does_not_exist_is_told_with_its_file(monkeypatch, path):
    """File, key, value and remedy, as for any wrong configuration."""
    monkeypatch.setattr(nanny.os, "geteuid", lambda: 0)
    place = path or "/etc/milter-bounce/milter-bounce.toml"
    with pytest.raises(ConfigError, match=f"^{place}: user = 'nosuchuser': no such user; adduser --system"):
        nanny.drop_privileges(from_values({"user": "nosuchuser"}, "test"), path)


@pytest.fixture
def run_milterd(tmp_path):
    """Return a function that runs milterd on a socket, and returns what came of it and its log."""

    def run(address: str, user: str = "") -> tuple[int, str, str]:
        log = tmp_path / "advice.log"
        conf = tmp_path / "m.toml"
        folder = {"store": {"path": str(tmp_path / "state.db")}, "token": {"keys": str(tmp_path / "keys")}}
        output = {"log": {"output": "file", "output_file": str(log)}}
        conf.write_text(toml({"user": user, "milter": {"socket": address}, **folder, **output}))
        words = [sys.executable, "-m", "milter_bounce", "milterd", "-c", str(conf)]
        ran = subprocess.run(words, check=False, capture_output=True, text=True, timeout=120)
        return ran.returncode, ran.stderr, log.read_text() if log.exists() else ""

    return run


def test_milterd_ends_when_another_program_listens(tmp_path, run_milterd):
    """Status 1, one line with the remedy, and no word of listening; the other one keeps its socket."""
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(f"{tmp_path}/s")
        other.listen()
        status, said, logged = run_milterd(f"unix:{tmp_path}/s")
    assert (status, said) == (1, f"milter-bounce: {tmp_path}/s: another program listens there; stop it first\n")
    assert logged == ""


def test_milterd_ends_when_its_port_is_taken(run_milterd):
    """Status 1 and the system's reason, which libmilter tells the syslog alone."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        status, said, logged = run_milterd(f"inet:{port}@127.0.0.1")
    assert status == 1
    assert said.startswith(f"milter-bounce: inet:{port}@127.0.0.1: cannot listen: Address already in use; see who")
    assert "listening" not in logged


def test_milterd_that_is_switched_off_is_not_started(run_milterd):
    """An empty socket has nothing to listen on: one line, status 2."""
    status, said, _ = run_milterd("")
    assert (status, said) == (
        2,
        'milter-bounce: milter.socket = "": milterd is switched off; name a socket, or do not start it\n',
    )


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write every folder")
def test_milterd_ends_when_its_folder_is_closed(tmp_path, run_milterd):
    """Status 1 and the command that opens the folder."""
    folder = tmp_path / "closed"
    folder.mkdir()
    folder.chmod(stat.S_IRUSR | stat.S_IXUSR)
    with contextlib.ExitStack() as stack:
        stack.callback(folder.chmod, 0o700)
        status, said, _ = run_milterd(f"unix:{folder}/s")
    assert status == 1
    assert "its folder cannot be written; install -d -m 2750" in said


def test_reason_of_a_closed_folder_comes_with_the_remedy(tmp_path):
    """What libmilter does not tell is said by us."""
    assert milterd._why(f"unix:{tmp_path}/s").startswith("its folder cannot be written; install -d")
