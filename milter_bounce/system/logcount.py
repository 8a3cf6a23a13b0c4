"""Whole logs, counted by as many processes as there are cores.

Goes in: paths of logs, plain or packed, ``-`` for standard input. Comes out:
one `Tally` of all; or, for ``--json``, every delivery in its order.

How it stays exact: a plain file is cut at line ends, every line belongs to one
piece, and tallies are added in the order of the pieces. In Sendmail's logs a
line may lean on one before it (our gate's word), and in the journal's export
form an entry is several lines: a piece begins reading `CONTEXT_BYTES` early there.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import re
import signal
import sys
import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, NamedTuple

from milter_bounce import limits
from milter_bounce.parse.log import LogReader
from milter_bounce.parse.log_scan import leaning, unix
from milter_bounce.parse.logline import Delivery, Stamps, split_line

from .logfiles import SUFFIXES, is_empty_device, is_stream, open_regular, pieces, whole_lines
from .logsource import local_zone
from .logtally import Counting, Tally

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from milter_bounce.decide.ruleset import RuleSet

PIECE_BYTES: Final = 4 << 20
CONTEXT_BYTES: Final = 256 << 10
ONE_PROCESS_BYTES: Final = 12 << 20
"""Below this, starting processes takes longer than they save."""

LINE_BYTES: Final = limits.PIPE_LINE_BYTES


_MAIL_TAG: Final = re.compile(r"(?:postfix|sendmail|sm-|[^/]{1,64}/[a-z]+$|$)", re.IGNORECASE)
"""Programs of Postfix (``syslog_name/smtp``) and of Sendmail; Sendmail's own forms name none."""


class Job(NamedTuple):
    """One piece of a log: a part of a plain file, or the bytes themselves."""

    now: datetime
    path: Path | None = None
    start: int = 0
    end: int = 0
    data: bytes = b""

    @property
    def size(self) -> int:
        """Return how many bytes of a file this stands for."""
        return self.end - self.start


class _State:
    """What a process keeps between jobs; handed on by fork."""

    rules: RuleSet | None = None


def _file_time(path: Path) -> datetime:
    """Return when a log was last written to: the time that its stamps without a year lie before."""
    return datetime.fromtimestamp(path.stat().st_mtime, UTC)


def _part(job: Job, path: Path) -> tuple[str, str]:
    """Return the lines that begin in a part of a file, and the lines before them that they may lean on."""
    with open_regular(path) as file:
        begin = max(0, job.start - 1)
        file.seek(begin)
        data = _read(file.fileno(), job.end - begin)
        data += _rest_of_line(file.fileno(), data)
        if job.start:
            data = data[data.find(b"\n") + 1 :] if b"\n" in data else b""
        text = data.decode("utf-8", "replace")
        if not job.start or not leaning(text):
            return text, ""
        file.seek(max(0, job.start - CONTEXT_BYTES))
        before = _read(file.fileno(), min(job.start, CONTEXT_BYTES))
        before += _rest_of_line(file.fileno(), before)
        return text, before.decode("utf-8", "replace")


def _read(descriptor: int, size: int) -> bytes:
    parts = []
    while size > 0 and (data := os.read(descriptor, size)):
        parts.append(data)
        size -= len(data)
    return b"".join(parts)


def _rest_of_line(descriptor: int, data: bytes) -> bytes:
    """Return what is missing to the end of the last line of `data`."""
    rest = b""
    while not (rest or data).endswith(b"\n") and len(rest) < LINE_BYTES:
        more = os.read(descriptor, 4096)
        if not more:
            break
        cut = more.find(b"\n")
        rest += more if cut < 0 else more[: cut + 1]
        if cut >= 0:
            break
    return rest


def _count(job: Job) -> Tally:
    rules = _State.rules
    assert rules is not None  # noqa: S101 - set by `count_logs` before any job
    reader = LogReader(job.now, local_zone())
    counting = Counting(rules, reader)
    if job.path is None:
        return counting.count(job.data.decode("utf-8", "replace"))
    text, before = _part(job, job.path)
    for line in before.split("\n"):
        reader.feed(line)
    return counting.count(text)


def _jobs(paths: Sequence[Path | None], failed: Callable[[str], None]) -> Iterator[Job]:
    for path in paths:
        try:
            if path is None:
                yield from (Job(datetime.now(UTC), data=data) for data in _stdin_pieces())
            elif is_stream(path) or is_empty_device(path):
                yield from (Job(datetime.now(UTC), data=data) for data in pieces(path, PIECE_BYTES))
            elif path.suffix in SUFFIXES:
                now, size = _file_time(path), path.stat().st_size
                yield from (Job(now, data=data) for data in pieces(path, PIECE_BYTES))
                yield Job(now, end=size)
            else:
                with open_regular(path) as file:
                    size = os.fstat(file.fileno()).st_size
                now = _file_time(path)
                for start in range(0, size, PIECE_BYTES):
                    yield Job(now, path, start, min(start + PIECE_BYTES, size))
        except OSError as error:
            failed(_reason(path, error))


def _stdin_pieces() -> Iterator[bytes]:
    return whole_lines(sys.stdin.buffer.read, PIECE_BYTES)


def _reason(path: Path | None, error: OSError) -> str:
    return f"{path or '-'}: {error.strerror}" if error.strerror else str(error)


def total_bytes(paths: Sequence[Path | None]) -> int:
    """Return how many bytes all these files have; what cannot be asked has none."""
    return sum(path.stat().st_size for path in paths if path is not None and path.exists())


def by_age(paths: Sequence[Path | None]) -> list[Path | None]:
    """Return the logs with the oldest first, so that a message's first failure comes before its delivery."""

    def age(path: Path | None) -> float:
        return path.stat().st_mtime if path and path.exists() and not is_stream(path) else float("inf")

    return sorted(paths, key=age)


def _nothing(size: int) -> None:
    del size


def count_logs(
    paths: Sequence[Path | None],
    rules: RuleSet,
    failed: Callable[[str], None],
    advance: Callable[[int], None] = _nothing,
    processes: int | None = None,
) -> Tally:
    """Return the tally of all logs.

    Args:
        paths: the logs; None = standard input.
        rules: classify.
        failed: is told of each log that cannot be read, in one line.
        advance: is told of the bytes done.
        processes: how many; None = one for each core that we may use.
    """
    _State.rules = rules
    total = Tally()
    cores = processes or len(os.sched_getaffinity(0))
    jobs = _jobs(by_age(paths), failed)
    if cores == 1 or (not any(map(is_stream, paths)) and total_bytes(paths) < ONE_PROCESS_BYTES and not _packed(paths)):
        for job in jobs:
            total.add(_count(job))
            advance(job.size)
        return total
    # fork, not spawn: the processes share the loaded rules and the seed of hash()
    with multiprocessing.get_context("fork").Pool(cores, signal.signal, (signal.SIGINT, signal.SIG_IGN)) as pool:
        room = threading.Semaphore(3 * cores)
        sizes: list[int] = []
        for number, tally in enumerate(pool.imap(_count, _paced(jobs, room, sizes))):
            room.release()
            total.add(tally)
            advance(sizes[number])
    return total


def _packed(paths: Sequence[Path | None]) -> bool:
    return any(path is not None and path.suffix in SUFFIXES for path in paths)


def _paced(jobs: Iterator[Job], room: threading.Semaphore, sizes: list[int]) -> Iterator[Job]:
    """Return the jobs no faster than they are done: a pool would read a whole log into memory."""
    for job in jobs:
        room.acquire()
        sizes.append(job.size)
        yield job


def deliveries(
    paths: Sequence[Path | None], failed: Callable[[str], None], advance: Callable[[int], None] = _nothing
) -> Iterator[Delivery]:
    """Return every delivery of all logs in their order, with sender and Message-ID where the logs tell."""
    reader = LogReader(datetime.now(UTC), local_zone())
    for path in paths:
        try:
            reader.stamps.now = datetime.now(UTC) if path is None or is_stream(path) else _file_time(path)
            for data in _stdin_pieces() if path is None else pieces(path, PIECE_BYTES):
                for event in reader.feed_all(unix(data.decode("utf-8", "replace")).split("\n")):
                    if isinstance(event, Delivery):
                        yield event
                advance(len(data) if path is not None and path.suffix not in SUFFIXES else 0)
        except OSError as error:
            failed(_reason(path, error))


def mail_lines(paths: Sequence[Path]) -> tuple[int, int]:
    """Return how many lines are a mail log's, by the program that wrote them, and of how many: the first of each log."""
    stamps, mail, lines = Stamps(datetime.now(UTC), local_zone()), 0, 0
    for path in paths:
        with contextlib.suppress(OSError):  # was told when it was counted
            data = next(iter(pieces(path, PIECE_BYTES)), b"")
            for text in filter(None, data.decode("utf-8", "replace").split("\n")):
                line = split_line(text, stamps)
                mail += line is not None and _MAIL_TAG.match(line.tag) is not None
                lines += 1
    return mail, lines
