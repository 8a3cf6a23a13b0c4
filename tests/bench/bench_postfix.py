"""Postfix's throughput with milter, status filter, gate and policy service on, next to the same Postfix with none.

Run as root: ``python -m tests.bench.bench_postfix``. Ordinary mail: every message arrives at the first try.
"""

from __future__ import annotations

import contextlib
import smtplib
import statistics
import tempfile
import threading
import time
from pathlib import Path

from tests.integration.enforcing import Enforced
from tests.integration.postfix import WHY_NOT, Postfix
from tests.integration.sink import Sinks

MESSAGES = 1000
CLIENTS = 4
TURNS = 3
BODY = "From: me@home.example\r\nTo: you@ok.test\r\nSubject: t\r\n\r\n" + "an ordinary line of ordinary mail\r\n" * 60


def _send(port: int, first: int, count: int) -> None:
    with smtplib.SMTP("127.0.0.1", port, timeout=60) as client:
        for number in range(first, first + count):
            client.sendmail("me@home.example", f"u{number}@ok.test", BODY)


def _rate(postfix: Postfix, sink) -> float:
    """Return the messages a second from the first one handed in to the last one delivered."""
    before, start = len(sink.taken), time.perf_counter()
    share = MESSAGES // CLIENTS
    clients = [threading.Thread(target=_send, args=(postfix.port, n * share, share)) for n in range(CLIENTS)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    postfix.wait_for(lambda: len(sink.taken) - before >= MESSAGES, 120)
    return MESSAGES / (time.perf_counter() - start)


def run() -> list[dict]:
    """Return the one figure; nothing where there is no Postfix to measure."""
    if WHY_NOT:
        return []
    rates: dict[str, list[float]] = {"all": [], "none": []}
    with tempfile.TemporaryDirectory() as folder, Sinks() as sinks, contextlib.ExitStack() as stack:
        ok = sinks.add("ok.test")
        routes = {"ok.test": ok}
        parts = ("milterd", "answerd", "logd")
        none = stack.enter_context(Postfix(Path(folder) / "none", routes=routes))
        every = stack.enter_context(Enforced(Path(folder) / "all", parts=parts, routes=routes))
        for turn in range(TURNS + 1):
            for name, postfix in (("all", every), ("none", none)):
                rate = _rate(postfix, ok)
                if turn:  # the first one starts the processes
                    rates[name].append(rate)
    value, base = statistics.median(rates["all"]), statistics.median(rates["none"])
    return [
        {
            "name": "Postfix with milter, filter, gate and policy",
            "value": round(value, 1),
            "unit": "messages/s",
            "baseline": round(base, 1),
            "ratio": round(value / base, 3),
            "goal": ">= 0.6 of none",
            "holds": value >= 0.6 * base,
        }
    ]


if __name__ == "__main__":
    for row in run():
        print(row)
