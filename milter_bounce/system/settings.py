"""Settings from a file: found, read, checked."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from milter_bounce import config, limits

DEFAULT: Final = Path("/etc/milter-bounce/milter-bounce.toml")
LIMIT_BYTES: Final = limits.SETTINGS_BYTES


def name_of(path: Path | None) -> str:
    """Return the file that an error about a setting names: where the setting is or can be mended."""
    return str(path or DEFAULT)


def load_settings(path: Path | None = None) -> config.Settings:
    """Return the settings of `path`; without one, those of /etc/milter-bounce or the defaults.

    Raises:
        ConfigError: one line with file, key, value and remedy; also for a file that cannot be read.
    """
    if path is None:
        if not DEFAULT.exists():
            return config.Settings()
        path = DEFAULT
    try:
        with path.open("rb") as file:
            raw = file.read(LIMIT_BYTES + 1)
    except OSError as error:
        remedy = (
            "let the user that runs this read it (chgrp, chmod g+r)"
            if isinstance(error, PermissionError)
            else "name another with -c"
        )
        raise config.ConfigError(f"{path}: cannot be read: {error.strerror}; {remedy}") from None
    if len(raw) > LIMIT_BYTES:
        raise config.ConfigError(f"{path}: is larger than 1 MiB; name the configuration with -c")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise config.ConfigError(f"{path}: is not UTF-8 at byte {error.start}; save it as UTF-8") from None
    return config.load(text, str(path))
