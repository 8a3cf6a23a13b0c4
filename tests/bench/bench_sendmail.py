"""Sendmail's share of the figures: its log read next to Postfix's, and what the gate costs an attempt.

Run: ``python -m tests.bench.bench_sendmail``. Every figure of a pair is measured in one run, turn by turn.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from milter_bounce.parse.log import LogReader
from tests.bench import make_log
from tests.integration.programs import Program
from tests.integration.sendmail import Sendmail, listening, settings_for, why_not
from tests.integration.sink import Sinks

MESSAGES = 4000
TURNS = 7
RECIPIENTS = 400
GATE_TURNS = 5
HEAD = "Nov 20 17:{m:02}:{s:02} mx sm-mta[{pid}]: {q}: "
TAIL = ", delay=00:00:01, xdelay=00:00:01, mailer=esmtp, pri=30107, relay={mx}. [{ip}], dsn="
FATES = (
    *["2.0.0, stat=Sent (Ok: queued as {q})"] * 18,
    "5.1.1, reply=550 5.1.1 <{to}>: Recipient address rejected: User unknown, stat=User unknown",
    "4.2.2, reply=452 4.2.2 The email account is over quota, stat=Deferred: 452 4.2.2 The email account is over quota",
)


def log_lines(messages: int) -> Iterator[str]:
    """Return the lines of a Sendmail with TLS and a milter that stamps: five a message, one a delivery."""
    for number in range(messages):
        domain, mx, ip = make_log.DOMAINS[number % len(make_log.DOMAINS)]
        queue_id, to = f"6AKJ{number % 10_000:04}{number % 1_000_000:06}", f"user{number}@{domain}"
        values = {"q": queue_id, "to": to, "mx": mx, "ip": ip}
        head = HEAD.format(m=number // 60 % 60, s=number % 60, pid=number, q=queue_id)
        cipher = "version=TLSv1.3, verify=NO, cipher=TLS_AES_256_GCM_SHA384, bits=256/256"
        yield f"{head[:-16]}STARTTLS=server, relay=app.shop.example [192.0.2.200], {cipher}"
        yield (
            f"{head}from=<news{number % 50}@shop.example>, size=24{number % 900:03}, class=0, nrcpts=1, "
            f"msgid=<{number}@shop.example>, proto=ESMTPS, daemon=MTA, relay=app.shop.example [192.0.2.200]"
        )
        yield f"{head}Milter (milter-bounce) add: header: X-Milter-Bounce-Token: v1; k=1; {queue_id}"
        yield f"{head[:-16]}STARTTLS=client, relay={mx}., {cipher}"
        yield f"{head}to=<{to}>{TAIL.format(**values)}{FATES[number % len(FATES)].format(**values)}"


def _rate(lines: list[str]) -> float:
    reader, began = LogReader(datetime(2026, 11, 20, 20, tzinfo=UTC)), time.process_time()
    for line in lines:
        reader.feed(line)
    return len(lines) / (time.process_time() - began)


def reader() -> list[dict]:
    """Return the rate of the log reader on Sendmail's lines next to Postfix's, in whole logs and deliveries alone."""
    sendmail = list(log_lines(MESSAGES))
    postfix = [line.rstrip("\n") for line in make_log.lines(MESSAGES)]
    only = ([x for x in sendmail if ": to=" in x], [x for x in postfix if ": to=" in x])
    rows = []
    for name, ours, theirs in (("", sendmail, postfix), (", deliveries alone", *only)):
        pairs = [(_rate(ours), _rate(theirs)) for _ in range(TURNS)]
        value, base = (statistics.median(side) for side in zip(*pairs, strict=True))
        rows.append(_row(f"log reader, Sendmail{name}", value, "lines/s", base, ">= 0.5 of Postfix", value >= base / 2))
    return rows


def gate(folder: Path) -> list[dict]:
    """Return what one attempt costs with the gate, next to the same Sendmail without: one message, many recipients."""
    took: dict[str, list[float]] = {"with": [], "without": []}
    with Sinks("127.0.79") as sinks:
        fine = sinks.add("fine.test")
        sm = folder / "s"
        defines = {"MILTER_BOUNCE_ANSWER": f"unix:{sm}/answer.sock"}
        with Sendmail(
            sm, routes={"fine.test": fine}, fragments=["gate"], defines=defines, queue_every=None
        ) as sendmail:
            settings = settings_for(sendmail, folder, mode="enforce")
            without = sendmail.cf.read_text().replace("$>milter_bounce_gate $1 $| $2", "OK")
            cf = {"with": sendmail.cf.read_text(), "without": without}
            with Program("answerd", folder, settings, ready=lambda: listening(sm / "answer.sock")):
                for turn in range(2 * GATE_TURNS):
                    kind = ("with", "without")[turn % 2]
                    sendmail.cf.write_text(cf[kind])
                    sendmail.stop()
                    sendmail.start()
                    took[kind].append(_one_message(sendmail, f"{kind}{turn}"))
    value, base = statistics.median(took["with"]), statistics.median(took["without"])
    cost = (value - base) / RECIPIENTS * 1000
    return [
        _row(
            "Sendmail, an attempt with the gate",
            value / RECIPIENTS * 1000,
            "ms",
            base / RECIPIENTS * 1000,
            "",
            holds=True,
        ),
        _row("Sendmail, cost of the gate an attempt", cost, "ms", None, "< 1 ms", cost < 1),
    ]


def _one_message(sendmail: Sendmail, name: str) -> float:
    """Return the seconds from the end of a message to the last of its deliveries."""
    recipients = [f"{name}-{n}@fine.test" for n in range(RECIPIENTS)]
    began = time.perf_counter()
    sendmail.send("me@home.example", recipients)
    sendmail.wait_for(lambda: sendmail.queued() == 0, 60)
    return time.perf_counter() - began


def _row(name: str, value: float, unit: str, baseline: float | None, goal: str, holds: bool) -> dict:
    return {
        "name": name,
        "value": round(value, 4),
        "unit": unit,
        "baseline": None if baseline is None else round(baseline, 4),
        "ratio": None if not baseline else round(value / baseline, 3),
        "goal": goal,
        "holds": bool(holds),
    }


def run() -> list[dict]:
    """Return all figures; the gate's only where a Sendmail can run."""
    rows = reader()
    if why_not() == "":
        with tempfile.TemporaryDirectory(prefix="mb-", dir="/tmp") as folder:
            Path(folder).chmod(0o755)
            rows += gate(Path(folder))
    return rows


if __name__ == "__main__":
    for row in run():
        print(row)
