"""Packed logs: read like plain ones, bombs and damage refused."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import zlib

import pytest
import zstandard

from milter_bounce.system import logfiles
from milter_bounce.system.logfiles import LogFileError, open_log, pieces

TEXT = b"".join(b"line %d\n" % number for number in range(50_000))
PACKERS = [
    pytest.param("log.gz", gzip.compress, id="gz"),
    pytest.param("log.bz2", bz2.compress, id="bz2"),
    pytest.param("log.xz", lzma.compress, id="xz"),
    pytest.param("log.zst", zstandard.ZstdCompressor().compress, id="zst"),
    pytest.param("log", bytes, id="plain"),
]


@pytest.mark.parametrize(("name", "pack"), PACKERS)
def test_log_is_read_whatever_packs_it(tmp_path, name, pack):
    """The bytes come out in pieces of whole lines."""
    path = tmp_path / name
    path.write_bytes(pack(TEXT))
    found = list(pieces(path, 10_000))
    assert b"".join(found) == TEXT
    assert all(piece.endswith(b"\n") for piece in found)


@pytest.mark.parametrize(("name", "pack"), PACKERS[:4])
def test_several_streams_in_one_file_are_one_log(tmp_path, name, pack):
    """``cat a.gz b.gz`` is read to its end."""
    path = tmp_path / name
    path.write_bytes(pack(TEXT[:1000]) + pack(TEXT[1000:]))
    assert b"".join(pieces(path, 10_000)) == TEXT


@pytest.mark.parametrize(("name", "pack"), PACKERS)
def test_seek_goes_both_ways(tmp_path, name, pack):
    """The follower goes back to the head of a file and forward again."""
    path = tmp_path / name
    path.write_bytes(pack(TEXT))
    file = open_log(path)
    file.seek(1000)
    assert file.read(10) == TEXT[1000:1010]
    file.seek(3)
    assert file.read(4) == TEXT[3:7]
    file.close()


@pytest.mark.parametrize(
    ("name", "pack"), [pytest.param("log.gz", gzip.compress, id="gz"), pytest.param("log.xz", lzma.compress, id="xz")]
)
def test_bomb_is_refused(tmp_path, monkeypatch, name, pack):
    """A file that unpacks to far more than any log would is given up early."""
    path = tmp_path / name
    monkeypatch.setattr(logfiles, "FREE_BYTES", 1 << 20)
    path.write_bytes(pack(b"\n" * (32 << 20)))
    limit = max(1 << 20, path.stat().st_size * logfiles.RATIO)
    sizes = []
    with pytest.raises(LogFileError, match="decompression bomb"):
        sizes.extend(len(piece) for piece in pieces(path, 1 << 20))
    assert sum(sizes) <= limit < 32 << 20


def test_xz_that_asks_for_too_much_memory_is_refused(tmp_path):
    """The header of an .xz file may ask for 4 GiB: it does not get them."""
    packed = bytearray(lzma.compress(TEXT))
    assert packed[14:16] == b"\x21\x01", "the block header begins with the LZMA2 filter"
    packed[16] = 40  # 4 GiB of dictionary (xz file format, 5.3.1)
    size = (packed[12] + 1) * 4
    packed[12 + size - 4 : 12 + size] = zlib.crc32(packed[12 : 12 + size - 4]).to_bytes(4, "little")
    path = tmp_path / "log.xz"
    path.write_bytes(packed)
    with pytest.raises(LogFileError, match=r"is damaged: .*[Mm]emory"):
        list(pieces(path, 1000))


@pytest.mark.parametrize(("name", "pack"), PACKERS[:3])
def test_cut_file_is_told(tmp_path, name, pack):
    """A file that ends too early is an error that names it; what came before has been read."""
    path = tmp_path / name
    path.write_bytes(pack(TEXT)[:-20])
    with pytest.raises(LogFileError, match=f"{name}: is damaged"):
        list(pieces(path, 1000))


@pytest.mark.parametrize(("name", "pack"), PACKERS[:4])
def test_file_that_is_no_archive_is_told(tmp_path, name, pack):
    """A name that promises what the bytes do not hold is an error."""
    path = tmp_path / name
    path.write_bytes(b"no archive at all, whatever its name says\n")
    assert pack(TEXT) != TEXT
    with pytest.raises(LogFileError, match=f"{name}: is damaged"):
        list(pieces(path, 1000))


def test_pipe_and_folder_are_refused(tmp_path):
    """Only regular files are logs: nothing hangs on a pipe."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(LogFileError, match="no regular file"):
        open_log(tmp_path / "pipe")
    with pytest.raises(OSError, match=r"no regular file|directory"):
        open_log(tmp_path)
