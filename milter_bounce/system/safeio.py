"""Files that somebody else reads, replaced whole: a reader finds the old content or the new, a crash leaves one of them.

Goes in: paths with their new content. Comes out: nothing, once all is on disk. Does
not: lock; who else writes these files loses or wins as a whole.

Limits: owner, group, mode and extended attributes (ACLs) are kept; hard links are not.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

NEW_MODE = 0o644


def replace_files(contents: Mapping[Path, bytes], mode: int | None = None) -> None:
    """Replace the files, in this order, once the new content of every one is on disk.

    Args:
        contents: what each shall hold; behind a symbolic link the file that it names is replaced.
        mode: for all of them; None keeps theirs, 0644 for new ones.

    Raises:
        OSError: it could not be; where a disk is full or not ours to write, nothing was replaced.
    """
    ready: list[tuple[Path, Path]] = []
    try:
        for path, raw in contents.items():
            real = path.resolve()
            fresh = real.with_name(f".{real.name}.{os.getpid()}.new")
            ready.append((fresh, real))
            _write(fresh, raw)
            _dress(fresh, real, mode)
        while ready:
            fresh, real = ready[0]
            fresh.replace(real)
            del ready[0]
            _sync_folder(real.parent)
    finally:
        for fresh, _ in ready:
            fresh.unlink(missing_ok=True)


def _write(fresh: Path, raw: bytes) -> None:
    fresh.unlink(missing_ok=True)
    # not for others to read before it has the old one's mode
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(raw)
        file.flush()
        os.fsync(file.fileno())


def _dress(fresh: Path, real: Path, mode: int | None) -> None:
    """Give the new file the owner, mode and attributes of the old one."""
    if real.exists():
        info = real.stat()
        os.chown(fresh, info.st_uid, info.st_gid)
        shutil.copystat(real, fresh)
        os.utime(fresh)
        mode = info.st_mode & 0o7777 if mode is None else mode
    fresh.chmod(NEW_MODE if mode is None else mode)


def _sync_folder(folder: Path) -> None:
    """Make a rename last through a power cut, where the file system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
