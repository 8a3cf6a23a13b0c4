"""A throw-away Sendmail 8.17 on loopback, beside any installed MTA: unpacked Debian packages, nothing installed.

Works as root and as an ordinary user (user namespaces). The packages are
fetched once with apt-get into ``build/sendmail`` and unpacked there. The daemon
lives in private namespaces: a host name with a dot (else every start sleeps
60 s), an own hosts file and nsswitch.conf (no DNS question is asked) and an own
``/dev/log``, read by a thread of the test that writes ``mail.log``.

The surface is that of ``tests.integration.postfix.Postfix``, so that one set of
test cases runs on both.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shlex
import shutil
import signal
import smtplib
import socket
import subprocess
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Self

import pytest

from tests.conftest import ROOT
from tests.integration.ports import free_port
from tests.integration.programs import merged
from tests.integration.sink import Sink

BUILD = ROOT / "build" / "sendmail"
TREE = BUILD / "root"
PACKAGES = ("sendmail-bin", "sendmail-base", "sendmail-cf", "m4", "libwrap0", "libnsl2", "libtirpc3")
CONF = ROOT / "conf" / "sendmail"
HOST = "mx.test.example"


@functools.cache
def why_not() -> str:
    """Return why no Sendmail can run here; empty when one can. Fetches and unpacks it on the first call."""
    missing = [tool for tool in ("apt-get", "dpkg", "unshare", "setpriv") if shutil.which(tool) is None]
    if missing:
        return f"{', '.join(missing)} missing"
    if ran := _unpack():
        return ran
    ran = subprocess.run([*_unshared(), "true"], check=False, capture_output=True, text=True, timeout=30)
    return "" if ran.returncode == 0 else f"no private namespaces: {ran.stderr.strip()}"


def _unpack() -> str:
    """Fetch and unpack Sendmail once; return what went wrong, empty for nothing."""
    if (BUILD / "ready").exists():
        return ""
    debs = BUILD / "debs"
    debs.mkdir(parents=True, exist_ok=True)
    if _apt("download", *PACKAGES):
        # a fresh container has no package lists: fetch them into a folder of our own, which needs no right
        (BUILD / "apt" / "lists" / "partial").mkdir(parents=True, exist_ok=True)
        own = ["-o", f"Dir::State={BUILD}/apt", "-o", "Dir::State::status=/var/lib/dpkg/status"]
        own += ["-o", f"Dir::Cache={BUILD}/apt"]
        if failed := _apt("update", *own) or _apt("download", *own, *PACKAGES):
            return f"apt-get: {failed}"
    for deb in sorted(debs.glob("*.deb")):
        subprocess.run(["dpkg", "-x", str(deb), str(TREE)], check=True, timeout=60)
    # setgid mail: the loader would ignore LD_LIBRARY_PATH
    _binary().chmod(0o755)
    (BUILD / "ready").touch()
    return ""


def _apt(*words: str) -> str:
    """Run apt-get where the packages go; return the last line of what went wrong, empty for nothing."""
    root = ["-o", "APT::Sandbox::User=root"] if os.geteuid() == 0 else []
    ran = subprocess.run(
        ["apt-get", "-qq", *root, *words], cwd=BUILD / "debs", check=False, capture_output=True, text=True, timeout=300
    )
    return "" if ran.returncode == 0 else (ran.stderr.strip().splitlines() or ["failed"])[-1]


def _binary() -> Path:
    return TREE / "usr/libexec/sendmail/sendmail"


def _libraries() -> dict[str, str]:
    found = sorted(TREE.glob("usr/lib/*-linux-gnu*"))
    return os.environ | {"LD_LIBRARY_PATH": ":".join(map(str, found))}


def _unshared() -> list[str]:
    """Return the words that start a command in private namespaces with the right to mount."""
    if os.geteuid() == 0:
        return ["unshare", "-um"]
    return ["unshare", "--map-current-user", "--keep-caps", "-um"]


def needs_sendmail(function):
    """Skip a test or fixture's test by name where no Sendmail can run; asked when the test starts, not before."""
    return pytest.mark.usefixtures("real_sendmail")(function)


@pytest.fixture(scope="session")
def real_sendmail():
    """Skip what needs a Sendmail where there is none, saying why."""
    if reason := why_not():
        pytest.skip(f"real Sendmail: {reason}")


MC = r"""divert(-1)
divert(0)dnl
include(`{cf}/m4/cf.m4')dnl
VERSIONID(`milter-bounce test')dnl
OSTYPE(`linux')dnl
define(`confDOMAIN_NAME', `{host}')dnl
define(`MAIL_SETTINGS_DIR', `{folder}/')dnl
define(`ALIAS_FILE', `{folder}/aliases')dnl
define(`QUEUE_DIR', `{folder}/mqueue')dnl
define(`STATUS_FILE', `{folder}/statistics')dnl
define(`HELP_FILE', `{folder}/helpfile')dnl
define(`confPID_FILE', `{folder}/sendmail.pid')dnl
define(`confSERVICE_SWITCH_FILE', `{folder}/service.switch')dnl
define(`confHOSTS_FILE', `{folder}/hosts')dnl
define(`confCW_FILE', `-o {folder}/local-host-names')dnl
undefine(`confHOST_STATUS_DIRECTORY')dnl
define(`confDONT_PROBE_INTERFACES', `True')dnl
define(`confTRUSTED_USER', `{user}')dnl
define(`confDEF_USER_ID', `{user}')dnl
dnl the folder of a test lies under the world-writable, sticky /tmp
define(`confDONT_BLAME_SENDMAIL', `TrustStickyBit')dnl
define(`confTO_IDENT', `0')dnl
define(`confTO_CONNECT', `3s')dnl
define(`confTO_ICONNECT', `3s')dnl
define(`confTO_INITIAL', `3s')dnl
define(`confTO_HELO', `3s')dnl
define(`confTO_MAIL', `3s')dnl
define(`confTO_RCPT', `3s')dnl
define(`confTO_DATAINIT', `3s')dnl
define(`confTO_DATAFINAL', `3s')dnl
define(`confTO_QUIT', `3s')dnl
define(`confTO_RSET', `3s')dnl
define(`confTO_STARTTLS', `3s')dnl
define(`confMIN_QUEUE_AGE', `2s')dnl
define(`confPRIVACY_FLAGS', `authwarnings')dnl
define(`confMAX_DAEMON_CHILDREN', `100')dnl
define(`confREFUSE_LA', `1000')dnl
define(`confQUEUE_LA', `1000')dnl
define(`confDELIVERY_MODE', `background')dnl
FEATURE(`nocanonify')dnl
FEATURE(`accept_unresolvable_domains')dnl
FEATURE(`accept_unqualified_senders')dnl
FEATURE(`promiscuous_relay')dnl
FEATURE(`nouucp', `reject')dnl
FEATURE(`no_default_msa')dnl
LOCAL_DOMAIN(`home.example')dnl
FEATURE(`mailertable', `hash -o {folder}/mailertable')dnl
DAEMON_OPTIONS(`Name=MTA, Family=inet, Addr=127.0.0.1, Port={port}, M=f')dnl
{extra}
define(`LOCAL_MAILER_PATH', `{folder}/lda')dnl
define(`LOCAL_MAILER_ARGS', `lda $f $u')dnl
define(`LOCAL_MAILER_FLAGS', `')dnl
dnl local users need no passwd entry
MODIFY_MAILER_FLAGS(`LOCAL', `-w')dnl
MAILER(`local')dnl
MAILER(`smtp')dnl
MAILER_DEFINITIONS
Msink,		P=[IPC], F=mDFMuXa, S=EnvFromSMTP/HdrFromSMTP, R=EnvToSMTP, E=\r\n, L=2040,
		T=DNS/RFC822/SMTP,
		A=TCP $h {sink_port}
"""

LDA = """\
#!/bin/sh
[ "$2" = unknown ] && exit 67
cat > {mail}/part.$$ && mv {mail}/part.$$ {mail}/$(date +%s%N).$2
"""


class Syslog:
    """A datagram syslog server in a thread: writes ``Nov 20 17:47:57 mx tag[pid]: text`` lines to a file."""

    _STAMPED = re.compile(r"<[0-9]+>(?:([A-Z][a-z]{2} [ 0-9][0-9] [0-9:]{8}) )?(.*)", re.DOTALL)

    def __init__(self, path: Path, target: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self._socket.bind(str(path))
        path.chmod(0o666)
        self._target = target
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        with self._target.open("a", buffering=1) as out:
            while raw := self._socket.recv(65536):
                text = raw.decode("utf-8", "replace").rstrip("\n\0")
                found = self._STAMPED.match(text)
                stamp, text = found.groups() if found else (None, text)
                out.write(f"{stamp or time.strftime('%b %e %H:%M:%S')} mx {text}\n")

    def close(self) -> None:
        # a datagram socket has no peer to hang up: an empty datagram to itself ends the thread
        name = self._socket.getsockname()
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as last:
            last.sendto(b"", name)
        self._thread.join(2)
        self._socket.close()


class Sendmail:
    """One private Sendmail; use as a context manager.

    Args:
        folder: an empty folder of its own (short path: unix sockets end at 107 characters).
        routes: recipient domain -> sink, or any mailertable text.
        hosts: host name -> address, for relays that shall have names.
        fragments: names of shipped fragments (``conf/sendmail/NAME.mc``) to include.
        defines: m4 name -> value, set before the fragments.
        extra: more lines of the .mc file, behind the fragments.
        queue_every: the interval of queue runs; None for none.
        port_of_sinks: for routes that name a host instead of a sink.
        maps: file name -> key -> value: further hash maps in the folder, for `extra`.
    """

    def __init__(
        self,
        folder: Path,
        *,
        routes: Mapping[str, Sink | str] | None = None,
        hosts: Mapping[str, str] | None = None,
        fragments: Iterable[str] = (),
        defines: Mapping[str, str] | None = None,
        extra: str = "",
        queue_every: str | None = "1s",
        port_of_sinks: int = 12600,
        maps: Mapping[str, Mapping[str, str]] | None = None,
    ) -> None:
        self.folder = folder
        self.queue_directory = folder / "mqueue"
        self.log = folder / "mail.log"
        self.mailboxes = folder / "mail"
        self.cf = folder / "sendmail.cf"
        self.port = free_port()
        self.routes = dict(routes or {})
        self.hosts = dict(hosts or {})
        self.fragments = list(fragments)
        self.defines = dict(defines or {})
        self.extra = extra
        self.queue_every = queue_every
        self.port_of_sinks = port_of_sinks
        self.maps = dict(maps or {})
        self._daemon: subprocess.Popen[bytes] | None = None
        self._syslog: Syslog | None = None

    # -- life ---------------------------------------------------------------

    def __enter__(self) -> Self:
        for made in (self.folder, self.queue_directory, self.mailboxes, self.folder / "dev"):
            made.mkdir(parents=True, exist_ok=True)
        self.queue_directory.chmod(0o700)
        self.folder.chmod(0o755)
        self.write_config()
        self._syslog = Syslog(self.folder / "dev" / "log", self.log)
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _mc(self) -> str:
        user = subprocess.run(["id", "-un"], check=True, capture_output=True, text=True).stdout.strip()
        ports = {s.port for s in self.routes.values() if isinstance(s, Sink)} or {self.port_of_sinks}
        assert len(ports) == 1, "Sendmail's connection cache ignores the port: one port for all sinks"
        extra = [f"define(`{name}', `{value}')dnl" for name, value in self.defines.items()]
        extra += [f"include(`{CONF}/{name}.mc')dnl" for name in self.fragments]
        return MC.format(
            cf=TREE / "usr/share/sendmail/cf",
            host=HOST,
            folder=self.folder,
            user=user,
            port=self.port,
            sink_port=ports.pop(),
            extra="\n".join([*extra, self.extra or "dnl"]),
        )

    def write_config(self) -> None:
        """Write everything anew: sendmail.cf through m4, hosts, aliases and the mailertable."""
        mc, library = self.folder / "sendmail.mc", TREE / "usr/share/sendmail/cf"
        mc.write_text(self._mc())
        made = subprocess.run(
            [TREE / "usr/bin/m4", f"-D_CF_DIR_={library}/", mc],
            check=True,
            capture_output=True,
            text=True,
            env=_libraries(),
        )
        self.cf.write_text(made.stdout)
        self._lines("service.switch", "hosts files", "aliases files")
        self._lines("nsswitch.conf", "passwd: files", "group: files", "hosts: files")
        names = {"localhost": "127.0.0.1", HOST: "127.0.0.1", **self.hosts}
        self._lines("hosts", *(f"{address} {name}" for name, address in names.items()))
        self._lines("helpfile", "test")
        self._lines("aliases", "postmaster: root", "MAILER-DAEMON: postmaster")
        lda = self.folder / "lda"
        lda.write_text(LDA.format(mail=shlex.quote(str(self.mailboxes))))
        lda.chmod(0o755)
        self.write_routes()
        for name, values in self.maps.items():
            self._make_map(name, values)
        self.run("-bi")

    def _lines(self, name: str, *lines: str) -> None:
        (self.folder / name).write_text("".join(f"{line}\n" for line in lines))

    def write_routes(self) -> None:
        """Write the mailertable; live at once."""
        routes = {d: f"sink:[{r.address}]" if isinstance(r, Sink) else r for d, r in self.routes.items()}
        self._make_map("mailertable", routes)

    def _make_map(self, name: str, values: Mapping[str, str]) -> None:
        table = "".join(f"{key}\t{value}\n" for key, value in values.items())
        # 8.17's makemap wants a configuration, else it looks for /etc/mail/sendmail.cf
        subprocess.run(
            [TREE / "usr/libexec/sendmail/makemap", "-C", self.cf, "hash", self.folder / name],
            input=table.encode(),
            check=True,
            capture_output=True,
            env=_libraries(),
        )

    def command(self, *words: str) -> list[str]:
        """Return the words that run ``sendmail words...`` in namespaces of its own."""
        folder = shlex.quote(str(self.folder))
        script = f"""hostname {HOST} || exit 99
            mount --bind {folder}/hosts /etc/hosts && mount --bind {folder}/nsswitch.conf /etc/nsswitch.conf || exit 99
            if [ -d {folder}/dev ]; then
              for d in null zero full random urandom tty; do
                [ -e {folder}/dev/$d ] || : > {folder}/dev/$d; mount --bind /dev/$d {folder}/dev/$d
              done
              mount --rbind {folder}/dev /dev || exit 99
            fi
            exec "$@" """
        drop = [] if os.geteuid() == 0 else ["setpriv", "--inh-caps=-all", "--ambient-caps=-all"]
        return [*_unshared(), "sh", "-c", script, "sh", *drop, str(_binary()), f"-C{self.cf}", *words]

    def wrapper(self) -> list[str]:
        """Return the words of a command that stands for sendmail(8) of this instance, for our own programs."""
        script = self.folder / "sendmail"
        libraries = shlex.quote(_libraries()["LD_LIBRARY_PATH"])
        script.write_text(f'#!/bin/sh\nLD_LIBRARY_PATH={libraries} exec {shlex.join(self.command())} "$@"\n')
        script.chmod(0o755)
        return [str(script)]

    def run(self, *words: str, stdin: bytes = b"", check: bool = True) -> str:
        """Return what ``sendmail words...`` prints."""
        ran = subprocess.run(
            self.command(*words), input=stdin, check=False, capture_output=True, timeout=60, env=_libraries()
        )
        output = (ran.stdout + ran.stderr).decode(errors="replace")
        assert not check or ran.returncode == 0, f"sendmail {words}: {ran.returncode}: {output}"
        return output

    def start(self) -> None:
        """Start the daemon and wait until it greets."""
        runs = [f"-q{self.queue_every}"] if self.queue_every else []
        out = (self.folder / "daemon.out").open("ab")
        self._daemon = subprocess.Popen(
            self.command("-L", "sm-mta", "-bD", *runs),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env=_libraries(),
            start_new_session=True,
        )
        out.close()
        self.wait_for(self._answers, 20)

    def _answers(self) -> bool:
        try:
            smtplib.SMTP("127.0.0.1", self.port, timeout=5).quit()
        except OSError:
            return False
        return True

    def stop(self) -> None:
        """End the daemon and its children (they share its session)."""
        if self._daemon is None:
            return
        for sent in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._daemon.pid, sent)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._daemon.wait(5)
        self._daemon = None

    def __exit__(self, *_: object) -> None:
        self.stop()
        if self._syslog is not None:
            self._syslog.close()

    # -- use ----------------------------------------------------------------

    def send(self, sender: str, recipients: str | Iterable[str], message: bytes | str | None = None) -> dict:
        """Hand a message in by SMTP; return the refused recipients (as smtplib does)."""
        recipients = [recipients] if isinstance(recipients, str) else list(recipients)
        if message is None:
            message = f"From: {sender}\r\nTo: {', '.join(recipients)}\r\nSubject: test\r\n\r\nhello\r\n"
        with smtplib.SMTP("127.0.0.1", self.port, timeout=60) as client:
            return client.sendmail(sender, recipients, message)

    def submit(self, sender: str, recipients: Iterable[str], message: str) -> None:
        """Hand a message in through sendmail(1), the non-SMTP way."""
        self.run("-f", sender, *recipients, stdin=message.encode())

    def lines(self) -> list[str]:
        """Return the lines of the mail log so far."""
        return self.log.read_text(errors="replace").splitlines() if self.log.exists() else []

    def wait_for(self, ready, seconds: float = 15):
        """Return what `ready()` returns once it is true; fail with the log's tail when it never is."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if found := ready():
                return found
            time.sleep(0.05)
        out = self.folder / "daemon.out"
        told = out.read_text(errors="replace") if out.exists() else ""
        return pytest.fail("waited in vain; the log ends:\n" + "\n".join(self.lines()[-30:]) + "\n" + told)

    def wait_log(self, pattern: str, seconds: float = 15, count: int = 1) -> list[str]:
        """Return the log lines that match, once there are `count` of them."""
        wanted = re.compile(pattern)

        def found() -> list[str] | None:
            hits = [line for line in self.lines() if wanted.search(line)]
            return hits if len(hits) >= count else None

        return self.wait_for(found, seconds)

    def queue(self) -> str:
        """Return what mailq prints, held messages not among them."""
        return self.run("-bp", check=False)

    def flush(self) -> None:
        """Try everything that is queued, now, whatever MinQueueAge says."""
        for name in self.queue_ids():
            self.run(f"-qI{name}", check=False)

    def queue_ids(self) -> list[str]:
        """Return the queue IDs of all messages in the queue but held ones."""
        return [path.name[2:] for path in sorted(self.queue_directory.glob("qf*"))]

    def queued(self) -> int:
        """Return how many messages are in the queue."""
        return len(self.queue_ids())

    def mail(self, user: str, domain: str = "home.example") -> list[bytes]:
        """Return the messages delivered to a local user, in order of arrival."""
        del domain  # one local domain
        boxes = sorted(self.mailboxes.glob(f"*.{user}"))
        return [box.read_bytes().replace(b"\r\n", b"\n") for box in boxes]


# -- our programs beside it --------------------------------------------------------


def settings_for(sendmail: Sendmail, folder: Path, **over) -> dict:
    """Return a configuration whose sockets, log, store and keys lie with this Sendmail."""
    base = {
        "user": "",
        "milter": {"socket": f"unix:{sendmail.folder}/milter.sock"},
        "answer": {
            "socket": f"unix:{sendmail.folder}/answer.sock", "gate_socket": "", "policy_socket": "", "socket_group": "",
        },
        "due": {"mta": "sendmail", "sendmail_command": sendmail.wrapper()},
        "log": {
            "output": "syslog", "syslog_socket": str(sendmail.folder / "dev" / "log"), "follow": str(sendmail.log),
        },
        "store": {"path": str(folder / "state.db")},
        "rules": {"local": str(folder / "rules.d")},
        "token": {"keys": str(folder / "keys")},
    }  # fmt: skip
    return merged(base, over)


def listening(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0
