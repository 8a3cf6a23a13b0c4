"""Sendmail's queue from outside: one message tried again, held (quarantine) or let go, by its queue ID.

Section: Sendmail Installation and Operation Guide, 2.3 (-q, -Q). Seen with 8.17.1:

- ``-qI`` compares substrings: an empty or cut ID would mean other messages too,
  so only whole queue IDs pass. It ignores MinQueueAge, leaves held messages alone
  and returns at once; a message in work is left to whoever works on it.
- ``-Q`` alone holds what is not held, ``-qQ -Q`` releases what is.
- Only root and TrustedUser may.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import TYPE_CHECKING, Final

from milter_bounce import limits
from milter_bounce.verdict import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

TIME_LIMIT_S: Final = limits.SENDMAIL_COMMAND_S

# eight characters of time and counter, then the process number with at least six digits: always the whole ID
_QUEUE_ID: Final = re.compile(r"[0-9A-Za-z]{8}[0-9]{6,8}")
_PLAIN: Final = re.compile(r"[^A-Za-z0-9 .:_@/+-]+")
REASON_LIMIT: Final = limits.QUARANTINE_REASON

_REMEDY: Final = (
    'only root and TrustedUser may; set due.sendmail_command, for example ["sudo", "-n", "/usr/sbin/sendmail"]'
)


class SendmailQueue:
    """One Sendmail's queue.

    Args:
        command: what starts Sendmail as root or TrustedUser, with its options (``-C`` for another sendmail.cf).
    """

    def __init__(self, command: Sequence[str] = ("/usr/sbin/sendmail",)) -> None:
        self._command = list(command)

    @property
    def installed(self) -> bool:
        """Whether the command is there."""
        return bool(self._command) and shutil.which(self._command[0]) is not None

    def retry(self, queue_id: str) -> str | None:
        """Have one queued message tried now; return None, or why it could not be asked for."""
        return self._for(queue_id)

    def listed(self) -> frozenset[str] | None:
        """Return None: mailq(1) is another command, which may be restricted, and costs a look into every queue file."""
        return None

    def hold(self, queue_id: str, reason: str) -> str | None:
        """Hold a whole message until it is released; return None, or why it is not held."""
        # -Q takes its reason without a blank between; an empty one would mean "release"
        words = " ".join(_PLAIN.sub(" ", reason).split())[:REASON_LIMIT] or "milter-bounce"
        return self._for(queue_id, f"-Q{words}")

    def release(self, queue_id: str) -> str | None:
        """Let a held message go on; return None, or why it stays."""
        return self._for(queue_id, "-qQ", "-Q")

    def _for(self, queue_id: str, *options: str) -> str | None:
        if not _QUEUE_ID.fullmatch(queue_id):
            return f"{printable(queue_id, 40)!r} is no queue ID of Sendmail"
        words = [*self._command, *options, f"-qI{queue_id}"]
        try:
            ran = subprocess.run(
                words, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=TIME_LIMIT_S
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"{error}; {_REMEDY}"
        said = printable(" ".join((ran.stdout + ran.stderr).decode("utf-8", "replace").split()), 300)
        if ran.returncode != 0:
            return f"{said or f'{words[0]} ended with {ran.returncode}'}; {_REMEDY}"
        return "the message is in work" if "Skipping" in said else None
