"""Under the system call filters of the shipped units, as a user without privileges: every program becomes ready."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from milter_bounce.config import NotifySection
from milter_bounce.system.notify import in_mail
from tests import confined
from tests.conftest import ROOT
from tests.integration.postfix import Postfix, needs_postfix
from tests.integration.programs import toml
from tests.integration.sink import Sinks

UNIT = ROOT / "conf" / "systemd" / "milter-bounce.service"
TEMPLATE = UNIT.with_name("milter-bounce@.service")

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(bool(confined.missing()), reason=f"no {confined.missing()}: the unit's filter cannot be made"),
]


@pytest.fixture
def place():
    """Return a folder for the user's sockets, state and logs."""
    folder = Path(tempfile.mkdtemp(prefix="mb-conf-", dir="/tmp"))
    for name in ("sockets", "state"):
        (folder / name).mkdir()
    (folder / "mail.log").touch()
    if os.geteuid() == 0:
        for path in (folder, *folder.iterdir()):
            shutil.chown(path, confined.USER)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def settings(folder: Path, group: str) -> dict:
    sockets = folder / "sockets"
    return {
        "mode": "enforce",
        "milter": {"socket": f"unix:{sockets}/milter.sock"},
        "log": {"output": "file", "output_file": str(folder / "advice.log"), "follow": str(folder / "mail.log")},
        "store": {"path": str(folder / "state" / "state.db")},
        "answer": {
            "socket": f"unix:{sockets}/answer.sock",
            "gate_socket": f"unix:{sockets}/gate.sock",
            "policy_socket": f"unix:{sockets}/policy.sock",
            "socket_group": group,
        },
        "due": {"enabled": False},
        "rules": {"local": str(folder / "rules.d")},
        "token": {"keys": str(folder / "keys")},
        "dns": {"nameservers": ["127.0.0.1:9"], "addresses": ["192.0.2.1"], "lists": ["zen.spamhaus.org"]},
    }


class Systemd:
    """NOTIFY_SOCKET, as the service manager holds it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        path.chmod(0o666)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)

    def ready(self, process: subprocess.Popen) -> int:
        """Return who says READY=1, once somebody does while `process` lives."""
        self._socket.settimeout(0.5)
        for _ in range(120):
            assert process.poll() is None, f"ended with status {process.returncode}"
            with contextlib.suppress(TimeoutError):
                text, extra, _flags, _address = self._socket.recvmsg(4096, 256)
                if b"READY=1" in text.splitlines():
                    return next(struct.unpack("iii", data)[0] for _level, _kind, data in extra)
        raise AssertionError("is not ready within a minute")

    def close(self) -> None:
        self._socket.close()


@contextlib.contextmanager
def started(unit: Path, name: str, folder: Path, groups: str = "", group: str = ""):
    """Run a program under the filters of `unit`; yield it with its service manager."""
    (folder / "conf.toml").write_text(toml(settings(folder, group)))
    systemd = Systemd(folder / "notify")
    words = [sys.executable, "-m", "milter_bounce", name, "-c", str(folder / "conf.toml")]
    with (folder / "said").open("wb") as said:
        process = subprocess.Popen(
            confined.command(unit, words, groups),
            cwd=ROOT, env=os.environ | {"NOTIFY_SOCKET": str(systemd.path)}, stdout=said, stderr=said,
            start_new_session=True,
        )  # fmt: skip
    try:
        yield process, systemd
    except AssertionError as error:
        raise AssertionError(f"{error}: {(folder / 'said').read_text()}") from None
    finally:
        process.terminate()
        try:
            process.wait(30)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            systemd.close()


@pytest.mark.parametrize("name", ["milterd", "answerd", "logd", "dnsd", "run"])
def test_program_becomes_ready_under_the_filters_of_its_unit(place, name):
    """READY=1 comes, from a process whose word the unit takes, and the program ends with status 0 when told to."""
    unit = UNIT if name == "run" else TEMPLATE
    with started(unit, name, place) as (process, systemd):
        teller = systemd.ready(process)
        assert confined.options(unit, "NotifyAccess") == ["all"] or teller == process.pid
        made = {path.name for path in (place / "sockets").iterdir()}
    assert process.returncode == 0, (place / "said").read_text()
    wanted = {"milterd": {"milter.sock"}, "answerd": {"answer.sock", "gate.sock", "policy.sock"}}
    wanted["run"] = wanted["milterd"] | wanted["answerd"]
    assert made == wanted.get(name, set())


@pytest.mark.skipif(os.geteuid() != 0, reason="chooses its groups: needs root")
def test_answerd_gives_its_sockets_to_the_group_under_the_filter(place):
    """Where the folder is not setgid the sockets are given to answer.socket_group: its user is in that group."""
    with started(TEMPLATE, "answerd", place, groups="mail", group="mail") as (process, systemd):
        systemd.ready(process)
        assert {path.group() for path in (place / "sockets").iterdir()} == {"mail"}


@pytest.mark.parametrize(
    "call",
    [
        pytest.param("os.chroot('/')", id="privileged"),
        pytest.param("os.nice(1)", id="resources"),
        pytest.param("os.mkdir('made', 0o2750)", id="set-gid"),
    ],
)
def test_filter_is_in_force(place, call):
    """The harness refuses what the unit refuses: or every other test here would be empty."""
    os.chmod(place, 0o777)  # noqa: PTH101
    code = f"import os; os.chdir({str(place)!r}); {call}"
    words = confined.command(UNIT, [sys.executable, "-c", code])
    ran = subprocess.run(words, cwd=ROOT, check=False, capture_output=True, text=True)
    assert "Operation not permitted" in ran.stderr
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False, capture_output=True, text=True)
    assert ran.returncode == 0 or os.geteuid() != 0


def writable(unit: Path, path: str) -> bool:
    """Return whether ProtectSystem=strict leaves `path` writable in `unit`."""
    return path in {
        word.removeprefix("-") for value in confined.options(unit, "ReadWritePaths") for word in value.split()
    }


@needs_postfix
@pytest.mark.skipif(os.geteuid() != 0, reason="mounts the queue directory read-only: needs root")
@pytest.mark.parametrize("unit", [UNIT, TEMPLATE], ids=["whole", "template"])
def test_notice_can_be_mailed_from_the_unit(tmp_path, unit):
    """sendmail(1) as notify.mail_to runs it: no set-gid postdrop, a queue directory that is read-only but for maildrop."""
    groups = set(confined.options(unit, "SupplementaryGroups")[-1].split()) & {"postdrop"}
    with Sinks() as sinks, Postfix(tmp_path / "p", routes={"ok.test": sinks.add("ok.test")}) as postfix:
        spool = postfix.queue_directory
        mounts = [f"mount --bind {postfix.etc} /etc/postfix", f"mount --bind {spool} {spool}"]
        if writable(unit, "/var/spool/postfix/maildrop"):
            mounts.append(f"mount --bind {spool}/maildrop {spool}/maildrop")
        mounts.append(f"mount -o remount,ro,bind {spool}")
        section = NotifySection(mail_to=["admin@ok.test"], mail_from="mb@home.example")
        mail = in_mail(section, "a listing began", ["text"])
        words = confined.command(
            unit, ["/usr/sbin/sendmail", "-i", "-f", section.mail_from, "--", *section.mail_to], ",".join(groups)
        )
        shell = " && ".join([*mounts, shlex.join(words)])
        ran = subprocess.run(
            ["unshare", "--mount", "sh", "-c", shell],
            cwd=ROOT,
            input=mail,
            check=False,
            capture_output=True,
            timeout=120,
        )
        assert ran.returncode == 0, ran.stderr
        assert postfix.wait_log("to=<admin@ok.test>.*status=sent", 60)
