"""Packed logs: read like plain ones, bombs and damage refused."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import sys
import zlib

import pytest
import zstandard

from milter_bounce.limits import PIPE_LINE_BYTES
from milter_bounce.system import logfiles
from milter_bounce.system.logfiles import LogFileError, Packed, open_log, pieces, whole_lines

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


def damaged(pack, kind):
    """Return packed `TEXT` that ends too early, or with bytes turned over in its second half."""
    packed = bytearray(pack(b"".join(b"%d %s\n" % (number, os.urandom(20).hex().encode()) for number in range(50_000))))
    if kind == "cut":
        return bytes(packed[: len(packed) * 2 // 3])
    middle = len(packed) * 2 // 3
    packed[middle : middle + 64] = bytes(byte ^ 0xFF for byte in packed[middle : middle + 64])
    return bytes(packed)


@pytest.mark.parametrize("kind", ["cut", "overwritten"])
@pytest.mark.parametrize(("name", "pack"), PACKERS[:3])
def test_what_unpacks_before_the_damage_comes_out(tmp_path, name, pack, kind):
    """The part of a damaged file that is sound is read, then the damage is told, as often as it is asked."""
    path = tmp_path / name
    path.write_bytes(damaged(pack, kind))
    file, found = open_log(path), []
    with pytest.raises(LogFileError, match=f"{name}: is damaged"):
        found.extend(iter(lambda: file.read(100_000), b""))
    lines = b"".join(found).split(b"\n")[:-1]
    # bz2 packs blocks of 900,000 bytes, and tells nothing of one that is not whole
    assert len(lines) > (5_000 if name == "log.bz2" else 20_000)
    assert [int(line.partition(b" ")[0]) for line in lines[:5000]] == list(range(5000))
    with pytest.raises(LogFileError, match="is damaged"):
        file.read(1)
    file.close()


def test_trouble_of_the_system_is_no_damage(tmp_path, monkeypatch):
    """A read that fails for now is told as what it is; the next one begins at the start."""
    path = tmp_path / "log.gz"
    path.write_bytes(gzip.compress(TEXT))
    file = open_log(path)
    assert file.read(10) == TEXT[:10]
    with monkeypatch.context() as broken:
        broken.setattr(gzip.GzipFile, "read1", lambda *_: (_ for _ in ()).throw(OSError(116, "Stale file handle")))
        with pytest.raises(OSError, match="Stale"):
            file.read(10)
    file.seek(10)
    assert file.read(10) == TEXT[10:20]
    file.close()


def test_small_step_back_unpacks_nothing_again(tmp_path, monkeypatch):
    """The follower goes back to the end of its last whole line at every read."""
    path = tmp_path / "log.gz"
    path.write_bytes(gzip.compress(TEXT))
    starts = []
    start = Packed._start
    monkeypatch.setattr(Packed, "_start", lambda self: starts.append(1) or start(self))
    file, at = open_log(path), 0
    while data := file.read(10_000):
        assert data == TEXT[at : at + 10_000]
        at += max(len(data) - 7, 1)
        file.seek(at)
    file.seek(at - 100_000)
    assert file.read(9) == TEXT[at - 100_000 : at - 99_991]
    assert len(starts) == 2
    file.close()


def test_long_way_into_a_packed_file_gives_signs_of_life(tmp_path):
    """Whoever unpacks to a place deep in a file is no silent program."""
    path = tmp_path / "log.gz"
    path.write_bytes(gzip.compress(b"x" * 79 + b"\n", 1) * 100_000)
    beats = []
    file = open_log(path, lambda: beats.append(1))
    assert file.seek(7_999_990) == 7_999_990
    assert len(beats) >= 8
    file.close()


def test_package_that_is_missing_leaves_nothing_open(tmp_path, monkeypatch):
    """A .zst that cannot be read is told with the remedy, and its descriptor is closed."""
    path = tmp_path / "log.zst"
    path.write_bytes(zstandard.ZstdCompressor().compress(TEXT))
    monkeypatch.setitem(sys.modules, "zstandard", None)
    opened, opens = [], logfiles.open_regular
    monkeypatch.setattr(logfiles, "open_regular", lambda path: opened.append(opens(path)) or opened[-1])
    with pytest.raises(LogFileError, match=r"log.zst: needs the package zstandard \(pip install"):
        open_log(path)
    assert [file.closed for file in opened] == [True]


@pytest.mark.parametrize("beside", [-1, 0, 1])
def test_line_without_end_is_cut_at_its_limit(beside):
    """Below the limit a line waits for its end; from there on it is cut, and no more is held."""
    size = PIPE_LINE_BYTES + beside
    sizes = [size, 3]
    found = list(whole_lines(lambda _: b"x" * sizes.pop(0) if sizes else b"", 1))
    assert found == ([b"x" * (size + 3)] if beside < 0 else [b"x" * size, b"xxx"])


def test_endless_line_is_never_held_whole():
    """A stream without line ends goes on in pieces of bounded size, each byte once."""
    reads, given = 0, 0

    def read(size):
        nonlocal reads
        reads += 1
        return b"\0" * size if reads <= 300 else b""

    for piece in whole_lines(read, 1 << 16):
        given += len(piece)
        assert len(piece) <= PIPE_LINE_BYTES + (1 << 16)
        assert reads * (1 << 16) - given <= 1 << 16, "what was read has been given out"
    assert given == 300 << 16
