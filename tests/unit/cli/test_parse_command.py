"""``milter-bounce parse``: JSON lines, table, exit status."""

import json
import subprocess
import sys

import pytest
from click.testing import CliRunner

from milter_bounce.cli.report import parse
from tests.conftest import ROOT
from tests.corpus.expected import MAILS

BOUNCE = next(mail for mail in MAILS if mail.stem == "exim-several")


def test_json_has_one_object_a_file_in_order():
    """DESIGN.md section 9: file, kind, recipients with codes and verdict."""
    done = CliRunner().invoke(parse, ["--json", *map(str, MAILS[:5])])
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.exit_code == 0
    assert [o["file"] for o in found] == [str(mail) for mail in MAILS[:5]]
    assert {
        "recipient",
        "action",
        "status",
        "reply",
        "diagnostic",
        "remote_mta",
        "class",
        "category",
        "advice",
        "rule",
    } <= found[1]["recipients"][0].keys()


@pytest.mark.parametrize(
    ("make", "says"),
    [
        pytest.param(lambda _: None, "No such file or directory", id="missing"),
        pytest.param(lambda path: path.symlink_to(path), "Too many levels of symbolic links", id="unreadable"),
        pytest.param(lambda path: path.with_name("x").touch(), "Not a directory", id="no-folder"),
    ],
)
def test_what_cannot_be_read_gives_exit_1_and_the_rest(tmp_path, make, says):
    """Whatever the reason, it is named on standard error, and the others are read (issue 3, Deliver 3)."""
    make(tmp_path / "gone")
    name = tmp_path / ("x/gone" if says == "Not a directory" else "gone")
    done = CliRunner().invoke(parse, ["--json", str(name), str(BOUNCE)])
    assert done.exit_code == 1
    assert f"gone: {says}" in done.stderr
    assert json.loads(done.stdout)["kind"] == "bounce"


def test_table_shows_each_recipient():
    """People see a row per recipient."""
    done = CliRunner().invoke(parse, [str(BOUNCE)], env={"COLUMNS": "300"})
    assert done.exit_code == 0
    assert all(
        a in done.stdout for a in ("reader@example.net", "gone@example.com", "late@example.com", "invalid-recipient")
    )


def test_standard_input_and_many_files_by_several_processes(tmp_path):
    """``-`` is a mail; many files give the same objects whatever the number of processes."""
    for number in range(220):
        (tmp_path / f"{number:03}.eml").write_bytes(MAILS[number % len(MAILS)].read_bytes())
    command = [sys.executable, "-m", "milter_bounce", "parse", "--json"]
    one, two = (
        subprocess.run([*command, "-j", jobs, tmp_path], cwd=ROOT, capture_output=True, check=True).stdout
        for jobs in ("1", "2")
    )
    assert one == two
    assert len(one.splitlines()) == 220
    done = subprocess.run([*command, "-"], cwd=ROOT, input=BOUNCE.read_bytes(), capture_output=True, check=True)
    assert json.loads(done.stdout)["file"] == "-"


def test_no_argument_is_wrong_usage():
    """Exit status 2."""
    assert CliRunner().invoke(parse, []).exit_code == 2


def test_feedback_suppresses_and_forensic_reports_do_not():
    """A complaint takes the address off the list; an authentication failure report complains of nobody."""
    names = {mail.stem: str(mail) for mail in MAILS}
    done = CliRunner().invoke(
        parse, ["--json", names["arf-abuse"], names["arf-dmarc-failure"], names["vacation-rfc3834"]]
    )
    found = [json.loads(line)["recipients"][0] for line in done.stdout.splitlines()]
    assert [(r["category"], r["advice"]) for r in found] == [
        ("feedback", "suppress"),
        ("feedback", "none"),
        ("auto-reply", "none"),
    ]
