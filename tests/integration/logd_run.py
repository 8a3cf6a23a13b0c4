"""What the tests of logd share: a log that is written and rotated, and logd as a process that may be killed."""

from __future__ import annotations

import gzip
import multiprocessing
import os
import shutil
import signal
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from milter_bounce.config import Settings, from_values
from milter_bounce.system import logd as program
from milter_bounce.system.advising import make_store
from milter_bounce.system.rulefiles import load_rules

LONG_AGO = datetime(1970, 1, 2, tzinfo=UTC)
FORK = multiprocessing.get_context("fork")


def settings_for(folder: Path, **log: object) -> Settings:
    """Return settings whose files all lie in `folder`; logd stays the user that it is."""
    return from_values(
        {
            "user": "",
            "store": {"path": str(folder / "state.db")},
            "log": {
                "output": "file",
                "output_file": str(folder / "advice.log"),
                "follow": str(folder / "mail.log"),
                "from_start": True,
                **log,
            },
        },
        "test",
    )


class MailLog:
    """A mail log as Postfix writes it and logrotate rotates it; counts what it wrote."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.sent = self.failed = 0
        self.start = datetime.now(UTC) - timedelta(hours=1)

    @property
    def statuses(self) -> int:
        """Return how many delivery statuses were written."""
        return self.sent + self.failed

    def write(self, count: int) -> None:
        """Write `count` delivery lines: one of five is a full mailbox, each of 500 recipients in turn."""
        lines = []
        for _ in range(count):
            number = self.statuses
            at = (self.start + timedelta(milliseconds=20 * number)).isoformat(timespec="microseconds")
            head = f"{at} mx postfix/smtp[77]: 4d{number:07X}: to=<"
            tail = "relay=mx.example.net[192.0.2.9]:25, delay=0.5, delays=0.1/0/0.2/0.2, "
            if number % 5:
                lines.append(
                    f"{head}ok{number % 997}@example.org>, {tail}dsn=2.0.0, status=sent (250 2.0.0 Ok: queued as {number})\n"
                )
                self.sent += 1
            else:
                said = "host mx.example.net[192.0.2.9] said: 452 4.2.2 The mailbox is over quota (in reply to RCPT TO command)"
                lines.append(f"{head}full{number // 5 % 500}@example.net>, {tail}dsn=4.2.2, status=deferred ({said})\n")
                self.failed += 1
        with self.path.open("a") as file:
            file.writelines(lines)

    def rotate(self, how: str) -> None:
        """Rotate as ``create``, ``create compress`` or ``copytruncate`` do."""
        for number in range(8, 0, -1):
            for old in self.path.parent.glob(f"mail.log.{number}*"):
                old.rename(str(old).replace(f".log.{number}", f".log.{number + 1}"))
        first = self.path.with_name("mail.log.1")
        if how == "copytruncate":
            shutil.copy(self.path, first)
            os.truncate(self.path, 0)
            return
        self.path.rename(first)
        self.path.touch()
        if how == "compress":
            with gzip.open(f"{first}.gz", "wb") as packed:
                packed.write(first.read_bytes())
            times = first.stat()
            os.utime(f"{first}.gz", (times.st_atime, times.st_mtime))
            first.unlink()


def _child(settings: Settings, rules: object) -> None:
    # the rules are loaded once, before the fork: 200 starts would spend most of their time on them, and on looking
    # through what pytest left in memory
    program.load_rules = lambda _: rules
    program.settle = lambda: None
    daemon = program.Logd(settings, None, events=False)
    signal.signal(signal.SIGTERM, daemon.stop)
    os._exit(daemon.run())


class Runs:
    """Starts and kills logd in processes of their own."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.rules = load_rules(settings)
        self.process: multiprocessing.Process | None = None

    def start(self) -> None:
        self.process = FORK.Process(target=_child, args=(self.settings, self.rules))
        self.process.start()

    def kill(self) -> None:
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.join()

    def stop(self) -> int:
        """End it in good order; return its exit status."""
        self.process.terminate()
        self.process.join(20)
        return self.process.exitcode

    def counted(self) -> dict[str, int]:
        """Return category -> delivery statuses in the store."""
        store = make_store(self.settings)
        try:
            found: dict[str, int] = {}
            for count in store.counts(LONG_AGO):
                found[count.category] = found.get(count.category, 0) + count.number
            return found
        finally:
            store.close()

    def wait_counted(self, statuses: int, seconds: float = 60) -> dict[str, int]:
        """Return what is counted once that is `statuses`, or what it is when the time is over."""
        end = time.monotonic() + seconds
        while sum((found := self.counted()).values()) < statuses and time.monotonic() < end:
            time.sleep(0.1)
        return found

    def advice(self) -> list[str]:
        """Return the lines that logd wrote."""
        path = Path(self.settings.log.output_file)
        return path.read_text().splitlines() if path.exists() else []
