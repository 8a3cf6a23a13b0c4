"""Settings: TOML text becomes checked values; the field docs below are the manual.

Goes in: the text of ``milter-bounce.toml`` and its name. Comes out: `Settings`,
or `ConfigError` with one line that names file, key, value and remedy. Does not:
read files (``system`` does) or know the rules (``rules/`` does).

``conf/milter-bounce.toml`` is generated from here (``milter-bounce config``);
a test fails on any difference.
"""

from __future__ import annotations

import re
import textwrap
import tomllib
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError


class ConfigError(Exception):
    """A configuration that cannot be used; its text is one line: file, key, value, remedy."""


def _socket(value: str) -> str:
    if re.fullmatch(r"unix:/.+", value) or re.fullmatch(r"inet6?:[0-9]{1,5}@[^@\s]+", value) or value == "":
        return value
    raise ValueError("write unix:/absolute/path, inet:PORT@HOST, or an empty string to switch it off")


Socket = Annotated[str, AfterValidator(_socket)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class MilterSection(_Section):
    """milterd: reads the reports that come in, in line. Attach it with smtpd_milters and non_smtpd_milters."""

    socket: Socket = "unix:/var/spool/postfix/milter-bounce/milter.sock"
    """Where milterd listens: unix:/path (fast, the default) or inet:PORT@HOST. Postfix names it relative to its queue
    directory: unix:milter-bounce/milter.sock."""

    max_message_bytes: int = Field(1_048_576, ge=4096, le=67_108_864)
    """Bytes of a report that are read; the rest passes unread. Reports return headers or a part of the message, so
    1 MiB holds all but freaks."""

    header: bool = True
    """Add an X-Milter-Bounce header with the verdict to each report."""


class LogSection(_Section):
    """Where advice lines go, and which log logd follows."""

    output: Literal["auto", "syslog", "postlog", "stdout", "file"] = "auto"
    """auto: Postfix's own log where maillog_file is set (through public/postlog in the queue directory), else the
    syslog socket, else standard output."""

    output_file: str = ""
    """With output = "file": the file that lines are appended to."""

    syslog_socket: str = "/dev/log"
    """The syslog socket; lines go there with facility mail."""

    queue_directory: str = "/var/spool/postfix"
    """Postfix's queue directory: public/postlog lies in it."""

    follow: str = "auto"
    """The log that logd follows: a file, journal, - for standard input, or auto: postconf's maillog_file, else
    /var/log/mail.log, else the journal."""


class StoreSection(_Section):
    """What is remembered: episodes, suppressions, blocks, counts."""

    path: str = "/var/lib/milter-bounce/state.db"
    """The SQLite file, shared by all programs of this host; its folder must be theirs to write."""


class RulesSection(_Section):
    """The rules that classify."""

    local: str = "/etc/milter-bounce/rules.d"
    """Folder of the administrator's own rules (*.toml); they come before all shipped ones. It may be missing."""

    shipped: str = ""
    """Folder of the shipped rules; empty: the ones that came with the program."""


class Settings(_Section):
    """milter-bounce.toml - every option at its default. Remove the # to change one."""

    mode: Literal["advise", "enforce"] = "advise"
    """advise: classify, log, remember; the queue goes on as before. enforce: the queue follows the advice, capability
    by capability (sections gate, answer, milter)."""

    user: str = "milter-bounce"
    """The user that the programs run as when started by root; it must exist then."""

    milter: MilterSection = MilterSection()
    log: LogSection = LogSection()
    store: StoreSection = StoreSection()
    rules: RulesSection = RulesSection()


_REMEDY: Final = {
    "extra_forbidden": "no such option; `milter-bounce config` lists them all",
    "missing": "set it",
}


def load(text: str, name: str) -> Settings:
    """Return the settings that the TOML `text` of the file `name` holds.

    Raises:
        ConfigError: one line with file, key, value and remedy; the first fault found.
    """
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{name}: is not TOML: {error}; mend that line") from None
    return from_values(values, name)


def from_values(values: dict[str, Any], name: str) -> Settings:
    """Return checked settings from nested values; `name` stands in errors.

    Raises:
        ConfigError: as `load`.
    """
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"]))
        value = repr(first["input"])
        remedy = _REMEDY.get(first["type"], first["msg"].removeprefix("Value error, "))
        raise ConfigError(f"{name}: {key} = {value[:120]}: {remedy}") from None


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_toml(item)}" for key, item in value.items()) + " }" if value else "{}"
    return str(value)


def _comment(text: str | None) -> list[str]:
    words = " ".join((text or "").split())
    return [f"# {line}" for line in textwrap.wrap(words, 100, break_long_words=False, break_on_hyphens=False)]


def _options(model: type[BaseModel]) -> list[str]:
    lines: list[str] = []
    for key, info in model.model_fields.items():
        default = info.get_default(call_default_factory=True, validated_data={})
        if isinstance(default, BaseModel):
            continue
        lines += [*_comment(info.description), f"#{key} = {_toml(default)}", ""]
    return lines


def sample() -> str:
    """Return ``conf/milter-bounce.toml``: every option with its manual, commented out at its default."""
    lines = [*_comment(Settings.__doc__), "", *_options(Settings)]
    for key, info in Settings.model_fields.items():
        if isinstance(info.default, BaseModel):
            section = type(info.default)
            lines += [*_comment(section.__doc__), f"[{key}]", "", *_options(section)]
    return "\n".join(lines).rstrip() + "\n"
