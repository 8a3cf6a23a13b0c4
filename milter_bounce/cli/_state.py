"""What the commands on the store share: the store itself, times, tables, one line for what goes wrong."""

from __future__ import annotations

import contextlib
import errno
import functools
import getpass
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, ParamSpec, TypeVar

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from milter_bounce.config import ConfigError
from milter_bounce.system.advising import make_store
from milter_bounce.system.settings import load_settings
from milter_bounce.system.store import StoreError
from milter_bounce.verdict import printable, stamp

from ._out import Refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from milter_bounce.config import Settings
    from milter_bounce.system.sqlite_store import SqliteStore

P = ParamSpec("P")
R = TypeVar("R")

CONFIG: Final = click.option(
    "-c",
    "--config",
    "conf",
    type=click.Path(path_type=Path, readable=False),
    help="The configuration; default: /etc/milter-bounce/milter-bounce.toml where it exists.",
)


_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})


class Stop(Refusal):
    """One line on standard error, and exit status 2: wrong usage, configuration or store."""


class NotFound(Stop):
    """One line on standard error, and exit status 1: there is nothing of that name."""

    exit_code = 1


class Damaged(NotFound):
    """One line on standard error, and exit status 1: the store was read and is not sound."""


def settings_of(conf: Path | None) -> Settings:
    """Return the settings.

    Raises:
        Stop: they cannot be used; file, key, remedy.
    """
    try:
        return load_settings(conf)
    except ConfigError as error:
        raise Stop(str(error)) from None


@contextlib.contextmanager
def opened(conf: Path | None) -> Iterator[SqliteStore]:
    """Yield the store that the configuration names; what goes wrong with it is one line.

    Raises:
        Stop: configuration or store cannot be used.
    """
    store = make_store(settings_of(conf))
    try:
        yield store
    except StoreError as error:
        raise Stop(str(error)) from None
    finally:
        store.close()


def quiet_pipe(command: Callable[P, R]) -> Callable[P, R]:
    """Return `command`, ending without a trace when its reader goes away (``| head``).

    A standard output that takes nothing more (a full disk) is told in one line, with exit status 2.
    """

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            result = command(*args, **kwargs)
            sys.stdout.flush()
        except BrokenPipeError:
            _drop_output()
            sys.exit(0)
        except OSError as error:
            if error.filename is not None or error.errno not in _NO_ROOM:
                raise  # of a file by its name, so not of standard output
            _drop_output()
            raise Stop(f"standard output: {error.strerror or error}; what is there is not all") from None
        except (SystemExit, click.exceptions.Exit):
            if _output_fails():
                _drop_output()
                raise Stop("standard output takes nothing more; what is there is not all") from None
            raise
        return result

    return wrapped


def _output_fails() -> bool:
    """Return whether standard output does not take what was written to it."""
    try:
        sys.stdout.flush()
    except OSError:
        return True
    return False


def _drop_output() -> None:
    """Let what could not be written go, for Python would try once more at its end, and fail with a trace."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def now() -> datetime:
    """Return the time, aware."""
    return datetime.now(UTC)


def person() -> str:
    """Return who gives the order: the user behind sudo, else the user."""
    with contextlib.suppress(OSError, KeyError):
        return os.environ.get("SUDO_USER") or getpass.getuser()
    return "admin"


def spelled(when: datetime | None) -> str:
    """Return a time for people; a dash for none."""
    return stamp(when) or "-"


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str) -> None:
    """Print a table; one sentence where there are no rows. Outside text cannot act on the terminal."""
    shown = Table(*columns, box=None, header_style="bold", pad_edge=False)
    for row in rows:
        shown.add_row(*(Text(printable(str(cell), 300)) for cell in row))
    if shown.row_count == 0:
        click.echo(empty)
        return
    # piped into a file or grep a line is never folded
    Console(width=None if sys.stdout.isatty() else 500).print(shown)
