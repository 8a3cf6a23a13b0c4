"""answerd as a program: its dialogues on real sockets, its limits, reloads, and Postfix's status filter."""

from __future__ import annotations

import contextlib
import re
import resource
import signal
import socket
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta

import pytest

from milter_bounce.system.sqlite_store import SqliteStore
from milter_bounce.verdict import Suppression
from tests.dialog import dialogs, read_dialog
from tests.integration.enforcing import Enforced
from tests.integration.postfix import needs_postfix
from tests.integration.programs import Program, toml
from tests.integration.sink import Script, Sinks

pytestmark = pytest.mark.integration

# the rest of the files presupposes a memory with fixed times: tests/unit/protocol runs them
LIVE = [p for p in dialogs("*-*.txt") if p.stem.startswith(("memcache-other", "socketmap-broken", "policy-broken"))]
SINCE = datetime(2026, 11, 19, 8, 10, tzinfo=UTC)


@pytest.fixture
def answerd(tmp_path):
    """Make answerd with these settings over; its sockets lie in the test's folder."""
    started = []

    def start(**over) -> Program:
        settings = {
            "mode": "enforce",
            "user": "",
            "log": {"output": "file", "output_file": f"{tmp_path}/log"},
            "store": {"path": f"{tmp_path}/state.db"},
            "rules": {"local": f"{tmp_path}/rules.d"},
            "due": {"enabled": False},
            **over,
        }
        sockets = {f"{n}socket": f"unix:{tmp_path}/{n or 'socketmap_'}s" for n in ("", "gate_", "policy_")}
        settings["answer"] = {**sockets, "socket_group": "", **over.get("answer", {})}
        program = Program("answerd", tmp_path, settings, ready=(tmp_path / "policy_s").exists)
        program.start()
        started.append(program)
        return program

    yield start
    for program in started:
        program.stop()


def connect(tmp_path, wire) -> socket.socket:
    """Return a connection to one of the sockets."""
    one = socket.socket(socket.AF_UNIX)
    one.settimeout(10)
    one.connect(str(tmp_path / {"socketmap": "socketmap_s", "memcache": "gate_s", "policy": "policy_s"}[wire]))
    return one


def ask(one: socket.socket, question: bytes) -> bytes:
    one.sendall(question)
    return one.recv(65536)


def log(tmp_path) -> str:
    """Return what was logged; nothing before the first line."""
    path = tmp_path / "log"
    return path.read_text() if path.exists() else ""


def test_dialogues_hold_on_the_sockets(answerd, tmp_path):
    """The same files as against the cores, whole and byte by byte."""
    answerd()
    for path in LIVE:
        dialog = read_dialog(path)
        for size in (65536, 1):
            one = connect(tmp_path, path.stem.partition("-")[0])
            for turn in dialog.turns:
                heard = b""
                _say(one, turn.said, size, may_close=dialog.closes and turn is dialog.turns[-1])
                while not turn.expected.fullmatch(heard):
                    more = one.recv(65536)
                    heard += more
                    assert more, f"{path.name}:{turn.line}: closed after {heard!r}"
            if dialog.closes:
                assert _is_closed(one)
            one.close()


def test_every_wire_answers_from_the_store(answerd, tmp_path):
    """What another program wrote is answered, on each of the sockets."""
    answerd()
    gate, policy, map_ = (connect(tmp_path, wire) for wire in ("memcache", "policy", "socketmap"))
    assert ask(gate, b"get gone@example.com\r\n") == b"END\r\n"
    store = SqliteStore(tmp_path / "state.db")
    store.suppress([Suppression("gone@example.com", SINCE, "invalid-recipient", "user-unknown", "no such user")])
    store.close()
    deadline = time.monotonic() + 20
    while (heard := ask(gate, b"get gone@example.com\r\n")) == b"END\r\n" and time.monotonic() < deadline:
        time.sleep(0.05)
    assert heard.startswith(b"VALUE gone@example.com 0 ")
    assert b"error:5.1.1 milter-bounce: suppressed, invalid-recipient since 2026-11-19T08:10Z" in heard
    request = b"request=smtpd_access_policy\nprotocol_state=RCPT\nsender=a@example.org\nrecipient=gone@example.com\n\n"
    assert ask(policy, request).startswith(b"action=550 5.1.1 <gone@example.com>: milter-bounce: suppressed")
    key = b"compat 6AKI1awF010008;1;a@example.org;gone@example.com"
    assert b":OK REJECT 5.1.1 milter-bounce: suppressed invalid-recipient" in ask(map_, b"%d:%b," % (len(key), key))


@contextlib.contextmanager
def few_files(number: int):
    """Lower the limit of open files that a program inherits: what a shell or an old unit gives."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (number, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_five_hundred_connections_are_answered(answerd, tmp_path):
    """All delivery agents of a busy host at once, under the limit of 256 open files that answerd raises for itself."""
    with few_files(256):
        answerd()
    ones = [connect(tmp_path, "memcache") for _ in range(500)]
    for one in ones:
        one.sendall(b"get a@example.com\r\n")
    assert {one.recv(100) for one in ones} == {b"END\r\n"}
    for one in ones:
        one.close()


def test_connections_beyond_the_limit_are_closed_and_the_others_go_on(answerd, tmp_path):
    """The one too many gets the end of the conversation, which Postfix takes as no opinion."""
    answerd(answer={"connections": 10})
    ones = [connect(tmp_path, "memcache") for _ in range(10)]
    assert {ask(one, b"version\r\n")[:7] for one in ones} == {b"VERSION"}
    extra = connect(tmp_path, "memcache")
    assert _is_closed(extra)
    assert ask(ones[0], b"get a@example.com\r\n") == b"END\r\n"
    ones.pop().close()
    time.sleep(0.2)
    assert ask(connect(tmp_path, "memcache"), b"version\r\n")[:7] == b"VERSION"


def _say(one: socket.socket, said: bytes, size: int, *, may_close: bool) -> None:
    """Send it in pieces; a server that has heard enough may have closed before the last one."""
    try:
        for start in range(0, len(said), size):
            one.sendall(said[start : start + size])
    except (BrokenPipeError, ConnectionResetError):
        if not may_close:
            raise


def _is_closed(one: socket.socket) -> bool:
    """Return whether nothing more comes: the end, or a reset where the server left bytes of ours unread."""
    try:
        return one.recv(1) == b""
    except ConnectionResetError:
        return True


def test_slow_question_is_cut_off_and_a_quick_client_is_not(answerd, tmp_path):
    """A question that has begun must end in request_s, however diligently it drips."""
    answerd(answer={"request_s": 1})
    slow, quick = connect(tmp_path, "memcache"), connect(tmp_path, "memcache")
    closed_at = None
    for step in range(40):
        try:
            slow.sendall(b"g" if step == 0 else b"e")
            slow.setblocking(False)
            if slow.recv(10) == b"":
                closed_at = step
                break
        except BlockingIOError:
            pass
        except OSError:
            closed_at = step
            break
        finally:
            slow.setblocking(True)
        assert ask(quick, b"get a@example.com\r\n") == b"END\r\n"
        time.sleep(0.1)
    assert closed_at is not None


def test_client_that_never_reads_stops_being_read(answerd, tmp_path):
    """Questions without end and no reading: memory stays bounded, others are answered."""
    program = answerd()
    greedy, other = connect(tmp_path, "memcache"), connect(tmp_path, "memcache")
    greedy.setblocking(False)
    sent = 0
    for _ in range(2000):
        try:
            sent += greedy.send(b"version\r\n" * 1000)
        except BlockingIOError:
            break
    assert sent < 2000 * 9000
    assert ask(other, b"get a@example.com\r\n") == b"END\r\n"
    assert program.process.poll() is None


def test_reload_takes_new_settings_and_keeps_old_ones_when_broken(answerd, tmp_path):
    """SIGHUP; a broken file is told of and changes nothing."""
    program = answerd()
    SqliteStore(tmp_path / "state.db").suppress([Suppression("gone@example.com", SINCE, "invalid-recipient", "r", "x")])
    gate = connect(tmp_path, "memcache")
    good = program.path.read_text()

    def held() -> bool:
        return ask(gate, b"get gone@example.com\r\n") != b"END\r\n"

    program.path.write_text(good.replace('"enforce"', '"no such mode"'))
    program.signal(signal.SIGHUP)
    _until(lambda: "not reloaded, the old configuration stays in force" in log(tmp_path))
    assert held()
    program.path.write_text(good.replace('"enforce"', '"advise"'))
    program.signal(signal.SIGHUP)
    _until(lambda: not held())


def test_restart_takes_the_socket_over_and_the_end_removes_it(answerd, tmp_path):
    """A kill -9 leaves a stale socket: the next one replaces it; TERM leaves none behind."""
    first = answerd()
    first.signal_all(signal.SIGKILL)
    first.process.wait()
    assert (tmp_path / "gate_s").exists()
    second = answerd()
    _until(lambda: _speaks(tmp_path))
    second.process.terminate()
    assert second.process.wait(10) == 0
    assert not (tmp_path / "gate_s").exists()


def _speaks(tmp_path) -> bool:
    try:
        return ask(connect(tmp_path, "memcache"), b"version\r\n").startswith(b"VERSION")
    except OSError:
        return False


def _until(ready, seconds=10):
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def test_socket_that_cannot_be_had_ends_the_program_with_one_line(answerd, tmp_path):
    """Exit status 1 and the address."""
    (tmp_path / "file").touch()
    with pytest.raises(AssertionError, match="cannot listen"):
        answerd(answer={"gate_socket": f"unix:{tmp_path}/file/gate.sock"})


def refused(tmp_path, answer: dict) -> tuple[int, str, str]:
    """Return exit status, first word and rest of the one line with which answerd does not start; its file's name."""
    over = {"user": "", "answer": {"policy_socket": "", "gate_socket": "", "socket": "", **answer}}
    conf = tmp_path / "answerd.toml"
    conf.write_text(toml({"store": {"path": f"{tmp_path}/state.db"}, "log": {"output": "stdout"}, **over}))
    words = [sys.executable, "-m", "milter_bounce", "answerd", "-c", str(conf)]
    ran = subprocess.run(words, check=False, capture_output=True, text=True, timeout=60)
    return ran.returncode, ran.stderr, str(conf)


@pytest.mark.parametrize("kind", ["file", "link"])
def test_file_at_a_socket_path_is_left_alone(tmp_path, kind):
    """What is no socket is not replaced: one line and status 2, as with milterd."""
    plain = tmp_path / "plain"
    plain.write_text("mine") if kind == "file" else plain.symlink_to("away")
    status, told, _ = refused(tmp_path, {"gate_socket": f"unix:{plain}", "socket_group": ""})
    assert (status, told) == (2, f"milter-bounce answerd: {plain}: is no socket; remove it or name another\n")
    assert plain.read_text() == "mine" if kind == "file" else plain.is_symlink()


def test_group_that_does_not_exist_is_a_wrong_configuration(tmp_path):
    """One line with file, key, value and remedy; status 2; no socket was made."""
    status, told, conf = refused(tmp_path, {"gate_socket": f"unix:{tmp_path}/s", "socket_group": "nosuchgroup"})
    assert status == 2
    assert told.startswith(f"milter-bounce answerd: {conf}: answer.socket_group = 'nosuchgroup': no such group; name ")
    assert told.count("\n") == 1
    assert not (tmp_path / "s").exists()


def test_block_ends_and_times_are_kept_by_the_store_not_by_memory(answerd, tmp_path):
    """Suppressions removed by another program are gone from the answers within a second."""
    answerd()
    store = SqliteStore(tmp_path / "state.db")
    store.suppress([Suppression("x@example.com", SINCE + timedelta(days=1), "invalid-recipient", "r", "")])
    gate = connect(tmp_path, "memcache")
    _until(lambda: ask(gate, b"get x@example.com\r\n") != b"END\r\n", 1)
    store.unsuppress(["x@example.com"])
    _until(lambda: ask(gate, b"get x@example.com\r\n") == b"END\r\n", 1)


# -- the status filter on a real Postfix ----------------------------------------------


@needs_postfix
@pytest.mark.parametrize("annotate", [False, True], ids=["plain", "annotate"])
def test_advise_changes_no_code_and_annotates_when_told_to(tmp_path, annotate):
    """Mode advise: the code stays; with annotate the verdict stands in Postfix's own log line."""
    reply = "552 5.2.2 <a@full.test>: The email account that you tried to reach is over quota"
    with Sinks() as sinks:
        full = sinks.add("full.test", Script(rcpt=reply))
        over = {"mode": "advise"}
        with Enforced(
            tmp_path / "p", over, parts=("answerd",), routes={"full.test": full}, annotate=annotate
        ) as postfix:
            postfix.send("me@home.example", "a@full.test")
            (line,) = postfix.wait_log("to=<a@full.test>.*status=bounced")
            assert "dsn=5.2.2" in line
            found = re.search(r"\(\[class=soft category=mailbox-full advice=retry rule=[a-z0-9-]+\] host", line)
            assert bool(found) is annotate


@needs_postfix
@pytest.mark.parametrize("state", ["down", "stopped-and-back"])
def test_filter_that_is_away_leaves_the_status_as_it_was(tmp_path, state):
    """With answerd down Postfix keeps code and text; hung: it waits no longer than it is told to."""
    reply = "550 5.1.1 <a@gone.test>: User unknown"
    with Sinks() as sinks:
        gone = sinks.add("gone.test", Script(rcpt=reply))
        with Enforced(tmp_path / "p", parts=("answerd",), routes={"gone.test": gone}) as postfix:
            if state == "down":
                postfix.programs["answerd"].stop()
            else:
                postfix.programs["answerd"].signal_all(signal.SIGSTOP)
            postfix.send("me@home.example", "a@gone.test") if state == "down" else _send_slowly(postfix)
            (line,) = postfix.wait_log("to=<a@gone.test>.*status=bounced", 60)
            assert "dsn=5.1.1" in line
            assert "said: 550 5.1.1 <a@gone.test>: User unknown (in reply to RCPT TO command)" in line


def _send_slowly(postfix) -> None:
    """Hand one message in while nothing answers, then let answerd go on as its supervisor would start it anew."""
    postfix.send("me@home.example", "a@gone.test")
    time.sleep(6)
    postfix.programs["answerd"].signal_all(signal.SIGCONT)
