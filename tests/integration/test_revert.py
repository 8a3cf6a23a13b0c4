"""`milter-bounce postfix revert` under a running Postfix: mail goes the administrator's own way at every moment."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.enforcing import Enforced
from tests.integration.postfix import needs_postfix
from tests.integration.sink import Sinks

pytestmark = [pytest.mark.integration, needs_postfix]


def revert(postfix: Enforced, *options: str) -> str:
    words = [sys.executable, "-m", "milter_bounce", "postfix", "revert", "--config-dir", str(postfix.etc), *options]
    ran = subprocess.run(words, check=False, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def gates(postfix: Enforced) -> set[str]:
    """Return the gate processes of this Postfix."""
    master = (postfix.queue_directory / "pid" / "master.pid").read_text().strip()
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
            words = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if parent == master and b"trivial-rewrite" in words and b"gate" in words:
            found.add(folder.name)
    return found


@pytest.mark.parametrize("verbs", [("reload",), ("stop", "start")], ids=["reload", "restart"])
def test_revert_under_a_running_postfix_leaves_the_way_of_mail(tmp_path, verbs):
    """A domain that only the administrator's transports know: reached before the restart, after it, and when all is out."""
    with Sinks() as sinks:
        sink = sinks.add("int.test")
        idle = {"max_idle": "1s", "ipc_idle": "1s"}
        with Enforced(tmp_path / "p", routes={"int.test": sink}, main=idle) as postfix:

            def arrives(name: str) -> None:
                postfix.send("me@home.example", f"{name}@int.test")
                (line,) = postfix.wait_log(f"postfix/.*to=<{name}@int.test>", 30)
                assert "status=sent" in line
                assert sink.delivered(f"{name}@int.test") == 1

            arrives("before")
            said = revert(postfix)
            assert "stop && postfix" in said
            assert "main.cf keeps milter_bounce_gate_maps, with your own transports only" in said
            # the running master starts its next gate on what main.cf says now
            postfix.wait_for(lambda: not gates(postfix), 30)
            arrives("waiting")
            assert gates(postfix)
            assert "keeps milter_bounce_gate_maps" in revert(postfix)
            arrives("twice")
            for verb in verbs:
                assert postfix.postfix(verb).returncode == 0
            postfix.wait_for(lambda: not gates(postfix), 30)
            arrives("restarted")
            assert "keeps" not in revert(postfix)
            arrives("clean")
            assert not gates(postfix)
            for name in ("main.cf", "master.cf"):
                text = (postfix.etc / name).read_text()
                assert "milter_bounce" not in text
                assert "gate" not in text
            assert not list((postfix.folder / "gate").iterdir())


def test_revert_and_restart_in_one_leaves_nothing(tmp_path):
    """With --restart the rest goes at once."""
    with Sinks() as sinks:
        sink = sinks.add("int.test")
        with Enforced(tmp_path / "p", routes={"int.test": sink}) as postfix:
            assert "keeps" not in revert(postfix, "--restart")
            assert "milter_bounce" not in (postfix.etc / "main.cf").read_text()
            postfix.send("me@home.example", "a@int.test")
            postfix.wait_log("to=<a@int.test>.*status=sent")


def test_check_tells_what_a_revert_left(tmp_path):
    """`milter-bounce check` names the parameter and what takes it out."""
    with Sinks() as sinks, Enforced(tmp_path / "p", routes={"int.test": sinks.add("int.test")}) as postfix:
        revert(postfix)
        folders = ["--config-dir", str(postfix.etc), "--gate-dir", str(postfix.folder / "gate")]
        printed = postfix.ours("check", "--json", "--no-dns", *folders, code=1)
        (line,) = [line for line in printed.splitlines() if "stays for the running Postfix" in line]
        assert "milter_bounce_gate_maps" in line
        assert "milter-bounce postfix revert" in line
