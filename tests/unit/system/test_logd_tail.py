"""The follower: every line once, through rotations of every kind and restarts at any moment."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import random
import shutil
import sys
from pathlib import Path

import pytest
import zstandard

from milter_bounce.system import logtail
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


def drain(follower, found=None):
    """Return everything that is there now; `found` takes it as it comes."""
    found = [] if found is None else found
    while lines := follower.batch(0).lines:
        found += lines
    return found


def open_files(folder):
    """Return the files of `folder` that this process has open."""
    names = []
    for link in Path("/proc/self/fd").iterdir():
        try:
            names.append(str(link.readlink()))
        except OSError:
            continue
    return [name for name in names if name.startswith(str(folder))]


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


# -- a part of a batch -----------------------------------------------------------


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "packed"])
def test_each_place_within_a_batch_is_a_place_to_go_on_from(log, packed):
    """From behind any line of a batch a restarted program reads the rest, whatever bytes the lines hold."""
    text = b"\0\0\0first\n" + b"".join(b"%d \xff\xc3\n\n" % number * 3 for number in range(30)) + b"th\xc3\xa9\nlast"
    log.path.write_bytes(text)
    position = None
    if packed:
        log.write(1)
        position = FileFollower(log.path, from_start=True)
        position = position.batch(0).behind(0)
        log.rename()
        log.compress()
        log.path.write_text("live\n")
    batch = FileFollower(log.path, position, from_start=True).batch(0)
    assert len(batch.lines) > 180
    for count in range(len(batch.lines) + 1):
        rest = FileFollower(log.path, batch.behind(count))
        more = ["live"] if packed else []
        assert drain(rest) == batch.lines[count:] + more, count
        rest.close()
    assert batch.behind(len(batch.lines)) == batch.position


def test_place_within_the_first_lines_is_known_again(log):
    """A place before the end of what tells the file apart is found after a rotation, too."""
    log.write(3)
    behind = FileFollower(log.path, from_start=True).batch(0).behind(1)
    assert Position.from_text(behind).offset < HEAD_BYTES
    log.rename_and_compress()
    log.write(2)
    assert drain(FileFollower(log.path, behind)) == wanted(log)[1:]


# -- what cannot be read -----------------------------------------------------------


def noisy(log, count=4000):
    """Write lines that do not pack well."""
    with log.path.open("a") as file:
        file.writelines(f"{number} {os.urandom(40).hex()}\n" for number in range(count))
    return log.path.read_text().splitlines()


@pytest.mark.parametrize(("opener", "suffix"), [(gzip.open, ".gz"), (lzma.open, ".xz"), (bz2.open, ".bz2")])
@pytest.mark.parametrize("restart", [False, True], ids=["running", "restarted"])
def test_damaged_rotated_log_is_read_as_far_as_it_goes(log, opener, suffix, restart):
    """The disk was full while gzip wrote: what unpacks comes out, the damage is told once, the live log is read."""
    log.write(20)
    told = []
    follower = FileFollower(log.path, from_start=True, warn=told.append)
    seen = follower.batch(0)
    lines = noisy(log, 20_000)[20:]
    log.rename()
    log.compress(opener=opener, suffix=suffix)
    packed = log.path.with_name(f"mail.log.1{suffix}")
    packed.write_bytes(packed.read_bytes()[: packed.stat().st_size * 2 // 3])
    log.path.write_text("live 1\nlive 2\n")
    follower.close()
    follower = FileFollower(log.path, seen.position, warn=told.append)
    found = []
    while batch := follower.batch(0).lines:
        found += batch
        if restart:
            position = follower.position
            follower.close()
            follower = FileFollower(log.path, position, warn=told.append)
    assert found[-2:] == ["live 1", "live 2"]
    assert found[:-2] == lines[: len(found) - 2]
    assert len(found) > 5000
    assert told[0] == told[-1]
    assert len(told) == 1 or restart
    assert f"{packed}: is damaged" in told[0]
    assert open_files(log.path.parent) == [str(log.path)]
    follower.close()


def test_damage_between_two_sound_files_costs_its_own_lines_only(log):
    """Three rotations while away, the second file is damaged from its first byte on."""
    log.write(20)
    told = []
    follower = FileFollower(log.path, from_start=True, warn=told.append)
    found = drain(follower)
    for number in range(3):
        log.write(5)
        log.rename_and_compress()
        if number == 1:
            log.path.with_name("mail.log.1.gz").write_bytes(b"no archive")
            log.touch(log.path.with_name("mail.log.1.gz"))
    log.write(5)
    found += drain(FileFollower(log.path, follower.position, warn=told.append))
    assert found == [*wanted(log)[:25], *wanted(log)[30:]]
    assert len(told) == 1
    assert "mail.log.2.gz: is damaged" in told[0]


def test_rotated_log_without_its_package_is_told_once(log, monkeypatch):
    """The log says which file was not read, why, and what to do."""
    log.write(20)
    told = []
    follower = FileFollower(log.path, from_start=True, warn=told.append)
    found = drain(follower)
    position = follower.position
    follower.close()
    log.write(5)
    log.rename()
    log.compress(opener=lambda path, _: zstandard.open(path, "wb"), suffix=".zst")
    log.path.write_text("live\n")
    monkeypatch.setitem(sys.modules, "zstandard", None)
    follower = FileFollower(log.path, position, warn=told.append)
    assert drain(follower) == ["live"]
    log.rename()
    log.path.write_text("live again\n")
    assert drain(follower) == ["live again"]
    assert len(found) == 20
    (said,) = told
    assert f"{log.path}.1.zst: needs the package zstandard (pip install 'milter-bounce[zstd]')" in said
    follower.close()


def test_old_logs_that_nobody_needs_are_not_told(log, monkeypatch):
    """Where the place is found again, unreadable files before it hold nothing new."""
    log.write(20)
    log.rename()
    log.compress(opener=lambda path, _: zstandard.open(path, "wb"), suffix=".zst")
    monkeypatch.setitem(sys.modules, "zstandard", None)
    told = []
    log.write(20)
    follower = FileFollower(log.path, from_start=True, warn=told.append)
    found = drain(follower)
    log.write(5)
    log.rename()
    log.write(5)
    found += drain(follower)
    assert (found, told) == (wanted(log)[20:], [])
    follower.close()


def test_rotated_log_that_is_not_ours_to_read_is_told(log, monkeypatch):
    """A rotated file of root's alone is left out and named; it does not stop us."""
    log.write(20)
    told = []
    follower = FileFollower(log.path, from_start=True, warn=told.append)
    found = drain(follower)
    opens = logtail.open_log

    def refusing(path, alive):
        if path.name == "mail.log.1":
            raise PermissionError(13, "Permission denied", str(path))
        return opens(path, alive)

    monkeypatch.setattr(logtail, "open_log", refusing)
    log.write(5)
    log.rename()
    log.path.write_text("live\n")
    position = follower.position
    follower.close()
    assert drain(FileFollower(log.path, position, warn=told.append)) == ["live"]
    assert len(found) == 20
    assert told == [f"a rotated log is not read, deliveries in it do not count: {log.path}.1: Permission denied"]


@pytest.mark.parametrize("rotation", ROTATIONS)
@pytest.mark.parametrize("fails", ["scandir", "open"])
def test_trouble_that_passes_loses_no_line(log, monkeypatch, rotation, fails):
    """No descriptor is free at each look in turn: the call fails, the next one goes on where it stood."""
    log.write(30)
    told = []
    follower = FileFollower(log.path, from_start=True, warn=told.append)
    found = follower.batch(0).lines
    for failing in range(1, 6):
        log.write(3)
        getattr(log, rotation)()
        log.write(2)
        calls = []

        def failing_once(real, calls=calls, failing=failing):
            def call(*given):
                calls.append(1)
                if len(calls) == failing:
                    raise OSError(24, "Too many open files")
                return real(*given)

            return call

        before = open_files(log.path.parent)
        with monkeypatch.context() as patched:
            if fails == "scandir":
                patched.setattr(logtail.os, "scandir", failing_once(os.scandir))
            else:
                patched.setattr(logtail, "open_log", failing_once(logtail.open_log))
            for _ in range(3):
                try:
                    drain(follower, found)
                except OSError as error:
                    assert error.errno == 24  # noqa: PT017 - where it fails depends on the case
                    assert len(open_files(log.path.parent)) == len(before)
        found += drain(follower)
    assert found == wanted(log)
    assert told == []
    follower.close()
    assert open_files(log.path.parent) == []


def test_file_that_is_renamed_at_the_very_look_is_looked_for_again(log, monkeypatch):
    """What was listed under one name and opened under no name has another one by now."""
    log.write(30)
    follower = FileFollower(log.path, from_start=True)
    found = drain(follower)
    log.write(5)
    log.rename()
    log.write(5)
    opens, renamed = logtail.open_log, []

    def renaming(path, alive):
        if path.name == "mail.log.1" and not renamed:
            renamed.append(path.rename(path.with_name("mail.log.2")))
        return opens(path, alive)

    monkeypatch.setattr(logtail, "open_log", renaming)
    assert found + drain(FileFollower(log.path, follower.position)) == wanted(log)
    assert renamed


def test_log_that_is_rotated_twice_at_the_very_look_is_followed_to_its_end(log, monkeypatch):
    """Its writer has not reopened yet: what it still writes to the old file comes out, and nothing stays open."""
    log.write(20)
    follower = FileFollower(log.path, from_start=True)
    found = drain(follower)
    log.rename()
    log.write(5)
    looks, old = FileFollower._siblings, []

    def rotating(self):
        if not old:
            for _ in range(2):
                log.rename()
                log.path.touch()
                log.touch(log.path)
            old.append(log.path.with_name("mail.log.2"))
        return looks(self)

    monkeypatch.setattr(FileFollower, "_siblings", rotating)
    found += drain(follower)
    assert len(open_files(log.path.parent)) == 1
    with old[0].open("a") as file:
        file.write(line(25) + "\n")
    log.touch(old[0])
    log.written += 1
    found += drain(follower)
    log.write(1)
    assert found + drain(follower) == wanted(log)
    follower.close()


def test_packed_log_is_unpacked_once(log, monkeypatch):
    """Several batches of one packed file do not begin at its start each time."""
    log.write(20)
    position = FileFollower(log.path, from_start=True).batch(0).position
    noisy(log, 50_000)
    log.rename_and_compress()
    log.path.write_text("live\n")
    starts, start = [], logtail.Packed._start
    monkeypatch.setattr(logtail.Packed, "_start", lambda self: starts.append(1) or start(self))
    beats, batches = [], 0
    follower = FileFollower(log.path, position, alive=lambda: beats.append(1))
    while follower.batch(0).lines:
        batches += 1
    assert batches >= 5
    assert len(beats) > batches
    assert len(starts) <= 4
    follower.close()
