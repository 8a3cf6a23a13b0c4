"""Keys of the report token on disk: made, read, refused when others can read them.

A key is a file ``ID.key`` in the keys folder: one line ``v1 DAY HEX``. Its mode must
be 0400 or 0600 and its owner root or the program's own user; anything else is refused,
since whoever reads a key can forge reports.

The youngest key stamps: the latest DAY, then the ID that sorts last. ID is day, ``t``,
second of the day and chance, so the key made last sorts last, also behind the IDs of
the same day that have no ``t``. What decides stands in the file and its name alone:
every host of a fleet that the files are copied to agrees, which times of files
(lost by cp and git, kept by rsync) would not bring about.
"""

from __future__ import annotations

import os
import pwd
import secrets
import stat
import time
from typing import TYPE_CHECKING, Final

from milter_bounce import limits
from milter_bounce.protocol.token import KEY_ID, Key, Keyring

if TYPE_CHECKING:
    from pathlib import Path

SECRET_BYTES: Final = 32
KEYS_LIMIT: Final = limits.KEYS

DAY_S: Final = 86_400


class KeyFault(Exception):  # noqa: N818 - KeyError is Python's own
    """A key that cannot be used; the text names file and remedy."""


def today() -> int:
    """Return the day in UTC, counted from 1970-01-01."""
    return int(time.time() // DAY_S)


def read_key(path: Path, user: str = "") -> Key:
    """Return the key in one file, which must be root's, our own or `user`'s.

    Raises:
        KeyFault: not readable, of the wrong mode or owner, or not a key; with the remedy.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise KeyFault(f"{path}: cannot be read: {error.strerror}") from None
    with os.fdopen(handle, "rb") as file:
        facts = os.fstat(handle)
        if not stat.S_ISREG(facts.st_mode) or facts.st_mode & 0o077:
            raise KeyFault(f"{path}: others can read it (mode {stat.S_IMODE(facts.st_mode):04o}): chmod 0400 {path}")
        if facts.st_uid not in {0, os.geteuid(), _uid(user)}:
            raise KeyFault(f"{path}: belongs to user {facts.st_uid}: chown {user or 'milter-bounce'} {path}")
        words = file.read(1024).split()
    if len(words) != 3 or words[0] != b"v1" or not words[1].isdigit() or len(words[2]) != 2 * SECRET_BYTES:
        raise KeyFault(f"{path}: is no key; make one with `milter-bounce keys new`")
    try:
        secret = bytes.fromhex(words[2].decode("ascii"))
    except ValueError:
        raise KeyFault(f"{path}: is no key; make one with `milter-bounce keys new`") from None
    return Key(path.stem, secret, int(words[1]))


def _uid(user: str) -> int | None:
    """Return the number of a user; None where there is no such user."""
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        return None


def read_keyring(folder: Path, user: str = "") -> tuple[Keyring, list[str]]:
    """Return the keys of `folder`, and one line for each that was refused; no folder is an empty ring.

    Args:
        folder: where the keys lie.
        user: whose keys are right too: root looks at those of the programs' user.
    """
    keys, refused = [], []
    try:
        # not glob(): it finds nothing in a folder that may not be read, and nobody would learn of it
        paths = sorted(p for p in folder.iterdir() if p.suffix == ".key" and KEY_ID.fullmatch(p.stem))
    except FileNotFoundError:
        return Keyring(), []
    except OSError as error:
        return Keyring(), [f"{folder}: cannot be read: {error.strerror}; let the programs' user read and enter it"]
    for path in paths[-KEYS_LIMIT:]:
        try:
            keys.append(read_key(path, user))
        except KeyFault as error:
            refused.append(str(error))
    return Keyring(keys), refused


def _name(made: int, second: int) -> str:
    return f"{made}t{second:05d}{secrets.token_hex(2)}"


def _next(newest: Key | None) -> tuple[str, int]:
    """Return id and day of a key that stamps before `newest` does, whatever that one is called and dated."""
    day, second = divmod(int(time.time()), DAY_S)
    if newest is None:
        return _name(day, second), day
    made = max(day, newest.made)  # another host's clock may be ahead
    for name, on in ((_name(made, second), made), (_name(made, second + 1), made), (_name(made + 1, 0), made + 1)):
        if (on, name) > (newest.made, newest.id):
            break
    return name, on


def new_key(folder: Path, user: str = "") -> Path:
    """Make a key in `folder` that stamps before all others there, and return its path.

    Made by root, a new folder lets `user`'s group in.

    Raises:
        KeyFault: the folder cannot be written.
    """
    name, made = _next(read_keyring(folder, user)[0].stamping)
    path = folder / f"{name}.key"
    try:
        if not folder.is_dir():
            folder.mkdir(mode=0o750, parents=True)
            if os.geteuid() == 0 and _uid(user) is not None:
                os.chown(folder, -1, pwd.getpwnam(user).pw_gid)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o400)
    except OSError as error:
        raise KeyFault(f"{path}: cannot be made: {error.strerror}; run it as root or name a folder") from None
    with os.fdopen(handle, "w") as file:
        file.write(f"v1 {made} {secrets.token_hex(SECRET_BYTES)}\n")
    return path
