"""Rule files on disk: shipped ones and the administrator's, read and checked for ownership.

SYNOPSIS
    rules = load_rules(settings)

DESCRIPTION
    Each call reads the files anew; nothing is cached.

SECURITY
    A rule decides what is suppressed. A local file is refused unless root or the running user owns it and others may
    not write to it; so is its folder.

LIMITS
    1 MiB for a file, 1,000 local files.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from milter_bounce import limits
from milter_bounce.config import Settings
from milter_bounce.decide.check import local_findings
from milter_bounce.decide.rule_toml import RulesError, each_fault, from_values, to_values
from milter_bounce.decide.ruleset import RuleSet
from milter_bounce.decide.scan import refuse_broken
from milter_bounce.delivery import DeliveryStatus
from milter_bounce.parse.postfix_log import read_words
from milter_bounce.parse.reply import parse_reply, reply_start, unlogged

from .share import rules_dir

if TYPE_CHECKING:
    from collections.abc import Mapping

FILE_LIMIT_BYTES: Final = limits.RULE_FILE_BYTES
LOCAL_FILES: Final = limits.RULE_FILES
NO_RULES: Final = frozenset({"schedules.toml", "thresholds.toml"})
"""Files of the folder that hold other data than rules."""


def status_of(text: str, remote_mta: str | None = None, recipient: str | None = None) -> DeliveryStatus:
    """Return the delivery status that a reply alone tells of, also as Postfix quotes it (``host NAME said: ...``)."""
    text = unlogged(text)
    words = read_words(text)
    parts = parse_reply(words.diagnostic if words.remote else text)
    if parts.code is None and not words.remote and (start := reply_start(text)) is not None:
        # "SMTP error from remote mail server after RCPT TO: host mx.example.net: 550 ...": the reply stands inside
        inner = parse_reply(text[start:])
        parts = parts._replace(code=inner.code, status=inner.status or parts.status)
    return DeliveryStatus(
        recipient,
        status=parts.status,
        reply_code=parts.code,
        diagnostic=parts.text,
        remote_mta=remote_mta or (words.name if words.remote else None),
        command=words.command if words.remote else None,
    )


def load_rules(settings: Settings | None = None, *, strict: bool = True) -> RuleSet:
    """Return the shipped rules with the administrator's own.

    Args:
        settings: where the rules lie.
        strict: refuse own rules that can never fire or whose example another rule takes.

    Raises:
        RulesError: file, rule and reason; also for a file that cannot be read or that others may write to.
    """
    settings = settings or Settings()
    rules = RuleSet.from_values(shipped_values(settings), local_values(Path(settings.rules.local)))
    if strict and (wrong := local_findings(rules, status_of)):
        raise RulesError(*wrong[0])
    return rules


def shipped_values(settings: Settings) -> dict[str, dict[str, Any]]:
    """Return the TOML values of every shipped rule file.

    Raises:
        RulesError: as `shipped_files`, or one is not TOML.
    """
    folder = Path(settings.rules.shipped) if settings.rules.shipped else rules_dir()
    return {name: to_values(name, _text(name, raw)) for name, raw in shipped_files(folder).items()}


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


def broken_files(settings: Settings) -> list[RulesError]:
    """Return what keeps each of the administrator's own files from being loaded: a fault of every rule that has one.

    Raises:
        RulesError: the shipped rules are broken.
    """
    shipped, faults = shipped_values(settings), dict[str, RulesError]()
    for path in sorted(Path(settings.rules.local).glob("*.toml"))[:LOCAL_FILES]:
        values: dict[str, Any] = {}
        try:
            _refuse_foreign(path)
            values = to_values(str(path), _text(path, _read(path)))
            RuleSet.from_values(shipped, {str(path): values})
        except RulesError as error:
            for fault in (*_faults_of(str(path), values, shipped), error):
                faults.setdefault(str(fault), fault)
    return list(faults.values())


def _faults_of(name: str, values: dict[str, Any], shipped: Mapping[str, Any]) -> list[RulesError]:
    """Return the faults of a file's rules, each by itself: not as it should be, no pattern of RE2, no such operator, double."""
    faults = each_fault(name, values)
    broken = {fault.rule for fault in faults}
    tables = values.get("rule") if isinstance(values.get("rule"), list) else []
    rules = [table for table in tables or [] if isinstance(table, dict) and str(table.get("id")) not in broken]
    operators = {file.get("operator", {}).get("id") for file in shipped.values()}
    seen: set[str] = set()
    for table in rules:
        file = from_values(name, {**values, "rule": [table], "time": [], "blocklist": []}, local=True)
        rule = file.rules[0]
        try:
            refuse_broken(file.rules)
        except RulesError as fault:
            faults.append(fault)
        if rule.operator is not None and rule.operator not in operators:
            faults.append(RulesError(name, rule.id, f"operator {rule.operator!r} has no file in operators/"))
        if rule.id in seen:
            faults.append(RulesError(name, rule.id, f"this id stands in {name} already"))
        seen.add(rule.id)
    return faults


def read_own_examples(path: Path) -> list[dict[str, Any]]:
    """Return the ``[[example]]`` tables of an administrator's own file; each has a ``text``.

    Raises:
        RulesError: a file that cannot be read, is not TOML, or holds no examples.
    """
    examples = to_values(str(path), _text(path, _read(path))).get("example")
    if not isinstance(examples, list) or not examples:
        raise RulesError(str(path), None, 'holds no [[example]] with text = "550 ..."')
    for number, example in enumerate(examples, 1):
        if not isinstance(example, dict) or not isinstance(example.get("text"), str):
            raise RulesError(str(path), f"example {number}", 'has no text = "550 ..."')
    return examples


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
