"""Replies grouped by template, and the skeleton of a rule for each."""

from __future__ import annotations

import tomllib

import pytest
import re2
from hypothesis import given
from hypothesis import strategies as st

from milter_bounce.decide.template import skeleton, template_of
from milter_bounce.decide.words import words_of

CASES = [
    ("address", "550 5.9.9 <a@example.com> is odd", "550 5.9.9 <@> is odd"),
    ("ip", "550 odd from 192.0.2.77 today", "550 odd from IP today"),
    ("url", "550 odd, see https://example.com/x?ip=192.0.2.1", "550 odd, see URL"),
    ("host-and-number", "450 odd at mx7.example.com line 42", "450 odd at HOST line N"),
    ("id-and-time", "450 odd 4cXyz12ab at 2026-11-20T21:34:00Z", "450 odd ID at TIME"),
]


@pytest.mark.parametrize(("reply", "expected"), [pytest.param(*row[1:], id=row[0]) for row in CASES])
def test_rule_template_masks_what_differs(reply, expected):
    """Two replies of one kind have one template."""
    assert template_of(reply) == expected


@given(st.text(max_size=300))
def test_rule_template_skeleton_is_toml_that_re2_takes(reply):
    """Whatever stands in a log, the skeleton can be pasted into a rule file."""
    table = tomllib.loads(skeleton(template_of(reply), reply, rule_id="local-1", seen="2026-11"))["rule"][0]
    re2.compile(table["text"])
    assert table["id"] == "local-1"


def test_rule_template_skeleton_matches_its_own_reply():
    """The pattern fits the words of the reply it was made of."""
    reply = "550 5.9.9 Odd thing (code 42) about <a@example.com>, see https://example.com/x"
    table = tomllib.loads(skeleton(template_of(reply), reply, rule_id="local-1", seen="2026-11"))["rule"][0]
    assert re2.search(table["text"], words_of(reply, 550))
