"""Rule files on disk: shipped ones and the administrator's, read, checked for ownership, reloaded.

SYNOPSIS
    rules = load_rules(settings)
    line = RuleReloader(settings).reload()      on SIGHUP

DESCRIPTION
    The TOML of the shipped files, once read, is kept as JSON in a cache folder, because reading TOML takes longer
    than all the rest; a cache that is not ours, not whole or of other files is not used.

SECURITY
    A rule decides what is suppressed. A local file is refused unless root or the running user owns it and nobody
    else may write to it; so is its folder. The cache is held to the same.

LIMITS
    1 MiB for a file, 1,000 local files.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from milter_bounce import __version__
from milter_bounce.config import Settings
from milter_bounce.decide.rule_toml import RulesError, to_values
from milter_bounce.decide.ruleset import RuleSet
from milter_bounce.delivery import DeliveryStatus
from milter_bounce.parse.reply import parse_reply

from .share import rules_dir

if TYPE_CHECKING:
    from collections.abc import Iterable

FILE_LIMIT_BYTES: Final = 1_048_576
"""A rule file of more than 1 MiB is some other file."""

LOCAL_FILES: Final = 1000
NO_RULES: Final = frozenset({"schedules.toml", "readers.toml", "thresholds.toml"})
"""Files of the folder that hold other data than rules."""

_CACHE_FOLDERS: Final = ("/var/cache/milter-bounce",)


def status_of(text: str, remote_mta: str | None = None, recipient: str | None = None) -> DeliveryStatus:
    """Return the delivery status that a reply alone tells of."""
    parts = parse_reply(text)
    return DeliveryStatus(
        recipient, status=parts.status, reply_code=parts.code, diagnostic=parts.text, remote_mta=remote_mta
    )


def load_rules(settings: Settings | None = None) -> RuleSet:
    """Return the shipped rules with the administrator's own.

    Raises:
        RulesError: file, rule and reason; also for a file that cannot be read or that others may write to.
    """
    settings = settings or Settings()
    shipped = Path(settings.rules.shipped) if settings.rules.shipped else rules_dir()
    files = shipped_files(shipped)
    return RuleSet.from_values(_shipped_values(files), local_values(Path(settings.rules.local)))


def shipped_files(folder: Path) -> dict[str, bytes]:
    """Return every shipped rule file by its name below `folder`.

    Raises:
        RulesError: there is none, or one cannot be read.
    """
    paths = sorted([*folder.glob("*.toml"), *folder.glob("text/*.toml"), *folder.glob("operators/*.toml")])
    paths = [path for path in paths if path.name not in NO_RULES]
    if not paths:
        raise RulesError(str(folder), None, "holds no rule files; set [rules] shipped, or reinstall")
    return {str(path.relative_to(folder)): _read(path) for path in paths}


def local_values(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the TOML values of the administrator's own files; empty where the folder is missing.

    Raises:
        RulesError: a file that cannot be read, is not TOML, or that others may write to.
    """
    if not folder.is_dir():
        return {}
    _refuse_foreign(folder)
    paths = sorted(folder.glob("*.toml"))[:LOCAL_FILES]
    values = {}
    for path in paths:
        _refuse_foreign(path)
        values[str(path)] = to_values(str(path), _text(path, _read(path)))
    return values


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            raw = file.read(FILE_LIMIT_BYTES + 1)
    except OSError as error:
        raise RulesError(str(path), None, f"cannot be read: {error.strerror}") from None
    if len(raw) > FILE_LIMIT_BYTES:
        raise RulesError(str(path), None, "is larger than 1 MiB; no rule file is")
    return raw


def _text(name: Path | str, raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RulesError(str(name), None, f"is not UTF-8 at byte {error.start}; save it as UTF-8") from None


def _foreign(path: Path) -> str | None:
    """Return why `path` cannot be trusted; None where it can."""
    try:
        info = path.stat()
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    if info.st_uid not in {0, os.geteuid()}:
        return f"belongs to user {info.st_uid}, not to root; chown it"
    if info.st_mode & stat.S_IWOTH:
        return "can be written by anybody; chmod o-w it"
    return None


def _refuse_foreign(path: Path) -> None:
    if reason := _foreign(path):
        raise RulesError(str(path), None, reason)


def _shipped_values(files: dict[str, bytes]) -> dict[str, dict[str, Any]]:
    """Return the TOML values of the shipped files, from the cache where it holds these very files."""
    digest = hashlib.sha256(__version__.encode())
    for name, raw in files.items():
        digest.update(f"\0{name}\0{len(raw)}\0".encode() + raw)
    name = f"rules-{digest.hexdigest()[:40]}.json"
    for folder in _cache_folders():
        cached = _cached(folder / name)
        if cached is not None and set(cached) == set(files):
            return cached
    values = {name_: to_values(name_, _text(name_, raw)) for name_, raw in files.items()}
    _keep(values, name)
    return values


def _cache_folders() -> list[Path]:
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")  # noqa: PTH111, PTH118
    own = [Path(home) / "milter-bounce"] if os.path.isabs(home) else []  # noqa: PTH117 - "~" stays where no home is
    return [*map(Path, _CACHE_FOLDERS), *own]


def _cached(path: Path) -> dict[str, dict[str, Any]] | None:
    if _foreign(path) is not None or _foreign(path.parent) is not None:
        return None
    try:
        values = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return values if isinstance(values, dict) else None


def _keep(values: dict[str, dict[str, Any]], name: str) -> None:
    """Write the cache to the first folder that takes it; without one, the next start reads TOML again."""
    for folder in _cache_folders():
        if folder.as_posix() in _CACHE_FOLDERS and not folder.is_dir():
            continue
        try:
            folder.mkdir(mode=0o755, parents=True, exist_ok=True)
            if _foreign(folder) is not None:
                continue
            _replace_cache(folder, name, json.dumps(values, ensure_ascii=False, separators=(",", ":")))
        except (OSError, TypeError, ValueError):
            continue
        return


def _replace_cache(folder: Path, name: str, text: str) -> None:
    """Put `text` under `name` in one step, and take older caches away."""
    handle, temporary = tempfile.mkstemp(dir=folder, prefix=".rules-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        Path(temporary).chmod(0o644)
        Path(temporary).replace(folder / name)
    except OSError:
        Path(temporary).unlink(missing_ok=True)
        raise
    _forget(path for path in folder.glob("rules-*.json") if path.name != name)


def _forget(paths: Iterable[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


class RuleReloader:
    """Holds the rules in force; a broken file never replaces them."""

    def __init__(self, settings: Settings | None = None) -> None:
        """Load the rules for the first time.

        Raises:
            RulesError: file, rule and reason: a program does not start on broken rules.
        """
        self._settings = settings
        self.rules = load_rules(settings)

    def reload(self) -> str | None:
        """Read the files again and return None; or keep the old rules and return one line: file, rule, reason."""
        try:
            self.rules = load_rules(self._settings)
        except RulesError as error:
            return f"rules not reloaded, the old ones stay in force: {error}"
        return None
