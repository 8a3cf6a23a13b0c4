"""Ports for throw-away servers that nobody takes between the choice and the start.

The kernel gives the ports of its own range to whoever connects anywhere; a port chosen there can be gone a moment later
(seen once in the project's tests: "address already in use"). These lie below it, and are free on every loopback address.
"""

from __future__ import annotations

import random
import socket
from pathlib import Path
from typing import Final

LOWEST: Final = 10_000


def free_port() -> int:
    """Return a port that no socket has now, for TCP and UDP, on any address."""
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    for _ in range(200):
        port = random.randrange(LOWEST, max(first, LOWEST + 1000))
        with socket.socket() as tcp, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            try:
                tcp.bind(("", port))
                udp.bind(("", port))
            except OSError:
                continue
            return port
    raise RuntimeError(f"no free port between {LOWEST} and {first}")
