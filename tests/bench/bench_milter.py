"""milterd's cost: messages a second through a real Postfix with no milter, an empty one, and milterd; its memory.

Run: ``python -m tests.bench milter``. The three are taken in turns, in short bursts; a ratio is the median of the rounds'
own ratios, so that whatever else the machine does at one time meets both sides of it.
"""

from __future__ import annotations

import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from milter_bounce.system import keys
from tests.integration.postfix import WHY_NOT, Postfix
from tests.integration.programs import Program, settings_for
from tests.reports import dsn

ROUNDS = 11
MESSAGES = 240
CLIENTS = 4
REPORTS_FOR_MEMORY = 10_000
EMPTY = """
import os, sys, Milter, milter
class Empty(Milter.Base):
    def connect(self, *a): return Milter.CONTINUE
Milter.factory = Empty
os.umask(0o117)
Milter.runmilter("empty", sys.argv[1], 600, rmsock=False)
"""


def send(port: int, sender: str, recipient: str, message: bytes, count: int) -> None:
    """Send `count` messages over one connection, a message each transaction."""
    with socket.create_connection(("127.0.0.1", port)) as line:
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        talk = line.makefile("rwb")

        def say(data: bytes, replies: int = 1) -> None:
            talk.write(data)
            talk.flush()
            for _ in range(replies):
                while True:
                    answer = talk.readline()
                    assert answer[:1] in b"23", answer
                    if answer[3:4] == b" ":
                        break

        say(b"")
        say(b"EHLO bench\r\n")
        envelope = f"MAIL FROM:<{sender}>\r\nRCPT TO:<{recipient}>\r\nDATA\r\n".encode()
        for _ in range(count):
            say(envelope, 3)
            say(message + b"\r\n.\r\n")
        say(b"QUIT\r\n")


def rate(port: int, sender: str, message: bytes, count: int = MESSAGES) -> float:
    """Return messages a second over several connections at once."""
    each = count // CLIENTS
    work = [threading.Thread(target=send, args=(port, sender, "x@drop.example", message, each)) for _ in range(CLIENTS)]
    began = time.perf_counter()
    for thread in work:
        thread.start()
    for thread in work:
        thread.join()
    return each * CLIENTS / (time.perf_counter() - began)


def resident_kb(pid: int) -> int:
    """Return the resident memory of a process and its children, in KiB."""
    total = 0
    for one in [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]:
        status = Path(f"/proc/{one}/status").read_text()
        total = max(total, int(status.partition("VmRSS:")[2].split()[0]))
    return total


def wait_socket(path: Path) -> None:
    """Wait until somebody listens at `path`."""
    for _ in range(400):
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(str(path)) == 0:
                return
        time.sleep(0.05)
    raise TimeoutError(path)


def measure(folder: Path, *, stamped: bool) -> dict[str, list[float]]:
    """Return the rates by kind of mail and milter, and milterd's memory along 10,000 reports."""
    main = {"non_smtpd_milters": "", "smtpd_client_message_rate_limit": "0"}
    master = "".join(
        f"127.0.0.1:{{{name}}} inet n - n - - smtpd -o smtpd_milters={milters}\n"
        for name, milters in (("empty", "unix:milter-bounce/empty.sock"), ("ours", "unix:milter-bounce/milter.sock"))
    )
    ports = {name: _port() for name in ("empty", "ours")}
    for name, port in ports.items():
        master = master.replace(f"{{{name}}}", str(port))
    ordinary = (
        b"From: a@x.example\r\nTo: x@drop.example\r\nMessage-ID: <1@x>\r\nSubject: s\r\n\r\n"
        + b"a line of text\r\n" * 250
    )
    report = dsn("gone@bad.test").replace("\n", "\r\n").encode()
    out: dict[str, list[float]] = {}
    with Postfix(folder / "p", main=main, routes={"drop.example": "discard:"}, master=master) as postfix:
        ports["none"] = postfix.port
        if stamped:
            keys.new_key(folder / "keys")
        settings = settings_for(postfix, folder)
        sockets = postfix.queue_directory / "milter-bounce"
        empty = subprocess.Popen([sys.executable, "-c", EMPTY, f"unix:{sockets}/empty.sock"])
        try:
            with Program("milterd", folder, settings) as program:
                wait_socket(sockets / "milter.sock")
                wait_socket(sockets / "empty.sock")
                for _ in range(ROUNDS):
                    for name in ("none", "empty", "ours"):
                        out.setdefault(f"ordinary/{name}", []).append(rate(ports[name], "a@x.example", ordinary))
                        out.setdefault(f"report/{name}", []).append(rate(ports[name], "", report))
                if not stamped:
                    for _ in range(REPORTS_FOR_MEMORY // 1000):
                        rate(ports["ours"], "", report, 1000)
                        out.setdefault("memory", []).append(resident_kb(program.process.pid) / 1024)
        finally:
            empty.kill()
            empty.wait()
    return out


def _port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def run() -> list[dict]:
    """Return the figures of issue 2's last lines and issue 9's."""
    if WHY_NOT:
        raise RuntimeError(f"bench_milter: {WHY_NOT}")
    folder = Path(tempfile.mkdtemp(prefix="mbb-", dir="/tmp"))
    try:
        (folder / "a").mkdir()
        (folder / "b").mkdir()
        plain = measure(folder / "a", stamped=False)
        stamped = measure(folder / "b", stamped=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)

    def ratio_of(rates: dict[str, list[float]], kind: str) -> float:
        pairs = zip(rates[f"{kind}/ours"], rates[f"{kind}/empty"], strict=True)
        return statistics.median(ours / empty for ours, empty in pairs)

    median = {name: statistics.median(values) for name, values in plain.items()}
    rows = []
    rows.append(
        {
            "name": "empty milter, ordinary mail, against none (for comparison)",
            "value": median["ordinary/empty"],
            "unit": "messages/s",
            "baseline": median["ordinary/none"],
            "ratio": median["ordinary/empty"] / median["ordinary/none"],
            "goal": "none",
            "holds": True,
        }
    )
    for kind, goal in (("ordinary", 0.9), ("report", 0.6)):
        ratio = ratio_of(plain, kind)
        rows.append(
            {
                "name": f"milterd, {kind} mail, against an empty milter",
                "value": median[f"{kind}/ours"],
                "unit": "messages/s",
                "baseline": median[f"{kind}/empty"],
                "ratio": ratio,
                "goal": f">= {goal}",
                "holds": ratio >= goal,
            }
        )
    ours, before = ratio_of(stamped, "ordinary"), ratio_of(plain, "ordinary")
    rows.append(
        {
            "name": "milterd stamping outgoing mail, against milterd without a key (both as share of the empty milter)",
            "value": ours,
            "unit": "share",
            "baseline": before,
            "ratio": ours / before,
            "goal": ">= 0.95",
            "holds": ours / before >= 0.95,
        }
    )
    memory = plain["memory"]
    flat = memory[-1] / memory[len(memory) // 2]
    rows.append(
        {
            "name": "milterd, resident memory after 10,000 reports (ratio: to 5,000)",
            "value": memory[-1],
            "unit": "MiB",
            "baseline": memory[len(memory) // 2],
            "ratio": flat,
            "goal": "< 80 MiB, flat within 3 %",
            "holds": memory[-1] < 80 and flat < 1.03,
        }
    )
    return rows
