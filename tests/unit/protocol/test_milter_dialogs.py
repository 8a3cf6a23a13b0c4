"""The milter conversation, driven by dialogue files with no MTA."""

from __future__ import annotations

import pytest

from milter_bounce.protocol.milter import HEADER_LIMIT_BYTES, RECIPIENT_LIMIT, Message
from tests.conftest import ROOT

DIALOGS = sorted((ROOT / "tests" / "dialogs" / "milter").glob("*.txt"))


def unescaped(text: str) -> bytes:
    return text.encode().replace(rb"\r", b"\r").replace(rb"\n", b"\n")


def play(lines: list[str]) -> int:
    """Play one dialogue; return how many expectations were checked."""
    limit, checked, message = 1 << 20, 0, Message(1 << 20)
    for line in lines:
        verb, _, rest = line.partition(" ")
        argument, arrow, wanted = rest.rpartition(" -> ")
        if not arrow:
            argument, wanted = rest, ""
        step = None
        match verb:
            case "limit":
                limit = int(argument)
            case "mail":
                message = Message(limit)
                step = message.mail(argument.encode())
            case "outgoing":
                message.stamp = message.outgoing = True
            case "rcpt":
                step = message.rcpt(argument.encode())
            case "header":
                name, _, value = argument.partition(":")
                message.header(name, unescaped(value.removeprefix(" ")))
            case "eoh":
                step = message.end_of_headers()
            case "body":
                step = message.body(unescaped(argument))
            case "end":
                pass
            case "content":
                assert message.content() == unescaped(argument)
                checked += 1
            case "report" | "truncated":
                seen = message.is_report if verb == "report" else message.truncated
                assert seen is (argument == "yes")
                checked += 1
            case "forged":
                assert message.forged_headers == int(argument)
                checked += 1
            case _:
                pytest.fail(f"no such verb: {verb}")
        if wanted:
            assert step is not None, line
            assert step.value == wanted, line
            checked += 1
    return checked


@pytest.mark.parametrize("path", DIALOGS, ids=lambda p: p.stem)
def test_milter_dialogue_goes_as_written(path):
    """Each step is answered as the file says, and what was read is what was sent."""
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    assert play(lines) > 0


def test_header_limit_cuts_and_tells():
    """Fields beyond the limit pass unread; the message is marked, whatever the number of fields."""
    message = Message(1 << 22)
    message.mail(b"<>")
    for _ in range(1000):
        message.header("X-Long", b"x" * 1000)
    assert message.truncated
    assert HEADER_LIMIT_BYTES - 2000 < len(message.content()) <= HEADER_LIMIT_BYTES + 100


def test_recipients_are_remembered_up_to_the_limit():
    """One recipient more than the limit is not kept."""
    message = Message(1 << 20)
    for number in range(RECIPIENT_LIMIT + 1):
        message.rcpt(b"<%d@example.com>" % number)
    assert len(message.recipients) == RECIPIENT_LIMIT
