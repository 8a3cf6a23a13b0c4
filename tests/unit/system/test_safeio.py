"""system.safeio: files that others read are replaced whole."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from milter_bounce.system.safeio import replace_files

OLD, NEW = b"old\n" * 50_000, b"new\n" * 60_000


@pytest.fixture
def renames(monkeypatch):
    """Return what was on disk, and synced, at the moment of each rename: (target before, what goes there)."""
    seen, synced, real, sync = [], set(), Path.replace, os.fsync

    def fsync(descriptor):
        synced.add(os.fstat(descriptor).st_ino)
        sync(descriptor)

    def replace(self, target):
        assert self.stat().st_ino in synced
        assert self.parent == Path(target).parent
        seen.append((Path(target).read_bytes() if Path(target).exists() else None, self.read_bytes()))
        return real(self, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", replace)
    return seen


def test_replace_files_leaves_no_moment_with_a_cut_file(tmp_path, renames):
    """Until the rename the old content stands whole, and what takes its place is whole and on disk: a kill finds either."""
    path = tmp_path / "main.cf"
    path.write_bytes(OLD)
    replace_files({path: NEW, tmp_path / "fresh": NEW})
    assert renames == [(OLD, NEW), (None, NEW)]
    assert path.read_bytes() == NEW
    assert sorted(p.name for p in tmp_path.iterdir()) == ["fresh", "main.cf"]


def test_replace_files_keeps_owner_mode_and_link(tmp_path):
    """The file behind a symbolic link is the one that is replaced."""
    real, link = tmp_path / "real" / "main.cf", tmp_path / "main.cf"
    real.parent.mkdir()
    real.write_bytes(OLD)
    real.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(real, 7, 8)
    owner = real.stat().st_uid, real.stat().st_gid
    link.symlink_to(real)
    replace_files({link: NEW})
    assert link.is_symlink()
    assert real.read_bytes() == NEW
    assert (real.stat().st_uid, real.stat().st_gid) == owner
    assert real.stat().st_mode & 0o7777 == 0o640


def test_replace_files_sets_the_mode_asked_for(tmp_path):
    """A record is its owner's alone; what is new is for all to read otherwise."""
    replace_files({tmp_path / "record": NEW}, mode=0o600)
    replace_files({tmp_path / "gate.cf": NEW})
    assert (tmp_path / "record").stat().st_mode & 0o7777 == 0o600
    assert (tmp_path / "gate.cf").stat().st_mode & 0o7777 == 0o644


def test_replace_files_changes_nothing_when_one_cannot_be_written(tmp_path, monkeypatch):
    """A full disk at the second file: the first is as it was, and nothing lies about."""
    first, second, sync, calls = tmp_path / "main.cf", tmp_path / "master.cf", os.fsync, []
    first.write_bytes(OLD)
    second.write_bytes(OLD)

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        replace_files({first: NEW, second: NEW})
    assert first.read_bytes() == second.read_bytes() == OLD
    assert sorted(p.name for p in tmp_path.iterdir()) == ["main.cf", "master.cf"]
