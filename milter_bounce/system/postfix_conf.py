"""Postfix's configuration: what we add to it, added and taken away again through postconf(1).

Goes in: our settings and a Postfix configuration directory. Comes out: a list of
`Change`s. Does not: touch the files that Postfix runs on (``postfix_apply`` does, with
what came out of a copy), or restart it.

Section: DESIGN.md section 2. Postfix 3.4 is the oldest supported: lists take
``{ service, name=value }`` since 3.0.

Limits: postconf(1) takes no blanks in -o values: a service whose own list of
recipient restrictions holds braces keeps it as it is, without the policy service.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from milter_bounce import limits

if TYPE_CHECKING:
    from pathlib import Path

    from milter_bounce.config import Settings

GATE: Final = "gate"
GATE_SERVICE: Final = f"{GATE}/unix"
OURS: Final = "milter_bounce_"
"""How the parameters begin that Postfix does not know, so that all of each is ours."""

GATE_MAPS: Final = f"{OURS}gate_maps"
POLICY: Final = f"{OURS}policy"
TIME_LIMIT_S: Final = limits.POSTCONF_S


class PostfixError(Exception):
    """Postfix's configuration cannot be read or changed; one line: what, where, what to do."""


@dataclass(frozen=True, slots=True)
class Change:
    """One parameter or service, before and after; None = not set."""

    kind: str
    """``main`` (name=value in main.cf), ``option`` (-o of a service) or ``service`` (a line of master.cf)."""

    name: str
    before: str | None
    after: str
    part: str = ""
    """What of `after` is ours, where the rest was there before."""


class Postconf:
    """postconf(1) on one configuration directory.

    Args:
        directory: where main.cf and master.cf lie.
        copy: whether they are a copy that nobody else writes or reads.

    Raises:
        PostfixError: from every method, where postconf is missing or refuses.
    """

    def __init__(self, directory: Path, *, copy: bool = False) -> None:
        self.directory, self._copy = directory, copy
        found = shutil.which("postconf", path="/usr/sbin:/usr/local/sbin:/usr/bin:/opt/postfix/sbin")
        if found is None:
            raise PostfixError("no postconf(1) is installed; install Postfix, or see `milter-bounce sendmail`")
        self._postconf = found

    def run(self, *words: str) -> str:
        """Return what ``postconf -c DIRECTORY WORDS`` prints."""
        command = [self._postconf, "-c", str(self.directory), *words]
        if self._copy:  # postconf waits for a second or two where a file is fresh: somebody might still write it
            for path in self.directory.glob("*.cf"):
                os.utime(path, (0, 0))
        try:
            ran = subprocess.run(command, check=False, capture_output=True, text=True, timeout=TIME_LIMIT_S)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise PostfixError(f"{' '.join(command)}: {error}") from None
        if ran.returncode:
            reason = ran.stderr.strip().splitlines()
            raise PostfixError(f"{' '.join(command)}: {reason[-1] if reason else ran.returncode}")
        return ran.stdout

    def value(self, name: str) -> str:
        """Return a parameter's value as written, its default where it is not set."""
        return self.run("-h", name).strip()

    def expanded(self, name: str) -> str:
        """Return a parameter's value with every $name replaced."""
        return self.run("-hx", name).strip()

    def explicit(self, name: str) -> str | None:
        """Return a parameter's value where main.cf sets it; None where it does not."""
        found = self.run("-n", name)
        return found.partition("=")[2].strip() if "=" in found else None

    def options(self, pattern: str) -> dict[str, str]:
        """Return the -o options of services, ``smtpd/inet/name`` -> value."""
        lines = [line.partition(" = ") for line in self.run("-P").splitlines()]
        return {name: value for name, _, value in lines if re.fullmatch(pattern, name)}

    def services(self, name: str) -> list[str]:
        """Return the services of that name as ``name/type``."""
        return [f"{f[0]}/{f[1]}" for line in self.run("-M").splitlines() if len(f := line.split()) > 1 and f[0] == name]

    def put(self, change: Change) -> None:
        """Make `change`."""
        if change.kind == "main":
            self.run("-e", f"{change.name}={change.after}")
        elif change.kind == "option":
            self.run("-P", f"{change.name}={change.after}")
        else:
            self.run("-M", f"{change.name}={change.after}")

    def take(self, change: Change) -> str | None:
        """Undo `change`; return why it was left alone, None where it was undone.

        What somebody changed since is not overwritten: only our own part is taken out of it.
        """
        if change.kind == "service":
            if self.services(change.name.partition("/")[0]):
                self.run("-MX", change.name)
            return None
        now = self.options(re.escape(change.name)).get(change.name) if change.kind == "option" else None
        now = self.explicit(change.name) if change.kind == "main" else now
        # postconf -n does not show a parameter of ours once nothing names it any more
        ours = change.kind == "main" and change.name.startswith(OURS)
        if now is None and not ours:
            return None
        flag, drop = ("-e", "-X") if change.kind == "main" else ("-P", "-PX")
        if now is None or ours or _plain(now) == _plain(change.after):
            self.run(*((drop, change.name) if change.before is None else (flag, f"{change.name}={change.before}")))
            return None
        if change.part and change.part in now:
            rest = now.replace(change.part, "").strip().strip(",").strip()
            self.run(*((flag, f"{change.name}={rest}") if rest else (drop, change.name)))
            return None
        return f"{change.name} = {now}: was changed since and is left as it is"


def _plain(value: str) -> str:
    return " ".join(value.split())


def endpoint(address: str, queue_directory: str) -> str:
    """Return one of our socket addresses as Postfix writes it: relative to its queue directory where it lies there."""
    kind, _, place = address.partition(":")
    if kind == "unix":
        return "unix:" + place.removeprefix(queue_directory.rstrip("/") + "/")
    port, _, host = place.partition("@")
    return f"inet:[{host}]:{port}" if ":" in host else f"inet:{host}:{port}"


def gate_files(settings: Settings, folder: Path) -> dict[Path, str]:
    """Return the files that the gate needs, with their content (memcache_table(5))."""
    # the whole path: memcache_table(5) is no part of the chroot, and postmap(1) asks from anywhere
    where = endpoint(settings.answer.gate_socket, "/nowhere")
    empty = folder / "empty"
    lines = [
        "# Postfix's way to milter-bounce's queue gate; written by `milter-bounce postfix apply --enforce`.",
        f"memcache = {where}",
        "# with the gate away this table answers: nothing, and mail flows",
        f"backup = texthash:{empty}",
        "timeout = 1",
        "max_try = 1",
    ]
    return {folder / "gate.cf": "\n".join(lines) + "\n", empty: "# empty on purpose: see gate.cf\n"}


def plan(settings: Settings, postconf: Postconf, gate_folder: Path, *, enforce: bool) -> list[Change]:
    """Return what is missing in the configuration for mode advise, or for enforce."""
    queue_directory = postconf.expanded("queue_directory")
    changes = _milter(settings, postconf, queue_directory)
    if enforce or settings.answer.annotate:
        changes += _filter(settings, postconf, queue_directory)
    if enforce:
        changes += _gate(settings, postconf, gate_folder)
        changes += _policy(settings, postconf, queue_directory)
    return [change for change in changes if change.before is None or _plain(change.before) != _plain(change.after)]


def _added(postconf: Postconf, name: str, ours: str) -> Change:
    """Return the change that puts `ours` at the end of a list."""
    before, value = postconf.explicit(name), postconf.value(name)
    if ours in value:
        return Change("main", name, value, value)
    empty = not postconf.expanded(name)
    return Change("main", name, before, ours if empty else f"{value}, {ours}", ours)


def _milter(settings: Settings, postconf: Postconf, queue_directory: str) -> list[Change]:
    if not settings.milter.socket:
        return []
    place = endpoint(settings.milter.socket, queue_directory)
    # own time limits and default: a milter that is away or slow never stops mail, whatever other milters are set to
    ours = f"{{ {place}, default_action=accept, connect_timeout=2s, command_timeout=5s, content_timeout=10s }}"
    changes = [_added(postconf, name, ours) for name in ("smtpd_milters", "non_smtpd_milters")]
    return [*changes, _added(postconf, "internal_mail_filter_classes", "bounce")]


def _filter(settings: Settings, postconf: Postconf, queue_directory: str) -> list[Change]:
    if not settings.answer.socket:
        return []
    ours = f"socketmap:{endpoint(settings.answer.socket, queue_directory)}:status"
    return [_added(postconf, f"{agent}_delivery_status_filter", ours) for agent in ("smtp", "lmtp")]


def _gate(settings: Settings, postconf: Postconf, folder: Path) -> list[Change]:
    if not settings.answer.gate_socket:
        return []
    ours = f"memcache:{folder / 'gate.cf'}"
    transports = postconf.value("transport_maps")
    # a parameter of its own, for -o takes no blanks; a copy, for $transport_maps there would mean itself
    changes = [_set(postconf, GATE_MAPS, f"{ours}, {transports}" if transports else ours)]
    if not postconf.services(GATE):
        changes.append(Change("service", GATE_SERVICE, None, "gate unix - - n - - trivial-rewrite"))
    options = postconf.options(r"[^/]+/[^/]+/(?:transport_maps|rewrite_service_name)")
    changes.append(_option(options, f"{GATE_SERVICE}/transport_maps", f"${GATE_MAPS}"))
    managers = postconf.services("qmgr")
    if not managers:
        raise PostfixError(f"{postconf.directory}/master.cf: has no qmgr service; is this a whole configuration?")
    changes.append(_option(options, f"{managers[0]}/rewrite_service_name", GATE))
    return changes


def _set(postconf: Postconf, name: str, value: str) -> Change:
    return Change("main", name, postconf.explicit(name), value)


def _option(options: dict[str, str], name: str, value: str) -> Change:
    return Change("option", name, options.get(name), value)


def _policy(settings: Settings, postconf: Postconf, queue_directory: str) -> list[Change]:
    if not settings.answer.policy_socket:
        return []
    place = endpoint(settings.answer.policy_socket, queue_directory)
    service = f"check_policy_service {{ {place}, timeout=2s, default_action=DUNNO }}"
    # a parameter of its own, for -o takes no blanks
    changes, ours, name = [_set(postconf, POLICY, service)], f"${POLICY}", "smtpd_recipient_restrictions"
    changes.append(_first(ours, Change("main", name, postconf.explicit(name), postconf.value(name), ours)))
    # services with a list of their own, as the submission service of most distributions
    for option, own in sorted(postconf.options(rf"[^/]+/(?:inet|unix|pass)/{name}").items()):
        if "{" not in own:
            changes.append(_first(ours, Change("option", option, own, ",".join(own.replace(",", " ").split()), ours)))
    return changes


def _first(ours: str, change: Change) -> Change:
    """Return the change that puts `ours` in front of the list that stands in `after`; nothing where it stands there."""
    if ours in change.after:
        return replace(change, before=change.after)
    between = ", " if change.kind == "main" else ","
    return replace(change, after=f"{ours}{between}{change.after}" if change.after else ours)
