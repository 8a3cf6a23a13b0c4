"""Log files as they lie about: plain, .gz, .bz2, .xz, .zst.

Goes in: a path. Comes out: a file to read forwards (and, at a price,
backwards), whatever it is packed with. Does not: know what a line is.

Limits: a packed file that unpacks to more than `RATIO` times its size, beyond
the first `FREE_BYTES`, is a decompression bomb and ends with `LogFileError`.
Devices, sockets and pipes are refused, but where a whole log is
read once (`pieces`): a pipe is a stream there. A damaged file is read as far as it goes;
then its damage is told, except that of a .zst that was cut.

Security: opened without following a pipe's writer, read only.
"""

from __future__ import annotations

import bz2
import gzip
import importlib
import io
import lzma
import os
import stat
from typing import IO, TYPE_CHECKING, Any, Final, cast

from milter_bounce import limits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SUFFIXES: Final = frozenset({".gz", ".bz2", ".xz", ".zst"})
RATIO: Final = limits.UNPACKED_RATIO
FREE_BYTES: Final = limits.UNPACKED_FREE_BYTES
XZ_MEMORY_BYTES: Final = limits.XZ_MEMORY_BYTES

LINE_BYTES: Final = limits.PIPE_LINE_BYTES
PIECE_BYTES: Final = 1 << 20
_BUFFERED: Final = (gzip.GzipFile, bz2.BZ2File)


class LogFileError(OSError):
    """A log file that is not to be read; its text names the file and the reason."""


def _unpacked(file: IO[bytes], path: Path) -> IO[bytes]:
    """Return a reader of the bytes that `file`, opened from `path`, is packed from.

    Raises:
        LogFileError: for .zst where the zstandard package is not installed.
    """
    if path.suffix == ".gz":
        return cast("IO[bytes]", gzip.GzipFile(fileobj=file))
    if path.suffix == ".bz2":
        return cast("IO[bytes]", bz2.BZ2File(file))
    if path.suffix == ".xz":
        return cast("IO[bytes]", _Xz(file))
    try:
        zstandard: Any = importlib.import_module("zstandard")
    except ImportError:
        raise LogFileError(f"{path}: needs the package zstandard (pip install 'milter-bounce[zstd]')") from None
    reader: IO[bytes] = zstandard.ZstdDecompressor(max_window_size=XZ_MEMORY_BYTES).stream_reader(
        file, read_across_frames=True
    )
    return reader


class _Xz(io.RawIOBase):
    """xz with a limit on memory, which `lzma.LZMAFile` does not offer; several streams in one file are one."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._engine, self._rest = file, self._new(), b""

    @staticmethod
    def _new() -> lzma.LZMADecompressor:
        return lzma.LZMADecompressor(memlimit=XZ_MEMORY_BYTES)

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes, at most `size`; none at the end."""
        while True:
            if self._engine.eof:
                self._rest = self._engine.unused_data.lstrip(b"\0") or self._file.read(PIECE_BYTES)
                if not self._rest:
                    return b""
                self._engine = self._new()
            elif self._engine.needs_input:
                self._rest = self._file.read(PIECE_BYTES)
                if not self._rest:
                    raise EOFError("the file ends too early")
            data = self._engine.decompress(self._rest, max_length=size)
            self._rest = b""
            if data:
                return data


def _nothing() -> None:
    """Nobody waits for a sign of life."""


class Packed:
    """A packed log as a file: forwards at full speed; backwards within the last read, further by starting again.

    Args:
        path: the file.
        alive: is called at every piece that is unpacked: the way to a place deep in a large file is long.
    """

    def __init__(self, path: Path, alive: Callable[[], None] = _nothing) -> None:
        self._path, self._alive = path, alive
        self._raw = open_regular(path)
        self._limit = max(FREE_BYTES, os.fstat(self._raw.fileno()).st_size * RATIO)
        try:
            self._start()
        except OSError:
            self._raw.close()
            raise

    def _start(self) -> None:
        self._raw.seek(0)
        self._file, self._at = _unpacked(self._raw, self._path), 0
        self._last = self._ahead = b""
        self.fault: LogFileError | None = None
        """What is wrong with the file behind the bytes that came out; None as far as it is known to be sound."""

    def fileno(self) -> int:
        """Return the descriptor of the packed file."""
        return self._raw.fileno()

    def read(self, size: int) -> bytes:
        """Return `size` bytes, fewer only at the end or in front of damage.

        Raises:
            LogFileError: beyond the limit, or where nothing but damage is left.
            OSError: the file cannot be read now; the next read begins at its start.
        """
        pieces = [self._ahead[:size]]
        size -= len(pieces[0])
        self._ahead = self._ahead[len(pieces[0]) :]
        while size and (piece := self._piece(min(size, PIECE_BYTES))):
            pieces.append(piece)
            size -= len(piece)
        data = self._last = b"".join(pieces)
        if not data and self.fault:
            raise self.fault
        self._at += len(data)
        if self._at > self._limit:
            raise LogFileError(f"{self._path}: unpacks to more than {self._limit >> 20} MiB: a decompression bomb?")
        return data

    def _piece(self, size: int) -> bytes:
        """Return some of the next bytes; none at the end, and none from damage on, which becomes `fault`."""
        self._alive()
        if self.fault:
            return b""
        try:
            # gzip's and bz2's read() lose what they unpacked before the damage
            return self._file.read1(size) if isinstance(self._file, _BUFFERED) else self._file.read(size)
        except Exception as error:  # each kind of archive has errors of its own
            if isinstance(error, OSError) and error.errno:  # the disk's or the system's trouble, no damage
                self._start()
                raise
            self.fault = LogFileError(f"{self._path}: is damaged: {error}")
            return b""

    def seek(self, offset: int) -> int:
        """Go to `offset` of the unpacked bytes, or to their end.

        Raises:
            LogFileError: as `read`.
        """
        back = self._at - offset
        if 0 < back <= len(self._last):
            self._ahead, self._last = self._last[-back:] + self._ahead, b""
            self._at = offset
        elif back > 0:
            self._start()
        while self._at < offset and self.read(min(offset - self._at, PIECE_BYTES)):
            pass
        return self._at

    def close(self) -> None:
        """Close the packed file."""
        self._raw.close()


def open_regular(path: Path) -> IO[bytes]:
    """Return `path` opened for reading.

    Raises:
        LogFileError: for anything but a regular file.
        OSError: as ``open`` does.
    """
    # without O_NONBLOCK a pipe in the log's place would hang us until somebody writes to it
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise LogFileError(f"{path}: is no regular file; give - to read standard input")
    return os.fdopen(descriptor, "rb", buffering=0)


def is_stream(path: Path | None) -> bool:
    """Return whether a log can be read once only: standard input, or a pipe given by name (``<(zcat mail.log.1.gz)``)."""
    try:
        return path is None or stat.S_ISFIFO(path.stat().st_mode)
    except OSError:
        return False


def is_empty_device(path: Path) -> bool:
    """Return whether `path` is a device from which nothing comes, as ``/dev/null``; waits for none."""
    try:
        if not stat.S_ISCHR(path.stat().st_mode):
            return False
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            return os.read(descriptor, 1) == b""
        finally:
            os.close(descriptor)
    except OSError:
        return False


def open_log(path: Path, alive: Callable[[], None] = _nothing) -> IO[bytes]:
    """Return a log opened for reading, unpacked on the way where its name says that it is packed."""
    return cast("IO[bytes]", Packed(path, alive)) if path.suffix in SUFFIXES else open_regular(path)


def pieces(path: Path, size: int) -> Iterator[bytes]:
    """Return the content of a log in pieces of whole lines, each of about `size` bytes; see `whole_lines`.

    A pipe is read until its writer ends; a device with nothing in it is an empty log.

    Raises:
        LogFileError: for other devices, which may have no end, and for sockets and folders.
        OSError: as ``open`` does.
    """
    if is_empty_device(path):
        return
    # a pipe is waited for, as for standard input: whoever named it means to write
    file = path.open("rb") if is_stream(path) else open_log(path)
    try:
        yield from whole_lines(file.read, size)
    finally:
        file.close()


def whole_lines(read: Callable[[int], bytes], size: int) -> Iterator[bytes]:
    """Return what ``read(size)`` gives, in pieces of whole lines, each of about `size` bytes.

    Limits: of `LINE_BYTES` without a line end a line is made; what is held is never more than that and two reads.
    """
    rest = b""
    while data := read(size):
        data = rest + data
        cut = data.rfind(b"\n") + 1
        if not cut and len(data) >= LINE_BYTES:
            cut = len(data)
        if cut:
            yield data[:cut]
        rest = data[cut:]
    if rest:
        yield rest
