"""The report token: a header of ours on outgoing mail that a genuine report brings back.

Goes in: envelope, Message-ID, day, keys. Comes out: the header's value, or
whether a returned one proves that a report is about our message and recipient.
Does not: read keys from disk or know the day (both are arguments).

The value is ``v1; k=KEY; d=DAY; m=MAC; r=MAC,MAC...`` - DAY counts days since
1970-01-01 UTC; each MAC of ``r`` covers version, key, day, envelope sender,
Message-ID and one recipient, ``m`` the same and the whole of ``r``. Above
`RECIPIENT_CAP` recipients the MACs of ``r`` are shorter and have no commas.
``r=*``, above `CROWD_CAP`, names none: it shows that the message is ours, and
convicts nobody.

STRENGTH
    HMAC-SHA256 (RFC 2104, RFC 6234), ``m`` cut to 128 bits, ``r`` to 48, in a crowd to 24: a forger
    needs a token that we made for a message of the same sender, and then one try
    in 2^48 for each further recipient; of a crowd of 1,000 the token fits one
    address in 16,777 that got no mail. Who received a message of ours can forge a
    report about himself, and about whoever else got that same message: `check`
    believes tokens of so many recipients as it is told.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from milter_bounce import limits
from milter_bounce.delivery import lowered

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

HEADER_NAME: Final = "X-Milter-Bounce-Token"
VERSION: Final = "v1"
MAC_BYTES: Final = 16
"""128 bits: RFC 2104, 5 asks for half the hash's length at least."""

RECIPIENT_MAC_BYTES: Final = 6
CROWD_MAC_BYTES: Final = 3
RECIPIENT_CAP: Final = limits.TOKEN_RECIPIENTS
CROWD_CAP: Final = limits.ENVELOPE_RECIPIENTS
VALUE_LIMIT: Final = limits.TOKEN_VALUE

DAY_SLACK: Final = 1
"""Days into the future that are believed: the hosts of a fleet disagree about midnight."""

VERP_TAG_BYTES: Final = 5
"""40 bits as eight base32 characters: local parts end at 64 characters (RFC 5321, 4.5.3.1.1) and may lose their case."""

_BLOCK_BYTES: Final = 64
_IPAD: Final = bytes(byte ^ 0x36 for byte in range(256))
_OPAD: Final = bytes(byte ^ 0x5C for byte in range(256))
_URL_SAFE: Final = bytes.maketrans(b"+/", b"-_")
_IN_BRACKETS: Final = re.compile(rb"<([!-~]+)>")
KEY_ID: Final = re.compile(r"[0-9a-z]{1,16}")
_VALUE: Final = re.compile(
    r"v1;k=([0-9a-z]{1,16});d=(0|[1-9][0-9]{0,5});m=([A-Za-z0-9_-]{22});"
    r"r=(\*|[A-Za-z0-9_-]{8}(?:,[A-Za-z0-9_-]{8})*|(?:[A-Za-z0-9_-]{4}){3,})"
)


@dataclass(frozen=True, slots=True)
class Key:
    """A secret with its name; `made` is its day, the youngest key stamps."""

    id: str
    secret: bytes = field(repr=False)
    made: int = 0
    _inner: hashlib._Hash = field(init=False, repr=False, compare=False)
    _outer: hashlib._Hash = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Let both hashes of HMAC (RFC 2104, 2) read the key, and the inner one what every MAC covers first.

        Python's hmac does so for each MAC anew, or copies through OpenSSL's HMAC: in a milter that has just waited for
        its MTA, and so finds nothing in the processor's caches, each costs twice what these two copies do.
        """
        secret = self.secret if len(self.secret) <= _BLOCK_BYTES else hashlib.sha256(self.secret).digest()
        block = secret.ljust(_BLOCK_BYTES, b"\0")
        inner = hashlib.sha256(block.translate(_IPAD))
        inner.update(_raw(f"{VERSION}\0{self.id}\0"))
        object.__setattr__(self, "_inner", inner)
        object.__setattr__(self, "_outer", hashlib.sha256(block.translate(_OPAD)))

    def mac(self, covered: bytes) -> bytes:
        """Return HMAC-SHA256 of version, key and `covered`: 32 bytes."""
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(covered)
        outer.update(inner.digest())
        return outer.digest()


class Keyring:
    """All keys that are believed; the youngest one stamps."""

    def __init__(self, keys: Iterable[Key] = ()) -> None:
        self.keys: Mapping[str, Key] = {key.id: key for key in keys}
        self.stamping = max(self.keys.values(), key=lambda k: (k.made, k.id), default=None)

    def __bool__(self) -> bool:
        return bool(self.keys)


@dataclass(frozen=True, slots=True)
class Proof:
    """Whether something was shown genuine, and why or why not, in words."""

    genuine: bool
    reason: str
    recipient: str | None = None
    """Of the addresses that were asked about, the one that is proven, folded; None where the proof names none."""

    ours: bool = False
    """Whether it is about a message of ours, at least: no backscatter."""


def fold_address(address: str) -> str:
    """Return an address as it is compared: no brackets, lower case.

    RFC 5321, 2.4 leaves the local part its case, but receivers change it in their reports.
    """
    return lowered(address.strip().removeprefix("<").removesuffix(">"))


def fold_message_id(value: str) -> str:
    """Return a Message-ID as it is covered: no blanks, no brackets."""
    return "".join(value.split()).removeprefix("<").removesuffix(">")


def _raw(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _mac(key: Key, size: int, covered: bytes) -> str:
    return _short(key, covered, size).decode()


def _message_mac(key: Key, message: bytes, covered: str) -> str:
    """Return ``m``; it covers ``r``, too: no recipient is put in, and none left out to look like the only one."""
    return _mac(key, MAC_BYTES, b"message\0" + message + b"\0" + covered.encode())


def _is_crowd(covered: str) -> bool:
    return len(covered) > 8 and "," not in covered


def _recipient_mac(key: Key, size: int, message: bytes, recipient: str) -> str:
    return _mac(key, size, b"recipient\0" + message + b"\0" + _raw(recipient))


def mint(key: Key, day: int, sender: str, message_id: str, recipients: Iterable[str]) -> str:
    """Return the header's value for one outgoing message; no recipients are more than `CROWD_CAP`."""
    message = _raw(f"{day}\0{fold_address(sender)}\0{message_id}")
    each = list(dict.fromkeys(map(fold_address, recipients)))
    if 0 < len(each) <= RECIPIENT_CAP:
        covered = shown = ",".join([_recipient_mac(key, RECIPIENT_MAC_BYTES, message, r) for r in each])
    elif 0 < len(each) <= CROWD_CAP:
        macs = [_recipient_mac(key, CROWD_MAC_BYTES, message, r) for r in each]
        covered, lines = "".join(macs), ("".join(macs[at : at + 16]) for at in range(0, len(macs), 16))
        shown = "\n ".join(lines)  # a line of a message ends at 998 characters (RFC 5322, 2.1.1)
    else:
        covered = shown = "*"
    return f"{VERSION}; k={key.id}; d={day}; m={_message_mac(key, message, covered)}; r={shown}"


def mint_plain(key: Key, day: int, sender: bytes, message_id: bytes, recipient: bytes) -> str | None:
    """Return what `mint` does for the commonest message; None where `mint` is to be asked.

    That is one to one recipient, all three in brackets and printable ASCII without blanks, as an MTA hands them over.
    A milter that has waited for its MTA finds nothing in the processor's caches: each call less is felt.
    """
    plain = _IN_BRACKETS.fullmatch
    by, about, to = plain(sender), plain(message_id), plain(recipient)
    if by is None or about is None or to is None:
        return None
    message = b"%d\0%b\0%b" % (day, by[1].lower(), about[1])
    own = _short(key, b"recipient\0%b\0%b" % (message, to[1].lower()), RECIPIENT_MAC_BYTES)
    whole = _short(key, b"message\0%b\0%b" % (message, own), MAC_BYTES)
    return f"{VERSION}; k={key.id}; d={day}; m={whole.decode()}; r={own.decode()}"


def _short(key: Key, covered: bytes, size: int) -> bytes:
    # base64url (RFC 4648, 5) in one call
    return binascii.b2a_base64(key.mac(covered)[:size], newline=False).translate(_URL_SAFE, b"=")


def check(
    value: str,
    keyring: Keyring,
    *,
    today: int,
    max_age: int,
    senders: Iterable[str],
    message_id: str | None,
    recipients: Iterable[str | None],
    most: int = CROWD_CAP,
) -> Proof:
    """Return whether a returned token proves a report about one recipient.

    Args:
        value: the field as it came back; folding and blanks are forgiven.
        keyring: the keys that are believed.
        today: days since 1970-01-01 UTC.
        max_age: days that a token is believed.
        senders: the addresses that the report came to: one of them sent the message.
        message_id: of the returned message.
        recipients: final and original recipient of the status; one of them must be covered, and is what is proven:
            whoever got a message may say that it was redirected to anybody.
        most: recipients of a message whose token proves anything: each of them holds what proves a report about any other.
    """
    found = _VALUE.fullmatch("".join(value[:VALUE_LIMIT].split()))
    if found is None:
        return Proof(False, "the token is malformed or cut")
    key_id, day, mac, covered = found[1], int(found[2]), found[3], found[4]
    key = keyring.keys.get(key_id)
    if key is None:
        return Proof(False, f"the token's key {key_id} is not among ours")
    if not today - max_age <= day <= today + DAY_SLACK:
        return Proof(False, f"the token is of day {day}, today is {today} and it is believed for {max_age} days")
    if not message_id:
        return Proof(False, "the report returns no Message-ID for the token to cover")
    for sender in map(fold_address, senders):
        message = _raw(f"{day}\0{sender}\0{message_id}")
        if hmac.compare_digest(_message_mac(key, message, covered), mac):
            return _covers(key, message, covered, [fold_address(r) for r in recipients if r], most)
    return Proof(False, "the token is not for a message of the address that the report came to")


def _covers(key: Key, message: bytes, covered: str, recipients: list[str], most: int) -> Proof:
    if covered == "*":
        return Proof(False, f"the token is ours and names no recipient: there were more than {CROWD_CAP}", ours=True)
    if _is_crowd(covered):
        size, macs = CROWD_MAC_BYTES, [covered[at : at + 4] for at in range(0, len(covered), 4)]
    else:
        size, macs = RECIPIENT_MAC_BYTES, covered.split(",")
    if len(macs) > most:
        reason = f"the token is shared by {len(macs)} recipients, more than token.believed_recipients ({most})"
        return Proof(False, reason, ours=True)
    for recipient in recipients:
        own = _recipient_mac(key, size, message, recipient)
        if any(hmac.compare_digest(own, mac) for mac in macs):
            return Proof(True, f"token of key {key.id} covers the recipient", recipient, ours=True)
    return Proof(False, "the token is ours but does not cover this recipient")


def verp_tag(key: Key, recipient: str) -> str:
    """Return the tag of a keyed VERP address for `recipient`: eight characters, case does not matter."""
    digest = key.mac(b"verp\0" + _raw(fold_address(recipient)))[:VERP_TAG_BYTES]
    return base64.b32encode(digest).decode().lower()


def check_verp_tag(tag: str, keyring: Keyring, recipient: str) -> Proof:
    """Return whether `tag` is ours for `recipient`, under any key of the ring; that address is what is proven."""
    fits = [
        hmac.compare_digest(verp_tag(key, recipient), tag.lower()) for key in keyring.keys.values() if tag.isascii()
    ]
    return (
        Proof(True, "keyed VERP address", fold_address(recipient))
        if any(fits)
        else Proof(False, "the VERP tag is not ours")
    )
