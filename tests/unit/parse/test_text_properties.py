"""Readers of text on anything: log lines, replies, questions; and the line that is written about what they read."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.targets import TARGETS

FEW = settings(max_examples=80, deadline=None)
PIECES = st.sampled_from([
    "Nov 20 10:00:01 mx ", "2026-11-20T10:00:01+01:00 mx ", "postfix/smtp[7]: ", "postfix/qmgr[7]: ", "sm-mta[7]: ", "milter-bounce/logd[1]: ",
    "4cXyz: ", "5AKA01x7000001: ", "to=<a@example.net>, ", "to=<", ">, ", "relay=mx.example.net[192.0.2.9]:25, ", "relay=none, ", "delay=2, ",
    "delays=1/0/0/1, ", "dsn=5.1.1, ", "dsn=2.0.0, ", "status=bounced ", "status=sent ", "status=deferred ", "(host mx.example.net[192.0.2.9] said: ",
    "550 5.1.1 no", "250 2.0.0 ok", "139", " (in reply to RCPT TO command))", "stat=User unknown", "stat=Deferred: ", "reply=550 5.1.1, ", "mailer=esmtp, ",
    "from=<a@home.example>, ", "message-id=<1@x>", "removed", "\n", "\r", "\x00", "\x1b[31m", "\u202e", "\u2028", ")", "(", '"', "\\", "5.1.1 ", "4.7.1 ",
    "milter-bounce: held ", "[class=hard category=x advice=none rule=y] ", "٥٥٠ ٥.١.١ ", "blocked using bl.example.net",
])  # fmt: skip


@pytest.mark.parametrize("name", ["log", "filter", "reply", "classify", "report"])
def test_any_heap_of_pieces_is_read(name):
    """Pieces of lines and replies in any order: nothing is raised, figures stay in range, the line about it is one line."""

    @FEW
    @given(st.lists(st.one_of(PIECES, st.text(max_size=6)), max_size=20).map("".join))
    def holds(text):
        assert TARGETS[name].feed(text.encode("utf-8", "replace")[: TARGETS[name].longest]) is None

    holds()
