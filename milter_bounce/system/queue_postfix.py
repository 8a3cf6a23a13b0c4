"""Postfix's queue from outside: one message tried again, by its queue ID.

``postqueue -i`` needs no privilege (authorized_flush_users) and touches no
queue file: the flush service moves the message and wakes the queue manager.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import threading
from typing import Final

from milter_bounce import limits

TIME_LIMIT_S: Final = limits.POSTQUEUE_S
LISTING_LIMIT_S: Final = limits.QUEUE_LISTING_S

_QUEUE_ID: Final = re.compile(r"[0-9A-Za-z]{5,20}")
"""Short and long queue IDs (enable_long_queue_ids); nothing else reaches a command line."""


_LISTED: Final = re.compile(rb'\{"queue_name": "[a-z]{1,40}", "queue_id": "([0-9A-Za-z]{5,20})"')
"""How each line of ``postqueue -j`` begins (postqueue(1), JSON OBJECT FORMAT)."""


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

    def listed(self) -> frozenset[str] | None:
        """Return the queue IDs of all messages in the queue; None where that cannot be told.

        A message that changes queues while the list is made may be missing in it.
        """
        if self._postqueue is None:
            return None
        words = [self._postqueue, *self._options, "-j"]
        try:
            with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as ran:
                end = threading.Timer(LISTING_LIMIT_S, ran.kill)
                end.start()
                try:
                    found = [_LISTED.match(line) for line in ran.stdout or ()]
                finally:
                    end.cancel()
        except OSError:
            return None
        # a line that we cannot read may be any message
        ids = frozenset(one[1].decode() for one in found if one is not None)
        return ids if ran.returncode == 0 and None not in found else None
