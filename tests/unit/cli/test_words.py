"""What every command says: nothing that a terminal acts on, at any locale, and JSON wherever the output is data."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys

import pytest
from click.testing import CliRunner

from milter_bounce.cli import main
from milter_bounce.system.sqlite_store import SqliteStore
from milter_bounce.verdict import Suppression
from tests.conftest import ROOT
from tests.corpus.expected import MAILS
from tests.unit.cli.test_state import NOW, WHO, fails

EVIL = "/no/\x1b[2J\x9b\x7f\u202e\x1b]0;x\x07"
BOUNCE = next(mail for mail in MAILS if mail.stem == "exim-several")


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(words, id="-".join(word for word in words if word.isalpha()))
        for words in (
            ["check", "-c", EVIL],
            ["classify", "-c", EVIL, "a"],
            ["parse", EVIL],
            ["log", EVIL],
            ["rules", "unmatched", EVIL],
            ["rules", "test", EVIL],
            ["rules", "show", EVIL],
            ["rules", "check", "-c", EVIL],
            ["postfix", "print", "--config-dir", EVIL],
            ["postfix", "apply", "--config-dir", EVIL],
            ["postfix", "revert", "--config-dir", EVIL],
            ["sendmail", "check", "-C", EVIL],
            ["sendmail", "print", "-c", EVIL],
            ["keys", "list", "-c", EVIL],
            ["blocks", "list", "-c", EVIL],
            ["suppressions", "import", EVIL],
            ["suppressions", "add", EVIL],
            ["blocklists", EVIL],
            ["milterd", "-c", EVIL],
            ["run", "--only", EVIL],
            [EVIL],
            ["parse", EVIL + "--", "--" + EVIL],
        )
    ],
)
def test_error_that_quotes_a_word_does_nothing_to_a_terminal(words):
    """Paths and words come back escaped, ours and click's alike."""
    done = CliRunner().invoke(main, words)
    assert done.exception is None or isinstance(done.exception, SystemExit)
    assert "\\x1b[2j\\x9b\\x7f\\u202e" in done.output.lower()
    assert done.output.replace("\n", "").isprintable()


def ascii_only(*words: str | bytes, **more: bytes) -> subprocess.CompletedProcess[bytes]:
    """Run a command as it runs in the C locale."""
    places = {key: value for key, value in os.environ.items() if not key.startswith(("LC_", "LANG", "PYTHONIOENC"))}
    return subprocess.run(
        [sys.executable, "-m", "milter_bounce", *words],
        check=False,
        capture_output=True,
        timeout=120,
        cwd=ROOT,
        env=places | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        **more,
    )


def test_c_locale_escapes_what_it_cannot_show(tmp_path):
    """A table in ASCII with escapes, no traceback; JSON stays UTF-8."""
    mail = tmp_path / "m.eml"
    mail.write_bytes(BOUNCE.read_bytes().replace(b"gone@example.com", "gön€@example.com".encode()))
    table, lines = ascii_only("parse", str(mail)), ascii_only("parse", "--json", str(mail))
    assert (table.returncode, table.stderr) == (0, b"")
    assert b"g\\xf6n\\u20ac" in table.stdout
    assert "gön€@example.com" in lines.stdout.decode()
    assert json.loads(ascii_only("classify", "--json", "-", input="550 Empfänger €\n".encode()).stdout)[
        "text"
    ].endswith("€")


def test_file_name_that_is_no_utf_8_is_text_in_json(tmp_path):
    """Half a pair of surrogates is no text: strict readers of JSON refuse it."""
    name = os.fsencode(tmp_path) + b"/m\xe9.eml"
    with open(name, "wb") as mail:  # noqa: PTH123 - a name of bytes
        mail.write(BOUNCE.read_bytes())
    done = ascii_only("parse", "--json", name)
    assert json.loads(done.stdout)["file"] == f"{tmp_path}/m\\udce9.eml"
    assert b"m\\udce9.eml" in ascii_only("parse", name + b"x").stderr


def test_postfix_revert_takes_c_as_print_and_apply_do(tmp_path):
    """One option for all three; a broken configuration does not keep the settings in."""
    (tmp_path / "main.cf").touch()
    done = CliRunner().invoke(main, ["postfix", "revert", "-c", f"{tmp_path}/none", "--config-dir", str(tmp_path)])
    assert "nothing to do" in done.output or "postconf" in done.output
    assert "No such option" not in done.output


# --json where the output is data


def lines(done) -> list[dict]:
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_blocks_add_and_lift_in_json(run):
    """The block as `blocks list --json` shows it; each key with what became of it."""
    (added,) = lines(run("blocks", "add", "yahoo", "--json"))
    assert [added] == lines(run("blocks", "list", "--json"))
    lifted = run("blocks", "lift", "yahoo", "nobody", "--json")
    assert lifted.exit_code == 1
    assert lines(lifted) == [
        {"key": "yahoo", "lifted": True, "notices": ["block-ended"]},
        {"key": "nobody", "lifted": False, "notices": []},
    ]


def test_suppressions_add_and_remove_in_json(run):
    """Each address with what became of it."""
    assert lines(run("suppressions", "add", WHO, "--json")) == [{"recipient": WHO, "added": True}]
    again = lines(run("suppressions", "add", WHO.upper(), "b@example.net", "--json"))
    assert [(one["recipient"], one["added"]) for one in again] == [(WHO.upper(), False), ("b@example.net", True)]
    removed = run("suppressions", "remove", WHO, "c@example.net", "--json")
    assert removed.exit_code == 1
    assert [(one["recipient"], one["removed"]) for one in lines(removed)] == [(WHO, True), ("c@example.net", False)]


def test_store_check_in_json(run, store: SqliteStore, monkeypatch):
    """Sound or not, and why."""
    fails(store)
    (sound,) = lines(run("store", "check", "--json"))
    assert sound == {"path": str(store.path), "sound": True, "faults": []}
    monkeypatch.setattr(SqliteStore, "check", lambda _: ["page 3 is odd"])
    broken = run("store", "check", "--json")
    assert (broken.exit_code, lines(broken)[0]["faults"]) == (1, ["page 3 is odd"])


def test_keys_list_in_json(run, tmp_path, conf):
    """Which one stamps, and which is refused."""
    with conf.open("a") as file:
        file.write(f'[token]\nkeys = "{tmp_path}/keys"\n')
    assert run("keys", "new").exit_code == 0
    (tmp_path / "keys" / "20200101t00000abcd.key").write_text("x")
    (tmp_path / "keys" / "20200101t00000abcd.key").chmod(0o400)
    shown = lines(run("keys", "list", "--json"))
    assert [(one["state"], one["days_old"]) for one in shown if one["state"] != "refused"] == [("stamps", 0)]


def test_rules_show_and_test_in_json(run, tmp_path):
    """A rule with its conditions and examples; each example with what is not as expected."""
    (rule,) = lines(run("rules", "show", "auth-lookup-failed", "--json"))
    assert (rule["rule"], rule["class"], rule["category"]) == ("auth-lookup-failed", "soft", "dns-error")
    assert rule["examples"]
    (tmp_path / "own.toml").write_text(
        '[[example]]\ntext = "550 5.1.1 User unknown"\nclass = "hard"\n'
        '[[example]]\ntext = "452 4.2.2 Mailbox full"\nclass = "hard"\n'
    )
    tried = run("rules", "test", str(tmp_path / "own.toml"), "--json")
    assert tried.exit_code == 1
    assert [bool(one["differences"]) for one in lines(tried)] == [False, True]


def test_export_protects_every_cell_that_could_be_a_formula(run, store):
    """``=cmd@x.example`` as well as ``=cmd|calc@x.example``; import takes it back unchanged."""
    given = ["=cmd@x.example", "+a@x.example", "=cmd|calc@x.example", "'=c@x.example"]
    assert run("suppressions", "add", *given, "--reason", "@SUM").exit_code == 0
    store.suppress([Suppression("-b@x.example", NOW, "invalid-recipient", "r", "\n=1", "import")])
    before = list(store.suppressions())
    exported = run("suppressions", "export").output
    cells = [cell for row in csv.reader(io.StringIO(exported)) for cell in row]
    assert not [cell for cell in cells if cell.startswith(tuple("=+-@\t\r\n"))]
    store.unsuppress([*given, "-b@x.example"])
    assert run("suppressions", "import", "-", text=exported).exit_code == 0
    assert [(s.recipient, s.reason) for s in store.suppressions()] == [(s.recipient, s.reason) for s in before]
