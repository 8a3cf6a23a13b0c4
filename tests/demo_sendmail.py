"""``make demo-sendmail``: the same outcomes as ``make demo``, on a throw-away Sendmail 8.17 on loopback.

Works as root and as an ordinary user. Debian's packages are unpacked under build/
and never installed; nothing under /etc is touched; everything is stopped and removed
at the end, also on Ctrl-C.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import pytest
from rich.console import Console

from milter_bounce.system import keys
from tests.demo import WAIT_S, console, routes_of, talk
from tests.integration.programs import Program
from tests.integration.sendmail import Sendmail, settings_for, why_not
from tests.integration.sink import Sinks

PARTS = ("--only", "milterd", "--only", "answerd", "--only", "logd")
"""All but dnsd: a demonstration asks no DNS question of the world."""


def run(folder: Path, screen: Console) -> int:
    """Run the demonstration in `folder`; return the exit status."""
    with Sinks("127.0.89") as sinks:
        routes, hosts = routes_of(sinks)
        # smtp:[host]:port of a transport table is sink:[host] in a mailertable
        routes = {domain: f"sink:[{route.split('[')[1].split(']')[0]}]" for domain, route in routes.items()}
        place = folder / "s"
        defines = {
            "MILTER_BOUNCE_MILTER": f"unix:{place}/milter.sock",
            "MILTER_BOUNCE_ANSWER": f"unix:{place}/answer.sock",
            "confMIN_QUEUE_AGE": "2s",
        }
        with Sendmail(
            place, routes=routes, hosts=hosts, fragments=["milter", "gate"], defines=defines, port_of_sinks=sinks.port
        ) as sendmail:
            keys.new_key(folder / "keys")
            settings = settings_for(
                sendmail, folder, mode="enforce", advice={"time_scale": 1 / 3600}, due={"every_s": 0.2}
            )
            with Program("run", folder, settings, *PARTS):
                sendmail.wait_log(r"milter-bounce/milterd\[\d+\]: listening", WAIT_S)
                sendmail.wait_log(r"milter-bounce/logd\[\d+\]: started", WAIT_S)
                return talk(screen, sendmail, sinks)


def main() -> int:
    """Run the demonstration; 0 = every expected line was there."""
    if reason := why_not():
        sys.stderr.write(f"make demo-sendmail: {reason}; `make setup` on Debian or Ubuntu brings what it needs\n")
        return 2
    with tempfile.TemporaryDirectory(prefix="mb-demo-", dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        try:
            return run(Path(folder), console())
        except pytest.fail.Exception as waited:
            sys.stderr.write(f"make demo-sendmail: {waited}\n")
            return 1
        except KeyboardInterrupt:
            sys.stderr.write("stopped; everything was taken down\n")
            return 130


if __name__ == "__main__":
    sys.exit(main())
