"""By what the store tells one status from another; and bytes that were no UTF-8 made into keys.

Goes in: a status or outcome. Comes out: the same with storable keys, or a key.
Does not: touch the file.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from .sqlite_rows import escaped, folded, plain

if TYPE_CHECKING:
    from milter_bounce.delivery import DeliveryStatus
    from milter_bounce.verdict import Outcome


_WHOLE: Final = "="
"""Before the message of a reply that was not about one recipient: to the connection, to MAIL, to DATA."""


def storable(status: DeliveryStatus) -> DeliveryStatus:
    """Return `status` with nothing in it that cannot be a key: bytes that were no UTF-8 come out escaped."""
    keys = (status.recipient or "", status.queue_id or "", status.sender or "", status.message_id or "")
    if all(map(str.isascii, keys)):
        return status
    recipient, queue_id, sender, message_id = (escaped(key) or None for key in keys)
    return replace(status, recipient=recipient, queue_id=queue_id, sender=sender, message_id=message_id)


def storable_outcome(outcome: Outcome) -> Outcome:
    """Return `outcome` with storable keys in status and advice."""
    status, advice = storable(outcome.status), outcome.advice
    if status is outcome.status:
        return outcome
    block, backoff = (None if key is None else escaped(key) for key in (advice.block, advice.backoff))
    return replace(outcome, status=status, advice=replace(advice, block=block, backoff=backoff))


def message_of(status: DeliveryStatus) -> str:
    """Return by what an undelivered message is told from another one to the same recipient."""
    return plain(status.message_id or status.queue_id or "", 255)


def evidence_of(status: DeliveryStatus) -> str:
    """Return by what a refusal is told from another: retries of one message to one recipient count once.

    So does one reply to a whole transaction, which the MTA logs for each of its recipients: see `occasion_of`.
    """
    mark = "" if status.command in {None, "RCPT"} else _WHOLE
    return f"{mark}{(status.queue_id or status.message_id or '')[:255]}\n{folded(status.recipient or '')}"


def occasion_of(evidence: str) -> str:
    """Return by what pieces of evidence are counted: the message where the reply was to all of it."""
    return evidence.partition("\n")[0] if evidence.startswith(_WHOLE) else evidence
