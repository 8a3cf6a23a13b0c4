"""HUP: the files are read again, and what is wrong with them never ends or stops a program.

Goes in: a function that makes the new from the files. Comes out: the new, or nothing
and a line that says so. Does not: put it in force (each program does, at its own moment).
"""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, Final, TypeVar

from milter_bounce.config import ConfigError
from milter_bounce.decide.rule_toml import RulesError
from milter_bounce.verdict import printable

if TYPE_CHECKING:
    from collections.abc import Callable

    from milter_bounce.config import Settings

T = TypeVar("T")

KEPT: Final = "not reloaded, the old configuration stays in force"

_ALL: Final = ("user", "log.output", "log.output_file", "log.syslog_socket", "log.queue_directory")
_STORE: Final = ("store.path", "store.lock_wait_s")
AT_START: Final = {
    "milterd": (*_ALL, *_STORE, "milter.socket"),
    "answerd": (
        *_ALL,
        "answer.socket",
        "answer.gate_socket",
        "answer.policy_socket",
        "answer.socket_group",
        "answer.connections",
        "answer.idle_s",
        "answer.request_s",
    ),
    "logd": (*_ALL, *_STORE, "log.follow"),
    "dnsd": (*_ALL, *_STORE),
}
"""Options of each program that are bound to what it holds open: sockets, files, its user."""


def renewed(make: Callable[[], T], warn: Callable[[str], object]) -> T | None:
    """Return what `make` makes of the files as they are now; None, and one warning, where it fails in any way."""
    try:
        return make()
    except (ConfigError, RulesError) as error:
        warn(f"{KEPT}: {error}")
    except Exception as error:  # whatever it is, the next HUP must find somebody who listens
        warn(f"{KEPT}: {printable(repr(error))}; please report this")
    return None


def tell_at_start(program: str, began: Settings, settings: Settings, warn: Callable[[str], object]) -> None:
    """Warn of options that differ from those that `program` began with, and that only a restart puts in force."""
    options = [name for name in AT_START[program] if attrgetter(name)(began) != attrgetter(name)(settings)]
    if options:
        warn(f"changed, but in force from the next start only: {', '.join(options)}")
