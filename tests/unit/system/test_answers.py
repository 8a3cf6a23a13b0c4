"""system.answers: what is asked of the store, and that every failure ends in "no opinion"."""

from __future__ import annotations

from dataclasses import replace

import pytest

from milter_bounce.config import from_values
from milter_bounce.protocol.memcache import END, Get
from milter_bounce.protocol.policy import DUNNO, Request
from milter_bounce.protocol.socketmap import NOTFOUND, Query
from milter_bounce.verdict import AdviceKind
from tests.answering import NOW, FixedMemory, enforcing, later, make_answers

FULL = "status 5.2.2 host mx.example.net[192.0.2.9] said: 552 5.2.2 mailbox full (in reply to RCPT TO command)"


def submission(recipient, sender="a@example.org"):
    return Request(
        {"request": "smtpd_access_policy", "protocol_state": "RCPT", "sender": sender, "recipient": recipient}
    )


def status(text):
    return Query(*text.split(" ", 1))


def test_advise_has_no_opinion_on_anything():
    """In mode advise the queue goes on as before, and the store is not even asked."""
    memory = FixedMemory()
    answers = make_answers(memory, from_values({}, "test"))
    assert answers.on_memcache(Get(("gone@example.com", "full@example.net"))) == END
    assert answers.on_policy(submission("gone@example.com")) == DUNNO
    assert answers.on_socketmap(status(FULL)) == NOTFOUND
    assert answers.on_socketmap(Query("compat", "q;1;a@example.org;gone@example.com")) == NOTFOUND
    assert memory.asked == []


def test_advise_with_annotation_changes_no_code():
    """The option annotate puts the verdict in front; the code stays."""
    answers = make_answers(settings=from_values({"answer": {"annotate": True}}, "test"))
    assert b"OK 5.2.2 [class=soft category=mailbox-full advice=retry rule=over-quota] host" in answers.on_socketmap(
        status(FULL)
    )
    assert answers.on_socketmap(status("status 2.0.0 250 2.0.0 Ok")) == NOTFOUND


OURS = "[class=soft category=mailbox-full advice=retry rule=over-quota was=5.2.2]"
SAID = "host mx.example.net[192.0.2.9] said: 452 4.2.2 mailbox full (in reply to RCPT TO command)"


@pytest.mark.parametrize("before", ["", "delivery temporarily suspended: "])
def test_annotated_text_is_not_annotated_again(before):
    """A text that came back with our annotation in front stays as it is; Postfix repeats a deferral's text itself."""
    answers = make_answers(settings=from_values({"answer": {"annotate": True}}, "test"))
    assert answers.on_socketmap(status(f"status 4.2.2 {before}{OURS} {SAID}")) == NOTFOUND


def test_annotation_in_a_remote_reply_is_not_doubled():
    """Inside a remote MTA's words it is that one's, or forged: ours stands in front, and there is one."""
    answers = make_answers(settings=from_values({"answer": {"annotate": True}}, "test"))
    answer = answers.on_socketmap(status("status 4.2.2 " + SAID.replace("mailbox", f"{OURS} mailbox"))).decode()
    assert answer.count("[class=") == 1
    assert "was=" not in answer
    assert answer.endswith(f" rule=over-quota] {SAID},")


def test_annotated_text_is_corrected_as_any_other():
    """A text annotated in mode advise that mode enforce corrects bears the new annotation alone."""
    answer = make_answers().on_socketmap(status(f"status 5.2.2 {OURS.replace(' was=5.2.2', '')} {SAID}")).decode()
    assert answer.count("[class=") == 1
    assert ":OK 4.2.2 [class=" in answer
    assert " was=5.2.2] host " in answer


def test_control_characters_are_escaped_in_what_the_filter_answers():
    """What a remote MTA said cannot steer a terminal through the text that we hand back; all else is as it was."""
    answers = make_answers(settings=from_values({"answer": {"annotate": True}}, "test"))
    said = SAID.replace("full", "full\x1b[31m\r\n\x07\x7f\x9b\u202e C:\\x \xe9 <a>")
    answer = answers.on_socketmap(status(f"status 4.2.2 {said}")).decode()
    assert answer.isprintable()
    assert r"full\x1b[31m\r\n\x07\x7f\x9b\u202e C:\x é <a> (in reply to RCPT TO command)" in answer


def test_store_that_fails_lets_everything_pass_and_is_told_once():
    """One warning when it goes, one line when it is back."""
    memory, said = FixedMemory(), []
    answers = make_answers(memory, said=said)
    memory.fails = "state.db: locked"
    for _ in range(3):
        assert answers.on_memcache(Get(("gone@example.com",))) == END
        assert answers.on_policy(submission("gone@example.com")) == DUNNO
        assert answers.on_socketmap(Query("compat", "q;1;a@example.org;gone@example.com")) == NOTFOUND
    memory.fails = None
    assert b"5.1.1" in answers.on_memcache(Get(("gone@example.com",)))
    assert said == [
        "warning: the store cannot be read, everything passes: state.db: locked",
        "info: the store can be read again",
    ]


def test_bug_of_our_own_lets_mail_pass():
    """An exception that nobody foresaw is one error line, not a stopped queue."""
    said = []
    memory = FixedMemory()
    memory.standings = None
    answers = make_answers(memory, said=said)
    assert answers.on_memcache(Get(("a@example.com",))) == END
    assert [line.partition(":")[0] for line in said] == ["error"]


@pytest.mark.parametrize(
    "sections",
    [
        pytest.param({"policy": {"allow_recipients": ["gone@example.com"]}}, id="recipient"),
        pytest.param({"policy": {"allow_recipients": ["example.com"]}}, id="recipient-domain"),
        pytest.param({"policy": {"refuse_suppressed": False}, "gate": {"refuse_suppressed": False}}, id="switched-off"),
    ],
)
def test_allowed_recipient_is_never_refused_or_held(sections):
    """By gate, policy service and Sendmail's map alike."""
    answers = make_answers(settings=enforcing(**sections))
    assert answers.on_memcache(Get(("gone@example.com",))) == END
    assert answers.on_policy(submission("gone@example.com")) == DUNNO
    assert answers.on_socketmap(Query("compat", "q;1;a@example.org;gone@example.com")) == NOTFOUND


def test_allowed_sender_is_never_refused():
    """Policy service and Sendmail's map know the sender."""
    answers = make_answers(settings=enforcing(policy={"allow_senders": ["example.org"]}))
    assert answers.on_policy(submission("gone@example.com")) == DUNNO
    assert answers.on_policy(submission("gone@example.com", "a@example.net")) != DUNNO
    assert answers.on_socketmap(Query("compat", "q;1;a@example.org;gone@example.com")) == NOTFOUND


@pytest.mark.parametrize("state", ["CONNECT", "EHLO", "MAIL", "DATA", "END-OF-MESSAGE", "VRFY", "ETRN", "rcpt", ""])
def test_policy_service_refuses_at_the_recipient_only(state):
    """At any other step there is nobody to refuse, whatever attributes come along."""
    attributes = submission("gone@example.com").attributes
    assert make_answers().on_policy(Request(attributes)) != DUNNO
    assert make_answers().on_policy(Request({**attributes, "protocol_state": state})) == DUNNO


@pytest.mark.parametrize("name", ["request", "protocol_state"])
def test_policy_service_has_no_opinion_on_other_requests(name):
    """Only Postfix's own request at RCPT is answered (DESIGN.md section 2); a client that leaves the word out means that."""
    attributes = dict(submission("gone@example.com").attributes)
    assert make_answers().on_policy(Request({**attributes, name: "junk_policy"})) == DUNNO
    del attributes[name]
    assert make_answers().on_policy(Request(attributes)) != DUNNO


def test_gate_gives_up_the_message_that_was_asked_for_and_no_other():
    """Postfix names no message: one that may never have been tried is tried."""
    answers, tired = make_answers(), Get(("tired@example.net",))
    assert answers.on_memcache(tired) == END
    answers.awaited.note("tired@example.net")
    assert b"error:5.4.7" in answers.on_memcache(tired)
    assert answers.on_memcache(tired) == END


def test_question_that_is_let_go_uses_the_expectation_up():
    """The flusher had it tried, it went; the next question about its recipient is another message's."""
    memory = FixedMemory()
    answers, tired = make_answers(memory), Get(("tired@example.net",))
    known = memory.standings["tired@example.net"]
    answers.awaited.note("tired@example.net")
    memory.standings["tired@example.net"] = replace(known, kind=AdviceKind.NONE)
    assert answers.on_memcache(tired) == END
    memory.standings["tired@example.net"] = known
    assert answers.on_memcache(tired) == END


def test_sendmail_message_is_given_up_by_its_own_queue_id_after_a_try():
    """The store is asked about this message; one that Sendmail has not tried yet is never given up."""
    memory, asked = FixedMemory(), []
    lookup = memory.gate_lookup
    memory.gate_lookup = lambda *words, **more: asked.append(more["queue_id"]) or lookup(*words, **more)
    answers = make_answers(memory)
    assert b"REJECT 5.4.7" in answers.on_socketmap(Query("compat", "6AKI1awF010008;3;a@example.org;tired@example.net"))
    assert answers.on_socketmap(Query("compat", "6AKI1awF010009;0;a@example.org;tired@example.net")) == NOTFOUND
    assert asked == ["6AKI1awF010008", "6AKI1awF010009"]


def test_one_probe_passes_and_the_rest_waits():
    """The first recipient of a block that is due for a probe goes, once; the second question about it is the same."""
    said, now = [], [NOW]
    answers = make_answers(FixedMemory(), said=said, now=lambda: now[0])
    probe = Get(("probe@probing.example",))
    assert answers.on_memcache(probe) == END
    assert answers.on_memcache(probe) == END
    now[0] = later(5)
    assert b"retry:4.7.1" in answers.on_memcache(probe)
    assert said == ["probe: block=probing.example, to=<probe@probing.example>"]


def test_correction_is_logged_with_its_rule():
    """Each one, so that a wrong rule is found."""
    said = []
    make_answers(said=said).on_socketmap(status(FULL))
    assert len(said) == 1
    assert said[0].startswith("filter: corrected=5.2.2->4.2.2, class=soft, category=mailbox-full, rule=over-quota, te")


def test_on_policy_block_bounce_leaves_a_5xx_block_as_it_is():
    """Blocks are returned, so nothing is softened."""
    blocked = status("status 5.7.1 host mx[192.0.2.9] said: 554 5.7.1 blocked (in reply to RCPT TO command)")
    assert b"OK 4.7.1" in make_answers().on_socketmap(blocked)
    assert make_answers(settings=enforcing(gate={"on_policy_block": "bounce"})).on_socketmap(blocked) == NOTFOUND
