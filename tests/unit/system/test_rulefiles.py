"""Rule files on disk: found, read, checked for ownership."""

from __future__ import annotations

import os

import pytest

from milter_bounce.config import Settings
from milter_bounce.decide.rule_toml import RulesError
from milter_bounce.system.rulefiles import load_rules, read_own_examples, shipped_files, status_of

OWN = '[[rule]]\nid = "own"\ncategory = "greylisted"\ntext = "purple"\nsource = "own log, 2026"\nexamples = ["450 purple"]\n'


def settings(folder):
    return Settings.model_validate({"rules": {"local": str(folder)}})


def judged(rules):
    return rules.classify(status_of("450 purple")).rule


def test_rulefiles_load_the_shipped_rules_without_local_ones(tmp_path):
    """A missing folder of own rules is no fault."""
    rules = load_rules(settings(tmp_path / "none"))
    assert len(rules.rules) > 500
    assert judged(rules) == "reply-450"


def test_rulefiles_add_the_administrators_own(tmp_path):
    """Files in rules.d come first."""
    (tmp_path / "own.toml").write_text(OWN)
    assert judged(load_rules(settings(tmp_path))) == "own"


def test_rulefiles_refuse_a_file_that_anybody_may_write(tmp_path):
    """Who may write rules may suppress anybody."""
    (tmp_path / "own.toml").write_text(OWN)
    (tmp_path / "own.toml").chmod(0o666)
    with pytest.raises(RulesError, match=r"own\.toml: can be written by anybody; chmod o-w it"):
        load_rules(settings(tmp_path))


def test_rulefiles_refuse_a_folder_that_anybody_may_write(tmp_path):
    """In such a folder anybody could put a file."""
    tmp_path.chmod(0o777)
    with pytest.raises(RulesError, match="can be written by anybody"):
        load_rules(settings(tmp_path))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_rulefiles_refuse_a_file_of_somebody_else(tmp_path):
    """Only root and the running user own rules."""
    (tmp_path / "own.toml").write_text(OWN)
    os.chown(tmp_path / "own.toml", 65534, 65534)
    with pytest.raises(RulesError, match="belongs to user 65534"):
        load_rules(settings(tmp_path))


BROKEN = [
    pytest.param("x = " + "[" * 100_000, "is not TOML", id="breaks-its-reader"),
    pytest.param("[[rule", "is not TOML", id="not-toml"),
    pytest.param(OWN.replace("purple", "pur(?=ple)", 1), "own: RE2 cannot take the pattern", id="pattern"),
    pytest.param(OWN.replace("greylisted", "grey"), "own: category", id="category"),
    pytest.param(OWN.replace("450 purple", "450 green"), "own: does not match its example", id="example"),
    pytest.param(OWN + OWN.replace('"own"', '"again"'), "again: has the conditions of own", id="never-fires"),
]


@pytest.mark.parametrize(("text", "reason"), BROKEN)
def test_rulefiles_refuse_a_broken_file_in_one_line(tmp_path, text, reason):
    """One line with file, rule and reason, as a program logs it that keeps its old rules."""
    (tmp_path / "own.toml").write_text(text)
    with pytest.raises(RulesError) as caught:
        load_rules(settings(tmp_path))
    line = str(caught.value)
    assert str(tmp_path / "own.toml") in line
    assert reason in line
    assert "\n" not in line


def test_rulefiles_are_read_anew_at_each_load(tmp_path):
    """Nothing is cached: what was put there since counts."""
    assert judged(load_rules(settings(tmp_path))) == "reply-450"
    (tmp_path / "own.toml").write_text(OWN)
    assert judged(load_rules(settings(tmp_path))) == "own"


def test_rulefiles_refuse_an_empty_folder_of_shipped_rules(tmp_path):
    """A wrong path is told, not taken for "no rules"."""
    with pytest.raises(RulesError, match="holds no rule files"):
        shipped_files(tmp_path)


@pytest.mark.parametrize(
    ("text", "reason"),
    [pytest.param("", "holds no", id="empty"), pytest.param("[[example]]\nrule = 'x'", "has no text", id="no-text")],
)
def test_rulefiles_own_examples_are_checked(tmp_path, text, reason):
    """A file of examples that holds none is a mistake."""
    path = tmp_path / "examples.toml"
    path.write_text(text)
    with pytest.raises(RulesError, match=reason):
        read_own_examples(path)


def test_rulefiles_status_of_reads_postfix_quoting():
    """A reply as Postfix logs it tells who spoke and at which command."""
    status = status_of("host mx.example.net[192.0.2.1] said: 550 5.1.1 no (in reply to RCPT TO command)")
    assert (status.reply_code, str(status.status), status.remote_mta, status.command) == (
        550,
        "5.1.1",
        "mx.example.net",
        "RCPT",
    )
