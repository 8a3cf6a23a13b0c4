"""Reader of what Postfix asks its delivery status filter.

Goes in: ``4.7.1 host NAME[IP] said: 451 4.7.1 ... (in reply to RCPT TO command)``,
as ``smtp_delivery_status_filter`` puts it. Comes out: a `FilterQuestion`.
Does not: know recipient or queue ID; the question names neither.
"""

from __future__ import annotations

from dataclasses import dataclass

from milter_bounce.delivery import Action, DeliveryStatus, EnhancedStatus, Source

from .postfix_log import read_words
from .reply import parse_reply


@dataclass(frozen=True, slots=True)
class FilterQuestion:
    """One result of one recipient, before Postfix logs it."""

    code: EnhancedStatus
    """The enhanced status that Postfix is about to log; class 2 is a success."""

    text: str
    """The text that Postfix is about to log."""

    status: DeliveryStatus
    """The same as evidence."""


def read_filter_question(question: str) -> FilterQuestion | None:
    """Return what is asked; None for anything that does not begin with an enhanced status.

    Raises: nothing, on any text.
    """
    word, _, text = question.partition(" ")
    code = EnhancedStatus.from_text(word)
    if code is None:
        return None
    if code.class_ == 2:
        return FilterQuestion(code, text, DeliveryStatus(None, Action.DELIVERED, status=code, source=Source.FILTER))
    words = read_words(text)
    reply = parse_reply(words.diagnostic) if words.remote else None
    status = code
    if reply is not None and reply.status is not None and (code.subject, code.detail) == (0, 0):
        status = reply.status
    evidence = DeliveryStatus(
        recipient=None,
        action=Action.FAILED if code.class_ == 5 else Action.DELAYED,
        status=status,
        reply_code=reply.code if reply is not None else None,
        diagnostic=words.diagnostic or None,
        diagnostic_type="smtp" if words.remote else "x-postfix",
        remote_mta=words.name,
        remote_ip=words.address,
        command=words.command,
        source=Source.FILTER,
        local=not words.remote,
    )
    return FilterQuestion(code, text, evidence)
