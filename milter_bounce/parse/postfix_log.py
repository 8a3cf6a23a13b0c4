"""Reader of Postfix's log lines."""

from __future__ import annotations

from typing import Final

from .logline import Ignored, LogEvent, LogLine

AGENTS: Final = frozenset(
    {"smtp", "lmtp", "relay", "local", "virtual", "pipe", "error", "retry", "discard", "qmgr", "oqmgr", "nqmgr"}
    | {"cleanup", "postsuper", "bounce"}
)
"""Programs that tell of deliveries."""

SILENT: Final = frozenset({"smtpd", "anvil", "postscreen", "master", "pickup", "scache", "tlsmgr", "tlsproxy"})
"""Programs that never do; what they log is full of clients' own words."""


class PostfixReader:
    """Reader of Postfix's lines."""

    def read(self, line: LogLine) -> list[LogEvent]:
        """Return what `line` tells; one `Ignored` where it tells nothing."""
        del line
        return [Ignored()]
