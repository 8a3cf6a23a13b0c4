"""Log files as they lie about: plain, .gz, .bz2, .xz, .zst.

Goes in: a path. Comes out: a file to read forwards (and, at a price,
backwards), whatever it is packed with. Does not: know what a line is.

Limits: a packed file that unpacks to more than `RATIO` times its size, beyond
the first `FREE_BYTES`, is a decompression bomb and ends with `LogFileError`.
Devices, sockets and pipes are refused. A .zst that was cut is read as far as it
goes; every other damage is told.

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
import zlib
from typing import IO, TYPE_CHECKING, Any, Final, cast

from milter_bounce import limits

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SUFFIXES: Final = frozenset({".gz", ".bz2", ".xz", ".zst"})
RATIO: Final = limits.UNPACKED_RATIO
FREE_BYTES: Final = limits.UNPACKED_FREE_BYTES
XZ_MEMORY_BYTES: Final = limits.XZ_MEMORY_BYTES

PIECE_BYTES: Final = 1 << 20


class LogFileError(OSError):
    """A log file that is not to be read; its text names the file and the reason."""


def _unpacked(file: IO[bytes], suffix: str) -> IO[bytes]:
    """Return a reader of the bytes that `file` is packed from.

    Raises:
        LogFileError: for .zst where the zstandard package is not installed.
    """
    if suffix == ".gz":
        return cast("IO[bytes]", gzip.GzipFile(fileobj=file))
    if suffix == ".bz2":
        return cast("IO[bytes]", bz2.BZ2File(file))
    if suffix == ".xz":
        return cast("IO[bytes]", _Xz(file))
    try:
        zstandard: Any = importlib.import_module("zstandard")
    except ImportError:
        raise LogFileError(f"{file.name}: needs the package zstandard (pip install 'milter-bounce[zstd]')") from None
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


class Packed:
    """A packed log as a file: forwards at full speed, backwards by starting again."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._raw = open_regular(path)
        self._limit = max(FREE_BYTES, os.fstat(self._raw.fileno()).st_size * RATIO)
        self._start()

    def _start(self) -> None:
        self._raw.seek(0)
        self._file, self._at = _unpacked(self._raw, self._path.suffix), 0

    def fileno(self) -> int:
        """Return the descriptor of the packed file."""
        return self._raw.fileno()

    def read(self, size: int) -> bytes:
        """Return `size` bytes, fewer only at the end.

        Raises:
            LogFileError: beyond the limit, or where the file is damaged.
        """
        pieces: list[bytes] = []
        try:
            while size and (piece := self._file.read(min(size, PIECE_BYTES))):
                pieces.append(piece)
                size -= len(piece)
        except (EOFError, OSError, zlib.error, lzma.LZMAError, MemoryError) as error:
            if not pieces:
                raise LogFileError(f"{self._path}: is damaged: {error}") from None
        except Exception as error:  # zstandard has an error class of its own, and the package may be missing
            raise LogFileError(f"{self._path}: is damaged: {error}") from None
        data = b"".join(pieces)
        self._at += len(data)
        if self._at > self._limit:
            raise LogFileError(f"{self._path}: unpacks to more than {self._limit >> 20} MiB: a decompression bomb?")
        return data

    def seek(self, offset: int) -> int:
        """Go to `offset` of the unpacked bytes, or to their end."""
        if offset < self._at:
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


def open_log(path: Path) -> IO[bytes]:
    """Return a log opened for reading, unpacked on the way where its name says that it is packed."""
    return cast("IO[bytes]", Packed(path)) if path.suffix in SUFFIXES else open_regular(path)


def pieces(path: Path, size: int) -> Iterator[bytes]:
    """Return the content of a log in pieces of whole lines, each of about `size` bytes."""
    file = open_log(path)
    try:
        rest = b""
        while data := file.read(size):
            data = rest + data
            cut = data.rfind(b"\n") + 1
            if not cut and len(data) < 4 * size:
                rest = data
                continue
            yield data[: cut or len(data)]
            rest = data[cut:] if cut else b""
        if rest:
            yield rest
    finally:
        file.close()
