"""system.postfix_apply: put in and taken out while a Postfix runs on it; needs postconf(1), and no running Postfix."""

from __future__ import annotations

import json
import shutil
import socket
import tempfile
from pathlib import Path

import pytest

from milter_bounce.config import Settings
from milter_bounce.system import postfix_apply
from milter_bounce.system.postfix_apply import RECORD, applied, exchange, gate_runs, stage, stays
from milter_bounce.system.postfix_conf import GATE_MAPS, Postconf, PostfixError, gate_files, plan

needs_postconf = pytest.mark.skipif(
    shutil.which("postconf", path="/usr/sbin:/usr/bin") is None, reason="no postconf(1) is installed"
)

MAIN = "compatibility_level = 3.6\nqueue_directory = {queue}\ntransport_maps = texthash:{etc}/transport, static:x\n"
MASTER = "qmgr unix n - n 300 1 qmgr\nsubmission inet n - n - - smtpd\n  -o smtpd_recipient_restrictions=reject\n"


class Host:
    """A configuration, and a listening socket where the running master has its gate."""

    def __init__(self, folder: Path) -> None:
        self.etc, self.queue, self.gate = folder / "etc", folder / "queue", folder / "gate"
        self.etc.mkdir()
        (self.queue / "private").mkdir(parents=True)
        self.main, self.master = self.etc / "main.cf", self.etc / "master.cf"
        self.main.write_text(MAIN.format(queue=self.queue, etc=self.etc))
        self.master.write_text(MASTER)
        self.before = self.files()
        # nobody else writes it: postconf(1) need not wait for a fresh file to cool down
        self.postconf = Postconf(self.etc, copy=True)
        self._listening: socket.socket | None = None

    def files(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.etc.iterdir()}

    def start(self) -> None:
        """Serve the gate, as a master that was started with it does."""
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(self.queue / "private" / "gate"))
        self._listening.listen()

    def stop(self) -> None:
        """End it; its socket stays, as Postfix leaves it."""
        if self._listening is not None:
            self._listening.close()
        self._listening = None

    def apply(self, *, enforce: bool = True) -> postfix_apply.Done:
        files = gate_files(Settings(), self.gate) if enforce else {}
        return exchange(self.postconf, applied(self.etc), self.planner(enforce=enforce), files)

    def planner(self, *, enforce: bool = True):
        return lambda copy: plan(Settings(), copy, self.gate, enforce=enforce)

    def revert(self) -> postfix_apply.Done:
        return exchange(self.postconf, applied(self.etc))

    def gate_transports(self) -> str:
        """Return the transports of a gate process that the running master starts now."""
        return self.postconf.run("-o", f"transport_maps=${GATE_MAPS}", "-hx", "transport_maps").strip()


@pytest.fixture
def host():
    folder = Path(tempfile.mkdtemp(prefix="mb-", dir="/tmp"))  # names of unix sockets end at 107 characters
    host = Host(folder)
    yield host
    host.stop()
    shutil.rmtree(folder)


@needs_postconf
def test_revert_leaves_a_running_gate_the_administrators_transports(host):
    """Before the restart the gate has the administrator's own maps, alone; after it nothing of ours is left, in any byte."""
    own = host.postconf.expanded("transport_maps")
    host.apply()
    host.start()
    assert host.gate_transports() == f"memcache:{host.gate}/gate.cf, {own}"
    assert host.revert().waiting
    assert host.gate_transports() == own
    assert (host.gate / "gate.cf").exists()
    assert "gate" not in host.master.read_text()
    again = host.files()
    assert host.revert().waiting
    assert {name: raw for name, raw in host.files().items() if name != RECORD} == {
        name: raw for name, raw in again.items() if name != RECORD
    }
    host.stop()
    assert not host.revert().waiting
    assert host.files() == host.before
    assert not list(host.gate.iterdir())
    assert applied(host.etc) is None


@needs_postconf
@pytest.mark.parametrize("transports", ["", "transport_maps = hash:/new\n"], ids=["none", "changed"])
def test_revert_takes_the_transports_of_now(host, transports):
    """What the administrator changed since apply holds, not the copy that apply made."""
    host.apply()
    host.start()
    text = host.main.read_text().splitlines(keepends=True)
    host.main.write_text("".join(line for line in text if not line.startswith("transport_maps")) + transports)
    host.revert()
    assert host.gate_transports() == transports.partition(" = ")[2].strip()
    host.stop()
    host.revert()
    assert "milter_bounce" not in host.main.read_text()
    assert applied(host.etc) is None


@needs_postconf
def test_no_moment_of_apply_and_revert_takes_the_transports_away(host, monkeypatch):
    """At each rename, a gate that runs would find the administrator's transports, and no file of theirs is missing."""
    own, seen, real = host.postconf.expanded("transport_maps"), [], Path.replace
    host.apply()
    host.start()

    def replace(self, target):
        seen.append((host.gate_transports(), (host.gate / "gate.cf").exists()))
        found = real(self, target)
        seen.append((host.gate_transports(), (host.gate / "gate.cf").exists()))
        return found

    monkeypatch.setattr(Path, "replace", replace)
    host.apply()
    host.apply(enforce=False)
    host.revert()
    host.apply()
    host.revert()
    assert len(seen) > 10
    assert all(there for _, there in seen)
    assert {maps.removeprefix(f"memcache:{host.gate}/gate.cf, ") for maps, _ in seen} == {own}


@needs_postconf
def test_apply_without_gate_keeps_the_maps_until_the_restart(host):
    """From enforce back to advise: the same rest stays, and the next apply takes it out."""
    own = host.postconf.expanded("transport_maps")
    host.apply()
    host.start()
    assert host.apply(enforce=False).waiting
    assert host.gate_transports() == own
    host.stop()
    saved = applied(host.etc)
    staged = stage(host.etc, saved, host.planner(enforce=False), gate_stays=stays(host.postconf, saved))
    assert f"-{GATE_MAPS} = " in staged.difference(host.etc)
    assert not host.apply(enforce=False).waiting
    assert GATE_MAPS not in host.main.read_text()
    assert "milter.sock" in host.main.read_text()
    host.revert()
    assert host.files() == host.before


@needs_postconf
def test_revert_with_no_postfix_running_is_done_at_once(host):
    """Nobody uses the maps: every byte is as before."""
    host.apply()
    assert not host.revert().waiting
    assert host.files() == host.before


@needs_postconf
def test_revert_after_a_change_by_hand_leaves_nothing_of_ours(host):
    """Postconf -n hides a parameter that nothing names any more, and ours names itself last."""
    host.apply()
    host.postconf.run("-e", "message_size_limit=1000000")
    assert host.revert().left == []
    assert "milter_bounce" not in host.main.read_text()
    assert host.main.read_text().endswith("message_size_limit = 1000000\n")


@needs_postconf
def test_submission_keeps_its_restrictions_without_our_parameter(host):
    """A running master's -o names $milter_bounce_policy: undefined it is nothing, and the administrator's rest stands."""
    host.apply()
    (option,) = host.postconf.options("submission/inet/smtpd_recipient_restrictions").values()
    host.start()
    host.revert()
    found = host.postconf.run("-o", f"smtpd_recipient_restrictions={option}", "-hx", "smtpd_recipient_restrictions")
    assert [word for word in found.replace(",", " ").split() if word] == ["reject"]


@needs_postconf
@pytest.mark.parametrize("crash", range(1, 9))
def test_crash_at_any_rename_can_be_reverted(host, monkeypatch, crash):
    """A kill between two renames of apply or re-apply: revert brings back every byte."""
    real, count = Path.replace, [0]

    def replace(self, target):
        count[0] += 1
        if count[0] == crash:
            raise KeyboardInterrupt
        return real(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises(KeyboardInterrupt):
        _ = [host.apply(enforce=enforce) for enforce in (True, False, True)]
    monkeypatch.undo()
    if applied(host.etc) is not None:
        host.revert()
    assert host.files() == host.before


@needs_postconf
def test_error_puts_everything_back(host, monkeypatch):
    """master.cf cannot be replaced: main.cf is as it was, and there is no record."""
    real = Path.replace

    def replace(self, target):
        if Path(target).name == "master.cf":
            raise OSError(5, "Input/output error")
        return real(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises(PostfixError, match="nothing was changed"):
        host.apply()
    assert host.files() == host.before


@needs_postconf
def test_change_by_somebody_else_at_that_moment_is_not_overwritten(host, monkeypatch):
    """What was staged from is not what lies there any more."""
    real = postfix_apply.stage

    def slow(*args, **options):
        staged = real(*args, **options)
        host.main.write_text(host.main.read_text() + "mydestination = x\n")
        return staged

    monkeypatch.setattr(postfix_apply, "stage", slow)
    with pytest.raises(PostfixError, match="try again"):
        host.apply()
    assert host.main.read_text().endswith("mydestination = x\n")
    assert applied(host.etc) is None


@needs_postconf
def test_record_of_an_earlier_version_is_reverted(host):
    """Records had neither waiting nor replaced."""
    host.apply()
    saved = json.loads((host.etc / RECORD).read_text())
    del saved["waiting"], saved["replaced"]
    (host.etc / RECORD).write_text(json.dumps(saved))
    host.revert()
    assert host.files() == host.before


@needs_postconf
def test_gate_that_cannot_be_asked_counts_as_running(host, monkeypatch):
    """Better a line too long than mail gone astray."""
    assert not gate_runs(host.postconf)

    def refused(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(postfix_apply.socket, "socket", type("S", (socket.socket,), {"connect": refused}))
    assert gate_runs(host.postconf)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"before": 3}', '{"before": {}, "changes": []}'])
def test_damaged_record_is_told_and_not_followed(tmp_path, text):
    """A record that cannot be trusted changes nothing."""
    (tmp_path / RECORD).write_text(text)
    with pytest.raises(PostfixError, match="is damaged"):
        applied(tmp_path)


def test_no_record_means_nothing_was_applied(tmp_path):
    """Nothing to revert."""
    assert applied(tmp_path) is None
