"""A program under the system call filters of a systemd unit, without systemd.

    python -m tests.confined UNIT COMMAND...

Reads SystemCallFilter, SystemCallErrorNumber, RestrictSUIDSGID and MemoryDenyWriteExecute of the
unit, has libseccomp make the same filter (systemd.exec(5); the sets come from `systemd-analyze
syscall-filter`), and runs the command. `command` makes the whole command line, user included.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import errno
import functools
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

USER = "nobody"
ALLOW = 0x7FFF0000
PR_SET_NO_NEW_PRIVS = 38
MASKED_EQ = 7
SUID_SGID_CALLS = {"chmod": 1, "fchmod": 1, "fchmodat": 2, "mkdir": 1, "mkdirat": 2, "mknod": 1, "mknodat": 2}
"""System call -> which of its arguments is a mode."""


def library() -> str | None:
    """Return the name of libseccomp; None where there is none."""
    return ctypes.util.find_library("seccomp")


def missing() -> str:
    """Return what this host lacks; empty where units' filters can be made."""
    wanted = {"libseccomp.so.2": library(), **{name: shutil.which(name) for name in ("systemd-analyze", "setpriv")}}
    return ", ".join(name for name, found in wanted.items() if not found)


def options(unit: Path, key: str) -> list[str]:
    """Return the values of `key` in the order of the unit."""
    return [line.partition("=")[2] for line in unit.read_text().splitlines() if line.partition("=")[0] == key]


@functools.cache
def members(name: str) -> frozenset[str]:
    """Return the system calls of a set (@...), or the one call itself."""
    if not name.startswith("@"):
        return frozenset({name})
    words = ["systemd-analyze", "--no-pager", "syscall-filter", name]
    shown = subprocess.run(words, check=True, capture_output=True, text=True).stdout.splitlines()
    inside = [line.strip() for line in shown[1:] if line.strip() and not line.strip().startswith("#")]
    return frozenset().union(*map(members, inside))


def allowed(unit: Path) -> frozenset[str]:
    """Return the system calls that the unit's filter lines leave: a first line without ~ makes it a list of them."""
    calls = members("@default")
    for value in options(unit, "SystemCallFilter"):
        named = frozenset().union(*map(members, value.removeprefix("~").split()))
        calls = calls - named if value.startswith("~") else calls | named
    return calls


class _Comparison(ctypes.Structure):
    _fields_ = (
        ("argument", ctypes.c_uint),
        ("operator", ctypes.c_int),
        ("mask", ctypes.c_uint64),
        ("value", ctypes.c_uint64),
    )


def load_filter(unit: Path) -> None:
    """Put this process, and all that it starts, under the filters of `unit`."""
    seccomp = ctypes.CDLL(library(), use_errno=True)
    seccomp.seccomp_init.restype = context_type = ctypes.c_void_p
    refuse = 0x00050000 | getattr(errno, options(unit, "SystemCallErrorNumber")[-1])

    def rule(context: int, action: int, name: str, *comparisons: _Comparison) -> None:
        number = seccomp.seccomp_syscall_resolve_name(name.encode())
        if number < 0:
            return  # not of this architecture
        array = (_Comparison * max(1, len(comparisons)))(*comparisons)
        added = seccomp.seccomp_rule_add_array(context_type(context), action, number, len(comparisons), array)
        assert added == 0, f"{name}: {os.strerror(-added)}"

    def loaded(context: int) -> None:
        done = seccomp.seccomp_load(context_type(context))
        assert done == 0, os.strerror(-done)

    assert ctypes.CDLL(None).prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
    # as systemd does: one filter for each option; the strictest answer counts
    special = seccomp.seccomp_init(ALLOW)
    if options(unit, "RestrictSUIDSGID") == ["yes"]:
        for name, argument in SUID_SGID_CALLS.items():
            for bit in (stat.S_ISUID, stat.S_ISGID):
                rule(special, refuse, name, _Comparison(argument, MASKED_EQ, bit, bit))
    if options(unit, "MemoryDenyWriteExecute") == ["yes"]:
        rule(special, refuse, "mmap", _Comparison(2, MASKED_EQ, 6, 6))
        rule(special, refuse, "mprotect", _Comparison(2, MASKED_EQ, 4, 4))
        rule(special, refuse, "pkey_mprotect", _Comparison(2, MASKED_EQ, 4, 4))
    calls = seccomp.seccomp_init(refuse)
    for name in sorted(allowed(unit)):
        rule(calls, ALLOW, name)
    loaded(special)
    loaded(calls)


def command(unit: Path, words: list[str], groups: str = "") -> list[str]:
    """Return what runs `words` under the filters of `unit`: as `USER`, in `groups` alone, when started by root."""
    confine = [sys.executable, "-m", "tests.confined", str(unit), *words]
    if os.geteuid() != 0:
        return confine
    member = [f"--groups={groups}"] if groups else ["--clear-groups"]
    # the tests' Python may lie below /root: the user may read there, and nothing else that root may
    reads = ["--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search"]
    return ["setpriv", f"--reuid={USER}", "--regid=nogroup", *member, *reads, *confine]


def main(words: list[str]) -> None:
    """Run the command, see above; does not come back."""
    load_filter(Path(words[0]))
    os.execv(words[1], words[1:])


if __name__ == "__main__":
    main(sys.argv[1:])
