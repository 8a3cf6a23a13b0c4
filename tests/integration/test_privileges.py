"""Started as root, every program becomes its own user before it reads a byte from outside; what it makes is closed."""

from __future__ import annotations

import asyncio
import contextlib
import grp
import os
import pwd
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from milter_bounce.protocol import memcache
from milter_bounce.system import keys
from milter_bounce.system.serve import Server, Service
from tests.conftest import ROOT
from tests.integration.programs import Program, merged, toml

ENTERED = [ROOT, *ROOT.parents]

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to see it dropped"),
    pytest.mark.skipif(
        not all(folder.stat().st_mode & stat.S_IXOTH for folder in ENTERED),
        reason="the checkout lies in a folder that only root may enter (/root): nobody could not read the rules",
    ),
]

USER = pwd.getpwnam("nobody")
GROUPS = sorted({*os.getgrouplist(USER.pw_name, USER.pw_gid)})
MTA_GROUP = next((g.gr_name for g in grp.getgrall() if g.gr_name in {"postfix", "mail"}), "nogroup")
SPY = """\
import os, sys
_out = os.open(os.environ["SPY"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
def _hook(event, args):
    if len(getattr(sys, "argv", ())) > 1 and event in {"open", "sqlite3.connect", "socket.bind", "socket.connect"}:
        os.write(_out, f"{sys.argv[1]} {os.geteuid()} {event} {args[0] if event != 'socket.bind' else args[1]}\\n".encode())
sys.addaudithook(_hook)
"""
"""Loaded into each program (sitecustomize): who it is at each file that it opens."""


def furnished() -> Path:
    """Return a folder as an administrator would set it up: sockets, state, keys, a log; and our spy."""
    folder = Path(tempfile.mkdtemp(prefix="mb-priv-", dir="/tmp"))
    folder.chmod(0o755)
    for name, mode in (("sockets", 0o2750), ("state", 0o750), ("keys", 0o750), ("spy", 0o755)):
        (folder / name).mkdir()
        shutil.chown(folder / name, USER.pw_uid, MTA_GROUP if name == "sockets" else USER.pw_gid)
        (folder / name).chmod(mode)
    shutil.chown(keys.new_key(folder / "keys"), USER.pw_uid)
    for name in ("mail.log", "advice.log", "spy.log"):
        (folder / name).touch()
        shutil.chown(folder / name, USER.pw_uid)
    (folder / "mail.log").write_text("Nov 20 10:00:00 mx postfix/qmgr[1]: 4cX: removed\n")
    (folder / "spy" / "sitecustomize.py").write_text(SPY)
    return folder


@pytest.fixture
def place():
    """Return a furnished folder of the test's own."""
    folder = furnished()
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def host():
    """Return a furnished folder in which all four programs run, and the programs."""
    folder = furnished()
    with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as stack:
        patch.setenv("PYTHONPATH", f"{folder / 'spy'}:{os.environ.get('PYTHONPATH', '')}")
        patch.setenv("SPY", str(folder / "spy.log"))
        running = {name: stack.enter_context(started(name, folder)) for name in SAYS}
        with socket.socket(socket.AF_UNIX) as gate:  # answerd opens the store when it is first asked
            gate.connect(str(folder / "sockets" / "gate.sock"))
            gate.sendall(b"get a@example.net\r\n")
            assert gate.recv(100) == b"END\r\n"
        yield folder, running
    shutil.rmtree(folder, ignore_errors=True)


def settings(folder: Path, **over) -> dict:
    """Return the configuration of this folder: nothing outside it is used, and no name server asked."""
    sockets = folder / "sockets"
    names = {"": "answer.sock", "gate_": "gate.sock", "policy_": "policy.sock"}
    base = {
        "mode": "enforce",
        "user": USER.pw_name,
        "milter": {"socket": f"unix:{sockets}/milter.sock"},
        "log": {"output": "file", "output_file": str(folder / "advice.log"), "follow": str(folder / "mail.log")},
        "store": {"path": str(folder / "state" / "state.db")},
        "answer": {f"{key}socket": f"unix:{sockets}/{name}" for key, name in names.items()}
        | {"socket_group": MTA_GROUP},
        "due": {"enabled": False},
        "rules": {"local": str(folder / "rules.d")},
        "token": {"keys": str(folder / "keys")},
        "dns": {"nameservers": ["127.0.0.1:9"], "addresses": ["192.0.2.1"], "lists": ["zen.spamhaus.org"]},
    }
    return merged(base, over)


SAYS = {"milterd": "listening on", "answerd": "started, mode", "logd": "following", "dnsd": "watching"}
MAKES = {"milterd": ["milter.sock"], "answerd": ["answer.sock", "gate.sock", "policy.sock"], "logd": [], "dnsd": []}


def started(name: str, folder: Path, **over) -> Program:
    def ready() -> bool:
        said = (folder / "advice.log").read_text()
        made = [folder / "sockets" / sock for part in SAYS if name in {part, "run"} for sock in MAKES[part]]
        return all(words in said for part, words in SAYS.items() if name in {part, "run"}) and all(
            p.exists() for p in made
        )

    return Program(name, folder, settings(folder, **over), ready=ready)


def processes(group: int) -> dict[int, dict[str, list[str]]]:
    """Return what the kernel says of each process of a process group."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if os.getpgid(int(path.name)) == group:
                lines = (path / "status").read_text().splitlines()
                found[int(path.name)] = {key: rest.split() for key, _, rest in (line.partition(":") for line in lines)}
        except (OSError, ProcessLookupError):
            continue
    return found


def assert_dropped(facts: dict[str, list[str]]) -> None:
    assert facts["Uid"] == [str(USER.pw_uid)] * 4
    assert facts["Gid"] == [str(USER.pw_gid)] * 4
    assert sorted(map(int, facts["Groups"])) == GROUPS
    assert {int(facts[name][0], 16) for name in ("CapEff", "CapPrm", "CapInh", "CapAmb")} == {0}


def opened(folder: Path, program: str) -> list[tuple[int, str]]:
    """Return who opened what in a program, in order."""
    lines = [line.split(" ", 3) for line in (folder / "spy.log").read_text().splitlines()]
    return [(int(uid), path) for name, uid, _, path in (line for line in lines if len(line) == 4) if name == program]


@pytest.mark.parametrize("name", SAYS)
def test_program_runs_as_its_user_without_capabilities(host, name):
    """Uid, gid and groups are the user's in all four places, and no capability is left, in parent and child."""
    found = processes(host[1][name].process.pid)
    assert len(found) == (2 if name == "milterd" else 1)
    for facts in found.values():
        assert_dropped(facts)


def test_supervisor_hands_root_on_to_nobody(place):
    """Every process below `milter-bounce run` has dropped its privileges; the supervisor itself reads no file of them."""
    with started("run", place) as program:
        found = [int(path.name) for path in Path("/proc").glob("[0-9]*")]
        children = [_facts(pid) for pid in found if _below(pid, program.process.pid)]
        assert len(children) == 5, "milterd has a parent of its own"
        for facts in children:
            assert_dropped(facts)


def _facts(pid: int) -> dict[str, list[str]]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: rest.split() for key, _, rest in (line.partition(":") for line in lines)}


def _below(pid: int, ancestor: int) -> bool:
    """Return whether a process descends from another."""
    try:
        while pid not in {0, 1, ancestor}:
            last, pid = pid, int(_facts(pid)["PPid"][0])
            if pid == ancestor:
                return last != ancestor
    except (OSError, KeyError):
        return False
    return False


READS = {"milterd": ["keys"], "answerd": ["state"], "logd": ["state", "mail.log"], "dnsd": ["state"]}


@pytest.mark.parametrize("name", SAYS)
def test_nothing_from_outside_is_opened_as_root(host, name):
    """State, mail log and keys are opened by the user; as root only code, rules and configuration are read."""
    folder = host[0]
    rows = [(uid, path) for uid, path in opened(folder, name) if str(folder) in path]
    for part in READS[name]:
        assert {uid for uid, path in rows if str(folder / part) in path} == {USER.pw_uid}, (part, rows)
    # answerd binds its sockets while it may still give them to the MTA's group
    as_root = [path for uid, path in rows if uid == 0 and not path.startswith(str(folder / "sockets") + "/.")]
    assert set(as_root) <= {str(folder / f"{name}.toml")}


def test_sockets_are_for_the_group_of_the_mta_alone(host):
    """Mode 0660 and the MTA's group in a folder of mode 2750; the milter's and answerd's."""
    sockets = host[0] / "sockets"
    assert len(list(sockets.iterdir())) == 4
    for path in sockets.iterdir():
        facts = path.lstat()
        assert stat.S_ISSOCK(facts.st_mode), path
        assert (stat.S_IMODE(facts.st_mode), grp.getgrgid(facts.st_gid).gr_name) == (0o660, MTA_GROUP), path
        assert facts.st_uid == USER.pw_uid
    assert stat.S_IMODE(sockets.stat().st_mode) == 0o2750


def test_state_is_its_users_alone(host):
    """The store's files have mode 0600 and belong to the user, though four programs began as root."""
    found = {path.name: path.stat() for path in (host[0] / "state").iterdir()}
    assert "state.db" in found
    for made, facts in found.items():
        assert (stat.S_IMODE(facts.st_mode), facts.st_uid) == (0o600, USER.pw_uid), made


def test_folder_that_answerd_makes_is_closed(place):
    """A folder of sockets that is missing is made for user and group alone."""
    (place / "sockets").rmdir()
    with started("answerd", place):
        facts = (place / "sockets").stat()
    assert (stat.S_IMODE(facts.st_mode) & 0o777, facts.st_uid) == (0o750, USER.pw_uid)
    assert grp.getgrgid(facts.st_gid).gr_name == MTA_GROUP


def test_key_that_others_can_read_is_refused(place):
    """The milter starts, says which key it does not use and why, and stamps nothing."""
    key = next((place / "keys").iterdir())
    key.chmod(0o444)
    with started("milterd", place) as program:
        said = (place / "advice.log").read_text() + program.errors()
    assert f"{key}: others can read it (mode 0444): chmod 0400" in said


@pytest.mark.parametrize("name", ["milterd", "answerd", "logd", "dnsd", "run"])
def test_missing_user_ends_with_one_line(place, name):
    """A user that does not exist ends every program at once: status 2, one line with the remedy, nothing made."""
    path = place / "x.toml"
    path.write_text(toml(settings(place, user="no-such-user")))
    ran = subprocess.run(
        [sys.executable, "-m", "milter_bounce", name, "-c", str(path)],
        check=False, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    lines = [line for line in ran.stderr.splitlines() if line]
    assert ran.returncode == 2, ran.stderr
    assert {line.partition(": ")[2] for line in lines} == {
        f"{path}: user = 'no-such-user': no such user; adduser --system --group no-such-user, or name another"
    }
    assert len(lines) == 1 or name == "run", "each program that `run` starts may say it"
    assert list((place / "sockets").iterdir()) == []
    assert list((place / "state").iterdir()) == []


def test_client_waits_until_root_is_dropped(tmp_path):
    """Between making the sockets and `accept`, where answerd becomes its user, no byte of a client is read."""
    heard = []

    async def serve() -> None:
        service = Service(
            "gate", f"unix:{tmp_path}/s", memcache.Connection, lambda event: heard.append(event) or memcache.END
        )
        async with Server([service]) as server:
            reader, writer = await asyncio.open_unix_connection(tmp_path / "s")
            writer.write(b"get a@example.net\r\n")
            await writer.drain()
            for _ in range(20):
                await asyncio.sleep(0)
            assert heard == []
            await server.accept()
            assert await reader.readline() == memcache.END
            writer.close()

    asyncio.run(serve())
    assert heard == [memcache.Get(("a@example.net",))]
