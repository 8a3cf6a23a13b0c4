"""Who runs the mail of a domain, asked of the DNS: MX, null MX, no domain at all.

Goes in: a resolver, domains, and the rules' ``operator_of``. Comes out: a
`MailDomain` for each that the DNS told of; a domain whose look-up failed is
left out and asked again later. Does not: run while an MTA waits.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from milter_bounce.protocol.dnswire import KNOWN, DnsReply, Outcome
from milter_bounce.protocol.mailhost import is_null_mx, mx_hosts, operator_of_hosts

from .store_dns import MailDomain, MailKind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from datetime import datetime

    from .resolver import Resolver

LEAST: Final = timedelta(hours=1)
WORKERS: Final = 20


async def mail_domain(
    resolver: Resolver,
    domain: str,
    operator_of: Callable[[str | None], str | None],
    now: datetime,
    most: timedelta,
) -> MailDomain | None:
    """Return who runs the mail of `domain`, believed for the answer's time to live within an hour and `most`.

    Section: RFC 5321 5.1 (MX, else the address), RFC 7505 (null MX).
    Returns: None where the DNS did not tell (timeout, SERVFAIL): that says nothing about the domain.
    """
    reply = await resolver.ask(domain, "MX")
    if reply.outcome not in KNOWN:
        return None
    until = now + max(LEAST, min(timedelta(seconds=reply.ttl_s or 0), most))
    if reply.outcome is Outcome.NXDOMAIN:
        return MailDomain(domain, MailKind.NO_DOMAIN, None, until)
    hosts = mx_hosts(reply.values)
    if is_null_mx(hosts):
        return MailDomain(domain, MailKind.NULL_MX, None, until)
    if hosts:
        return MailDomain(domain, MailKind.MX, operator_of_hosts(hosts, operator_of), until)
    kind = await _without_mx(resolver, domain)
    return None if kind is None else MailDomain(domain, kind, operator_of(domain), until)


async def _without_mx(resolver: Resolver, domain: str) -> MailKind | None:
    replies: list[DnsReply] = [await resolver.ask(domain, type_) for type_ in ("A", "AAAA")]
    if any(reply.values for reply in replies):
        return MailKind.IMPLICIT
    return MailKind.NO_HOST if all(reply.outcome in KNOWN for reply in replies) else None


async def mail_domains(
    resolver: Resolver,
    domains: Iterable[str],
    operator_of: Callable[[str | None], str | None],
    now: datetime,
    most: timedelta,
) -> list[MailDomain]:
    """Return what the DNS tells of these domains, `WORKERS` of them asked side by side."""
    found: list[MailDomain] = []
    left = iter(domains)

    async def work(left: Iterator[str]) -> None:
        for domain in left:
            item = await mail_domain(resolver, domain, operator_of, now, most)
            if item is not None:
                found.append(item)

    await asyncio.gather(*(work(left) for _ in range(WORKERS)))
    return found
