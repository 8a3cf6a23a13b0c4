"""What `check` finds in our own files: keys, and room for the store. Sockets and Postfix: tests/integration."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from milter_bounce import limits
from milter_bounce.config import from_values
from milter_bounce.system import keys, wiring


def settings(folder, **token):
    """Return settings whose store and keys lie in `folder`."""
    values = {"user": "", "store": {"path": str(folder / "state.db")}, "token": {"keys": str(folder / "keys"), **token}}
    return from_values(values, "test")


def found_keys(folder, **token):
    """Return verdict and text of each finding about keys."""
    return [(finding.ok, finding.text) for finding in wiring._keys(settings(folder, **token))]


def test_no_key_is_said_and_is_no_fault(tmp_path):
    """Whoever wants no tokens has none; what follows from it is told."""
    ((ok, text),) = found_keys(tmp_path)
    assert ok is None
    assert "no key" in text


@pytest.mark.parametrize(("stamp", "words"), [(True, "stamps"), (False, "switched off")])
def test_key_in_force_is_named(tmp_path, stamp, words):
    """One key, believed; and whether it stamps."""
    path = keys.new_key(tmp_path / "keys")
    ((ok, text),) = found_keys(tmp_path, stamp=stamp)
    assert ok is True
    assert text.startswith("1 believed")
    assert words in text
    assert (path.stem in text) is stamp


def test_key_that_others_can_read_is_bad(tmp_path):
    """The program refuses it, and `check` says so with the remedy."""
    path = keys.new_key(tmp_path / "keys")
    path.chmod(0o444)
    (ok, text), (none, _) = found_keys(tmp_path)
    assert ok is False
    assert f"chmod 0400 {path}" in text
    assert none is None


def test_what_this_user_may_not_look_at_is_told(tmp_path, monkeypatch):
    """Run by somebody who may not enter the store's folder: who may, and the other points go on."""

    def shut(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(wiring.Path, "exists", shut)
    found = list(wiring._as_far_as_we_may("store", settings(tmp_path), wiring._store(settings(tmp_path))))
    assert [(one.area, one.ok, one.what) for one in found] == [("store", None, str(tmp_path / "state.db"))]
    assert "root" in found[0].remedy


@pytest.mark.parametrize("beside", [-1, 0, 1], ids=["below", "at", "above"])
def test_room_is_warned_of_below_the_limit(tmp_path, monkeypatch, beside):
    """A full disk is what a store dies of: `check` says so before."""
    free = limits.STORE_ROOM_BYTES + beside
    monkeypatch.setattr(wiring.shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    chosen = settings(tmp_path)
    wiring.make_store(chosen).check()
    told = [finding for finding in wiring._store(chosen) if finding.what == "room"]
    assert bool(told) is (beside < 0)
    assert all("are free below" in finding.text for finding in told)
