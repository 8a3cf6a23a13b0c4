"""Every own mail gives its expected output: NAME.eml and NAME.json.

After a wanted change: ``python -m tests.corpus.expected`` writes the .json files anew; read the difference.
"""

import json
from pathlib import Path

import pytest

from tests.corpus.expected import MAILS, expected_of


@pytest.mark.parametrize("mail", MAILS, ids=lambda path: path.stem)
def test_corpus_mail_is_read_as_expected(mail: Path):
    """Kind, recipients, codes, diagnostics, ids and defects are those of the .json beside the mail."""
    assert expected_of(mail.read_bytes()) == json.loads(mail.with_suffix(".json").read_text(encoding="utf-8"))


def test_corpus_covers_the_kinds():
    """The corpus holds every kind of message and at least forty kinds of reports."""
    found = [json.loads(mail.with_suffix(".json").read_text(encoding="utf-8")) for mail in MAILS]
    assert {o["kind"] for o in found} == {"dsn", "bounce", "auto-reply", "feedback", "not-bounce"}
    assert sum(o["kind"] in {"dsn", "bounce"} for o in found) >= 40


def test_every_expectation_has_its_mail():
    """No .json outlives its mail."""
    folder = Path(__file__).parent
    assert {p.stem for p in folder.glob("*.json")} == {p.stem for p in MAILS}
