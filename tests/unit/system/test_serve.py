"""system.serve: how long a conversation may take."""

from __future__ import annotations

import asyncio

from milter_bounce.protocol import socketmap
from milter_bounce.system.serve import Service, _Conversation


class Transport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.sent = b""

    def write(self, data) -> None:
        self.sent += data


def test_time_of_a_question_begins_anew_with_each_answer():
    """Who sends the end of one question and the beginning of the next in one piece has the whole time for the next."""
    service = Service("x", "", socketmap.Connection, lambda _: b"answer", request_s=10)
    one, transport = _Conversation(service), Transport()
    one.connection_made(transport)
    one.data_received(b"12:status ")
    service.now = 9.0
    one.data_received(b"4.2.2,12:st")
    assert transport.sent == b"answer"
    assert not one.overdue(18.0)
    assert one.overdue(19.5)


def test_time_of_a_question_runs_on_while_it_drips():
    """More bytes of the same question give it no more time."""
    service = Service("x", "", socketmap.Connection, lambda _: b"answer", request_s=10)
    one = _Conversation(service)
    one.connection_made(Transport())
    one.data_received(b"12:sta")
    service.now = 9.0
    one.data_received(b"t")
    assert one.overdue(10.5)
