"""Our settings put into Postfix's configuration and taken out again, while Postfix runs on it.

Goes in: `Change`s that were planned (``postfix_conf``). Comes out: main.cf and
master.cf, each replaced whole by what postconf(1) made of a copy, and a record from
which a revert restores every byte. Does not: restart Postfix.

Limits: a running master keeps the services that it was started with, options
included, until it is restarted. So a parameter of ours that such an option names
stays in main.cf for so long, without anything of ours in it.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import socket
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from .postfix_conf import GATE, GATE_MAPS, Change, Postconf, PostfixError
from .safeio import replace_files

if TYPE_CHECKING:
    from collections.abc import Mapping

RECORD: Final = "milter-bounce.applied.json"
"""What was changed, beside main.cf."""

FILES: Final = ("main.cf", "master.cf")
"""In the order in which they are replaced: master.cf names parameters of main.cf."""

CONNECT_S: Final = 2.0

Planner = Callable[[Postconf], list[Change]]
"""What is to be put in, told from a configuration without anything of ours."""


def nothing(_: Postconf) -> list[Change]:
    """Plan a configuration without anything of ours."""
    return []


@dataclass(frozen=True, slots=True)
class Staged:
    """What a change makes of the configuration, worked out on a copy."""

    now: dict[str, bytes]
    before: dict[str, bytes]
    """Without anything of ours."""

    after: dict[str, bytes]
    changes: list[Change]
    """From `before` to `after`."""

    left: list[str]
    """What of ours was changed by somebody since and stays, one line each."""

    waiting: bool
    """Whether `GATE_MAPS` stays only for services that run."""

    def difference(self, directory: Path) -> str:
        """Return what changes as a unified diff; empty where nothing does."""
        lines: list[str] = []
        for name in FILES:
            old, new = (_lines(side[name]) for side in (self.now, self.after))
            lines += difflib.unified_diff(old, new, f"{directory}/{name}", f"{directory}/{name} (new)")
        return "".join(lines)


@dataclass(frozen=True, slots=True)
class Done:
    """What became of a change."""

    left: list[str]
    waiting: bool
    """Whether something stays until Postfix was restarted; another revert or apply takes it out then."""


def _lines(raw: bytes) -> list[str]:
    return raw.decode("utf-8", "backslashreplace").splitlines(keepends=True)


def _contents(directory: Path) -> dict[str, bytes]:
    try:
        return {name: (directory / name).read_bytes() for name in FILES}
    except OSError as error:
        raise PostfixError(
            f"{error.filename}: {error.strerror}; name Postfix's configuration with --config-dir"
        ) from None


# -- the running Postfix -----------------------------------------------------------


def gate_runs(postconf: Postconf) -> bool:
    """Return whether a running Postfix serves the gate, whatever master.cf says by now."""
    queue = Path(postconf.expanded("queue_directory"))
    return any(_listens(queue / kind / GATE) for kind in ("private", "public"))


def _listens(path: Path) -> bool:
    """Return whether somebody listens on a unix socket; True where that cannot be told."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(CONNECT_S)
        try:
            probe.connect(str(path))
        except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError):
            return False
        except OSError:
            pass
    return True


def stays(postconf: Postconf, saved: dict[str, Any] | None) -> bool:
    """Return whether what was applied holds the gate and a running Postfix serves it."""
    return _has_gate(saved) and gate_runs(postconf)


def _has_gate(saved: dict[str, Any] | None) -> bool:
    return saved is not None and any(change["name"] == GATE_MAPS for change in saved["changes"])


# -- on a copy ---------------------------------------------------------------------


def stage(directory: Path, saved: dict[str, Any] | None, planned: Planner, *, gate_stays: bool) -> Staged:
    """Return what becomes of the configuration when `saved` is taken out and what is planned put in.

    Args:
        directory: of main.cf and master.cf; nothing is written there.
        saved: the record of what was applied.
        planned: what to put in.
        gate_stays: leave the gate's maps defined where the plan has none: without them a gate that runs would know
            none of the administrator's transports.

    Raises:
        PostfixError: postconf is missing or refuses.
    """
    now = _contents(directory)
    with tempfile.TemporaryDirectory(prefix="milter-bounce-") as temporary:
        copy = Path(temporary)
        for name, raw in now.items():
            (copy / name).write_bytes(raw)
        postconf = Postconf(copy, copy=True)
        left = [] if saved is None else _undo(postconf, saved)
        before, changes = _contents(copy), planned(postconf)
        waiting = gate_stays and not any(change.name == GATE_MAPS for change in changes)
        if waiting:
            own = postconf.value("transport_maps")
            changes.append(Change("main", GATE_MAPS, postconf.explicit(GATE_MAPS), own))
        for change in changes:
            postconf.put(change)
        return Staged(now, before, _contents(copy), changes, left, waiting)


def _undo(postconf: Postconf, saved: dict[str, Any]) -> list[str]:
    """Take our settings out of the directory of `postconf`; return what was left alone, one line each.

    A file that nobody touched since is restored byte by byte; in another one each setting is taken back by itself.
    """
    directory, left = postconf.directory, []
    now = _contents(directory)
    for name in FILES:
        before, *ours = (side[name].encode("latin-1") for side in _sides(saved))
        if now[name] in ours:
            (directory / name).write_bytes(before)
        elif now[name] != before:
            for values in reversed(saved["changes"]):
                change = Change(**values)
                if (change.kind == "main") is (name == "main.cf") and (reason := postconf.take(change)):
                    left.append(reason)
    return left


def _sides(saved: dict[str, Any]) -> list[dict[str, str]]:
    """Return the files before, after, and as our own earlier change had left them, if that was replaced."""
    return [saved["before"], saved["after"], *([saved["replaced"]] if "replaced" in saved else [])]


# -- in place ------------------------------------------------------------------------


def applied(directory: Path) -> dict[str, Any] | None:
    """Return the record of what was applied; None where nothing is.

    Raises:
        PostfixError: the record is damaged.
    """
    path = directory / RECORD
    if not path.exists():
        return None
    try:
        saved = json.loads(path.read_text())
        [side[name].encode("latin-1") for side in _sides(saved) for name in FILES]
        [Change(**change) for change in saved["changes"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise PostfixError(f"{path}: is damaged ({error}); take our settings out by hand and remove it") from None
    return dict(saved)


def exchange(
    postconf: Postconf,
    saved: dict[str, Any] | None,
    planned: Planner = nothing,
    files: Mapping[Path, str] | None = None,
) -> Done:
    """Take out what was applied before and put in what is planned, so that Postfix may run and start at any moment.

    Args:
        postconf: the configuration.
        saved: the record of what was applied before.
        planned: what to put in; nothing = revert.
        files: our own files that the plan needs.

    Raises:
        PostfixError: nothing was changed, or what it says.
    """
    directory = postconf.directory
    staged = stage(directory, saved, planned, gate_stays=_has_gate(saved))
    _install(directory, saved, staged, files or {})
    # looked at only now: a Postfix that starts from here on has no gate
    if staged.waiting and not gate_runs(postconf):
        saved = applied(directory)
        last = stage(directory, saved, planned, gate_stays=False)
        _install(directory, saved, last, files or {})
        return Done(staged.left, waiting=False)
    return Done(staged.left, staged.waiting)


def _install(directory: Path, saved: dict[str, Any] | None, staged: Staged, files: Mapping[Path, str]) -> None:
    """Put in place what was staged, each file whole: our own files, the record, main.cf, master.cf."""
    if _contents(directory) != staged.now:
        raise PostfixError(f"{directory}: was changed by somebody else at this moment; nothing was changed, try again")
    record, earlier = directory / RECORD, [] if saved is None else [Path(path) for path in saved["files"]]
    kept = dict.fromkeys([*files, *(earlier if staged.waiting else [])])
    changed = {directory / name: staged.after[name] for name in FILES if staged.after[name] != staged.now[name]}
    old_record = record.read_bytes() if record.exists() else None
    made = [path for path in files if not path.exists()]
    try:
        for path in files:
            path.parent.mkdir(parents=True, exist_ok=True)
        replace_files({path: text.encode() for path, text in files.items()})
        if staged.changes:
            replace_files({record: _record(staged, kept)}, mode=0o600)
        replace_files(changed)
        for path in (*earlier, *([] if staged.changes else [record])):
            if path not in kept:
                path.unlink(missing_ok=True)
    except OSError as error:
        _put_back(directory, staged.now, old_record, made)
        raise PostfixError(f"nothing was changed: {error}") from None


def _record(staged: Staged, files: Mapping[Path, None]) -> bytes:
    def text(side: dict[str, bytes]) -> dict[str, str]:
        return {name: raw.decode("latin-1") for name, raw in side.items()}

    saved = {
        "changes": [asdict(change) for change in staged.changes],
        "files": [str(path) for path in files],
        "waiting": staged.waiting,
        "before": text(staged.before),
        "after": text(staged.after),
        # a crash between record and main.cf leaves what was there: ours too, if not the administrator's own
        "replaced": text(staged.now),
    }
    return json.dumps(saved, indent=1).encode()


def _put_back(directory: Path, now: dict[str, bytes], old_record: bytes | None, made: list[Path]) -> None:
    """Have everything as it was.

    Raises:
        PostfixError: that failed too.
    """
    record = directory / RECORD
    try:
        replace_files({directory / n: raw for n, raw in now.items() if (directory / n).read_bytes() != raw})
        if old_record is not None:
            replace_files({record: old_record}, mode=0o600)
    except OSError as error:
        text = f"{directory}: was changed in part: {error}; mend that, then `milter-bounce postfix revert`"
        raise PostfixError(text) from None
    for path in (*made, *([record] if old_record is None else [])):
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
