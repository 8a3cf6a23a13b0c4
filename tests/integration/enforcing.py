"""A Postfix whose queue follows the advice: `milter-bounce postfix apply --enforce`, answerd and logd, seconds for hours."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from tests.integration.postfix import Postfix
from tests.integration.programs import Program, merged, settings_for, toml

SECONDS_FOR_HOURS = 1 / 3600


class Enforced(Postfix):
    """A throw-away Postfix with our settings put in by our own command before it starts.

    Args:
        folder: as `Postfix`.
        over: sections over the configuration.
        parts: programs of ours that run.
        environment: variables of theirs.
    """

    def __init__(
        self,
        folder: Path,
        over: dict | None = None,
        parts=("answerd", "logd"),
        *,
        annotate=False,
        environment=None,
        **options,
    ) -> None:
        super().__init__(folder, **options)
        self.environment = environment
        self.annotate = annotate
        self.over, self.parts = over or {}, parts
        self.programs: dict[str, Program] = {}
        self.conf = self.folder / "milter-bounce.toml"

    def write_config(self) -> None:
        super().write_config()
        sockets = self.queue_directory / "milter-bounce"
        base = {
            "mode": "enforce",
            # logd may be slower to start than the first message is to fail
            "log": {"from_start": True},
            "answer": {f"{n}socket": f"unix:{sockets}/{n or 'answer_'}sock" for n in ("", "gate_", "policy_")},
            "advice": {"time_scale": SECONDS_FOR_HOURS},
            "due": {"every_s": 0.2, "per_second": 200, "config_directory": str(self.etc)},
        }
        base = merged(base, self.over)
        base["answer"]["annotate"] = self.annotate
        if "milterd" not in self.parts:
            base["milter"] = {"socket": ""}
        self.settings = settings_for(self, self.folder, **base)
        self.conf.write_text(toml(self.settings))
        self.ours(
            "postfix", "apply", "--enforce", "--config-dir", str(self.etc), "--gate-dir", str(self.folder / "gate")
        )

    def ours(self, *words: str, code: int = 0) -> str:
        """Run ``milter-bounce WORDS -c CONF`` and return what it prints."""
        command = [sys.executable, "-m", "milter_bounce", *words, "-c", str(self.conf)]
        ran = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
        assert ran.returncode == code, ran.stdout + ran.stderr
        return ran.stdout

    def start(self) -> None:
        try:
            for name in self.parts:
                self.programs[name] = Program(
                    name, self.folder, self.settings, ready=self._ready(name), environment=self.environment
                )
                self.programs[name].start()
            super().start()
        except BaseException:  # a start that fails leaves nothing running
            self.__exit__()
            raise

    def _ready(self, name: str):
        sockets = self.queue_directory / "milter-bounce"
        wanted = {"answerd": sockets / "gate_sock", "milterd": sockets / "milter.sock"}.get(name)
        return None if wanted is None else wanted.exists

    def __exit__(self, *words: object) -> None:
        self.postfix("abort")
        for program in self.programs.values():
            program.stop()
        if kept := os.environ.get("MILTER_BOUNCE_KEEP"):  # a folder that takes what a failed test left behind
            shutil.copytree(self.folder, kept, ignore=shutil.ignore_patterns("spool"), dirs_exist_ok=True)
        super().__exit__(*words)

    def postmap(self, key: str) -> str:
        """Return what Postfix's own memcache client gets from the gate."""
        words = ["/usr/sbin/postmap", "-c", str(self.etc), "-q", key, f"memcache:{self.folder}/gate/gate.cf"]
        return subprocess.run(words, check=False, capture_output=True, text=True, timeout=30).stdout.strip()

    def deferrals(self) -> dict[str, str]:
        """Return why each recipient waits, as postqueue tells."""
        waiting = [json.loads(line) for line in self.queue().splitlines()]
        return {r["address"]: r.get("delay_reason", "") for message in waiting for r in message["recipients"]}

    @contextlib.contextmanager
    def traffic(self, recipient: str) -> Iterator[None]:
        """Keep other mail flowing.

        The queue manager remembers its last resolver answer for 30 s (resolve_clnt), which is no time at all on a real
        host and a day on ours; mail to somebody else makes it forget.
        """
        done = threading.Event()

        def send() -> None:
            number = 0
            while not done.wait(0.1):
                number += 1
                with contextlib.suppress(OSError):
                    self.send("me@home.example", recipient.replace("@", f"{number % 50}@"))

        thread = threading.Thread(target=send)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()


def now() -> datetime:
    return datetime.now(UTC)


def times_of(lines: list[str]) -> list[float]:
    """Return the seconds of the day of Postfix's log lines."""
    stamps = [re.search(r" ([0-9]{2}):([0-9]{2}):([0-9]{2})", line) for line in lines]
    return [int(s[1]) * 3600 + int(s[2]) * 60 + int(s[3]) for s in stamps]
