"""A throw-away Postfix on loopback: own configuration, queue, log and ports; nothing under /etc is touched.

Needs root and an installed Postfix (``make test`` sees to it). Host names that
relays shall have (``mta5.am0.yahoodns.net``) come from a hosts file of its own,
bound over /etc/hosts in a private mount namespace; no DNS question is asked.
"""

from __future__ import annotations

import os
import re
import shutil
import smtplib
import subprocess
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Self

import pytest

from tests.integration.ports import free_port
from tests.integration.sink import Sink

POSTFIX = shutil.which("postfix", path="/usr/sbin:/usr/bin")
WHY_NOT = "no Postfix is installed" if POSTFIX is None else "needs root" if os.geteuid() != 0 else ""
needs_postfix = pytest.mark.skipif(bool(WHY_NOT), reason=f"real Postfix: {WHY_NOT}")

MASTER = """\
127.0.0.1:{port} inet n - n - - smtpd
pickup    unix  n       -       n       1       1       pickup
cleanup   unix  n       -       n       -       0       cleanup
qmgr      unix  n       -       n       1       1       qmgr{qmgr_options}
rewrite   unix  -       -       n       -       -       trivial-rewrite
bounce    unix  -       -       n       -       0       bounce
defer     unix  -       -       n       -       0       bounce
trace     unix  -       -       n       -       0       bounce
verify    unix  -       -       n       -       1       verify
flush     unix  n       -       n       1000?   0       flush
proxymap  unix  -       -       n       -       -       proxymap
proxywrite unix -       -       n       -       1       proxymap
smtp      unix  -       -       n       -       -       smtp
relay     unix  -       -       n       -       -       smtp
showq     unix  n       -       n       -       -       showq
error     unix  -       -       n       -       -       error
retry     unix  -       -       n       -       -       error
discard   unix  -       -       n       -       -       discard
local     unix  -       n       n       -       -       local
virtual   unix  -       n       n       -       -       virtual
lmtp      unix  -       -       n       -       -       lmtp
anvil     unix  -       -       n       -       1       anvil
scache    unix  -       -       n       -       1       scache
postlog   unix-dgram n  -       n       -       1       postlogd
{extra}
"""

MAIN = {
    "compatibility_level": "3.6",
    "myhostname": "mx.test.example",
    "mydestination": "",
    "mynetworks": "127.0.0.0/8",
    "inet_interfaces": "127.0.0.1",
    "inet_protocols": "ipv4",
    "smtp_host_lookup": "native",
    "smtp_dns_support_level": "disabled",
    "smtpd_recipient_restrictions": "permit_mynetworks,reject",
    "smtpd_peername_lookup": "no",
    "local_transport": "error:5.1.1 no local mail here",
    "alias_maps": "",
    "alias_database": "",
    "local_recipient_maps": "",
    "virtual_mailbox_domains": "home.example",
    "virtual_mailbox_maps": "static:all",
    "virtual_uid_maps": "static:65534",
    "virtual_gid_maps": "static:65534",
    "smtp_tls_security_level": "none",
    "maillog_file_prefixes": "/var, /tmp, /work, /root, /home, /run",
    "smtp_connect_timeout": "3s",
    "smtp_helo_timeout": "3s",
    "smtp_mail_timeout": "3s",
    "smtp_rcpt_timeout": "3s",
    "smtp_data_init_timeout": "3s",
    "smtp_data_done_timeout": "3s",
    "minimal_backoff_time": "2s",
    "maximal_backoff_time": "2s",
    "queue_run_delay": "1s",
    "in_flow_delay": "0",
    "default_destination_rate_delay": "0",
    "smtpd_client_connection_count_limit": "0",
    "default_process_limit": "50",
    "destination_concurrency_feedback_debug": "no",
    "milter_default_action": "accept",
    "milter_connect_timeout": "2s",
    "milter_command_timeout": "2s",
    "milter_content_timeout": "5s",
}


class Postfix:
    r"""One private Postfix; use as a context manager.

    Args:
        folder: a name for it in the test's own folder; the folder itself lies right under /tmp, for pytest's may be
            entered by their owner only, and unix sockets' names end at 107 characters.
        main: settings over `MAIN`.
        routes: recipient domain -> sink, or any transport text.
        hosts: host name -> address, for relays that shall have names.
        master: more lines for master.cf.
        qmgr_options: ``-o`` lines for qmgr, each "\n    -o name=value".
    """

    def __init__(
        self,
        folder: Path,
        main: Mapping[str, str] | None = None,
        routes: Mapping[str, Sink | str] | None = None,
        hosts: Mapping[str, str] | None = None,
        master: str = "",
        qmgr_options: str = "",
    ) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="mb-", dir="/tmp"))
        folder.symlink_to(self.folder)
        self.folder.chmod(0o755)
        self.etc, self.queue_directory = self.folder / "etc", self.folder / "spool"
        self.log = self.folder / "log" / "mail.log"
        self.mailboxes = self.folder / "mail"
        self.port = free_port()
        self.main = MAIN | {
            "queue_directory": str(self.queue_directory),
            "data_directory": str(self.folder / "data"),
            "maillog_file": str(self.log),
            "transport_maps": f"texthash:{self.etc}/transport",
            "virtual_mailbox_base": str(self.mailboxes),
            **(main or {}),
        }
        self.routes = dict(routes or {})
        self.hosts = dict(hosts or {})
        self.master = MASTER.format(port=self.port, extra=master, qmgr_options=qmgr_options)

    # -- life ---------------------------------------------------------------

    def __enter__(self) -> Self:
        for made in (self.etc, self.queue_directory, self.log.parent, self.mailboxes):
            made.mkdir(parents=True, exist_ok=True)
        data = self.folder / "data"
        data.mkdir(exist_ok=True)
        shutil.chown(data, "postfix")
        self.mailboxes.chmod(0o777)
        self.write_config()
        self.start()
        return self

    def write_config(self) -> None:
        """Write main.cf, master.cf, transport and hosts anew; `reload` or restart makes them live."""
        (self.etc / "main.cf").write_text("".join(f"{k} = {v}\n" for k, v in self.main.items()))
        (self.etc / "master.cf").write_text(self.master)
        routes = {d: f"smtp:[{r.address}]:{r.port}" if isinstance(r, Sink) else r for d, r in self.routes.items()}
        (self.etc / "transport").write_text("".join(f"{d} {r}\n" for d, r in routes.items()))
        hosts = {"localhost": "127.0.0.1", "mx.test.example": "127.0.0.1", **self.hosts}
        (self.etc / "hosts").write_text("".join(f"{a} {n}\n" for n, a in hosts.items()))

    def _command(self, *words: str) -> list[str]:
        bind = f'mount --bind "{self.etc}/hosts" /etc/hosts && exec "$@"'
        return ["unshare", "-m", "sh", "-c", bind, "sh", *words]

    def start(self) -> None:
        ran = subprocess.run(
            self._command("/usr/sbin/postfix", "-c", str(self.etc), "start"),
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert ran.returncode == 0, ran.stderr
        self.wait_for(lambda: (self.queue_directory / "pid" / "master.pid").exists() and self._answers(), 20)

    def _answers(self) -> bool:
        try:
            smtplib.SMTP("127.0.0.1", self.port, timeout=5).quit()
        except OSError:
            return False
        return True

    def postfix(self, verb: str) -> subprocess.CompletedProcess[str]:
        """Run ``postfix stop`` and the like."""
        return subprocess.run(
            self._command("/usr/sbin/postfix", "-c", str(self.etc), verb),
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def __exit__(self, *_: object) -> None:
        self.postfix("stop")
        self.postfix("abort")
        shutil.rmtree(self.folder, ignore_errors=True)

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
        words = ["/usr/sbin/sendmail", "-C", str(self.etc), "-f", sender, *recipients]
        subprocess.run(words, input=message.encode(), check=True, timeout=30)

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
        pytest.fail("waited in vain; the log ends:\n" + "\n".join(self.lines()[-30:]))

    def wait_log(self, pattern: str, seconds: float = 15, count: int = 1) -> list[str]:
        """Return the log lines that match, once there are `count` of them."""
        wanted = re.compile(pattern)

        def found() -> list[str] | None:
            hits = [line for line in self.lines() if wanted.search(line)]
            return hits if len(hits) >= count else None

        return self.wait_for(found, seconds)

    def queue(self) -> str:
        """Return what postqueue -j prints: one JSON object a message."""
        return self._post("postqueue", "-j")

    def flush(self) -> None:
        """Try everything that is deferred, now."""
        self._post("postqueue", "-f")

    def empty_queue(self) -> None:
        """Remove every message (`postsuper -d ALL`): what is under way ends, nothing is tried again."""
        self._post("postsuper", "-d", "ALL")
        self.wait_for(lambda: self.queued() == 0)

    def _post(self, command: str, *words: str) -> str:
        return subprocess.run(
            [f"/usr/sbin/{command}", "-c", str(self.etc), *words],
            check=False,
            capture_output=True,
            text=True,
            timeout=30,
        ).stdout

    def queued(self) -> int:
        """Return how many messages are in the queue."""
        return len(self.queue().splitlines())

    def mail(self, user: str, domain: str = "home.example") -> list[bytes]:
        """Return the messages delivered to a local user, in order of arrival."""
        box = self.mailboxes / "all"
        messages = re.split(
            rb"(?m)^From (?=[^\n]*\n(?:Return-Path|X-Original-To|Delivered-To):)",
            box.read_bytes() if box.exists() else b"",
        )
        return [m for m in messages if f"\nDelivered-To: {user}@{domain}\n".encode() in m]
