"""The wheel: built, installed into an empty environment, it finds its rules and the sample configuration there."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from tests.conftest import ROOT


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """Return an environment with nothing but the wheel in it, the dependencies lent from ours by a path file."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    files = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    for name in files:
        if (ROOT / name).is_file() and not name.startswith("tests/"):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, source / name)
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=source,
        check=True,
        capture_output=True,
    )
    (wheel,) = folder.glob("*.whl")
    venv.create(folder / "env", with_pip=False, symlinks=True)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(folder / "env"), "platbase": str(folder / "env")}))
    subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "-q", "--no-deps", "--target", str(site), str(wheel)],
        check=True, capture_output=True,
    )  # fmt: skip
    ours = sysconfig.get_path("purelib")
    # dependencies only: ours has an editable install of this very package, which a plain path line would not process
    (site / "lent.pth").write_text(ours + "\n")
    return folder / "env" / "bin" / "python"


def run(python: Path, *words: str, tmp: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(python), "-m", "milter_bounce", *words], cwd=tmp, check=False, capture_output=True, text=True, timeout=120
    )


def test_wheel_finds_its_rules(installed, tmp_path):
    """`classify` works from the wheel alone, far from the source."""
    ran = run(installed, "classify", "--json", "550 5.1.1 User unknown", tmp=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert '"category": "invalid-recipient"' in ran.stdout


def test_wheel_holds_the_sample_configuration(installed, tmp_path):
    """The sample and the MTA snippets are in the wheel, and come from there."""
    code = "from milter_bounce.system import share; print(share.conf_dir()); print(share.rules_dir())"
    ran = subprocess.run([str(installed), "-c", code], cwd=tmp_path, check=True, capture_output=True, text=True)
    conf, rules = map(Path, ran.stdout.split())
    assert installed.parent.parent in conf.parents
    assert (conf / "milter-bounce.toml").read_text() == (ROOT / "conf" / "milter-bounce.toml").read_text()
    assert {"postfix", "sendmail", "systemd"} <= {path.name for path in conf.iterdir()}
    assert (rules / "status.toml").is_file()


def test_wheel_is_typed_and_names_its_command(installed):
    """py.typed and the command's entry point are in the wheel."""
    site = next((installed.parent.parent / "lib").glob("python*/site-packages"))
    assert (site / "milter_bounce" / "py.typed").is_file()
    (entry,) = site.glob("milter_bounce-*.dist-info/entry_points.txt")
    assert "milter-bounce = milter_bounce.cli:main" in entry.read_text()
