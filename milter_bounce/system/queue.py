"""Which queue: what the programs need of an MTA's queue, and the one that the configuration means.

One module per MTA does the work (``queue_postfix``, ``queue_sendmail``), by the
MTA's own command; nothing of ours reads or writes queue files.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from .queue_postfix import PostfixQueue
from .queue_sendmail import SendmailQueue

if TYPE_CHECKING:
    from milter_bounce.config import DueSection


class Queue(Protocol):
    """An MTA's queue; asking blocks for as long as a command runs."""

    @property
    def installed(self) -> bool:
        """Whether the MTA's command is there."""

    def retry(self, queue_id: str) -> str | None:
        """Have one message tried now; return None, or why it could not be asked for."""

    def listed(self) -> frozenset[str] | None:
        """Return the queue IDs of all messages in the queue; None where that cannot be told."""


def make_queue(section: DueSection) -> Queue | None:
    """Return the queue of the MTA on this host; None where there is no command for it."""
    postfix, sendmail = PostfixQueue(section.config_directory), SendmailQueue(section.sendmail_command)
    queues: dict[str, tuple[Queue, ...]] = {
        "postfix": (postfix,),
        "sendmail": (sendmail,),
        # Postfix brings a sendmail(1) of its own, which knows no -qI: Postfix first
        "auto": (postfix, sendmail),
    }
    return next((queue for queue in queues[section.mta] if queue.installed), None)
