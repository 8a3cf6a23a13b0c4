"""The follower: every line once, through rotations of every kind and restarts at any moment."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import random
import shutil
from pathlib import Path

import pytest

from milter_bounce.system.logtail import HEAD_BYTES, FileFollower, Position


def line(number):
    return f"Nov 20 10:00:00 mx postfix/smtp[1]: {number:08d}: " + "x" * 60


class Log:
    """A log that is written to and rotated as logrotate and writers do."""

    def __init__(self, folder):
        self.path = folder / "mail.log"
        self.written = 0
        self.clock = 1_800_000_000

    def write(self, count=1):
        with self.path.open("a") as file:
            for _ in range(count):
                file.write(line(self.written) + "\n")
                self.written += 1
        self.touch(self.path)

    def touch(self, path):
        """Give each change a later time of its own, as it has in life."""
        self.clock += 10
        os.utime(path, (self.clock, self.clock))

    def shift(self):
        for number in range(8, 0, -1):
            for old in self.path.parent.glob(f"mail.log.{number}*"):
                old.rename(str(old).replace(f".log.{number}", f".log.{number + 1}"))

    def rename(self):
        self.shift()
        self.path.rename(self.path.with_name("mail.log.1"))

    def copytruncate(self):
        self.shift()
        copy = self.path.with_name("mail.log.1")
        shutil.copyfile(self.path, copy)
        self.touch(copy)
        with self.path.open("r+") as file:
            file.truncate(0)

    def compress(self, number=1, opener=gzip.open, suffix=".gz"):
        plain = self.path.with_name(f"mail.log.{number}")
        times = plain.stat()
        packed = Path(str(plain) + suffix)
        with opener(packed, "wb") as file:
            file.write(plain.read_bytes())
        os.utime(packed, (times.st_atime, times.st_mtime))
        plain.unlink()

    def rename_and_compress(self):
        self.rename()
        self.compress()


@pytest.fixture
def log(tmp_path):
    return Log(tmp_path)


def drain(follower):
    """Return everything that is there now."""
    found = []
    while lines := follower.batch(0).lines:
        found += lines
    return found


def wanted(log):
    return [line(number) for number in range(log.written)]


def test_existing_log_is_read_from_its_end(log):
    """The first time, what is there already is old news; half a line at the end is finished first."""
    log.write(3)
    with log.path.open("a") as file:
        file.write("half a ")
    follower = FileFollower(log.path)
    with log.path.open("a") as file:
        file.write("line\n")
    assert drain(follower) == ["half a line"]


def test_existing_log_is_read_from_its_start_if_asked(log):
    """With from_start the whole log is news."""
    log.write(3)
    assert drain(FileFollower(log.path, from_start=True)) == wanted(log)


def test_missing_log_is_read_from_its_start(log):
    """A log that appears later is read whole."""
    follower = FileFollower(log.path)
    assert drain(follower) == []
    assert follower.position is None
    log.write(2)
    assert drain(follower) == wanted(log)


def test_unfinished_line_waits(log):
    """A line comes out when its newline does."""
    follower = FileFollower(log.path, from_start=True)
    log.path.write_text("one\ntw")
    assert drain(follower) == ["one"]
    with log.path.open("a") as file:
        file.write("o\n")
    assert drain(follower) == ["two"]


def test_only_a_newline_ends_a_line(log):
    """Characters that str.splitlines takes for line ends do not forge lines."""
    text = "a\rb\x0bc\x0cd\x1ce\x85f\u2028g"
    log.path.write_text(text + "\n", newline="")
    assert drain(FileFollower(log.path, from_start=True)) == [text]


def test_line_without_end_is_cut(log):
    """A line of 3 MB comes out in pieces, memory stays bounded."""
    log.path.write_bytes(b"x" * 3_000_000 + b"\nnext\n")
    found = drain(FileFollower(log.path, from_start=True))
    assert "".join(found[:-1]) == "x" * 3_000_000
    assert found[-1] == "next"


ROTATIONS = ["rename", "copytruncate", "rename_and_compress"]


@pytest.mark.parametrize("rotation", ROTATIONS)
@pytest.mark.parametrize("restart", [False, True], ids=["running", "restarted"])
def test_rotation_loses_and_doubles_nothing(log, rotation, restart):
    """Lines before, between and after three rotations come out once, in order."""
    log.write(30)
    follower, found = FileFollower(log.path, from_start=True), []
    for _ in range(3):
        found += follower.batch(0).lines
        log.write(20)
        getattr(log, rotation)()
        log.write(7)
        if restart:
            position = follower.position
            follower.close()
            follower = FileFollower(log.path, position)
    found += drain(follower)
    assert found == wanted(log)


@pytest.mark.parametrize("rotation", ROTATIONS)
def test_rotations_while_away_are_caught_up(log, rotation):
    """Several rotations while the program was down are read in their order."""
    log.write(25)
    follower = FileFollower(log.path, from_start=True)
    found = drain(follower)
    for _ in range(3):
        log.write(11)
        getattr(log, rotation)()
    log.write(5)
    assert found + drain(FileFollower(log.path, follower.position)) == wanted(log)


@pytest.mark.parametrize(("opener", "suffix"), [(gzip.open, ".gz"), (lzma.open, ".xz"), (bz2.open, ".bz2")])
def test_compressed_rotated_log_is_read_on(log, opener, suffix):
    """The old log is found again though it was compressed while we were away."""
    log.write(200)
    follower = FileFollower(log.path, from_start=True)
    position = follower.position
    found = follower.batch(0).lines
    position = follower.position
    log.write(50)
    log.rename()
    log.compress(opener=opener, suffix=suffix)
    log.write(5)
    assert found + drain(FileFollower(log.path, position)) == wanted(log)


def test_plain_and_compressed_at_once_are_one(log):
    """While gzip is at work both files are there: the lines count once."""
    log.write(40)
    follower = FileFollower(log.path, from_start=True)
    found = drain(follower)
    log.write(10)
    log.rename()
    with gzip.open(log.path.with_name("mail.log.1.gz"), "wb") as file:
        file.write(log.path.with_name("mail.log.1").read_bytes()[:1000])
    log.write(5)
    assert found + drain(FileFollower(log.path, follower.position)) == wanted(log)


def test_renamed_log_is_followed_until_its_writer_reopens(log):
    """Lines that go to the old file after the rename are read, also by a program started in between."""
    log.write(5)
    follower = FileFollower(log.path, from_start=True)
    found = drain(follower)
    log.rename()
    log.path.touch()
    old = log.path.with_name("mail.log.1")
    restarted = FileFollower(log.path, follower.position)
    with old.open("a") as file:
        file.write(line(5) + "\n")
    assert drain(follower) == [line(5)]
    assert drain(restarted) == [line(5)]
    log.written = 6
    log.write(1)
    assert drain(follower) == drain(restarted) == [line(6)]
    assert found == [line(number) for number in range(5)]


def test_truncated_log_is_read_anew(log):
    """A log that was emptied by hand goes on from its beginning, even when it has grown past the old place."""
    log.write(5)
    follower = FileFollower(log.path, from_start=True)
    drain(follower)
    log.path.write_text("")
    log.write(9)
    assert drain(follower) == [line(number) for number in range(5, 14)]


def test_other_files_beside_the_log_are_left_alone(log):
    """Only names that rotation gives are looked at."""
    log.write(3)
    follower = FileFollower(log.path, from_start=True)
    position = follower.position
    found = drain(follower)
    position = follower.position
    for name in ("mail.log.bak", "mail.log.1.swp", "mail.log~", "mail.logx", "mail.log.1/x"):
        other = log.path.parent / name
        other.parent.mkdir(exist_ok=True)
        other.write_text("no line of ours\n")
    log.path.rename(log.path.with_name("mail.log-20261120"))
    log.write(2)
    assert found + drain(FileFollower(log.path, position)) == wanted(log)


def test_pipe_in_place_of_the_log_is_refused(log):
    """A named pipe would hang the program: it is refused at once."""
    os.mkfifo(log.path)
    with pytest.raises(OSError, match="no regular file"):
        FileFollower(log.path, from_start=True).batch(0)


@pytest.mark.parametrize("text", [None, "", "{}", "[]", "nonsense", '{"inode":"x"}'])
def test_unusable_position_is_none(text):
    """A position that is none of ours is as good as none."""
    assert Position.from_text(text) is None


def test_position_survives_its_text():
    """A stored position comes back the same."""
    position = Position(7, HEAD_BYTES + 5, "abc", HEAD_BYTES)
    assert Position.from_text(position.to_text()) == position


@pytest.mark.parametrize("seed", range(25))
def test_any_order_of_events_counts_each_line_once(log, seed):
    """Writes, rotations of all kinds, reads and restarts in random order: each line once, in order."""
    dice = random.Random(seed)
    follower = FileFollower(log.path, from_start=True)
    log.write(3)
    found = follower.batch(0).lines
    for _ in range(60):
        match dice.randrange(8):
            case 0 | 1 | 2:
                log.write(dice.randrange(1, 40))
            case 3 | 4:
                found += follower.batch(0).lines
            case 5:
                if log.path.exists() and log.path.stat().st_size:
                    getattr(log, dice.choice(ROTATIONS))()
            case 6:
                position = follower.position
                follower.close()
                follower = FileFollower(log.path, position, from_start=True)
            case _:
                if log.path.with_name("mail.log.1").exists() and log.path.exists() and log.path.stat().st_size:
                    log.compress()
    log.write(1)
    assert found + drain(follower) == wanted(log)
