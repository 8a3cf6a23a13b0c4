"""The dialogue files of socketmap, memcached protocol and policy against the cores: whole, in bytes, with more behind."""

from __future__ import annotations

import pytest

from milter_bounce.protocol import ProtocolError, memcache, policy, socketmap
from tests.answering import make_answers
from tests.dialog import dialogs, read_dialog

FILES = [*dialogs("socketmap-*.txt"), *dialogs("memcache-*.txt"), *dialogs("policy-*.txt")]
BEGINNING = {"socketmap": b"1", "memcache": b"ge", "policy": b"re"}
"""The beginning of one more question: it must change nothing."""


class Talk:
    """A core with its answers, as the daemon joins them; no socket."""

    def __init__(self, wire):
        answers = make_answers()
        answers.awaited.note("tired@example.net")
        self.core = {"socketmap": socketmap, "memcache": memcache, "policy": policy}[wire].Connection()
        self.answer = getattr(answers, f"on_{wire}")
        self.closed = False

    def hear(self, data):
        said = b""
        try:
            for event in self.core.receive(data):
                answer = self.answer(event)
                if answer is None:
                    self.closed = True
                    break
                said += answer
        except ProtocolError as error:
            said += error.reply
            self.closed = True
        return said


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
@pytest.mark.parametrize("way", ["whole", "bytes", "trailing"])
def test_core_answers_as_the_dialogue_says(path, way):
    """Each turn gets its answer, however the bytes are cut."""
    wire = path.stem.partition("-")[0]
    dialog, talk = read_dialog(path), Talk(path.stem.partition("-")[0])
    for index, turn in enumerate(dialog.turns):
        # what trails one question stands in front of the next
        said = turn.said[len(BEGINNING[wire]) :] if way == "trailing" and index else turn.said
        more = BEGINNING[wire] if way == "trailing" and index + 1 < len(dialog.turns) else b""
        if way == "trailing" and any(not t.said.startswith(BEGINNING[wire]) for t in dialog.turns):
            said, more = turn.said, b""
        pieces = [bytes([byte]) for byte in said] if way == "bytes" else [said + more]
        answer = b"".join(talk.hear(piece) for piece in pieces if not talk.closed)
        assert turn.expected.fullmatch(answer), f"{path.name}:{turn.line}: {answer!r}"
    assert talk.closed is dialog.closes


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_core_answers_a_whole_dialogue_at_once(path):
    """All questions of a file in one piece get all answers in order."""
    dialog, talk = read_dialog(path), Talk(path.stem.partition("-")[0])
    answer = talk.hear(b"".join(turn.said for turn in dialog.turns))
    for turn in dialog.turns:
        found = turn.expected.match(answer)
        assert found, f"{path.name}:{turn.line}: {answer!r}"
        answer = answer[found.end() :]
    assert answer == b""
    assert talk.closed is dialog.closes
