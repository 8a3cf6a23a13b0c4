"""Our programs, started for a test as an administrator would start them: `milter-bounce NAME -c CONF`."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Self

from tests.integration.postfix import Postfix


def toml(values: dict) -> str:
    """Return nested values as TOML: plain options first, then sections."""
    plain = [f"{k} = {json.dumps(v)}" for k, v in values.items() if not isinstance(v, dict)]
    sections = [f"[{k}]\n{toml(v)}" for k, v in values.items() if isinstance(v, dict)]
    text = "\n".join([*plain, *sections])
    assert tomllib.loads(text) is not None
    return text


def merged(base: dict, over: dict) -> dict:
    """Return `base` with the sections of `over` laid over it."""
    out = dict(base)
    for key, value in over.items():
        out[key] = merged(out.get(key, {}), value) if isinstance(value, dict) else value
    return out


def settings_for(postfix: Postfix, folder: Path, **over) -> dict:
    """Return a configuration whose sockets, log, store and keys lie with this Postfix."""
    sockets = postfix.queue_directory / "milter-bounce"
    if not sockets.exists():
        sockets.mkdir()
        shutil.chown(sockets, group="postfix")
        sockets.chmod(0o2750)
    base = {
        "user": "",
        "milter": {"socket": f"unix:{sockets}/milter.sock"},
        "log": {"queue_directory": str(postfix.queue_directory), "follow": str(postfix.log)},
        "store": {"path": str(folder / "state.db")},
        "rules": {"local": str(folder / "rules.d")},
        "token": {"keys": str(folder / "keys")},
    }
    return merged(base, over)


class Program:
    """One of our programs; use as a context manager.

    Args:
        name: milterd, answerd, logd, dnsd or run.
        folder: where its configuration and output go.
        settings: nested values of the configuration.
        ready: called until it is true before the program counts as started.
        environment: variables over our own.
    """

    def __init__(
        self, name: str, folder: Path, settings: dict, *options: str, ready=None, environment: dict | None = None
    ) -> None:
        self.name, self.folder, self.options, self.ready = name, folder, options, ready
        self.environment = os.environ | (environment or {})
        self.path = folder / f"{name}.toml"
        self.path.write_text(toml(settings))
        self.process: subprocess.Popen | None = None

    def start(self) -> None:
        words = [sys.executable, "-m", "milter_bounce", self.name, "-c", str(self.path), *self.options]
        with (self.folder / f"{self.name}.out").open("ab") as out, (self.folder / f"{self.name}.err").open("ab") as err:
            self.process = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True, env=self.environment
            )
        end = time.monotonic() + 30
        while self.ready is not None and not self.ready():
            assert self.process.poll() is None, self.errors()
            assert time.monotonic() < end, f"{self.name} is not ready: {self.errors()}"
            time.sleep(0.05)

    def signal(self, number: int) -> None:
        """Send a signal to the program alone."""
        self.process.send_signal(number)

    def signal_all(self, number: int) -> None:
        """Send a signal to the program and all that it started."""
        os.killpg(self.process.pid, number)

    def stop(self) -> None:
        if self.process is None:
            return
        try:
            os.killpg(self.process.pid, signal.SIGCONT)
            self.process.terminate()
            self.process.wait(10)
        except (subprocess.TimeoutExpired, ProcessLookupError):
            pass
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(10)

    def output(self) -> str:
        return (self.folder / f"{self.name}.out").read_text(errors="replace")

    def errors(self) -> str:
        return (self.folder / f"{self.name}.err").read_text(errors="replace")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
