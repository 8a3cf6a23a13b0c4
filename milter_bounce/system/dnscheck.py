"""Our own set-up, tested as receivers will test it: names, SPF, DKIM, DMARC, MX.

Goes in: the settings and a resolver. Comes out: a `CheckResult` for each test,
with the refusal categories that it explains and the remedy. Does not: change
anything, or ask anything but the DNS.

SPF is evaluated by pyspf; its questions go through our resolver.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import spf

from milter_bounce.protocol.dnsbl import Family, family_of, pointer_name
from milter_bounce.protocol.dnswire import KNOWN, DnsReply, Outcome

from .dnslists import make_resolver, own_subjects, postconf
from .dnsmail import mail_domain
from .store_dns import MailKind

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from milter_bounce.config import Settings

    from .resolver import Resolver

RSA_1024_BYTES: Final = 158
"""Length of a 1,024-bit RSA public key in DER: 162 bytes with the usual exponent; shorter keys are not checked at all
by large receivers (RFC 8301, 3.2)."""

SPF_TIMEOUT_S: Final = 20
_RDNS: Final = ("rdns-missing",)
_AUTH: Final = ("auth-failure",)
_SENDER: Final = ("sender-rejected",)


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What one test found."""

    check: str
    """ptr, forward, helo, spf, dkim, dmarc, mx or setup."""

    subject: str
    """The address, name or domain tested."""

    ok: bool | None
    """None: the DNS did not tell."""

    text: str
    categories: tuple[str, ...] = ()
    """The refusals that a failure of this test explains."""

    remedy: str = ""


def _unknown(check: str, subject: str, reply: DnsReply, categories: tuple[str, ...]) -> CheckResult:
    text = f"the DNS does not tell: {reply.outcome}" + (f" ({reply.detail})" if reply.detail else "")
    return CheckResult(check, subject, None, text, categories, "see that dns.nameservers answer, then run this again")


async def own_setup(settings: Settings, resolver: Resolver) -> list[CheckResult]:
    """Return the tests of all our addresses and domains, in a fixed order.

    Raises:
        ConfigError: a configured domain is none.
    """
    subjects = own_subjects(settings.dns)
    addresses = [item for item in subjects if family_of(item) is not Family.DOMAIN]
    domains = [item for item in subjects if family_of(item) is Family.DOMAIN]
    helo = settings.dns.helo or postconf("smtp_helo_name").get("smtp_helo_name", "")
    jobs: list[Awaitable[list[CheckResult]]] = [_pointer(resolver, item) for item in addresses]
    jobs.append(_greeting(resolver, helo, addresses))
    for domain in domains:
        jobs.append(_mail_route(resolver, domain))
        jobs += [_sender_policy(resolver, address, domain, helo) for address in addresses]
        jobs += [_key(resolver, name) for name in _selectors(settings.dns.selectors, domain)]
        jobs.append(_dmarc(resolver, domain))
    return _missing(settings, addresses, domains) + [item for found in await asyncio.gather(*jobs) for item in found]


def check_own_setup(settings: Settings) -> list[CheckResult]:
    """Return `own_setup` with a resolver of its own; for callers without an event loop."""

    async def run() -> list[CheckResult]:
        resolver = make_resolver(settings.dns)
        try:
            return await own_setup(settings, resolver)
        finally:
            resolver.close()

    return asyncio.run(run())


def _missing(settings: Settings, addresses: Sequence[str], domains: Sequence[str]) -> list[CheckResult]:
    """Return what cannot be tested because nobody said what is ours."""
    found = []
    if not addresses:
        remedy = "name the addresses that our mail goes out from: dns.addresses"
        found.append(CheckResult("setup", "addresses", None, "no public address of ours is known", (), remedy))
    if not domains:
        remedy = "name the domains that we send for: dns.domains"
        found.append(CheckResult("setup", "domains", None, "no sender domain is known", (), remedy))
    elif not settings.dns.selectors:
        remedy = "name the DKIM selectors that sign: dns.selectors"
        found.append(CheckResult("setup", "selectors", None, "no DKIM selector is known", (), remedy))
    return found


# -- addresses ----------------------------------------------------------------


async def _addresses_of(resolver: Resolver, name: str) -> tuple[set[str], DnsReply]:
    replies = [await resolver.ask(name, type_) for type_ in ("A", "AAAA")]
    failed = next((reply for reply in replies if reply.outcome not in KNOWN), replies[0])
    return {value for reply in replies for value in reply.values}, failed


async def _pointer(resolver: Resolver, address: str) -> list[CheckResult]:
    """Return whether `address` has a name, and whether that name leads back (RFC 1912, 2.1)."""
    reply = await resolver.ask(pointer_name(address), "PTR")
    if reply.outcome not in KNOWN:
        return [_unknown("ptr", address, reply, _RDNS)]
    if not reply.values:
        remedy = f"have whoever gave you {address} set its reverse name (PTR) to the name that you greet with"
        return [CheckResult("ptr", address, ok=False, text="has no reverse name", categories=_RDNS, remedy=remedy)]
    names = [value.removesuffix(".").lower() for value in reply.values[:10]]
    results = [_generic(address, names[0]) or CheckResult("ptr", address, ok=True, text=f"is named {', '.join(names)}")]
    for name in names:
        back, failed = await _addresses_of(resolver, name)
        if address in back:
            return [*results, CheckResult("forward", address, ok=True, text=f"{name} leads back to {address}")]
        if failed.outcome not in KNOWN:
            return [*results, _unknown("forward", address, failed, _RDNS)]
    remedy = f"give {names[0]} an address record with {address}, or change the PTR to a name that has one"
    text = f"{', '.join(names)} does not lead back to {address}"
    return [*results, CheckResult("forward", address, ok=False, text=text, categories=_RDNS, remedy=remedy)]


def _generic(address: str, name: str) -> CheckResult | None:
    """Return the fault of a reverse name made from its address, as dial-up lines have; None for a proper one."""
    octets = address.split(".")
    made = [separator.join(order) for separator in "-." for order in (octets, octets[::-1])]
    if len(octets) != 4 or not any(item in name for item in made):
        return None
    remedy = "have the PTR set to a name of your own, such as the one that you greet with"
    text = f"{name} is made from the address, like those of dial-up lines"
    return CheckResult("ptr", address, ok=False, text=text, categories=_RDNS, remedy=remedy)


async def _greeting(resolver: Resolver, helo: str, addresses: Sequence[str]) -> list[CheckResult]:
    """Return whether the name that we greet with is one and leads to us (RFC 5321, 4.1.4; RFC 7208, 2.3)."""
    if not helo:
        return []
    remedy = "set Postfix's smtp_helo_name (myhostname) to a full name that has our address"
    if "." not in helo.strip(".") or family_of(helo.strip("[]")) is not Family.DOMAIN:
        return [CheckResult("helo", helo, ok=False, text="is no full name", categories=_RDNS, remedy=remedy)]
    found, failed = await _addresses_of(resolver, helo)
    if not found:
        if failed.outcome not in KNOWN:
            return [_unknown("helo", helo, failed, _RDNS)]
        return [CheckResult("helo", helo, ok=False, text="has no address", categories=_RDNS, remedy=remedy)]
    if addresses and not found & set(addresses):
        text = f"leads to {', '.join(sorted(found)[:4])}, none of which is ours"
        return [CheckResult("helo", helo, ok=False, text=text, categories=_RDNS, remedy=remedy)]
    return [CheckResult("helo", helo, ok=True, text="leads to us" if addresses else "has an address")]


# -- domains ------------------------------------------------------------------


async def _mail_route(resolver: Resolver, domain: str) -> list[CheckResult]:
    """Return whether mail back to `domain` has somewhere to go: receivers refuse senders that cannot be answered."""
    found = await mail_domain(resolver, domain, lambda _host: None, datetime.now(UTC), timedelta(days=1))
    if found is None:
        return [_unknown("mx", domain, await resolver.ask(domain, "MX"), _SENDER)]
    faults = {
        MailKind.NO_DOMAIN: ("does not exist", "register the domain or take it out of the senders"),
        MailKind.NO_HOST: ("has neither MX nor address", "give it an MX record, so that reports reach you"),
        MailKind.NULL_MX: ("states that it takes no mail (null MX)", "give it a real MX, or send from another domain"),
    }
    if found.kind in faults:
        text, remedy = faults[found.kind]
        return [CheckResult("mx", domain, ok=False, text=text, categories=_SENDER, remedy=remedy)]
    text = "has MX hosts" if found.kind is MailKind.MX else "has an address and no MX"
    return [CheckResult("mx", domain, ok=True, text=text)]


class _Query(spf.query):  # type: ignore[misc]  # pyspf has no types
    """pyspf's evaluation with our DNS. It runs in a thread; `ask` hands questions to the event loop."""

    def __init__(self, ask: Callable[[str, str], DnsReply], address: str, domain: str, helo: str) -> None:
        super().__init__(i=address, s=f"postmaster@{domain}", h=helo or domain, querytime=SPF_TIMEOUT_S)
        self._ask = ask

    def dns(self, name: str, qtype: str, cnames: object = None, ignore_void: bool = False) -> list[Any]:  # noqa: ARG002  # pyspf's
        """Return the records as pyspf wants them; void look-ups are counted (RFC 7208, 4.6.4)."""
        reply = self._ask(str(name), qtype) if qtype in {"A", "AAAA", "MX", "TXT", "PTR"} else DnsReply(Outcome.NODATA)
        if reply.outcome not in KNOWN:
            raise spf.TempError(f"DNS {reply.outcome}: {name}")
        found = [_for_spf(value, qtype) for value in reply.values]
        if not found and not ignore_void:
            self.void_lookups = getattr(self, "void_lookups", 0) + 1
            if self.void_lookups > spf.MAX_VOID_LOOKUPS:
                raise spf.PermError(f"Void lookup limit of {spf.MAX_VOID_LOOKUPS} exceeded")
        return found


def _for_spf(value: str, qtype: str) -> Any:
    if qtype == "TXT":
        return (value.encode("utf-8", "replace"),)
    if qtype == "MX":
        preference, _, host = value.partition(" ")
        return int(preference), host.removesuffix(".")
    return value.removesuffix(".")


async def _sender_policy(resolver: Resolver, address: str, domain: str, helo: str) -> list[CheckResult]:
    """Return whether the SPF record of `domain` covers `address` (RFC 7208)."""
    loop = asyncio.get_running_loop()

    def ask(name: str, type_: str) -> DnsReply:
        return asyncio.run_coroutine_threadsafe(resolver.ask(name, type_), loop).result(SPF_TIMEOUT_S)

    def evaluate() -> tuple[str, str]:
        result, _code, why = _Query(ask, address, domain, helo).check()
        return str(result), str(why)

    subject = f"{domain} from {address}"
    try:
        result, why = await asyncio.to_thread(evaluate)
    except Exception as error:  # pyspf raises what a strange record makes it raise
        result, why = "temperror", type(error).__name__
    if result == "pass":
        return [CheckResult("spf", subject, ok=True, text="the SPF record covers the address")]
    if result == "temperror":
        return [CheckResult("spf", subject, None, f"the DNS does not tell: {why}", _AUTH, "run this again")]
    faults = {
        "none": (
            "the domain has no SPF record",
            f'publish a TXT record at {domain}: "v=spf1 {_mechanism(address)} -all"',
        ),
        "permerror": (f"the SPF record is broken: {why}", "mend the record; receivers treat it as a failure"),
    }
    text, remedy = faults.get(
        result, (f"the SPF record says {result}", f"put {_mechanism(address)} into the SPF record of {domain}")
    )
    return [CheckResult("spf", subject, ok=False, text=text, categories=_AUTH, remedy=remedy)]


def _mechanism(address: str) -> str:
    return f"{'ip6' if ':' in address else 'ip4'}:{address}"


def _selectors(selectors: Iterable[str], domain: str) -> list[str]:
    """Return the names of the DKIM keys that concern `domain`."""
    names = []
    for item in selectors:
        if "._domainkey." not in item:
            names.append(f"{item}._domainkey.{domain}")
        elif item.lower().removesuffix(".").endswith(f"._domainkey.{domain}"):
            names.append(item)
    return names


def _tags(record: str) -> dict[str, str]:
    """Return a tag list such as ``v=DKIM1; p=...`` (RFC 6376, 3.2); blanks are taken out of the values."""
    pairs = (part.partition("=") for part in record.split(";"))
    return {key.strip().lower(): "".join(value.split()) for key, sign, value in pairs if sign}


async def _key(resolver: Resolver, name: str) -> list[CheckResult]:
    """Return whether there is a usable DKIM key at `name` (RFC 6376, 3.6.1)."""
    reply = await resolver.ask(name, "TXT")
    if reply.outcome not in KNOWN:
        return [_unknown("dkim", name, reply, _AUTH)]
    keys = [tags for tags in map(_tags, reply.values) if "p" in tags]
    if not keys:
        remedy = "publish the public key there, or take the selector out of dns.selectors"
        return [CheckResult("dkim", name, ok=False, text="has no DKIM key", categories=_AUTH, remedy=remedy)]
    fault = _key_fault(keys[0]) if len(keys) == 1 else ("has several keys", "leave one key at each selector")
    if fault:
        return [CheckResult("dkim", name, ok=False, text=fault[0], categories=_AUTH, remedy=fault[1])]
    return [CheckResult("dkim", name, ok=True, text="has a key")]


def _key_fault(tags: dict[str, str]) -> tuple[str, str] | None:
    """Return what is wrong with a key record, and the remedy; None for a good one."""
    if not tags["p"]:
        return "the key is revoked (empty p=)", "sign with another selector"
    if tags.get("v", "DKIM1") != "DKIM1":
        return f"the record is not of version DKIM1 but {tags['v'][:20]}", "mend the record"
    try:
        key = base64.b64decode(tags["p"], validate=True)
    except (binascii.Error, ValueError):
        return "the key is no base64", "publish it again; mind quotes and line ends"
    if tags.get("k", "rsa") == "rsa" and len(key) < RSA_1024_BYTES:
        return "the RSA key is shorter than 1,024 bits", "make one of 2,048 bits (RFC 8301)"
    return None


async def _dmarc(resolver: Resolver, domain: str) -> list[CheckResult]:
    """Return whether `domain` or a parent of it has one DMARC record (RFC 7489, 6.6.3)."""
    labels = domain.split(".")
    for start in range(max(len(labels) - 1, 1)):
        parent = ".".join(labels[start:])
        reply = await resolver.ask(f"_dmarc.{parent}", "TXT")
        if reply.outcome not in KNOWN:
            return [_unknown("dmarc", domain, reply, _AUTH)]
        records = [tags for tags in map(_tags, reply.values) if tags.get("v", "").upper() == "DMARC1"]
        if len(records) > 1:
            text, remedy = f"{parent} has several DMARC records, which count as none", "leave one"
            return [CheckResult("dmarc", domain, ok=False, text=text, categories=_AUTH, remedy=remedy)]
        if records:
            policy = records[0].get("p", "none")[:20]
            return [CheckResult("dmarc", domain, ok=True, text=f"has a DMARC record (p={policy}) at {parent}")]
    remedy = f'publish a TXT record at _dmarc.{domain}: "v=DMARC1; p=none; rua=mailto:postmaster@{domain}"'
    return [CheckResult("dmarc", domain, ok=False, text="has no DMARC record", categories=_AUTH, remedy=remedy)]
