"""Readers of mail addresses in fields and in running text.

Goes in: a field's value or a line of a report. Comes out: addresses without
brackets, comments or address type. Does not: check that a domain exists.

Section: RFC 5321 4.1.2, RFC 3464 2.1.2 (address types), RFC 3461 4 (xtext), RFC 6531 (addresses beyond ASCII).
Raises: nothing.
"""

from __future__ import annotations

import re
from typing import Final

ADDRESS: Final = (
    r"(?:\"[^\"\n@]{1,64}\"|[^\s<>()\[\]\\,;:@\"'`“”「」（）：，。、；|=][^\s<>()\[\]\\,;:@\"`“”「」（）：，。、；|]{0,63})"
    r"@(?:[A-Za-z0-9\u0080-\U0010ffff](?:[A-Za-z0-9._\u0080-\U0010ffff-]{0,252}[A-Za-z0-9\u0080-\U0010ffff])?|\[[0-9A-Fa-f.:IPv]{3,60}\])"
)
"""Pattern of an address in text: lengths of RFC 5321, 4.5.3.1, characters that real mailboxes have.

The parts before and after the ``@`` are bounded, so that a search is linear.
"""

_ADDRESS = re.compile(ADDRESS)
_TYPED = re.compile(r"\s*(?:([A-Za-z0-9][A-Za-z0-9._+-]{0,40})\s*;\s*)?(.*)", re.DOTALL)
_GLUED = re.compile(
    r"(?:[^\x00-\x7f@]{1,64}(?=[\x21-\x7e]{2}))?([\x21-\x7e]{1,64}@[A-Za-z0-9.-]{1,250}\.[A-Za-z]{2,24})(?:[^\x00-\x7f]|$)"
)
# a field that is one address and nothing else: gateways make local parts longer than 64 (IMCEAEX-_O=..., SRS1)
_WHOLE = re.compile(r"[^\s<>()\[\]\\,;:@\"]{65,320}@[A-Za-z0-9](?:[A-Za-z0-9.-]{0,252}[A-Za-z0-9])?")
_XTEXT = re.compile(r"\+([0-9A-F]{2})")
# of a whole address only the characters that xtext must encode: "+A1" is also how people tag their addresses
_XTEXT_MUST = re.compile(r"\+(2B|3D|40)")
_EMBEDDED = re.compile(r"\\x\{([0-9A-Fa-f]{2,6})\}")
_LOCAL_ONLY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=+-]{0,63}")


def address_in(text: str) -> str | None:
    """Return the first address in `text`, or None."""
    if "@" not in text:
        return None
    found = _ADDRESS.search(text[:2000])
    return clean(found[0]) if found else None


def addresses_in(text: str) -> list[str]:
    """Return every address in `text`, in order, each once."""
    if "@" not in text:
        return []
    return list(dict.fromkeys(clean(a) for a in _ADDRESS.findall(text[:20_000])))


def clean(address: str) -> str:
    """Return an address without quotes, brackets and sentence marks around it."""
    address = address.strip().strip("<>'`“”‘’")
    address = address.removeprefix("mailto:")
    address = address.rstrip(".,;:!?")
    # running text without blanks (Chinese, Arabic commas): an ASCII domain ends where other letters begin
    glued = None if address.isascii() else _GLUED.match(address)
    return glued[1] if glued else address


def typed_address(value: str | None) -> str | None:
    """Return the address of a ``type; address`` field; None for none that has a local part and a domain.

    Section: RFC 3464 2.3.1 and 2.3.2. The type may be absent, the address bracketed, xtext (RFC 3461 4) or
    utf-8-addr-xtext (RFC 6533 3).
    """
    if not value:
        return None
    found = _TYPED.match(value[:1000])
    rest = (found[2] if found else value).strip()
    if "+" in rest:
        pattern = _XTEXT if "@" not in rest and "+40" in rest else _XTEXT_MUST
        rest = pattern.sub(lambda m: chr(int(m[1], 16)), rest)
    if "\\x{" in rest:
        rest = _EMBEDDED.sub(_character, rest)
    if rest.startswith("<") and rest.endswith(">"):
        rest = rest[1:-1]
    address = rest if _WHOLE.fullmatch(rest) else address_in(rest)
    return address if address and not address.startswith("@") else None


def _character(found: re.Match[str]) -> str:
    """Return the character that an EmbeddedUnicodeChar stands for; what stands for none stays as it is."""
    point = int(found[1], 16)
    return chr(point) if point <= 0x10FFFF and not 0xD800 <= point <= 0xDFFF else found[0]


def bare_recipient(value: str | None) -> str | None:
    """Return a recipient without domain (a local mailbox), as old Sendmail and Exim report it."""
    if not value:
        return None
    found = _TYPED.match(value[:1000])
    rest = (found[2] if found else value).strip().strip("<>")
    return rest if _LOCAL_ONLY.fullmatch(rest) else None


def same(one: str | None, other: str | None) -> bool:
    """Tell whether two addresses are the same for our purposes: case never matters in practice."""
    return bool(one) and bool(other) and str(one).lower() == str(other).lower()
