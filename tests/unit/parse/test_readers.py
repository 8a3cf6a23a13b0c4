"""The phrases file: what is shipped loads, what is broken says where."""

import pytest

from milter_bounce.parse.readers import Readers, ReadersError
from milter_bounce.system.readers import load_readers
from milter_bounce.system.share import rules_dir

SHIPPED = (rules_dir() / "readers" / "reports.toml").read_text(encoding="utf-8")


def test_shipped_phrases_load_in_lower_case():
    """Phrases are compared in lower case: one with a capital would never match."""
    readers = load_readers().readers
    assert len(readers.families) >= 40
    assert all(p == p.lower() for family in readers.families for p in (*family.text, *family.subject, *family.sender))
    assert len({family.name for family in readers.families}) == len(readers.families)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        pytest.param("x = ", "TOMLDecodeError", id="no-toml"),
        pytest.param("[general]\n", "auto_reply", id="missing-table"),
        pytest.param(SHIPPED.replace('name = "qmail"', 'name = "qmail"\ntexts = []'), "texts", id="misspelt-key"),
        pytest.param(SHIPPED.replace("daemons = [", "demons = ["), "daemons", id="missing-list"),
        pytest.param(SHIPPED.replace("subjects_re = [", "subjects_re = ['(', "), "error", id="broken-pattern"),
    ],
)
def test_broken_phrases_say_where(text, says):
    """One error type, one line, naming what to look at."""
    with pytest.raises(ReadersError, match=says) as raised:
        Readers.from_toml(text)
    assert "\n" not in str(raised.value)
