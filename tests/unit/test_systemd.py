"""The shipped units: confined, and the same but for the program that they start."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from tests.conftest import ROOT

FOLDER = ROOT / "conf" / "systemd"
UNITS = sorted(FOLDER.glob("*.service"))
ANALYZE = shutil.which("systemd-analyze")


@pytest.mark.parametrize("unit", UNITS, ids=lambda p: p.name)
@pytest.mark.parametrize(
    "line",
    [
        "NoNewPrivileges=yes",
        "ProtectSystem=strict",
        "CapabilityBoundingSet=",
        "User=milter-bounce",
        "WatchdogSec=5",
        "RestartPreventExitStatus=2",
        "LogsDirectory=milter-bounce",
        "ReadWritePaths=-/var/spool/postfix/maildrop",
        "SupplementaryGroups=adm postfix postdrop",
    ],
)
def test_unit_is_confined(unit, line):
    """Each unit has a user of its own, no capability, and the groups that its sockets and logs need."""
    assert line in unit.read_text().splitlines()


@pytest.mark.skipif(ANALYZE is None, reason="no systemd-analyze is installed")
@pytest.mark.parametrize("unit", UNITS, ids=lambda p: p.name)
def test_unit_scores_ok(unit):
    """`systemd-analyze security` calls the exposure OK (below 4.0) or better."""
    ran = subprocess.run(
        [ANALYZE, "security", "--offline=true", "--no-pager", str(unit)], check=False, capture_output=True, text=True
    )
    found = re.search(r"exposure level for \S+: ([0-9.]+) (\w+)", ran.stdout)
    assert found, ran.stdout + ran.stderr
    assert float(found[1]) < 4.0


@pytest.mark.parametrize("unit", UNITS, ids=lambda p: p.name)
def test_unit_gives_sockets_to_the_group_of_the_mta(unit):
    """The last filter line allows @chown again, which @privileged takes: without it answerd cannot give its sockets."""
    filters = [line for line in unit.read_text().splitlines() if line.startswith("SystemCallFilter=")]
    assert filters[-1] == "SystemCallFilter=@chown"


@pytest.mark.parametrize("unit", UNITS, ids=lambda p: p.name)
def test_mta_and_unit_wait_for_neither(unit):
    """With Type=notify a Before= would keep the MTA waiting until our programs serve."""
    ordered = [line for line in unit.read_text().splitlines() if line.startswith(("Before=", "After=", "Wants="))]
    assert ordered == ["After=network.target"]


@pytest.mark.skipif(ANALYZE is None, reason="no systemd-analyze is installed")
@pytest.mark.parametrize("unit", UNITS, ids=lambda p: p.name)
def test_unit_verifies(unit, tmp_path):
    """`systemd-analyze verify` has nothing to say of the unit, once its program is installed."""
    copy = tmp_path / unit.name
    copy.write_text(unit.read_text().replace("/opt/milter-bounce/bin/milter-bounce", "/bin/true"))
    ran = subprocess.run([ANALYZE, "verify", "--man=yes", str(copy)], check=False, capture_output=True, text=True)
    assert (ran.returncode, ran.stdout + ran.stderr) == (0, "")


def test_template_differs_in_its_program_only():
    """Whoever runs one program alone gets the same confinement; milterd's readiness is told by its child."""
    whole, one = (
        (FOLDER / name).read_text().splitlines() for name in ("milter-bounce.service", "milter-bounce@.service")
    )
    different = [new for old, new in zip(whole, one, strict=True) if old != new]
    assert [line.partition("=")[0] for line in different[1:]] == ["Description", "NotifyAccess", "ExecStart"]


LOGROTATE = shutil.which("logrotate", path="/usr/sbin:/usr/bin:/sbin")


def test_logrotate_file_is_for_the_folder_of_the_unit():
    """The shipped file rotates what log.output = "file" may write under the unit, as the unit's user."""
    lines = (ROOT / "conf" / "logrotate" / "milter-bounce").read_text().splitlines()
    assert any(line.startswith("/var/log/milter-bounce/") and line.endswith("{") for line in lines)
    assert "    create 0640 milter-bounce milter-bounce" in lines


@pytest.mark.skipif(LOGROTATE is None, reason="no logrotate is installed")
def test_logrotate_file_can_be_read(tmp_path):
    """logrotate(8) finds no fault with it; the user is one that this host has."""
    text = (ROOT / "conf" / "logrotate" / "milter-bounce").read_text()
    (tmp_path / "conf").write_text(text.replace("milter-bounce milter-bounce", "root root"))
    (tmp_path / "conf").chmod(0o600)
    words = [LOGROTATE, "-d", "-s", str(tmp_path / "state"), str(tmp_path / "conf")]
    ran = subprocess.run(words, check=False, capture_output=True, text=True)
    assert (ran.returncode, "error" in ran.stderr) == (0, False), ran.stderr
