"""Who takes the mail of a domain, from its MX records.

Goes in: the records' text and a function from host to operator. Comes out: the
hosts in order, and the operator. Does not: ask the DNS.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from milter_bounce import limits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

MX_LIMIT: Final = limits.MX_HOSTS


def mx_hosts(values: Iterable[str]) -> list[str]:
    """Return the hosts of MX records such as ``10 mx.example.net.``, the preferred first, without final dots.

    The null MX (RFC 7505, 3: preference and a single dot) gives an empty name; see `is_null_mx`.
    """
    pairs = []
    for value in list(values)[:MX_LIMIT]:
        preference, _, host = value.partition(" ")
        if preference.isascii() and preference.isdigit():
            pairs.append((int(preference), host.strip().lower().removesuffix(".")))
    return [host for _, host in sorted(pairs)]


def is_null_mx(hosts: list[str]) -> bool:
    """Return whether the domain states that it takes no mail (RFC 7505, 3)."""
    return hosts == [""]


def operator_of_hosts(hosts: Iterable[str], operator_of: Callable[[str | None], str | None]) -> str | None:
    """Return the operator of the most preferred host that has a known one; None where none has."""
    return next(filter(None, map(operator_of, filter(None, hosts))), None)
