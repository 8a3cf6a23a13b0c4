"""Keys on disk: who may own them, and what is told when they cannot be read."""

from __future__ import annotations

import os
import pwd
import shutil

import pytest
from click.testing import CliRunner

from milter_bounce.cli.keys import keys as command
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


def plant(folder, name, day):
    """Make a key as earlier versions did: of this day, under this name."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.key"
    path.write_text(f"v1 {day} {'ab' * keys.SECRET_BYTES}\n")
    path.chmod(0o400)


def test_key_made_last_stamps(tmp_path):
    """Ten keys of one day, as fast as they can be made: each stamps as soon as it is there."""
    for _ in range(10):
        path = keys.new_key(tmp_path / "keys")
        assert keys.read_keyring(tmp_path / "keys")[0].stamping.id == path.stem


@pytest.mark.parametrize(
    ("name", "ahead"),
    [
        pytest.param("{day}ffff", 0, id="made-today-by-an-earlier-version"),
        pytest.param("zzzz", 0, id="named-by-hand"),
        pytest.param("{day}t86399ffff", 0, id="last-second-of-the-day"),
        pytest.param("leaked", 400, id="clock-was-ahead"),
    ],
)
def test_new_key_takes_over_from_every_other(tmp_path, name, ahead):
    """A leaked key is out of force with the next one, however it is called and dated."""
    day = keys.today() + ahead
    plant(tmp_path / "keys", name.format(day=day), day)
    path = keys.new_key(tmp_path / "keys")
    assert keys.read_keyring(tmp_path / "keys")[0].stamping.id == path.stem
    assert keys.new_key(tmp_path / "keys").stem == keys.read_keyring(tmp_path / "keys")[0].stamping.id


def test_copied_keys_stamp_alike_whatever_the_times_of_the_files(tmp_path):
    """A fleet gets the files by all means: order and times of the copies decide nothing."""
    made = [keys.new_key(tmp_path / "here") for _ in range(3)]
    (tmp_path / "there").mkdir()
    for age, path in enumerate(made):
        copy = shutil.copy(path, tmp_path / "there")
        os.utime(copy, (1000 - age, 1000 - age))
    assert keys.read_keyring(tmp_path / "there")[0].stamping.id == made[-1].stem


def test_key_id_fits_the_token(tmp_path):
    """The token's k= takes sixteen characters, for another three centuries."""
    path = keys.new_key(tmp_path / "keys")
    assert keys.KEY_ID.fullmatch(path.stem)
    assert keys.KEY_ID.fullmatch(keys._name(999_999, 86_400))


def test_keys_new_says_which_key_stamps(tmp_path):
    """The path on standard output, for scripts; the key that stamps for people."""
    conf = tmp_path / "c.toml"
    conf.write_text(f'user = ""\n[token]\nkeys = "{tmp_path}/keys"\n')
    ran = CliRunner().invoke(command, ["new", "-c", str(conf)])
    made = next((tmp_path / "keys").iterdir())
    assert ran.exit_code == 0
    assert str(made) in ran.output.splitlines()
    assert f"key {made.stem} stamps from the next reload on" in ran.output
