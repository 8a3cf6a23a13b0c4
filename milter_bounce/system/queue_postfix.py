"""Postfix's queue from outside: one message tried again, by its queue ID.

``postqueue -i`` needs no privilege (authorized_flush_users) and touches no
queue file: the flush service moves the message and wakes the queue manager.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import Final

from milter_bounce import limits

TIME_LIMIT_S: Final = limits.POSTQUEUE_S

_QUEUE_ID: Final = re.compile(r"[0-9A-Za-z]{5,20}")
"""Short and long queue IDs (enable_long_queue_ids); nothing else reaches a command line."""


class PostfixQueue:
    """One Postfix instance's queue.

    Args:
        config_directory: of that instance; empty: the default one.
    """

    def __init__(self, config_directory: str = "") -> None:
        self._postqueue = shutil.which("postqueue", path="/usr/sbin:/usr/local/sbin:/usr/bin")
        self._options = ["-c", config_directory] if config_directory else []

    @property
    def installed(self) -> bool:
        """Whether there is a postqueue(1)."""
        return self._postqueue is not None

    def retry(self, queue_id: str) -> str | None:
        """Have one deferred message tried now; return None, or why it could not be asked for."""
        if self._postqueue is None:
            return "no postqueue(1) is installed"
        if not _QUEUE_ID.fullmatch(queue_id):
            return f"{queue_id[:40]!r} is no queue ID of Postfix"
        words = [self._postqueue, *self._options, "-i", queue_id]
        try:
            ran = subprocess.run(words, check=False, capture_output=True, text=True, timeout=TIME_LIMIT_S)
        except (OSError, subprocess.TimeoutExpired) as error:
            return str(error)
        return None if ran.returncode == 0 else ran.stderr.strip() or f"postqueue ended with {ran.returncode}"
