"""Keys on disk: who may own them, and what is told when they cannot be read."""

from __future__ import annotations

import os
import pwd

import pytest

from milter_bounce.system import keys

ROOT = os.geteuid() == 0
needs_root = pytest.mark.skipif(not ROOT, reason="gives files to another user: needs root")


def test_keyring_of_no_folder_is_empty(tmp_path):
    """Without a folder there are no keys, and nothing to complain of."""
    ring, refused = keys.read_keyring(tmp_path / "none")
    assert (dict(ring.keys), refused) == ({}, [])


def test_keyring_tells_of_a_folder_that_cannot_be_read(tmp_path):
    """A folder that cannot be listed is a fault, not an empty ring."""
    place = tmp_path / "keys"
    place.write_text("")
    ring, refused = keys.read_keyring(place)
    assert not ring.keys
    assert refused[0].startswith(f"{place}: cannot be read: ")


@needs_root
@pytest.mark.parametrize(("user", "known"), [pytest.param("nobody", 1, id="theirs"), pytest.param("", 0, id="anyone")])
def test_keyring_looked_at_by_root_takes_the_keys_of_the_programs_user(tmp_path, user, known):
    """Root lists what the programs' user owns; a key of anybody else is refused with the remedy."""
    path = keys.new_key(tmp_path / "keys")
    os.chown(path, pwd.getpwnam("nobody").pw_uid, -1)
    ring, refused = keys.read_keyring(path.parent, user)
    assert (len(ring.keys), len(refused)) == (known, 1 - known)
    assert all("belongs to user" in line and "chown" in line for line in refused)


@needs_root
def test_new_key_lets_the_programs_group_into_a_new_folder(tmp_path):
    """The folder that root makes can be entered by the user that reads the keys."""
    path = keys.new_key(tmp_path / "keys", "nobody")
    assert path.parent.stat().st_gid == pwd.getpwnam("nobody").pw_gid
