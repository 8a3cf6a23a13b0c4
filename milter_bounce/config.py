"""Settings: TOML text becomes checked values; the field docs below are the manual.

Goes in: the text of ``milter-bounce.toml`` and its name. Comes out: `Settings`,
or `ConfigError` with one line that names file, key, value and remedy. Does not:
read files (``system`` does) or know the rules (``rules/`` does).

``conf/milter-bounce.toml`` is generated from here (``milter-bounce config``);
a test fails on any difference.
"""

from __future__ import annotations

import re
import textwrap
import tomllib
from ipaddress import ip_address, ip_network
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from . import limits
from .escape import harmless, printable
from .verdict import CATEGORIES


class ConfigError(Exception):
    """A configuration that cannot be used; its text is one line, safe for a terminal: file, key, value, remedy."""

    def __init__(self, text: str) -> None:
        super().__init__(harmless(text))


def _socket(value: str) -> str:
    inet = re.fullmatch(r"inet6?:([0-9]{1,5})@[^@\s]+", value)
    if inet and not 0 < int(inet[1]) < 65536:
        raise ValueError("write a port between 1 and 65535")
    if inet or value == "" or re.fullmatch(r"unix:/.+", value):
        return value
    raise ValueError("write unix:/absolute/path, inet:PORT@HOST, or an empty string to switch it off")


Socket = Annotated[str, AfterValidator(_socket)]


class _Section(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True, allow_inf_nan=False
    )


class MilterSection(_Section):
    """milterd: reads the reports that come in, in line. Attach it with smtpd_milters and non_smtpd_milters."""

    socket: Socket = "unix:/var/spool/postfix/milter-bounce/milter.sock"
    """Where milterd listens: unix:/path (fast, the default) or inet:PORT@HOST. Postfix names it relative to its queue
    directory: unix:milter-bounce/milter.sock."""

    max_message_bytes: int = Field(limits.MESSAGE_BYTES, ge=4096, le=67_108_864)
    """Bytes of a report that are read; the rest passes unread. Reports return headers or a part of the message, so
    1 MiB holds all but freaks."""

    header: bool = True
    """Add an X-Milter-Bounce header with the verdict to each report."""


class LogSection(_Section):
    """Where advice lines go, and which log logd follows."""

    output: Literal["auto", "syslog", "postlog", "stdout", "file"] = "auto"
    """auto: Postfix's own log where maillog_file is set (through public/postlog in the queue directory), else the
    syslog socket, else standard output."""

    output_file: str = Field("", validate_default=True)
    """With output = "file": the file that lines are appended to. Under the shipped systemd units only
    /var/log/milter-bounce can be written: /var/log/milter-bounce/advice.log, rotated by conf/logrotate/milter-bounce."""

    syslog_socket: str = "/dev/log"
    """The syslog socket; lines go there with facility mail."""

    queue_directory: str = "/var/spool/postfix"
    """Postfix's queue directory: public/postlog lies in it."""

    follow: str = "auto"
    """The log that logd follows: a file, journal, - for standard input, or auto: postconf's maillog_file, else
    /var/log/mail.log, else the journal."""

    from_start: bool = False
    """Read a log that is there when logd starts for the very first time from its beginning, not from its end."""

    @field_validator("output_file")
    @classmethod
    def _output_file(cls, value: str, info: ValidationInfo) -> str:
        if info.data.get("output") == "file" and not value.startswith("/"):
            raise ValueError('with output = "file" name the file here: /absolute/path')
        return value


class StoreSection(_Section):
    """What is remembered: episodes, suppressions, blocks, counts."""

    path: str = "/var/lib/milter-bounce/state.db"
    """The SQLite file, shared by all programs of this host; its folder must be theirs to write."""

    lock_wait_s: float = Field(5.0, ge=0, le=60)
    """How long a program waits while another one writes; milterd 0.2 s at most. The gate never waits."""

    episodes_days: float = Field(14.0, ge=3, le=365)
    """A recipient that was neither mailed nor failed for so long starts anew; suppressions stay."""

    counts_days: float = Field(90.0, ge=1, le=3650)
    """How long the hourly counts per operator and category are kept."""

    blocks_days: float = Field(90.0, ge=1, le=3650)
    """How long blocks stay on record after they ended."""

    waiting_days: float = Field(10.0, ge=1, le=60)
    """How long a queue ID is remembered that left the queue unseen; above Postfix's maximal_queue_lifetime."""

    operators_days: float = Field(90.0, ge=1, le=3650)
    """How long it is remembered who runs the mail of a domain, after the last mail to it."""


MINUTES_MOST: Final = 14_400
"""Ten days: give_up_after_h takes no more."""


def _minutes(value: tuple[float, float]) -> tuple[float, float]:
    if not 0 < value[0] <= value[1] <= MINUTES_MOST:
        raise ValueError(
            f"give least and most minutes before the first retry, at most {MINUTES_MOST}, for example [5, 15]"
        )
    return value


def _category(value: str) -> str:
    if value not in CATEGORIES:
        raise ValueError("no such category; TAXONOMY lists them, for example greylisted")
    return value


class AdviceSection(_Section):
    """When a failed message is tried again, and when no more."""

    schedule: Literal["guide", "prompt"] = "guide"
    """guide: first retry 2-4 h after the first soft failure, doubling, 48 h in all. prompt: the same, but 5-30 min first
    for connection, DNS, TLS and system errors and busy mailboxes. Greylisting is retried in minutes by both."""

    categories: dict[
        Annotated[str, AfterValidator(_category)],
        # TOML has arrays, not tuples; the numbers in them stay strict
        Annotated[tuple[float, float], Field(strict=False), AfterValidator(_minutes)],
    ] = {}
    """A category's own first retry: { mailbox-full = [240, 480] } draws it between 240 and 480 minutes."""

    give_up_after_h: float = Field(48.0, gt=0, le=240)
    """Nothing is tried later than this after the first failure."""

    retry_after_min_m: float = Field(1.0, gt=0, le=1440)
    """A waiting time that the reply itself states is honoured, but not below so many minutes ..."""

    retry_after_max_h: float = Field(24.0, gt=0, le=240)
    """... and not above so many hours."""

    hard_limit: int = Field(1, ge=1, le=10)
    """Undelivered messages with a permanent failure of the address after which it is suppressed."""

    soft_limit: int = Field(4, ge=1, le=100)
    """Undelivered messages with a soft failure within soft_window_days after which it is suppressed; a delivery resets
    the count."""

    soft_window_days: float = Field(30.0, gt=0, le=365)
    """The window of soft_limit."""

    backoff_threshold: int = Field(3, ge=1, le=1000)
    """Messages that a domain fails for reasons of its own (rate, network, system) before the whole domain is left in
    peace; for a large operator block.threshold stands instead."""

    backoff_min_m: float = Field(10.0, gt=0, le=1440)
    """The first pause of such a domain in minutes; each next one is twice as long ..."""

    backoff_max_m: float = Field(60.0, gt=0, le=1440)
    """... up to this."""

    time_scale: float = Field(1.0, gt=0, le=1)
    """For demonstrations and tests: every time of this section and of block is multiplied by it; 0.000277778 makes
    seconds of hours."""


class BlockSection(_Section):
    """Destinations that refuse us: when one counts as blocked, and how it comes free again."""

    threshold: int = Field(10, ge=1, le=100_000)
    """Messages that a large operator (one that the rules know by name) refuses within window_m before it counts as
    blocked; a delivery in between takes one off. A domain of its own is blocked at once."""

    window_m: float = Field(60.0, gt=0, le=10_080)
    """The window of the threshold in minutes."""

    probe_after_4xx_h: float = Field(4.0, ge=0, le=240)
    """Hours after a refusal with 4xx until one message is let through to learn whether the block still stands;
    0 = never."""

    probe_after_5xx_h: float = Field(24.0, ge=0, le=240)
    """The same after a refusal with 5xx."""

    max_days: float = Field(7.0, gt=0, le=90)
    """A block ends by itself after so many days."""

    ramp_m: float = Field(60.0, ge=0, le=1440)
    """After a successful probe the share of recipients that may pass doubles from 1/16 to all within so many
    minutes."""

    believe_reports: bool = False
    """Whether refusals count towards a block that only a report of another system tells of. Whoever gets mail of ours
    can write such reports about himself, and ten subscribers could hold the mail to an operator. Turn it on where all
    mail goes through a relay that reports what the receivers say, and nobody can subscribe by himself."""


class RulesSection(_Section):
    """The rules that classify."""

    local: str = "/etc/milter-bounce/rules.d"
    """Folder of the administrator's own rules (*.toml); they come before all shipped ones. It may be missing."""

    shipped: str = ""
    """Folder of the shipped rules; empty: the ones that came with the program."""


class AnswerSection(_Section):
    """answerd: answers the MTA's questions from what is remembered. An empty socket switches a service off."""

    socket: Socket = "unix:/var/spool/postfix/milter-bounce/answer.sock"
    """Status filter and Sendmail's map (socketmap). Postfix names it relative to its queue directory."""

    gate_socket: Socket = "unix:/var/spool/postfix/milter-bounce/gate.sock"
    """The queue gate (memcached text protocol), asked by a rewrite service that only the queue manager uses."""

    policy_socket: Socket = "unix:/var/spool/postfix/milter-bounce/policy.sock"
    """The policy service for submission (check_policy_service)."""

    socket_group: str = "postfix"
    """The group that may connect to unix sockets (mode 0660); empty: leave them to the user that runs answerd."""

    annotate: bool = False
    """Put [class=... category=... advice=... rule=...] in front of the status text: it then stands in Postfix's own log
    line, in postqueue -p and in the report to the sender."""

    connections: int = Field(limits.CONNECTIONS, ge=10, le=100_000)
    """Connections at one time on each socket; more are closed at once, which the MTA takes as "no opinion"."""

    idle_s: int = Field(limits.IDLE_S, ge=20, le=86_400)
    """Seconds after which a silent connection is closed; Postfix's own clients stay silent for 100 s at most."""

    request_s: int = Field(limits.REQUEST_S, ge=1, le=600)
    """Seconds in which a question that has begun must end."""


class GateSection(_Section):
    """What the queue gate holds back; only with mode = "enforce". Each can be switched off by itself."""

    hold_early: bool = True
    """Keep a recipient deferred until the time that the advice states."""

    hold_blocks: bool = True
    """Keep mail to a destination that blocks us deferred until the block is lifted."""

    refuse_suppressed: bool = True
    """Return mail to a suppressed recipient (5.1.1) instead of trying it."""

    give_up: bool = True
    """Return a message that was tried in vain for the whole schedule (5.4.7); with Postfix only where [due] is on."""

    on_policy_block: Literal["hold", "bounce"] = "hold"
    """hold: mail to a destination that blocks us waits. bounce: it is returned to the sender at once (5.7.1)."""


class CorrectSection(_Section):
    """Corrections: replies whose first digit says the wrong thing, in the status filter; only with mode = "enforce".

    A success is never touched, and nothing becomes one.
    """

    soften: bool = True
    """A passing condition that comes as 5xx (full mailbox, temporary suspension, rate) becomes 4.x.x and is retried."""

    harden: bool = True
    """A permanent one that comes as 4xx (disabled account, unknown user) becomes 5.x.x and is returned."""

    policy: bool = True
    """A policy refusal that comes as 5xx becomes 4.x.x, so that it waits for the block to be lifted; not with
    on_policy_block = "bounce"."""

    off_categories: list[str] = []
    """Categories that are never corrected."""

    off_rules: list[str] = []
    """Rules (by id) whose verdict never corrects anything."""

    @field_validator("off_categories")
    @classmethod
    def _known(cls, value: list[str]) -> list[str]:
        if unknown := sorted(set(value) - set(CATEGORIES)):
            raise ValueError(f"no such category: {unknown[0]}; TAXONOMY lists them")
        return value


class PolicySection(_Section):
    """Refusal at submission (policy service, Sendmail's map); only with mode = "enforce"."""

    refuse_suppressed: bool = True
    """Refuse a suppressed recipient with 550 5.1.1, since when and why."""

    allow_senders: list[str] = []
    """Envelope senders that are never refused: addresses, domains, or .domain for its subdomains."""

    allow_recipients: list[str] = []
    """Recipients that are never refused or held, written alike."""


class DueSection(_Section):
    """Retrying on time, only with mode = "enforce".

    answerd asks Postfix to try a message again when its recipient falls due or a block is lifted.
    """

    enabled: bool = True
    """Ask at all. Off: the messages wait for the queue manager's own next run."""

    every_s: float = Field(5.0, gt=0, le=3600)
    """Seconds between two looks at what has fallen due."""

    per_second: float = Field(20.0, gt=0, le=1000)
    """Messages asked for in one second at most."""

    mta: Literal["auto", "postfix", "sendmail"] = "auto"
    """Whose queue it is. auto: Postfix's where postqueue(1) is installed, else Sendmail's."""

    sendmail_command: Annotated[list[str], Field(min_length=1)] = ["/usr/sbin/sendmail"]
    """What starts Sendmail for its queue (-qI). Only root and Sendmail's TrustedUser may; from another user for example
    ["sudo", "-n", "/usr/sbin/sendmail"] with a rule in sudoers."""

    config_directory: str = ""
    """Postfix's configuration directory (postqueue -c); empty: Postfix's own default."""


def _ip(value: str) -> str:
    try:
        ip_address(value)
    except ValueError:
        raise ValueError("write one IPv4 or IPv6 address, without port or mask") from None
    return value


def _nameserver(value: str) -> str:
    found = re.fullmatch(r"([0-9.]+)(?::([0-9]{1,5}))?|\[([0-9a-fA-F:.]+)\](?::([0-9]{1,5}))?|([0-9a-fA-F:]+)", value)
    try:
        ip_address((found[1] or found[3] or found[5]) if found else value)
        if found and int(found[2] or found[4] or 53) < 65536:
            return value
    except ValueError:
        pass
    raise ValueError("write ADDRESS, ADDRESS:PORT or [IPv6]:PORT; a host name would have to be asked for")


class DnsSection(_Section):
    """dnsd: watches what the blocklists say about us, and learns who runs the mail of a domain.

    `milter-bounce blocklists` and `milter-bounce check` use it too.
    """

    addresses: list[Annotated[str, AfterValidator(_ip)]] = []
    """The IP addresses that our mail goes out from, IPv4 and IPv6. Empty: found from Postfix's smtp_bind_address,
    smtp_bind_address6 and inet_interfaces. Behind address translation name the outer ones."""

    domains: list[str] = []
    """The domains that we send for: watched on domain lists, and tested by `milter-bounce check`."""

    learn: bool = True
    """Watch addresses too that refusals name as ours ("your IP [192.0.2.1]"): from the second refusal on."""

    watch: bool = True
    """Ask the lists at all. Off: dnsd only looks up operators (dns.operators)."""

    lists: list[str] = []
    """The lists to watch, by zone. Empty: every live one of rules/blocklists.toml, but for parts of another, scores,
    allow lists, and lists that want a key or a registration; with their key in keys_file those too. A dead list is
    refused."""

    without: list[str] = []
    """Lists, by zone, that are not watched though they would be."""

    interval_s: int = Field(900, ge=1, le=86_400)
    """Seconds between two rounds; a list that a refusal names is asked at once."""

    nameservers: list[Annotated[str, AfterValidator(_nameserver)]] = []
    """Resolvers to ask. Empty: those of /etc/resolv.conf. Lists refuse public resolvers: run one of your own."""

    timeout_s: float = Field(2.5, gt=0, le=30)
    """Seconds that one try waits for an answer."""

    attempts: int = Field(2, ge=1, le=5)
    """Tries of each resolver before an answer counts as unknown."""

    queries_per_second: float = Field(100.0, ge=0, le=100_000)
    """Questions a second at most; 0: no limit. Free use of several lists ends at some 100,000 a day."""

    in_flight: int = Field(100, ge=1, le=10_000)
    """Questions under way at once, all lists together."""

    in_flight_per_list: int = Field(8, ge=1, le=1000)
    """Questions under way at once for one list, so that a list that never answers delays only itself."""

    keys_file: str = ""
    """File with the keys of paid lists: one line each, zone and key; readable by its owner alone."""

    operators: bool = True
    """Look up the MX of recipient domains whose operator is not known from the log; never while the MTA waits."""

    operator_days: float = Field(7.0, gt=0, le=365)
    """Days for which such an operator is believed, at most; the DNS's own time to live counts when it is shorter, but
    an hour at least."""

    helo: str = ""
    """Name that our MTA greets with. Empty: Postfix's smtp_helo_name."""

    selectors: list[str] = []
    """DKIM selectors of our domains, each as "selector" (for all of dns.domains) or "selector._domainkey.example.com"."""


class TokenSection(_Section):
    """The report token: which reports are believed. Without keys only this MTA's own reports are."""

    keys: str = "/etc/milter-bounce/keys"
    """Folder of the keys (`milter-bounce keys new`), mode 0400 each; the one made last stamps, all are believed until
    their files are removed. Copy them to every host of a fleet."""

    stamp: bool = True
    """Put X-Milter-Bounce-Token on outgoing mail, when there is a key."""

    networks: list[str] = ["127.0.0.0/8", "::1/128"]
    """Clients in these networks send outgoing mail; so do authenticated clients and sendmail(1)."""

    max_age_days: int = Field(14, ge=1, le=365)
    """Days that a token is believed: longer than any queue keeps a message (Postfix: 5 days) and its report another."""

    believed_recipients: int = Field(limits.ENVELOPE_RECIPIENTS, ge=1, le=limits.ENVELOPE_RECIPIENTS)
    """Recipients of a message whose token is believed: each of them could write a report about any other of them.
    1 = only of messages to one recipient, as lists send them; reports on others are only logged."""

    verp: list[str] = []
    """VERP patterns of our lists: bounce+{user}={domain}@lists.example.com names the recipient and proves nothing;
    with {tag} (bounce+{tag}={user}={domain}@...; addresses by `milter-bounce keys verp`) it is a proof."""

    on_forged: Literal["accept", "reject", "quarantine"] = "accept"
    """What becomes of a delivery report that returns our message's headers with a wrong token, or none where all our
    mail has one: accept (it is only not believed), reject, or quarantine (Postfix's hold queue)."""

    @field_validator("networks")
    @classmethod
    def _networks(cls, value: list[str]) -> list[str]:
        for network in value:
            ip_network(network)
        return value

    @field_validator("verp")
    @classmethod
    def _verp(cls, value: list[str]) -> list[str]:
        for pattern in value:
            fields = sorted(re.findall(r"\{(.*?)\}", pattern))
            if fields not in (["domain", "user"], ["domain", "tag", "user"]):
                raise ValueError("a VERP pattern holds {user} and {domain} once each, and {tag} if keyed")
        return value


class NotifySection(_Section):
    """Whom logd and dnsd tell when a block or a listing begins: at most once for each."""

    command: list[str] = []
    """Program and arguments to run, without a shell; the notice comes as one JSON object on its standard input."""

    mail_to: list[str] = []
    """Addresses to mail, through sendmail(1). It loses its set-gid bit under the shipped systemd units: with Postfix
    group postdrop and ReadWritePaths= of the unit stand in for it; with Sendmail set command instead, for example to a
    program that speaks SMTP to this host."""

    mail_from: str = ""
    """Sender of that mail; empty: the user that logd runs as."""

    sendmail: str = "/usr/sbin/sendmail"
    """The program that takes the mail."""

    timeout_s: int = Field(30, ge=1, le=600)
    """Seconds after which a program that has not ended is ended."""


class Settings(_Section):
    """milter-bounce.toml - every option at its default. Remove the # to change one."""

    mode: Literal["advise", "enforce"] = "advise"
    """advise: classify, log, remember; the queue goes on as before. enforce: the queue follows the advice, capability
    by capability (sections gate, answer, milter)."""

    user: str = "milter-bounce"
    """The user that the programs run as when started by root; it must exist then. Empty: stay root (tests only)."""

    milter: MilterSection = MilterSection()
    log: LogSection = LogSection()
    store: StoreSection = StoreSection()
    answer: AnswerSection = AnswerSection()
    gate: GateSection = GateSection()
    correct: CorrectSection = CorrectSection()
    policy: PolicySection = PolicySection()
    due: DueSection = DueSection()
    token: TokenSection = TokenSection()
    advice: AdviceSection = AdviceSection()
    block: BlockSection = BlockSection()
    rules: RulesSection = RulesSection()
    dns: DnsSection = DnsSection()
    notify: NotifySection = NotifySection()


_REMEDY: Final = {
    "extra_forbidden": "no such option; `milter-bounce config` lists them all",
    "missing": "set it",
}


def load(text: str, name: str) -> Settings:
    """Return the settings that the TOML `text` of the file `name` holds.

    Raises:
        ConfigError: one line with file, key, value and remedy; the first fault found.
    """
    try:
        values = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # tomllib lets through what int() says to 5,000 digits
        raise ConfigError(f"{name}: is not TOML: {error}; mend that line") from None
    return from_values(values, name)


def from_values(values: dict[str, Any], name: str) -> Settings:
    """Return checked settings from nested values; `name` stands in errors.

    Raises:
        ConfigError: as `load`.
    """
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = printable(".".join(map(str, first["loc"])), 200)
        value = _shown(first["input"])
        remedy = _REMEDY.get(first["type"], first["msg"].removeprefix("Value error, "))
        raise ConfigError(f"{name}: {key} = {value[:120]}: {printable(remedy)}") from None


def _shown(value: object) -> str:
    """Return a value for an error; three dots where it has none: thousands of digits, or of tables in each other."""
    try:
        return repr(value)
    except (ValueError, RecursionError):
        return "..."


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_toml(item)}" for key, item in value.items()) + " }" if value else "{}"
    return str(value)


def _comment(text: str | None) -> list[str]:
    words = " ".join((text or "").split())
    return [f"# {line}" for line in textwrap.wrap(words, 100, break_long_words=False, break_on_hyphens=False)]


def _options(model: type[BaseModel]) -> list[str]:
    lines: list[str] = []
    for key, info in model.model_fields.items():
        default = info.get_default(call_default_factory=True, validated_data={})
        if isinstance(default, BaseModel):
            continue
        lines += [*_comment(info.description), f"#{key} = {_toml(default)}", ""]
    return lines


def sample() -> str:
    """Return ``conf/milter-bounce.toml``: every option with its manual, commented out at its default."""
    lines = [*_comment(Settings.__doc__), "", *_options(Settings)]
    for key, info in Settings.model_fields.items():
        if isinstance(info.default, BaseModel):
            section = type(info.default)
            lines += [*_comment(section.__doc__), f"[{key}]", "", *_options(section)]
    return "\n".join(lines).rstrip() + "\n"
