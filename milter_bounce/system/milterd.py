"""milterd - reads the delivery reports that come in, in line, and advises.

SYNOPSIS
    milter-bounce milterd [-c CONF] [--events jsonl] [--explain]

DESCRIPTION
    A milter (pymilter) for Postfix and Sendmail. A message with a null reverse-path
    or a report's content type is read to its end, up to milter.max_message_bytes;
    each recipient it tells of gets one advice line in the mail log, an
    X-Milter-Bounce header field and its place in the store. Ordinary mail is let go
    at the end of its headers, or with a key when it has come whole. Outgoing mail gets a report token (section
    [token]); in mode enforce, suppressed recipients are refused at RCPT.

SIGNALS
    HUP reads configuration, rules and keys again; broken ones leave the old in
    force and log why, and what only a restart puts in force is named. TERM ends the
    program.

DIAGNOSTICS
    Warnings and advice go to the mail log. Exit status 0 after TERM, 2 for a wrong
    configuration (one line: file, key, remedy), 1 when the socket cannot be had.

LIMITS
    1 MiB of a message (milter.max_message_bytes), 256 KiB of header fields, 1,000
    recipients of a report, the words of its first 50 different replies (beyond, codes
    alone decide), 20 header fields added. A report waits 0.4 s for the store at most; what
    it does not take then is remembered later, 10,000 recipients at most, in memory.

SECURITY
    Started as root it becomes settings.user before it reads a byte from outside.
    The socket is made with mode 0660 in a folder that only the MTA's group enters.
    Every failure inside lets the message pass unchanged.
    Who got one of our messages can write a report about any other recipient of the
    same message, since all hold its token: token.believed_recipients = 1 believes
    only reports on messages to one. Who may run sendmail(1) here can hand in a report
    with an empty sender, which looks like this MTA's own: run logd, and nothing is
    learnt from those; Postfix's authorized_submit_users says who may.

BUGS
    libmilter keeps SIGHUP and SIGTERM for itself and takes four seconds to leave; so
    a parent process takes the signals and starts the milter anew when it dies.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import threading
import time
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

import Milter
import milter

from milter_bounce import limits
from milter_bounce.config import ConfigError
from milter_bounce.protocol import token
from milter_bounce.protocol.genuine import Arrival
from milter_bounce.protocol.milter import HEADER_NAME, Message, Step

from . import keys, nanny
from .desk import Desk
from .heartbeat import Heartbeat
from .maillog import MailLog
from .memory import settle
from .reloading import renewed, tell_at_start
from .settings import load_settings
from .sockets import folder_remedy
from .store import StoreError

if TYPE_CHECKING:
    from milter_bounce.config import Settings

NAME: Final = "milter-bounce"
TIMEOUT_S: Final = 600
"""Seconds that libmilter waits for the MTA: longer than any step of Postfix (300 s) or Sendmail."""

BACKLOG: Final = 200
BEAT_S: Final = 1.0
MACROS: Final = "i {auth_authen} {client_addr} {client_port} {daemon_port} _"
"""What is asked of the MTA at MAIL. Sent as str through the context: pymilter 1.0.5's own setsymlist() hands bytes to a
C function that wants str since Python 3.11, and its negotiate() swallows the TypeError."""

_NEVER: Final = milter.P_NOCONNECT | milter.P_NOHELO | milter.P_NODATA | milter.P_NOUNKNOWN
_SILENT: Final = (milter.P_NR_MAIL, milter.P_NR_RCPT, milter.P_NR_HDR, milter.P_NR_EOH, milter.P_NR_BODY)
_CONTINUE, _NOREPLY, _ACCEPT = int(Milter.CONTINUE), int(Milter.NOREPLY), int(Milter.ACCEPT)
_STEPS: Final = {Step.CONTINUE: _CONTINUE, Step.ACCEPT: _ACCEPT}


class Service:
    """What all sessions of the milter share."""

    def __init__(self, settings: Settings, log: MailLog, *, events: bool, explain: bool) -> None:
        self.desk = Desk(settings, log, events=events, explain=explain)
        self.log = log
        self.use(settings)

    def use(self, settings: Settings) -> None:
        """Put `settings` in force for the sessions to come."""
        networks = [ipaddress.ip_network(n) for n in settings.token.networks]

        @lru_cache(maxsize=limits.CLIENTS_KEPT)
        def is_ours(address: str) -> bool:
            """Return whether a client's address is in the networks that send outgoing mail."""
            try:
                client = ipaddress.ip_address(address.removeprefix("IPv6:"))
            except ValueError:
                return False
            return any(client in network for network in networks if network.version == client.version)

        self.settings = settings
        self.is_ours = is_ours
        self.key = self.desk.engine.trust.keyring.stamping if settings.token.stamp else None
        """The key that stamps outgoing mail, if it is to be stamped."""

        self.today = keys.today()
        """The day that tokens bear, looked at every second."""

        self.refuses = settings.mode == "enforce" and settings.policy.refuse_suppressed
        """Whether suppressed recipients are refused at RCPT."""


class Session(Milter.Base):  # type: ignore[misc]
    """One connection of the MTA; the conversation itself is in ``protocol.milter``."""

    service: Service
    _at_mail = _at_rcpt = _at_header = _at_eoh = _at_body = _CONTINUE
    """What each step is answered with where no answer of ours matters: `negotiate` says which go unanswered."""

    def __init__(self) -> None:
        self.message = Message(0)

    def negotiate(self, opts: list[int]) -> int:
        """Switch off every step and every reply that is not needed.

        Without stamping, ordinary mail is let go at the end of its headers. With stamping, most messages are followed
        to their end, where alone a field can be added, and each answer before makes the MTA wait once more: there is
        none, and the end of the headers is not told at all: Postfix sends its macros with every step, and libmilter
        asks the socket five times for each. SKIP at the first piece of a body would be an answer, and pays off from
        some 150 KB on only.
        """
        wishes = _NEVER | milter.P_NR_MAIL | milter.P_NR_HDR | milter.P_NR_BODY
        if self.service.key is not None:
            wishes |= milter.P_NOEOH | milter.P_NR_EOH
        if not self.service.refuses:
            wishes |= milter.P_NR_RCPT
        opts[1] &= wishes
        opts[2] = opts[3] = 0
        self._at_mail, self._at_rcpt, self._at_header, self._at_eoh, self._at_body = (
            _NOREPLY if opts[1] & silent else _CONTINUE for silent in _SILENT
        )
        try:
            self._ctx.setsymlist(Milter.M_ENVFROM, MACROS)
            self._ctx.setsymlist(Milter.M_EOM, "i {msg_id}")
        except (TypeError, milter.error):  # an MTA without symbol lists sends its own choice of macros
            pass
        return _CONTINUE

    def envfrom_bytes(self, sender: bytes, *params: bytes) -> int:
        """Begin a message."""
        del params
        service = self.service
        stamp = service.key is not None
        self.message = message = Message(service.settings.milter.max_message_bytes, stamp=stamp)
        message.mail(sender)
        message.outgoing = (stamp or service.refuses) and not message.is_report and self._is_ours()
        return self._at_mail

    @property
    def _internal(self) -> bool:
        """Whether the message did not come by SMTP: then Postfix's cleanup says port 0 (3.7.11); Sendmail says nothing."""
        symbol = self._ctx.getsymval
        return bool(symbol("{client_port}") == "0" and symbol("{daemon_port}") == "0")

    def _is_ours(self) -> bool:
        """Return whether the message goes out through us."""
        symbol = self._ctx.getsymval
        address = symbol("{client_addr}") or _bracketed(symbol("_"))
        return self.service.is_ours(address or "") or bool(symbol("{auth_authen}")) or self._internal

    def envrcpt_bytes(self, recipient: bytes, *params: bytes) -> int:
        """Note a recipient; refuse a suppressed one where that is wanted."""
        del params
        self.message.rcpt(recipient)
        if self._at_rcpt == _NOREPLY:
            return _NOREPLY
        if self.service.refuses and self.message.outgoing and not self._internal:
            return self._refuse_suppressed(_text(recipient))
        return _CONTINUE

    def _refuse_suppressed(self, recipient: str) -> int:
        try:
            text = self.service.desk.refusal(recipient, _text(self.message.sender))
        except StoreError:  # no store, no opinion
            return _CONTINUE
        if text is None:
            return _CONTINUE
        plain = text.encode("ascii", "backslashreplace").decode("ascii")
        self._ctx.setreply("550", "5.1.1", plain.replace("%", "%%"))
        return int(Milter.REJECT)

    def header_bytes(self, name: str, value: bytes) -> int:
        """Note a header field."""
        self.message.header(name, value)
        return self._at_header

    def eoh(self) -> int:
        """Let ordinary mail go."""
        return _NOREPLY if self._at_eoh == _NOREPLY else _STEPS[self.message.end_of_headers()]

    def body(self, chunk: bytes) -> int:
        """Note a piece of the body."""
        message = self.message
        if self._at_body == _NOREPLY and not message.is_report:
            return _NOREPLY
        step = message.body(chunk)
        return _NOREPLY if self._at_body == _NOREPLY else _STEPS[step]

    def eom(self) -> int:
        """Judge a report, stamp outgoing mail; whatever goes wrong, the message passes."""
        message = self.message
        try:
            if message.forged_headers:
                self._remove_forged(message.forged_headers)
            if message.is_report:
                return self._report()
            if message.outgoing:
                self._stamp(message)
        except Exception as error:  # mail flows: our fault must not become the MTA's
            self.service.log.warning(f"{self._ctx.getsymval('i')}: milter failed, the message passes: {error!r}")
        return _ACCEPT

    def _remove_forged(self, count: int) -> None:
        for index in range(count, 0, -1):
            self._ctx.chgheader(HEADER_NAME, index, "")

    def _report(self) -> int:
        message = self.message
        came_to = tuple(map(_text, message.recipients))
        internal = self._internal
        own = internal and message.sender.strip() in {b"", b"<>"}
        handled = self.service.desk.handle(message.content(), self._ctx.getsymval("i"), Arrival(came_to, own))
        if self.service.settings.milter.header:
            for value in handled.headers:
                self._ctx.addheader(HEADER_NAME, value)
        if handled.refuse == "quarantine":
            self._ctx.quarantine("milter-bounce: report without a valid token")
        if handled.refuse == "reject" and not internal:
            self._ctx.setreply("550", "5.7.1", "this delivery report is not about a message of ours")
            return int(Milter.REJECT)
        return _ACCEPT

    def _stamp(self, message: Message) -> None:
        service, given, value = self.service, message.message_id, None
        if service.key is None:
            return
        if given and len(message.recipients) == 1 and not message.more_recipients:
            value = token.mint_plain(service.key, service.today, message.sender, given, message.recipients[0])
        value = value or self._minted(message, service.key)
        if value is not None:
            self._ctx.addheader(token.HEADER_NAME, value)

    def _minted(self, message: Message, key: token.Key) -> str | None:
        """Return the token of any message; None for one without Message-ID."""
        given = message.message_id
        # a message without Message-ID: Sendmail has chosen what it will add, and tells (seen with 8.17.1)
        stated = given.decode("utf-8", "surrogateescape") if given else self._ctx.getsymval("{msg_id}") or ""
        message_id = token.fold_message_id(stated)
        if not message_id:
            return None
        sender = message.sender.decode("utf-8", "surrogateescape")
        recipients = () if message.more_recipients else map(_text, message.recipients)
        return token.mint(key, self.service.today, sender, message_id, recipients)

    def close(self) -> int:
        """Forget the connection."""
        return _CONTINUE


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape").strip()


def _bracketed(symbol: str | None) -> str | None:
    """Return the address in ``name [192.0.2.1]``, the macro `_` of both MTAs."""
    return symbol.rpartition("[")[2].partition("]")[0] if symbol and "[" in symbol else None


def _open(name: str) -> None:
    """Have libmilter listen on `name`; what connects waits until it is run.

    Raises:
        ConfigError, SocketFault: it cannot be had; see `nanny.clear_socket`.
    """
    if name.startswith("unix:"):
        nanny.clear_socket(name.removeprefix("unix:"))
        os.umask(0o117)
    milter.register(NAME)
    milter.setconn(name)
    try:
        milter.opensocket(False)
    except milter.error:
        raise nanny.SocketFault(f"{name}: cannot listen: {_why(name)}") from None


def _why(name: str) -> str:
    """Return why a socket cannot be had: libmilter tells the syslog alone."""
    kind, _, place = name.partition(":")
    if kind == "unix":
        folder = Path(place).parent
        return f"its folder cannot be written; {folder_remedy(folder)}"
    port, _, host = place.partition("@")
    try:
        with socket.socket(socket.AF_INET6 if kind == "inet6" else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, int(port)))
            probe.listen()
    except OSError as error:
        return f"{error.strerror}; see who has it with ss -ltnp, or set milter.socket"
    return "libmilter refuses it; set milter.socket"


def _serve(settings: Settings, config_path: Path | None, orders: int, *, events: bool, explain: bool) -> int:
    """Run the milter in this process until it is told to end; `orders` is the read end of the parent's pipe."""
    log = MailLog(settings.log, "milterd")
    service = Service(settings, log, events=events, explain=explain)
    Session.service = service

    def renew() -> Settings:
        fresh = load_settings(config_path)
        service.desk.reload(fresh)
        service.use(fresh)
        settle()
        return fresh

    def obey() -> None:
        """Reload at each byte; leave when the orders end. libmilter would take four seconds to leave by itself."""
        while os.read(orders, 1):
            fresh = renewed(renew, log.warning)
            if fresh is not None:
                log.line("configuration, rules and keys read again")
                tell_at_start("milterd", settings, fresh, log.warning)
        service.desk.flush()
        log.close()
        os._exit(0)

    def live() -> None:
        heart = Heartbeat()
        heart.ready()
        while True:
            heart.beat()
            service.today = keys.today()
            time.sleep(BEAT_S)

    threading.Thread(target=obey, daemon=True).start()
    Milter.factory = Session
    Milter.set_flags(Milter.ADDHDRS | Milter.CHGHDRS | Milter.QUARANTINE | milter.SETSYMLIST)
    milter.set_exception_policy(Milter.CONTINUE)  # the default is TEMPFAIL: our fault would hold mail up
    milter.setbacklog(BACKLOG)
    _open(settings.milter.socket)
    settle()
    log.line(f"listening on {settings.milter.socket}, mode {settings.mode}")
    threading.Thread(target=live, daemon=True).start()
    service.desk.start()
    try:
        Milter.runmilter(NAME, settings.milter.socket, TIMEOUT_S, rmsock=False)
    finally:
        service.desk.flush()
        log.close()
    return 0


def main(settings: Settings, config_path: Path | None = None, *, events: bool = False, explain: bool = False) -> int:
    """Run milterd until TERM; return the exit status.

    Raises:
        ConfigError, RulesError: before anything is started.
    """
    if not settings.milter.socket:
        raise ConfigError('milter.socket = "": milterd is switched off; name a socket, or do not start it')
    nanny.drop_privileges(settings, config_path)
    return nanny.supervise(
        lambda settings, orders: _serve(settings, config_path, orders, events=events, explain=explain),
        settings,
        lambda: load_settings(config_path),
        MailLog(settings.log, "milterd"),
    )
