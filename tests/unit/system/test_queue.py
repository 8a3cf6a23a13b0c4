"""Which MTA's queue the configuration means."""

from __future__ import annotations

import pytest

from milter_bounce.config import DueSection
from milter_bounce.system.queue import make_queue
from milter_bounce.system.queue_postfix import PostfixQueue
from milter_bounce.system.queue_sendmail import SendmailQueue


def test_sendmail_queue_is_made_where_it_is_wanted():
    """With mta = "sendmail" and a command that is there."""
    queue = make_queue(DueSection(mta="sendmail", sendmail_command=["true"]))
    assert isinstance(queue, SendmailQueue)
    assert queue.retry("6AKJOvLA019656") is None


def test_no_queue_where_its_command_is_missing():
    """A Sendmail that is not there is no queue; the caller says so."""
    assert make_queue(DueSection(mta="sendmail", sendmail_command=["/nowhere/sendmail"])) is None


@pytest.mark.skipif(not PostfixQueue().installed, reason="no Postfix is installed")
def test_postfix_comes_first_by_itself():
    """Postfix brings a sendmail(1) of its own that knows no -qI."""
    assert isinstance(make_queue(DueSection(sendmail_command=["true"])), PostfixQueue)
    assert isinstance(make_queue(DueSection(mta="postfix")), PostfixQueue)
