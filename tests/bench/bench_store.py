"""Figures of the store: delivery lines a second, gate answers with a million recipients, the file after it.

Run: ``.venv/bin/python tests/bench/bench_store.py [RECIPIENTS]``. Prints one line a figure, asserts nothing: a busy
machine is no fault. The issue asks for 20,000 lines a second, a median below 0.3 ms and 100 MB of resident memory.
"""

from __future__ import annotations

import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from milter_bounce.decide.advise import Adviser, Limits  # noqa: E402
from milter_bounce.decide.schedule import Schedules  # noqa: E402
from milter_bounce.delivery import Action, DeliveryStatus, Source  # noqa: E402
from milter_bounce.system.sqlite_store import SqliteStore  # noqa: E402
from milter_bounce.system.store import LogPosition  # noqa: E402
from milter_bounce.verdict import CATEGORIES, Classification, Outcome  # noqa: E402

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
LINES = 200_000
BATCH_LINES = 2000
KINDS = [("sent", 85), ("mailbox-full", 6), ("greylisted", 4), ("network-error", 3), ("invalid-recipient", 2)]


def verdict(category: str) -> Classification:
    default = CATEGORIES[category]
    return Classification(default.class_, category, default.advice, default.scope, f"bench-{category}")


def lines(number: int):
    """Yield (kind, recipient, queue ID, operator): a mix as of a large sender, some recipients again and again."""
    draw = random.Random(1)
    kinds = draw.choices([k for k, _ in KINDS], [w for _, w in KINDS], k=number)
    for i, kind in enumerate(kinds):
        domain = draw.randrange(5000)
        user = draw.randrange(60)
        operator = f"operator{domain % 7}" if domain < 700 else None
        yield kind, f"user{user}@domain{domain}.example", f"4c{i // 5:010x}", operator


def bench_lines(path: Path) -> None:
    store = SqliteStore(path)
    shipped = (ROOT / "rules/schedules.toml").read_text(encoding="utf-8")
    adviser = Adviser(Schedules.from_toml(shipped), Limits(), random.Random(2).random)
    verdicts = {kind: verdict(kind) for kind, _ in KINDS if kind != "sent"}
    work = list(lines(LINES))
    began = time.perf_counter()
    batch = store.batch()
    for i, (kind, recipient, queue_id, operator) in enumerate(work):
        at = NOW + timedelta(milliseconds=i)
        if kind == "sent":
            batch.delivered(recipient, at, queue_id=queue_id, operator=operator)
        else:
            action = Action.FAILED if kind == "invalid-recipient" else Action.DELAYED
            status = DeliveryStatus(
                recipient, action, queue_id=queue_id, at=at, source=Source.LOG, diagnostic="451 4.0.0 no"
            )
            history = batch.recall(status, verdicts[kind])
            advice = adviser.advise(status, verdicts[kind], history, at)
            batch.record(Outcome(status, verdicts[kind], advice), at)
        if i % BATCH_LINES == BATCH_LINES - 1:
            batch.position(LogPosition("bench", str(i)))
            batch.commit()
    batch.commit()
    spent = time.perf_counter() - began
    print(f"store: {LINES / spent:,.0f} delivery lines a second, 15 % of them failures, batches of {BATCH_LINES}")


def fill(path: Path, recipients: int) -> None:
    """Write that many recipients with a not_before, as a long outage leaves them."""
    SqliteStore(path).batch().commit()
    db = SqliteStore(path).connection()
    ms, row = int(NOW.timestamp() * 1000), "(?, ?, ?, 3, ?, 7200000, 'mailbox-full', 'bench', NULL, NULL, 1, '')"
    db.execute("BEGIN")
    db.executemany(
        f"INSERT INTO recipients VALUES {row}",
        ((f"user{i}@domain{i % 50_000}.example", ms - 7_200_000, ms, ms + 3_600_000) for i in range(recipients)),
    )
    db.execute("COMMIT")
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()


def bench_gate(path: Path, recipients: int) -> None:
    store, draw, times = SqliteStore(path), random.Random(3), []
    for _ in range(50_000):
        i = draw.randrange(recipients * 2)  # every other one is a stranger
        address = f"user{i}@domain{i % 50_000}.example"
        began = time.perf_counter()
        store.gate_lookup(address, NOW)
        times.append(time.perf_counter() - began)
    times.sort()
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    resident = pages * resource.getpagesize() / 1e6
    print(
        f"gate: {recipients:,} recipients, median {statistics.median(times) * 1000:.4f} ms, "
        f"99.9 % {times[int(len(times) * 0.999)] * 1000:.3f} ms, resident {resident:.0f} MB, "
        f"file {path.stat().st_size / 1e6:.0f} MB"
    )


def main() -> None:
    if len(sys.argv) == 4 and sys.argv[1] == "gate":
        bench_gate(Path(sys.argv[2]), int(sys.argv[3]))
        return
    recipients = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    with tempfile.TemporaryDirectory() as folder:
        bench_lines(Path(folder) / "lines.db")
        fill(Path(folder) / "gate.db", recipients)
        # a process of its own: its resident memory is that of the gate, not of the filling
        subprocess.run([sys.executable, __file__, "gate", f"{folder}/gate.db", str(recipients)], check=True)


if __name__ == "__main__":
    main()
