"""milterd's cost: messages a second through a real Postfix with no milter, an empty one, and milterd; its memory.

Run: ``python -m tests.bench milter``. They are taken in turns, in short bursts, each round begun by another one; a ratio
is the median of the rounds' own ratios, so that whatever else the machine does at one time meets both sides of it. What stamping costs is told
twice: against milterd without a key, and against the least that a milter can do to add a header field, since that
can only be done at the end of a message (libmilter, smfi_addheader): the MTA then sends the body, too, and writes to
its queue file again. Large bodies are measured besides.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from milter_bounce.protocol import token
from milter_bounce.system import keys
from tests.integration.ports import free_port
from tests.integration.postfix import WHY_NOT, Postfix
from tests.integration.programs import Program, settings_for
from tests.reports import dsn

ROUNDS = 61
LARGE = {"100 KB": 100_000, "1 MB": 1_000_000}
LARGE_ROUNDS, LARGE_MESSAGES = 9, 40
MESSAGES = 240
SETTLE_S = 1.0
"""What a report leaves to be written behind it falls on nobody else's burst."""

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
ADDING = """
import os, sys, Milter, milter
class Adding(Milter.Base):
    def negotiate(self, opts):
        opts[1] &= (milter.P_NOCONNECT | milter.P_NOHELO | milter.P_NODATA | milter.P_NOUNKNOWN | milter.P_NR_MAIL
            | milter.P_NR_RCPT | milter.P_NR_HDR | milter.P_NR_EOH | milter.P_NR_BODY)
        opts[2] = opts[3] = 0
        return Milter.CONTINUE
    def envfrom(self, *a): return Milter.NOREPLY
    def envrcpt(self, *a): return Milter.NOREPLY
    def header(self, *a): return Milter.NOREPLY
    def eoh(self): return Milter.NOREPLY
    def body(self, chunk): return Milter.NOREPLY
    def eom(self):
        self._ctx.addheader("X-Milter-Bounce-Token", "v1; k=20260; d=20777; m=kPBCRXsEhawPAh4YjxDzQg; r=ZMBhUcNq")
        return Milter.ACCEPT
Milter.factory = Adding
Milter.set_flags(Milter.ADDHDRS)
os.umask(0o117)
Milter.runmilter("adding", sys.argv[1], 600, rmsock=False)
"""
SENDER = "a@x.example"


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


def rate(port: int, sender: str, recipient: str, message: bytes, count: int = MESSAGES) -> float:
    """Return messages a second over several connections at once."""
    each = count // CLIENTS
    work = [threading.Thread(target=send, args=(port, sender, recipient, message, each)) for _ in range(CLIENTS)]
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


def measure(folder: Path) -> dict[str, list[float]]:
    """Return the rates by kind of mail and milter, and milterd's memory along 10,000 reports."""
    ports = {name: free_port() for name in ("empty", "adding", "ours", "stamping")}
    master = "".join(
        f"127.0.0.1:{port} inet n - n - - smtpd -o smtpd_milters=unix:milter-bounce/{name}.sock\n"
        for name, port in ports.items()
    )
    main = {"non_smtpd_milters": "", "smtpd_client_message_rate_limit": "0"}
    head = f"From: {SENDER}\r\nTo: x@drop.example\r\nMessage-ID: <1@x>\r\nSubject: s\r\n"
    ordinary = head.encode() + b"\r\n" + b"a line of text\r\n" * 250
    out: dict[str, list[float]] = {}
    with (
        Postfix(folder / "p", main=main, routes={"drop.example": "discard:"}, master=master) as postfix,
        contextlib.ExitStack() as stack,
    ):
        ports["none"] = postfix.port
        programs = {}
        for name in ("ours", "stamping"):
            (folder / name).mkdir()
            settings = settings_for(postfix, folder / name)
            sockets = postfix.queue_directory / "milter-bounce"
            settings["milter"]["socket"] = f"unix:{sockets}/{name}.sock"
            if name == "stamping":
                key = keys.read_key(keys.new_key(folder / name / "keys"))
            programs[name] = stack.enter_context(Program("milterd", folder / name, settings))
        for name, source in (("empty", EMPTY), ("adding", ADDING)):
            peer = subprocess.Popen([sys.executable, "-c", source, f"unix:{sockets}/{name}.sock"])
            stack.callback(peer.wait)
            stack.callback(peer.kill)
        for name in ports.keys() - {"none"}:
            wait_socket(sockets / f"{name}.sock")

        def report_with(*covered: str) -> bytes:
            """Return a report about gone@bad.test whose token covers the recipients `covered`."""
            value = token.mint(key, keys.today(), SENDER, "1@x", covered)
            returned = head.replace("\r\n", "\n") + f"{token.HEADER_NAME}: {value}\n"
            return dsn("gone@bad.test", to=SENDER, headers=returned).replace("\n", "\r\n").encode()

        report, genuine = report_with("other@bad.test"), report_with("gone@bad.test")
        mails = {
            "ordinary": (SENDER, "x@drop.example", ordinary),
            "report": ("", SENDER, report),
            "genuine": ("", SENDER, genuine),
        }
        for burst in range(ROUNDS + 1):
            turn = list(ports)[burst % len(ports) :] + list(ports)[: burst % len(ports)]
            for kind, mail in mails.items():
                for name in turn if kind != "genuine" else ["stamping"]:
                    figure = rate(ports[name], *mail)
                    if burst:  # the first one warms up
                        out.setdefault(f"{kind}/{name}", []).append(figure)
            time.sleep(SETTLE_S)
        for size, count in LARGE.items():
            large = head.encode() + b"\r\n" + (b"x" * 74 + b"\r\n") * (count // 76)
            for _ in range(LARGE_ROUNDS):
                for name in ("ours", "adding", "stamping"):
                    figure = rate(ports[name], SENDER, "x@drop.example", large, LARGE_MESSAGES)
                    out.setdefault(f"{size}/{name}", []).append(figure)
        for _ in range(REPORTS_FOR_MEMORY // 1000):
            rate(ports["ours"], "", SENDER, report, 1000)
            out.setdefault("memory", []).append(resident_kb(programs["ours"].process.pid) / 1024)
    return out


def run() -> list[dict]:
    """Return the figures of issue 2's last lines and issue 9's."""
    if WHY_NOT:
        raise RuntimeError(f"bench_milter: {WHY_NOT}")
    folder = Path(tempfile.mkdtemp(prefix="mbb-", dir="/tmp"))
    try:
        rates = measure(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)

    def row(name: str, ours: str, baseline: str, goal: float | None) -> dict:
        ratio = statistics.median(a / b for a, b in zip(rates[ours], rates[baseline], strict=True))
        return {
            "name": name,
            "value": statistics.median(rates[ours]),
            "unit": "messages/s",
            "baseline": statistics.median(rates[baseline]),
            "ratio": ratio,
            "goal": "none" if goal is None else f">= {goal}",
            "holds": goal is None or ratio >= goal,
        }

    bare, key = "milterd without a key", "milterd with a key"
    rows = [
        row("empty milter, ordinary mail, against none (for comparison)", "ordinary/empty", "ordinary/none", None),
        row("milterd, ordinary mail, against an empty milter", "ordinary/ours", "ordinary/empty", 0.9),
        row("milterd, report mail, against an empty milter", "report/ours", "report/empty", 0.6),
        row(f"a constant header added, against {bare} (for comparison)", "ordinary/adding", "ordinary/ours", None),
        row(f"{key}, outgoing mail stamped, against a constant header", "ordinary/stamping", "ordinary/adding", 0.95),
        row(f"{key}, outgoing mail stamped, against {bare}", "ordinary/stamping", "ordinary/ours", 0.95),
        *(
            row(f"{key}, {size} stamped, against {bare} (for comparison)", f"{size}/stamping", f"{size}/ours", None)
            for size in LARGE
        ),
        *(
            row(f"{key}, {size} stamped, against a constant header", f"{size}/stamping", f"{size}/adding", 0.95)
            for size in LARGE
        ),
        row(f"{key}, reports checked, against {bare}", "report/stamping", "report/ours", 0.95),
        row(
            f"{key}, reports believed and remembered, against an empty milter", "genuine/stamping", "report/empty", None
        ),
    ]
    memory = rates["memory"]
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
