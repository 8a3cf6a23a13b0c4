"""Is everything wired: each hook asked as the MTA asks it, each file tried, each right looked at.

Goes in: the settings, Postfix's configuration directory. Comes out: a `Finding`
for each point, with the remedy for what is wrong. Does not: change anything.
"""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import shutil
import socket
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from milter_bounce import limits
from milter_bounce.config import ConfigError
from milter_bounce.decide.answer import CHECK_ADDRESS, CHECK_STATUS
from milter_bounce.decide.rule_toml import RulesError
from milter_bounce.verdict import GATE_MARK, printable

from .advising import make_store, schedules_of
from .claim import Sign, sign_of
from .keys import read_keyring
from .logsource import followed
from .logtail import Position
from .maillog import MailLog
from .postfix_apply import applied, gate_runs
from .postfix_conf import GATE_MAPS, Postconf, PostfixError, plan
from .rulefiles import load_rules
from .store import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from milter_bounce.config import Settings
    from milter_bounce.protocol.token import Keyring

TIMEOUT_S: Final = 5.0
"""Longer than any of our programs takes to answer; one that takes longer is hung."""


OLD_S: Final = 15.0
"""A sign of life comes every 3 s (claim.py); five that are missing are no busy moment."""

LAG_BYTES: Final = 8 << 20
"""Some 40,000 lines: what logd reads in seconds, so that only a burst of mail, or trouble, leaves more."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One point that was looked at."""

    area: str
    """config, store, token, log, logd, dnsd, postfix, gate, filter, policy or milter."""

    what: str
    ok: bool | None
    """None: could not be told, or does not matter in this mode."""

    text: str
    remedy: str = ""


def check_wiring(settings: Settings, directory: Path, gate_folder: Path) -> Iterator[Finding]:
    """Yield what is found, point by point.

    Args:
        settings: ours.
        directory: Postfix's configuration directory.
        gate_folder: where gate.cf lies.
    """
    yield from _config(settings)
    yield from _as_far_as_we_may("store", settings, _store(settings))
    yield from _as_far_as_we_may("token", settings, _keys(settings))
    yield from _as_far_as_we_may("log", settings, (look(settings) for look in (_log, _writing)))
    yield from _as_far_as_we_may("logd", settings, _logd(settings))
    yield from _as_far_as_we_may("dnsd", settings, _dnsd(settings))
    yield from _as_far_as_we_may("sockets", settings, _sockets(settings))
    yield from _as_far_as_we_may("answers", settings, _questions(settings))
    if (directory / "main.cf").exists():
        yield from _postfix(settings, directory, gate_folder)
        yield from _through_postfix(settings, directory, gate_folder)
    else:
        text = f"{directory}/main.cf does not exist"
        yield Finding("postfix", str(directory), None, text, "name it with --config-dir; see also `sendmail check`")


# -- ours ---------------------------------------------------------------------


def _config(settings: Settings) -> Iterator[Finding]:
    yield Finding("config", "mode", True, settings.mode)
    try:
        count = len(load_rules(settings).rules)
        schedules_of(settings)
    except (RulesError, ConfigError) as error:
        yield Finding("config", "rules", False, str(error), "mend the file; `milter-bounce rules check`")
    else:
        yield Finding("config", "rules", True, f"{count} rules")
    if settings.user:
        known = _uid(settings.user) is not None
        remedy = f"adduser --system --group {settings.user}"
        yield Finding("config", "user", known, settings.user if known else f"no user {settings.user}", remedy)


def _uid(user: str) -> int | None:
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        return None


def _groups(user: str) -> set[int]:
    """Return the ids of the groups that `user` is in."""
    entry = pwd.getpwnam(user)
    return {entry.pw_gid, *(g.gr_gid for g in grp.getgrall() if user in g.gr_mem)}


def _may(path: Path, user: str, right: int) -> bool:
    """Return whether `user` has a right (4 read, 2 write, 1 enter) on `path`, by its owner, group and mode."""
    if os.geteuid() != 0 or _uid(user) is None:
        return os.access(path, right)
    info = path.stat()
    if info.st_uid == _uid(user):
        return bool(info.st_mode & right << 6)
    return bool(info.st_mode & (right << 3 if info.st_gid in _groups(user) else right))


def _as_far_as_we_may(area: str, settings: Settings, findings: Iterator[Finding]) -> Iterator[Finding]:
    """Yield the findings, up to what this user may not look at: that is told, with who may."""
    try:
        yield from findings
    except PermissionError as error:
        who = f"root or {settings.user}" if settings.user else "root"
        command = "`sudo milter-bounce check`"
        yield Finding(area, str(error.filename or area), None, "this user may not look there", f"as {who}: {command}")


def _store(settings: Settings) -> Iterator[Finding]:
    path = Path(settings.store.path)
    if not path.exists():
        fit = path.parent.is_dir() and _may(path.parent, settings.user, os.W_OK)
        text = "is made at the first use" if fit else f"{path.parent} is missing or not writable for {settings.user}"
        yield Finding("store", str(path), fit, text, f"install -d -o {settings.user} -m 0700 {path.parent}")
        return
    store = make_store(settings)
    try:
        faults = store.check()
    except StoreError as error:
        yield Finding("store", str(path), False, str(error), "`milter-bounce store check`")
        return
    finally:
        store.close()
    fit = _may(path, settings.user, os.R_OK) and _may(path, settings.user, os.W_OK)
    yield Finding("store", str(path), not faults, "; ".join(faults) or "sound", "`milter-bounce store check`")
    if not fit:
        yield Finding("store", str(path), False, f"{settings.user} may not write it", f"chown {settings.user} {path}*")

    room = shutil.disk_usage(path.parent).free
    if room < limits.STORE_ROOM_BYTES:
        text = f"{room >> 20} MiB are free below {path.parent}: without room nothing new is remembered"
        yield Finding("store", "room", False, text, "make room; mail and advice go on, without history")


def _keys(settings: Settings) -> Iterator[Finding]:
    """Look at the keys as the programs will, which run as `settings.user`."""
    folder = Path(settings.token.keys)
    ring, faults = read_keyring(folder, settings.user)
    for fault in faults:
        yield Finding("token", "key", False, fault, "a refused key neither stamps nor proves anything")
    if ring.stamping is None:
        text = "no key: outgoing mail gets no token, and only this MTA's own reports are believed"
        yield Finding("token", str(folder), None, text, "`milter-bounce keys new`, then reload")
        return
    shut = [place for place, right in _ways(folder, ring) if not _may(place, settings.user, right)]
    for place in shut:
        yield Finding("token", str(place), False, f"{settings.user} may not read it", f"chown {settings.user} {place}")
    if not shut:
        stamps = f"key {ring.stamping.id} stamps" if settings.token.stamp else "stamping is switched off (token.stamp)"
        yield Finding("token", str(folder), True, f"{len(ring.keys)} believed, {stamps}")


def _ways(folder: Path, ring: Keyring) -> Iterator[tuple[Path, int]]:
    """Yield what must be readable or enterable for the keys to be used."""
    yield folder, os.R_OK
    yield folder, os.X_OK
    for name in ring.keys:
        yield folder / f"{name}.key", os.R_OK


def _log(settings: Settings) -> Finding:
    source = followed(settings.log)
    if source in {"-", "journal"}:
        return Finding("log", source, True, "is followed")
    path = Path(source)
    if not path.exists():
        return Finding("log", source, None, "does not exist yet", "set log.follow to the file that the MTA writes")
    fit = _may(path, settings.user, os.R_OK)
    text = "can be read" if fit else f"{settings.user} may not read it"
    return Finding("log", source, fit, text, f"usermod -a -G adm {settings.user} (or the group that owns the log)")


def _writing(settings: Settings) -> Finding:
    output = MailLog(settings.log, "check").output
    fine = output != "stdout" or settings.log.output == "stdout"
    text = f"advice lines go to {output}"
    return Finding("log", "output", True if fine else None, text, "set log.output where they shall stand in the log")


# -- what has no socket ---------------------------------------------------------------


def _alive(settings: Settings, program: str) -> tuple[Finding, Sign]:
    """Return whether a program that listens nowhere runs and does its work, and its sign of life."""
    sign = Sign(False)
    try:
        sign = sign_of(settings.store.path, program)
    except OSError as error:
        text = f"{error.filename}: {error.strerror}"
        return Finding(program, "runs", None, text, f"run this as root or as {settings.user or 'the programs'}"), sign
    if not sign.held:
        remedy = "start the programs: `milter-bounce run`, or systemctl start milter-bounce"
        return Finding(program, "runs", False, "is not running", remedy), sign
    if sign.age_s is None or sign.age_s > OLD_S:
        since = "yet" if sign.age_s is None else f"for {sign.age_s:.0f} s"
        text = f"process {sign.pid} has done nothing {since}"
        return Finding(program, "runs", False, text, f"its trouble stands in the mail log: grep {program}"), sign
    return Finding(program, "runs", True, f"process {sign.pid}, at work {sign.age_s:.0f} s ago"), sign


def _logd(settings: Settings) -> Iterator[Finding]:
    """Look whether logd runs, reads the log that it should, and keeps up with it."""
    finding, sign = _alive(settings, "logd")
    yield finding
    if not sign.held or not sign.follows:
        return
    if sign.follows != (wanted := followed(settings.log)):
        text = f"reads {sign.follows}, the configuration comes to {wanted}"
        yield Finding("logd", "log", None, text, "restart the programs, unless it was started with --follow")
    lag = _lag(settings, sign.follows)
    if lag is not None:
        text = f"is {lag >> 20} MiB behind the end of {sign.follows}" if lag > LAG_BYTES else "keeps up"
        remedy = "look again in a minute: where it does not shrink, its trouble stands in the mail log: grep logd"
        yield Finding("logd", "log", lag <= LAG_BYTES, text, remedy)


def _lag(settings: Settings, log: str) -> int | None:
    """Return how many bytes of `log` are still to be read; None where that cannot be told."""
    store = make_store(settings)
    try:
        known = store.log_position(log)
        position, facts = Position.from_text(known.cursor if known else None), Path(log).stat()
    except (StoreError, OSError):
        return None
    finally:
        store.close()
    if position is None:
        return None
    same = position.inode == facts.st_ino and position.offset <= facts.st_size
    return facts.st_size - position.offset if same else facts.st_size


def _dnsd(settings: Settings) -> Iterator[Finding]:
    if settings.dns.watch or settings.dns.operators:
        yield _alive(settings, "dnsd")[0]
    else:
        yield Finding("dnsd", "runs", None, "has nothing to do", "dns.watch and dns.operators are switched off")


# -- sockets --------------------------------------------------------------------


def _addresses(settings: Settings) -> list[tuple[str, str]]:
    answer = settings.answer
    wanted = [
        ("milter", settings.milter.socket),
        ("filter", answer.socket),
        ("gate", answer.gate_socket),
        ("policy", answer.policy_socket),
    ]
    return [(area, address) for area, address in wanted if address]


def _sockets(settings: Settings) -> Iterator[Finding]:
    for area, address in _addresses(settings):
        if address.startswith("unix:"):
            fault = _socket_fault(Path(address.removeprefix("unix:")), settings.answer.socket_group)
            if fault is not None:
                yield Finding(area, address, False, *fault)
                continue
        yield Finding(area, address, True, "is there")


def _socket_fault(path: Path, group: str) -> tuple[str, str] | None:
    """Return what is wrong with a unix socket and the remedy."""
    try:
        info = path.stat()
    except OSError as error:
        return f"{error.strerror}", "start the programs: `milter-bounce run`, or systemctl start milter-bounce"
    if not stat.S_ISSOCK(info.st_mode):
        return "is no socket", f"remove {path} and start the programs"
    for place in (path, path.parent):
        mode, owner = place.stat().st_mode, place.stat().st_gid
        right = stat.S_IWGRP if place is path else stat.S_IXGRP
        open_to_all = mode & (stat.S_IWOTH if place is path else stat.S_IXOTH)
        mine = group and owner == _gid(group) and mode & right
        if group and not (mine or open_to_all):
            return f"group {group} may not use {place}", f"chgrp {group} {place} && chmod g+rwx {place}"
    return None


def _gid(group: str) -> int | None:
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        return None


def _ask(address: str, question: bytes) -> bytes:
    """Return what comes back for one question."""
    if address.startswith("unix:"):
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(TIMEOUT_S)
        connection.connect(address.removeprefix("unix:"))
    else:
        port, _, host = address.partition(":")[2].partition("@")
        connection = socket.create_connection((host, int(port)), TIMEOUT_S)
    with connection:
        connection.sendall(question)
        return connection.recv(65_536)


def _netstring(text: str) -> bytes:
    raw = text.encode()
    return b"%d:%b," % (len(raw), raw)


def _questions(settings: Settings) -> Iterator[Finding]:
    """Ask each of our services over its own socket."""
    questions = {
        "gate": (f"get {CHECK_ADDRESS}\r\n".encode(), b"VALUE "),
        "filter": (_netstring(f"status {CHECK_STATUS}"), b":OK 4.3.0 "),
        "policy": (
            f"request=smtpd_access_policy\nprotocol_state=RCPT\nrecipient={CHECK_ADDRESS}\n\n".encode(),
            b"action=DUNNO",
        ),
    }
    for area, address in _addresses(settings):
        if area not in questions or (address.startswith("unix:") and not Path(address.removeprefix("unix:")).exists()):
            continue  # a socket that is not there is told by `_sockets`, once
        question, wanted = questions[area]
        try:
            answer = _ask(address, question)
        except OSError as error:
            reason = str(error) or type(error).__name__
            yield Finding(area, "answers", False, f"{address}: {reason}", "is answerd running? `milter-bounce run`")
            continue
        fine = wanted in answer
        said = printable(answer.decode("utf-8", "replace").strip(), 120)
        yield Finding(area, "answers", fine, said if fine else f"answered {said!r}", "is that our answerd? see ss -xlp")


# -- Postfix ----------------------------------------------------------------------


def _postfix(settings: Settings, directory: Path, gate_folder: Path) -> Iterator[Finding]:
    """Compare the configuration with what `postfix apply` would make of it."""
    enforce = settings.mode == "enforce"
    command = "milter-bounce postfix apply" + (" --enforce" if enforce else "")
    try:
        missing = plan(settings, Postconf(directory), gate_folder, enforce=enforce)
        yield from _left_over(directory)
    except PostfixError as error:
        yield Finding("postfix", "settings", False, str(error), "run this as a user that may read the configuration")
        return
    if not missing:
        yield Finding("postfix", "settings", True, f"complete for mode {settings.mode}")
    for change in missing:
        yield Finding("postfix", change.name, False, f"lacks {change.part or change.after}", command)


def _left_over(directory: Path) -> Iterator[Finding]:
    """Tell of what stays in main.cf after the gate was taken out, for a Postfix that runs."""
    saved = applied(directory)
    if saved is None or not saved.get("waiting"):
        return
    runs = gate_runs(Postconf(directory))
    restart = f"postfix -c {directory} stop && postfix -c {directory} start && " if runs else ""
    command = "revert" if len(saved["changes"]) == 1 else "apply"
    text = "stays for the running Postfix, without our table" if runs else "is used by nobody any more"
    yield Finding("postfix", GATE_MAPS, False, text, f"{restart}milter-bounce postfix {command}")


def _through_postfix(settings: Settings, directory: Path, gate_folder: Path) -> Iterator[Finding]:
    """Ask gate and status filter through Postfix's own clients, as qmgr's resolver and the smtp client do."""
    tables: list[tuple[str, str, str, Callable[[str], bool]]] = []
    gate = gate_folder / "gate.cf"
    if settings.answer.gate_socket and (settings.mode == "enforce" or gate.exists()):
        tables.append(("gate", f"memcache:{gate}", CHECK_ADDRESS, lambda said: GATE_MARK in said))
    if settings.answer.socket.startswith("unix:"):
        tables.append(
            ("filter", f"socketmap:{settings.answer.socket}:status", CHECK_STATUS, lambda said: GATE_MARK in said)
        )
    postmap = shutil.which("postmap", path="/usr/sbin:/usr/local/sbin:/usr/bin")
    for area, table, key, fine in tables:
        if postmap is None:
            yield Finding(area, "postmap -q", None, "no postmap(1) is installed")
            continue
        said, error = _postmap(postmap, directory, table, key)
        text = said or error or "found nothing: Postfix reaches the empty table only"
        remedy = f"see {table} and the rights on its socket"
        yield Finding(area, "postmap -q", fine(said), printable(text, 200), remedy)


def _postmap(postmap: str, directory: Path, table: str, key: str) -> tuple[str, str]:
    words = [postmap, "-c", str(directory), "-q", key, table]
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        ran = subprocess.run(words, check=False, capture_output=True, text=True, timeout=3 * TIMEOUT_S)
        return ran.stdout.strip(), " ".join(ran.stderr.split())
    return "", f"{' '.join(words)} did not end"
