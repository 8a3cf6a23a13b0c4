"""parse.postfix_filter: what Postfix asks its status filter, as evidence."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milter_bounce.delivery import Action, EnhancedStatus
from milter_bounce.parse.postfix_filter import read_filter_question


@pytest.mark.parametrize(
    ("question", "status", "reply", "command", "local"),
    [
        pytest.param(
            "4.7.1 host mx.example.net[192.0.2.9] said: 451 4.7.1 Try later (in reply to RCPT TO command)",
            "4.7.1", 451, "RCPT", False, id="refused",
        ),
        pytest.param(
            "5.0.0 host mx.example.net[192.0.2.9] said: 550 no such user here (in reply to end of DATA command)",
            "5.0.0", 550, "EOD", False, id="no-enhanced-status",
        ),
        pytest.param(
            "4.0.0 host mx.example.net[192.0.2.9] refused to talk to me: 421 4.7.0 [TSS04] deferred",
            "4.7.0", 421, "CONNECT", False, id="made-up-status-gives-way",
        ),
        pytest.param(
            "4.4.1 connect to mx.example.net[192.0.2.9]:25: Connection refused", "4.4.1", None, "CONNECT", True,
            id="our-own-side",
        ),
    ],
)  # fmt: skip
def test_question_tells_code_text_and_who_spoke(question, status, reply, command, local):
    """The code stays as asked; the evidence takes the reply's own status where Postfix made one up."""
    found = read_filter_question(question)
    assert f"{found.code} {found.text}" == question
    assert found.status.status == EnhancedStatus.from_text(status)
    assert (found.status.reply_code, found.status.command, found.status.local) == (reply, command, local)
    assert found.status.action is (Action.FAILED if found.code.class_ == 5 else Action.DELAYED)


def test_success_is_a_delivery():
    """Nothing is read out of a success."""
    assert read_filter_question("2.0.0 250 2.0.0 Ok: queued as 4cX").status.action is Action.DELIVERED


@given(st.text(max_size=300))
def test_any_text_is_a_question_or_none(text):
    """Nothing is raised, on any text."""
    found = read_filter_question(text)
    assert found is None or found.code.class_ in {2, 4, 5}
