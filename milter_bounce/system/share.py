"""Where the shipped rules and the sample configuration lie: in the wheel, or beside the package in a checkout."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent.parent


def _folder(name: str) -> Path:
    shipped = _PACKAGE / "share" / name
    return shipped if shipped.is_dir() else _PACKAGE.parent / name


def rules_dir() -> Path:
    """Return the folder of the shipped rules."""
    return _folder("rules")


def conf_dir() -> Path:
    """Return the folder of the sample configuration and the MTA snippets."""
    return _folder("conf")
