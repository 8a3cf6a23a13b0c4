"""Variable envelope return paths: an address of ours that names the recipient of the message it was sent for.

Goes in: the administrator's patterns and an address that a report came to. Comes
out: the recipient that it names and the tag, if the pattern has one. Does not:
believe it (`token.check_verp_tag` does, for keyed ones).

A pattern is an address with ``{user}`` and ``{domain}``, and ``{tag}`` in the keyed
variant: ``bounce+{user}={domain}@lists.example.com``,
``bounce+{tag}={user}={domain}@lists.example.com``. Postfix's own form (VERP_README)
is ``owner-list+{user}={domain}@example.com``.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from milter_bounce import limits

ADDRESS_LIMIT: Final = limits.ADDRESS

_FIELDS: Final = {
    "user": r"(?P<user>[^\s@<>]{1,64})",
    "domain": r"(?P<domain>[A-Za-z0-9](?:[A-Za-z0-9.-]{0,252}[A-Za-z0-9])?)",
    "tag": r"(?P<tag>[A-Za-z2-7]{8})",
}


class Decoded(NamedTuple):
    """What a VERP address says; `tag` is None where the pattern has none."""

    recipient: str
    tag: str | None


def compile_pattern(pattern: str) -> re.Pattern[str]:
    """Return the expression for one pattern.

    Raises:
        ValueError: it lacks {user} or {domain}, or names something else; the text says what to do.
    """
    parts = re.split(r"\{([a-z]+)\}", pattern)
    names = parts[1::2]
    if sorted({*names}) not in (["domain", "user"], ["domain", "tag", "user"]) or len(names) != len({*names}):
        raise ValueError("a VERP pattern holds {user} and {domain} once each, and {tag} if keyed")
    literal = [re.escape(part) for part in parts[::2]]
    fields = [_FIELDS[name] for name in names]
    return re.compile("".join(a + b for a, b in zip(literal, [*fields, ""], strict=True)), re.IGNORECASE)


def decode(address: str, patterns: list[re.Pattern[str]]) -> Decoded | None:
    """Return what the first fitting pattern reads out of `address`; None where none fits."""
    bare = address.strip().removeprefix("<").removesuffix(">")
    if len(bare) > ADDRESS_LIMIT:
        return None
    for pattern in patterns:
        if found := pattern.fullmatch(bare):
            groups = found.groupdict()
            return Decoded(f"{groups['user']}@{groups['domain'].lower()}", groups.get("tag"))
    return None


def encode(pattern: str, recipient: str, tag: str | None = None) -> str:
    """Return the VERP address for `recipient` under `pattern`."""
    user, _, domain = recipient.rpartition("@")
    return pattern.replace("{user}", user).replace("{domain}", domain).replace("{tag}", tag or "")
