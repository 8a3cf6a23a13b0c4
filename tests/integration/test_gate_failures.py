"""Whatever of ours is down, hung or broken: mail flows, and nothing is lost or doubled; on a real Postfix."""

from __future__ import annotations

import re
import signal
import smtplib
import sqlite3
import threading
import time
from collections import Counter

import pytest

from tests.integration.enforcing import Enforced, times_of
from tests.integration.postfix import needs_postfix
from tests.integration.sink import Script, Sinks

pytestmark = [pytest.mark.integration, needs_postfix]

GATE_TIME_LIMIT_S = 4
"""What a hung gate costs a recipient at most with timeout = 1 and max_try = 1, as measured (DESIGN.md section 2)."""


def delivered_once(sink, recipients) -> bool:
    """Return whether every recipient got exactly one message."""
    return Counter(r for taken in sink.taken for r in taken.recipients) == Counter(recipients)


@pytest.fixture
def world(tmp_path):
    """One sink that takes everything, one enforced Postfix."""
    with Sinks() as sinks:
        ok = sinks.add("ok.test")
        with Enforced(tmp_path / "p", parts=("answerd",), routes={"ok.test": ok}) as postfix:
            yield postfix, ok


def send_many(postfix, count, first=0, per_message=1):
    """Hand in messages over one connection; return the recipients."""
    recipients = [f"u{first + n}@ok.test" for n in range(count)]
    with smtplib.SMTP("127.0.0.1", postfix.port, timeout=60) as client:
        for start in range(0, count, per_message):
            client.sendmail("me@home.example", recipients[start : start + per_message], "Subject: t\r\n\r\nhello\r\n")
    return recipients


def test_gate_that_is_down_costs_nothing(world):
    """No socket, no delay."""
    postfix, ok = world
    postfix.programs["answerd"].stop()
    recipients = send_many(postfix, 20)
    postfix.wait_for(lambda: len(ok.taken) == 20)
    assert delivered_once(ok, recipients)
    sent = [line for line in postfix.lines() if "status=sent" in line]
    assert max(float(re.search(r"delays=([0-9.]+)/", line)[1]) for line in sent) < GATE_TIME_LIMIT_S


def test_gate_that_hangs_delays_a_recipient_by_its_time_limit_at_most(world):
    """SIGSTOP: accepts and never answers. Mail flows, and all is as before when it goes on."""
    postfix, ok = world
    postfix.programs["answerd"].signal_all(signal.SIGSTOP)
    recipients = ["a@ok.test", "b@ok.test"]
    with smtplib.SMTP("127.0.0.1", postfix.port, timeout=120) as client:
        client.sendmail("me@home.example", recipients, "Subject: t\r\n\r\nhello\r\n")
    postfix.wait_for(lambda: len(ok.attempts) == 2, 60)
    postfix.programs["answerd"].signal_all(signal.SIGCONT)
    postfix.wait_log("status=sent", 130, count=2)
    assert delivered_once(ok, recipients)
    queued, *_ = postfix.wait_log("cleanup.*message-id")
    removed, *_ = postfix.wait_log("qmgr.*removed")
    assert times_of([removed])[0] - times_of([queued])[0] <= 2 * (GATE_TIME_LIMIT_S + 2) + 5


@pytest.mark.parametrize(
    "garbage", [pytest.param(b"\0\xff" * 500, id="noise"), pytest.param(b"VALUE x 0 99999999\r\n", id="cut")]
)
def test_gate_and_filter_that_answer_garbage_change_nothing(tmp_path, garbage):
    """Bytes that are no protocol: mail flows, the status stays as it was."""
    with Sinks() as sinks:
        ok = sinks.add("ok.test")
        gone = sinks.add("gone.test", Script(rcpt="550 5.1.1 <a@gone.test>: User unknown"))
        with Enforced(tmp_path / "p", parts=(), routes={"ok.test": ok, "gone.test": gone}) as postfix:
            with Rubbish(postfix, garbage):
                postfix.send("me@home.example", "a@gone.test")
                (refused,) = postfix.wait_log("to=<a@gone.test>.*status=bounced", 60)
                recipients = send_many(postfix, 3)
                postfix.wait_for(lambda: len(ok.taken) == 3, 60)
                lines = postfix.wait_log("status=sent", count=3)
            assert delivered_once(ok, recipients)
            assert all("dsn=2.0.0" in line for line in lines)
            assert re.search(
                r"dsn=5\.1\.1, status=bounced \(host [^ ]+ said: 550 5\.1\.1 <a@gone\.test>: User unkn", refused
            )


class Rubbish:
    """Servers on our three sockets that answer everything with the same bytes."""

    def __init__(self, postfix, garbage):
        import socketserver

        class Handler(socketserver.BaseRequestHandler):
            def handle(self):
                while self.request.recv(65536):
                    if not garbage:
                        return
                    self.request.sendall(garbage)

        class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
            daemon_threads = True
            request_queue_size = 100

        folder = postfix.queue_directory / "milter-bounce"
        self.servers = []
        for name in ("answer_sock", "gate_sock", "policy_sock"):
            self.servers.append(Server(str(folder / name), Handler))
            (folder / name).chmod(0o666)

    def __enter__(self):
        for server in self.servers:
            threading.Thread(target=server.serve_forever, daemon=True).start()

    def __exit__(self, *_):
        for server in self.servers:
            server.shutdown()
            server.server_close()


def test_store_locked_then_gone_lets_mail_flow_and_recovers(world):
    """A writer that never ends, then a file that is deleted under way: everything passes, then the gate holds again."""
    postfix, ok = world
    store = postfix.folder / "state.db"
    postfix.ours("suppressions", "add", "gone@ok.test")
    assert postfix.postmap("gone@ok.test").startswith("error:5.1.1")
    writer = sqlite3.connect(store, isolation_level=None)
    writer.execute("BEGIN EXCLUSIVE")
    recipients = send_many(postfix, 5)
    postfix.wait_for(lambda: len(ok.taken) == 5)
    writer.execute("ROLLBACK")
    writer.close()
    for path in postfix.folder.glob("state.db*"):
        path.unlink()
    recipients += send_many(postfix, 5, first=5)
    postfix.wait_for(lambda: len(ok.taken) == 10)
    postfix.wait_for(lambda: postfix.postmap("gone@ok.test") == "")
    postfix.ours("suppressions", "add", "gone@ok.test")
    postfix.wait_for(lambda: postfix.postmap("gone@ok.test").startswith("error:5.1.1"))
    assert delivered_once(ok, recipients)


def test_damaged_store_lets_mail_flow(world):
    """A file that is no database: no opinion, one warning."""
    postfix, ok = world
    for path in postfix.folder.glob("state.db*"):
        path.unlink()
    (postfix.folder / "state.db").write_bytes(b"this is no database" * 1000)
    recipients = send_many(postfix, 5)
    postfix.wait_for(lambda: len(ok.taken) == 5)
    assert delivered_once(ok, recipients)

    def said() -> int:
        heard = postfix.programs["answerd"].output() + "\n".join(postfix.lines())
        return heard.count("the store cannot be read, everything passes")

    postfix.wait_for(said)
    time.sleep(0.5)
    assert said() == 1


def test_killing_every_program_in_turn_loses_and_doubles_nothing(tmp_path):
    """2,000 messages while each program is killed and started again: each message once at the remote server."""
    count = 2000
    with Sinks() as sinks:
        ok = sinks.add("ok.test")
        parts = ("milterd", "answerd", "logd")
        with Enforced(tmp_path / "p", parts=parts, routes={"ok.test": ok}) as postfix:
            done = threading.Event()
            killed = []

            def kill() -> None:
                turn = 0
                while not done.wait(0.7):
                    program = postfix.programs[parts[turn % 3]]
                    program.signal_all(signal.SIGKILL)
                    program.process.wait()
                    killed.append(program.name)
                    time.sleep(0.1)
                    program.ready = None
                    program.start()
                    turn += 1

            killer = threading.Thread(target=kill)
            killer.start()
            recipients = []
            try:
                for first in range(0, count, 500):
                    recipients += send_many(postfix, 500, first)
                postfix.wait_for(lambda: len(ok.taken) >= count, 90)
            finally:
                done.set()
                killer.join()
            postfix.wait_for(lambda: postfix.queued() == 0, 60)
            assert delivered_once(ok, recipients)
            assert set(killed) == set(parts)
