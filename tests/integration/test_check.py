"""`milter-bounce check` and `postfix apply|revert` on a real Postfix."""

from __future__ import annotations

import json
import signal
import time

import pytest

from milter_bounce.system.claim import sign_of
from tests.conftest import ROOT
from tests.integration.enforcing import Enforced
from tests.integration.postfix import Postfix, needs_postfix
from tests.integration.sink import Sinks

pytestmark = [pytest.mark.integration, needs_postfix]


def check(postfix, code):
    """Return the findings by area and point."""
    folders = ["--config-dir", str(postfix.etc), "--gate-dir", str(postfix.folder / "gate")]
    printed = postfix.ours("check", "--json", "--no-dns", *folders, code=code)
    found = [json.loads(line) for line in printed.splitlines()]
    return {(f["area"], f["what"]): f for f in found}


def test_check_proves_each_hook_live_and_tells_what_is_down(tmp_path):
    """All in place: exit 0, gate and filter asked through Postfix's own clients; a program down: exit 1 and a remedy."""
    over = {"dns": {"watch": False, "operators": False}}
    with Sinks() as sinks, Enforced(tmp_path / "p", over, routes={"ok.test": sinks.add("ok.test")}) as postfix:
        wait_until_logd_works(postfix)
        found = check(postfix, 0)
        assert found["logd", "runs"]["ok"] is True
        assert found["dnsd", "runs"]["ok"] is None
        assert "milter-bounce: answers, version" in found["gate", "postmap -q"]["text"]
        assert "mode enforce" in found["filter", "postmap -q"]["text"]
        assert found["policy", "answers"]["ok"] is True
        assert found["postfix", "settings"]["ok"] is True
        postfix.programs["answerd"].stop()
        found = check(postfix, 1)
        assert found["gate", "postmap -q"]["ok"] is False
        assert "start the programs" in found["gate", postfix.settings["answer"]["gate_socket"]]["remedy"]
        postfix.programs["logd"].signal_all(signal.SIGKILL)
        postfix.programs["logd"].stop()
        found = check(postfix, 1)
        assert found["logd", "runs"]["text"] == "is not running"
        assert "milter-bounce run" in found["logd", "runs"]["remedy"]


def wait_until_logd_works(postfix):
    end = time.monotonic() + 60
    while sign_of(postfix.settings["store"]["path"], "logd").age_s is None and time.monotonic() < end:
        time.sleep(0.1)


def test_check_tells_of_a_transport_that_the_gate_does_not_know_yet(tmp_path):
    """The administrator changed transport_maps after apply: the gate's copy is out of date."""
    with Sinks() as sinks, Enforced(tmp_path / "p", routes={"ok.test": sinks.add("ok.test")}) as postfix:
        text = (postfix.etc / "main.cf").read_text()
        (postfix.etc / "main.cf").write_text(text.replace("transport_maps = ", "transport_maps = texthash:/dev/null, "))
        found = check(postfix, 1)
        assert "postfix apply --enforce" in found["postfix", "milter_bounce_gate_maps"]["remedy"]


@pytest.mark.parametrize("touched", [False, True], ids=["untouched", "changed-in-between"])
@pytest.mark.parametrize("enforce", [False, True], ids=["advise", "enforce"])
def test_apply_can_be_reverted_exactly(tmp_path, enforce, touched):
    """Byte by byte where nobody touched the files since; else only our own parts go."""
    postfix = Postfix(tmp_path / "p", main={"smtpd_milters": "inet:127.0.0.1:1", "transport_maps": "inline:{a=b, c=d}"})
    postfix.etc.mkdir()
    postfix.write_config()
    with (postfix.etc / "master.cf").open("a") as file:
        file.write("submission inet n - n - - smtpd\n  -o smtpd_recipient_restrictions=permit_mynetworks,reject\n")
    before = {name: (postfix.etc / name).read_bytes() for name in ("main.cf", "master.cf")}
    words = ["--config-dir", str(postfix.etc)]
    gate = ["--gate-dir", str(postfix.folder / "gate"), *(["--enforce"] if enforce else [])]
    run = Enforced.ours
    postfix.conf = postfix.folder / "empty.toml"
    postfix.conf.write_text("")
    difference = run(postfix, "postfix", "apply", *words, *gate, "--dry-run", code=1)
    assert "+smtpd_milters = inet:127.0.0.1:1, { unix:" in difference
    assert {name: (postfix.etc / name).read_bytes() for name in before} == before
    run(postfix, "postfix", "apply", *words, *gate)
    assert "nothing to do" in run(postfix, "postfix", "apply", *words, *gate)
    assert ("rewrite_service_name=gate" in (postfix.etc / "master.cf").read_text()) is enforce
    if touched:
        with (postfix.etc / "main.cf").open("a") as file:
            file.write("mydestination = changed.example\n")
        before["main.cf"] += b"mydestination = changed.example\n"
    postfix.conf.unlink()
    revert(postfix)
    after = {name: (postfix.etc / name).read_bytes() for name in before}
    assert after["master.cf"] == before["master.cf"]
    if touched:
        assert settings(after["main.cf"]) == settings(before["main.cf"])
    else:
        assert after == before
    assert sorted(path.name for path in postfix.etc.iterdir()) == ["hosts", "main.cf", "master.cf", "transport"]


def revert(postfix):
    import subprocess
    import sys

    words = [sys.executable, "-m", "milter_bounce", "postfix", "revert", "--config-dir", str(postfix.etc)]
    ran = subprocess.run(words, check=False, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def settings(raw: bytes) -> dict[str, str]:
    """Return the parameters of a main.cf: the last of a name counts."""
    pairs = [line.partition("=") for line in raw.decode().splitlines() if "=" in line and not line.startswith("#")]
    return {name.strip(): value.strip() for name, _, value in pairs}


@pytest.mark.parametrize(("name", "words"), [("advise.txt", []), ("enforce.txt", ["--enforce"])])
def test_conf_postfix_is_what_print_prints(tmp_path, name, words):
    """The shipped snippets are generated: ``postfix print`` on Postfix's own sample, with every option at its default."""
    import shutil
    import subprocess
    import sys

    (tmp_path / "main.cf").touch()
    shutil.copy("/usr/share/postfix/master.cf.dist", tmp_path / "master.cf")
    (tmp_path / "mb.toml").touch()
    command = [sys.executable, "-m", "milter_bounce", "postfix", "print", *words, "-c", str(tmp_path / "mb.toml")]
    ran = subprocess.run([*command, "--config-dir", str(tmp_path)], check=True, capture_output=True, text=True)
    assert ran.stdout.replace(str(tmp_path), "/etc/postfix") == (ROOT / "conf" / "postfix" / name).read_text()
