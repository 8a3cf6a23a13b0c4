"""Whether a report may be believed: by the token that it returns, by keyed VERP, or because this MTA made it.

Goes in: the report, one of its statuses, how it came in, what we trust. Comes out:
a `Proof` with its reason. Does not: act on it (DESIGN.md section 7).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from . import token, verp
from .token import Keyring, Proof

if TYPE_CHECKING:
    import re

    from milter_bounce.delivery import DeliveryReport, DeliveryStatus


TOKENS_READ: Final = 5
"""Token fields that are tried: a message that passed other hosts with milter-bounce has theirs besides ours."""


@dataclass(frozen=True, slots=True)
class Trust:
    """What we believe in: keys, VERP patterns, the day, how long a token is good for, how many may share one."""

    keyring: Keyring = field(default_factory=Keyring)
    verp: tuple[re.Pattern[str], ...] = ()
    today: int = 0
    max_age: int = 14
    most: int = token.CROWD_CAP
    """Recipients of a message whose token is believed."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """How a report came in: the addresses it came to, and whether this MTA itself made it."""

    came_to: tuple[str, ...] = ()
    own: bool = False


def tokens_of(report: DeliveryReport) -> list[str]:
    """Return the token fields among the returned headers."""
    name = token.HEADER_NAME.lower()
    return [value for field_name, value in report.original_headers if field_name.lower() == name]


def _message_id(report: DeliveryReport) -> str | None:
    found = [v for n, v in report.original_headers if n.lower() == "message-id"]
    return token.fold_message_id(found[0]) if found else report.message_id


def verp_recipient(arrival: Arrival, trust: Trust) -> verp.Decoded | None:
    """Return what the VERP address that a report came to says; None where it came to none."""
    for address in arrival.came_to:
        if decoded := verp.decode(address, list(trust.verp)):
            return decoded
    return None


def believe(report: DeliveryReport, status: DeliveryStatus, arrival: Arrival, trust: Trust) -> Proof:
    """Return whether one status of a report is shown genuine, and why or why not."""
    if arrival.own:
        return Proof(True, "this MTA made the report")
    decoded = verp_recipient(arrival, trust)
    if decoded is not None and decoded.tag is not None:
        named = [token.fold_address(r) for r in (status.recipient, status.original_recipient) if r]
        if named and token.fold_address(decoded.recipient) not in named:
            return Proof(False, "the report is about another recipient than its VERP address")
        return token.check_verp_tag(decoded.tag, trust.keyring, decoded.recipient)
    if not trust.keyring:
        return Proof(False, "there is no key to check a token with (milter-bounce keys new)")
    values = tokens_of(report)
    if not values:
        plain = "; a plain VERP address proves nothing" if decoded else ""
        return Proof(False, f"the report returns no token of ours{plain}")
    proof = Proof(False, "")
    for value in values[:TOKENS_READ]:
        proof = token.check(
            value,
            trust.keyring,
            today=trust.today,
            max_age=trust.max_age,
            senders=arrival.came_to,
            message_id=_message_id(report),
            recipients=(status.recipient, status.original_recipient),
            most=trust.most,
        )
        if proof.genuine:
            break
    return proof


def proven(status: DeliveryStatus, proof: Proof) -> DeliveryStatus:
    """Return the status as far as it is proven: about the address that we mailed, wherever it was redirected to."""
    if not proof.genuine or proof.recipient is None or token.fold_address(status.recipient or "") == proof.recipient:
        return status
    ours = status.original_recipient or ""
    return replace(status, recipient=ours if token.fold_address(ours) == proof.recipient else proof.recipient)
