"""A parent for a program whose library keeps the signals for itself (libmilter).

The parent takes HUP and TERM, hands HUP on through a pipe, starts the child anew
when it dies, after a longer rest each time it dies early, and leaves nothing
behind when it ends. A child that cannot have its socket is not started again. At
HUP it reads the settings as well, for the children to come. When the parent itself
is killed, the child reads the end of the pipe and ends as well.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from milter_bounce.config import ConfigError, Settings
from milter_bounce.decide.rule_toml import RulesError
from milter_bounce.escape import harmless

from .heartbeat import EVERY_S, Heartbeat
from .settings import name_of
from .sockets import TAKEN, NoSocketError, folder_remedy, listened, refuse_other

if TYPE_CHECKING:
    from .maillog import MailLog

LEAVE_S: Final = 5.0
"""Seconds that the child has to leave before it is killed."""

REST_S: Final = 1.0
"""Seconds before a child that died at once is started again: a broken start must not spin. Twice as long each time ..."""

LONGEST_REST_S: Final = 30.0
"""... up to this."""

STEADY_S: Final = 60.0
"""A child that has lived so long is thought well: its next death is a first one."""

WRONG_CONFIGURATION: Final = 2
NO_SOCKET: Final = 3
"""Said by the child to its parent, which ends with status 1."""

_SIGNALS: Final = {signal.SIGHUP, signal.SIGTERM, signal.SIGINT, signal.SIGCHLD}


class SocketFault(Exception):  # noqa: N818 - a fault of the host, not of ours
    """A socket that cannot be had; the text names address and remedy."""


def drop_privileges(settings: Settings, config_path: Path | None = None) -> None:
    """Become settings.user when started as root; an empty user stays root (tests only).

    `config_path` stands in errors.

    Raises:
        ConfigError: there is no such user, or it is not ours to become.
    """
    if os.geteuid() != 0 or not settings.user:
        return
    try:
        entry = pwd.getpwnam(settings.user)
    except KeyError:
        raise ConfigError(
            f"{name_of(config_path)}: user = {settings.user!r}: no such user; "
            f"adduser --system --group {settings.user}, or name another"
        ) from None
    try:
        os.initgroups(settings.user, entry.pw_gid)
        os.setgid(entry.pw_gid)
        os.setuid(entry.pw_uid)
    except PermissionError:  # a unit's filter or an empty CapabilityBoundingSet leaves root without the right
        raise ConfigError(
            f"{name_of(config_path)}: user = {settings.user!r}: root may not become it here; "
            f"set User={settings.user} in the systemd unit"
        ) from None


def clear_socket(path: str) -> None:
    """Remove a socket that nobody listens on any more.

    Raises:
        ConfigError: something else lies there.
        SocketFault: a program still listens, or the folder is missing or closed to us.
    """
    folder = Path(path).parent
    try:
        refuse_other(Path(path))
        if listened(Path(path)):
            raise SocketFault(f"{path}: {TAKEN}")
        Path(path).unlink(missing_ok=True)
        if not folder.is_dir():
            raise SocketFault(f"{path}: its folder is missing; {folder_remedy(folder)}")
    except NoSocketError as error:
        raise ConfigError(str(error)) from None
    except PermissionError as error:
        raise SocketFault(f"{path}: {error.strerror}; {folder_remedy(folder)}") from None


Serve = Callable[[Settings, int], int]
"""What runs in the child: settings and the read end of its orders; returns its exit status."""


def _child(serve: Serve, settings: Settings, orders: int) -> int:
    """Run `serve` in a fresh child; never returns to the caller's code."""
    # TERM and HUP stay blocked: a thread that had them unblocked would die of them before libmilter's sigwait sees them
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
    try:
        return serve(settings, orders)
    except (ConfigError, RulesError, SocketFault) as error:
        sys.stderr.write(f"milter-bounce: {harmless(str(error))}\n")
        return NO_SOCKET if isinstance(error, SocketFault) else WRONG_CONFIGURATION
    except Exception as error:  # the parent starts a new child; this one tells why it went
        sys.stderr.write(f"milter-bounce: {type(error).__name__}: {harmless(str(error))}\n")
        return 1


class _Nanny:
    def __init__(self, serve: Serve, settings: Settings, load: Callable[[], Settings], log: MailLog) -> None:
        self._serve, self._settings, self._load, self._log = serve, settings, load, log
        self._pid = self._orders = 0
        self._started = 0.0
        self._rest_s = REST_S

    def start(self) -> None:
        """Fork a child; it gets the read end of a new pipe."""
        reading, self._orders = os.pipe()
        self._started = time.monotonic()
        self._pid = os.fork()
        if self._pid == 0:
            os.close(self._orders)
            code = _child(self._serve, self._settings, reading)
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        os.close(reading)

    def reap(self) -> int | None:
        """Return the child's exit status once it has died, negative for a signal; None while it lives."""
        pid, status = os.waitpid(self._pid, os.WNOHANG)
        if pid == 0:
            return None
        os.close(self._orders)
        return os.waitstatus_to_exitcode(status)

    def reload(self) -> None:
        """Have the child read its files again, and keep the settings for those to come; broken ones leave the last."""
        with contextlib.suppress(Exception):  # the child reads the same file, and tells what is wrong with it
            self._settings = self._load()
        with contextlib.suppress(BrokenPipeError):  # it has just died: the next one starts from these settings
            os.write(self._orders, b"r")

    def end(self) -> None:
        """End the child: the end of its orders tells it to leave; by force when it does not."""
        os.close(self._orders)
        deadline = time.monotonic() + LEAVE_S
        while os.waitpid(self._pid, os.WNOHANG)[0] == 0:
            if time.monotonic() > deadline:
                os.kill(self._pid, signal.SIGKILL)
            time.sleep(0.02)

    def again(self, code: int) -> bool:
        """Start a new child for one that died, after a rest; return False where we were told to end meanwhile."""
        lived = time.monotonic() - self._started
        if lived >= STEADY_S:
            self._rest_s = REST_S
        rest, self._rest_s = max(0.0, self._rest_s - lived), min(2 * self._rest_s, LONGEST_REST_S)
        how = f"signal {-code}" if code < 0 else f"exit status {code}"
        self._log.warning(f"the program died ({how}) and is started again in {rest:.1f} s")
        if self._told_to_end(rest):
            return False
        self.start()
        return True

    @staticmethod
    def _told_to_end(seconds: float) -> bool:
        """Wait; return whether TERM came. Whoever supervises us hears that it is not a hang."""
        heart, end = Heartbeat(), time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if signal.sigtimedwait({signal.SIGTERM, signal.SIGINT}, min(left, EVERY_S)) is not None:
                return True
            heart.beat()
        return False


def supervise(serve: Serve, settings: Settings, load: Callable[[], Settings], log: MailLog) -> int:
    """Run ``serve(settings, orders)`` in a child until TERM; return the exit status, 1 where its socket cannot be had.

    A child that is started after a HUP gets what `load` returned then, not the `settings` of the first one. `orders` is
    a file descriptor: each byte on it means "reload", its end means "write what waits and leave at once".
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    nanny = _Nanny(serve, settings, load, log)
    nanny.start()
    settled = False
    while True:
        match signal.sigwait(_SIGNALS):
            case signal.SIGHUP:
                nanny.reload()
            case signal.SIGTERM | signal.SIGINT:
                nanny.end()
                return 0
            case signal.SIGCHLD if (code := nanny.reap()) is not None:
                if code == NO_SOCKET:
                    return 1
                if code == WRONG_CONFIGURATION and not settled:
                    return code
                settled = True
                if not nanny.again(code):
                    return 0
