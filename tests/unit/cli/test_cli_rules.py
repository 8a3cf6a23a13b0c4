"""The commands classify and rules."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from milter_bounce.cli import main

LISTED = "554 5.7.1 Service unavailable; Client host [192.0.2.1] blocked using zen.spamhaus.org"


def run(*words, given=None):
    return CliRunner().invoke(main, list(words), input=given)


def test_cli_classify_prints_one_object_per_line():
    """Plain replies and JSON objects may be mixed; each line gets one object, a bad one its fault and exit status 1."""
    line = json.dumps({"response": "421 Message temporarily deferred", "remote_mta": "mta5.am0.yahoodns.net"})
    result = run("classify", "--json", "-", given=f"550 5.1.1 User unknown\n{line}\n\n{{not json\n")
    rows = [json.loads(row) for row in result.stdout.splitlines()]
    assert result.exit_code == 1
    assert [row.get("category") for row in rows] == ["invalid-recipient", "poor-reputation", "undetermined", None]
    assert rows[3]["line"] == 4
    assert "no JSON" in rows[3]["error"]
    assert rows[0]["reply"] == "550"
    assert rows[0]["status"] == "5.1.1"
    assert rows[1]["operator"] == "yahoo"


ODD_LINES = [
    pytest.param(b"550 " + b"a" * 3_000_000, id="three-megabytes"),
    pytest.param(b"550 \xff\xfe\xf0 x", id="no-utf-8"),
    pytest.param("550 a\u2028b \x85c\x0bd\x0ce\x1cf".encode(), id="other-line-ends"),
    pytest.param(b'{"response": "550 \\ud800 x"}', id="half-a-pair"),
    pytest.param(b'{"response":' + b"[" * 200_000, id="nested"),
    pytest.param(b'{"response": null, "remote_mta": 5}', id="wrong-types"),
    pytest.param(b"\x00\x00", id="zero-bytes"),
    pytest.param(b"", id="empty"),
]


@pytest.mark.parametrize("line", ODD_LINES)
def test_cli_classify_prints_one_object_for_any_line(line):
    """Whatever a line holds, one object comes out for it, in one line by any reader's count, and the next is read."""
    result = run("classify", "--json", "-", given=line + b"\n550 5.1.1 User unknown\n")
    rows = result.stdout_bytes.decode("utf-8").splitlines()
    first, second = map(json.loads, rows)
    assert second["category"] == "invalid-recipient"
    bad = line.startswith(b"{") and b'"response": "' not in line
    assert (result.exit_code, "error" in first) == (int(bad), bad)


@pytest.mark.parametrize("bad", ['{"response": 5}', '{"response": "550', '{"foo": "x"}', "{}"])
def test_cli_classify_tells_a_bad_object_by_its_line(bad):
    """No verdict for it; the others are judged, and the exit status is 1."""
    for words in (("classify",), ("classify", "--json")):
        result = run(*words, "-", given=f"550 5.1.1 User unknown\n{bad}\n452 4.2.2 mailbox full\n")
        assert result.exit_code == 1
        assert result.stderr.startswith("milter-bounce: line 2: ")
        assert "undetermined" not in result.stdout
        assert "mailbox-full" in result.stdout


@pytest.mark.parametrize("words", [("classify", LISTED), ("classify", "--json", LISTED), ("config",)], ids=" ".join)
@pytest.mark.parametrize("options", [[], ["-u"]], ids=["buffered", "unbuffered"])
def test_full_disk_behind_standard_output_is_one_line(words, options):
    """No traceback, neither at once nor at the end; exit status 2."""
    command = [sys.executable, *options, "-m", "milter_bounce", *words]
    env = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, check=False, text=True, env=env)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "milter-bounce: standard output: No space left on device; what is there is not all"
    ]


def test_cli_classify_prints_words_for_people():
    """Without --json: the reply, the verdict, the rule, the lists."""
    out = run("classify", LISTED).stdout
    assert "policy / blocklisted / hold" in out
    assert "zen.spamhaus.org (Spamhaus)" in out


def test_cli_rules_check_finds_nothing_in_the_shipped_rules():
    """The rules that ship pass their own check."""
    result = run("rules", "check")
    assert (result.exit_code, result.stdout.endswith("no findings\n")) == (0, True)


def test_cli_rules_check_reports_local_faults(tmp_path):
    """A local rule that misses its example is found: file, rule, reason, exit 1."""
    folder = tmp_path / "rules.d"
    folder.mkdir()
    (folder / "own.toml").write_text(
        '[[rule]]\nid = "own"\ncategory = "virus"\ntext = "x"\nsource = "2026"\nexamples = ["550 y"]\n'
    )
    conf = tmp_path / "conf.toml"
    conf.write_text(f'[rules]\nlocal = "{folder}"\n')
    result = run("rules", "check", "-c", str(conf))
    assert result.exit_code == 1
    assert f"{folder}/own.toml: own: does not match its example" in result.stdout


def test_cli_rules_with_a_broken_file_exit_2(tmp_path):
    """Rules that cannot be loaded: one line on standard error, exit 2."""
    folder = tmp_path / "rules.d"
    folder.mkdir()
    (folder / "own.toml").write_text("[[rule]]\nid = 'own'\n")
    conf = tmp_path / "conf.toml"
    conf.write_text(f'[rules]\nlocal = "{folder}"\n')
    result = run("classify", "-c", str(conf), "550 x")
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert "own.toml: own: has no category" in result.stderr


def test_cli_rules_check_names_every_broken_file(tmp_path):
    """One fault a file, each with file, rule and reason: not one more at each try."""
    folder = tmp_path / "rules.d"
    folder.mkdir()
    rule = "[[rule]]\nid = '{}'\ntext = ['never said']\nsource = 'seen 2026-11'\nexamples = ['550 never said']\n"
    (folder / "a.toml").write_text("x = [\n")
    (folder / "b.toml").write_text(rule.format("mine") + "category = 'mailbox-ful'\n")
    (folder / "c.toml").write_text(rule.format("fine") + "category = 'mailbox-full'\n")
    (folder / "d.toml").write_text(rule.format("none"))
    conf = tmp_path / "conf.toml"
    conf.write_text(f'[rules]\nlocal = "{folder}"\n')
    result = run("rules", "check", "-c", str(conf))
    told = result.stderr.splitlines()
    assert result.exit_code == 2
    assert [line.partition(f"{folder}/")[2][:6] for line in told] == ["a.toml", "b.toml", "d.toml"]
    assert "did you mean 'mailbox-full'" in told[1]
    assert "none: has no category" in told[2]


def test_cli_rules_check_names_every_broken_rule_of_a_file(tmp_path):
    """Whoever mends one rule wants to know of the others too."""
    folder = tmp_path / "rules.d"
    folder.mkdir()
    rule = "[[rule]]\nid = '{}'\ntext = ['{}']\nsource = 'seen 2026-11'\nexamples = ['550 never said']\n{}\n"
    virus = "category = 'virus'"
    (folder / "a.toml").write_text(
        rule.format("group", "(never said", virus)
        + rule.format("ahead", "never(?= said)", virus)
        + rule.format("category", "never said", "category = 'nocat'")
        + rule.format("operator", "never said", virus + "\noperator = 'nobody'")
        + rule.format("twice", "never said", virus) * 2
    )
    conf = tmp_path / "conf.toml"
    conf.write_text(f'[rules]\nlocal = "{folder}"\n')
    result = run("rules", "check", "-c", str(conf))
    told = " ".join(result.stderr.splitlines())
    assert result.exit_code == 2
    for name in ("group: RE2", "ahead: RE2", "category: category", "operator: operator", "twice: this id stands"):
        assert f"a.toml: {name}" in told


def test_cli_rule_of_the_design_is_taken_as_it_stands(tmp_path):
    """DESIGN.md section 5 shows a rule whose source names no year: an administrator dates his own as he likes."""
    folder = tmp_path / "rules.d"
    folder.mkdir()
    (folder / "own.toml").write_text(
        '[[rule]]\nid = "own-tss04"\noperator = "yahoo"\nreply = "421"\ntext = \'\\[TSS0[45]\\]\'\ncategory = "poor-reputation"\n'
        'source = "where this is documented, and when it was seen"\nexamples = ["421 4.7.0 [TSS04] Messages from 192.0.2.1 temporarily deferred"]\n'
    )
    conf = tmp_path / "conf.toml"
    conf.write_text(f'[rules]\nlocal = "{folder}"\n')
    reply = "421 4.7.0 [TSS04] Messages from 192.0.2.1 temporarily deferred"
    told = run("classify", "--json", "-c", str(conf), f"host mta5.am0.yahoodns.net[192.0.2.9] said: {reply}")
    assert (told.exit_code, json.loads(told.stdout)["rule"]) == (0, "own-tss04")
    assert "source" not in run("rules", "check", "-c", str(conf)).output


def test_cli_rules_test_tries_own_examples(tmp_path):
    """Each example is held against what it asks for; a miss gives exit 1 and says what came out."""
    path = tmp_path / "examples.toml"
    path.write_text(
        '[[example]]\ntext = "550 5.1.1 User unknown"\ncategory = "invalid-recipient"\n'
        '[[example]]\ntext = "552 5.2.2 Mailbox full"\nadvice = "suppress"\n'
    )
    result = run("rules", "test", str(path))
    assert result.exit_code == 1
    assert "example 2: advice is retry" in result.stdout
    assert "2 examples, 1 as expected, 1 not" in result.stdout


def test_cli_rules_show_tells_all_of_a_rule():
    """Conditions, verdict, source and examples."""
    out = run("rules", "show", "greylisted").stdout
    for word in ("text/rates.toml", "soft / greylisted / retry", "source", "example"):
        assert word in out


def test_cli_rules_show_of_an_unknown_id_exits_2():
    """A wrong id: one line that names near ones."""
    result = run("rules", "show", "greyliste")
    assert result.exit_code == 2
    assert "did you mean greylisted" in result.stderr


def test_cli_rules_explain_shows_the_order():
    """Every rule that matches, the first one marked."""
    rows = [json.loads(row) for row in run("rules", "explain", "--json", LISTED).stdout.splitlines()]
    assert rows[0]["rule"] == "blocklist-spamhaus-zen"
    assert [row["decides"] for row in rows] == [True] + [False] * (len(rows) - 1)
    assert "decides" in run("rules", "explain", LISTED, "--remote-mta", "mx.example.com").stdout


@pytest.mark.parametrize("flag", [[], ["--json"]])
def test_cli_rules_unmatched_groups_by_template(tmp_path, flag):
    """Replies that only a code decided come as templates with counts and a rule skeleton."""
    log = tmp_path / "mail.log"
    log.write_text(
        "".join(
            f"2026-11-20T10:00:0{i}+00:00 mx postfix/smtp[7]: 4cXyz{i}: to=<u{i}@example.net>, "
            f"relay=mx.example.net[192.0.2.1]:25, delay=1, delays=0/0/0/1, dsn=5.0.0, status=bounced "
            f"(host mx.example.net[192.0.2.1] said: 550 Quux zork {i} for <u{i}@example.net> (in reply to RCPT TO command))\n"
            for i in range(3)
        )
    )
    result = run("rules", "unmatched", *flag, str(log))
    assert result.exit_code == 1
    if flag:
        row = json.loads(result.stdout)
        assert (row["count"], row["template"]) == (3, "550 Quux zork N for <@>")
    else:
        assert "# 3 times" in result.stdout
        assert "text = 'Quux zork [0-9]+ for <@>'" in result.stdout
