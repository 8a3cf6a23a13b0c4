"""Notices to the administrator: a program to run and addresses to mail, when a block or a listing begins.

Goes in: `Notice`s as the store returns them, and what dnsd finds. Goes out: one process for each
program and mail, not waited for. The store returns "block began" once for each
block, so each is told at most once.

Limits: of programs that run too long each is ended after notify.timeout_s; at
most `RUNNING_LIMIT` run at one time, what is more is dropped with a warning.
"""

from __future__ import annotations

import json
import socket
import subprocess
import threading
from typing import TYPE_CHECKING, Final

from milter_bounce import limits
from milter_bounce.verdict import Notice, NoticeKind, notice_line, printable, stamp

if TYPE_CHECKING:
    from collections.abc import Iterable

    from milter_bounce.config import NotifySection

    from .maillog import MailLog

RUNNING_LIMIT: Final = limits.NOTICES_RUNNING
TOLD: Final = frozenset({NoticeKind.BLOCK_BEGAN})


def as_json(notice: Notice) -> str:
    """Return a notice as one JSON object; "not stated" is null."""
    return json.dumps(
        {
            "notice": str(notice.kind),
            "key": notice.key,
            "at": stamp(notice.at),
            "operator": notice.operator,
            "category": notice.category,
            "rule": notice.rule,
            "refusals": notice.attempts,
            "since": stamp(notice.since),
            "until": stamp(notice.until),
            "by": notice.by,
            "text": notice.text,
        }
    )


def as_mail(notice: Notice, section: NotifySection, host: str) -> bytes:
    """Return the mail that tells of a block; all outside text is made printable ASCII."""
    key = printable(notice.key, 200).encode("ascii", "backslashreplace").decode()
    body = [
        f"{key} refuses mail from {host}: {notice.category or 'a block'} ({notice.rule or 'by hand'}).",
        "",
        f"Refusals so far:  {notice.attempts or 1}",
        f"Next probe:       {stamp(notice.until) or 'none'}",
        f"Last reply:       {printable(notice.text)}",
        "",
        f"See `milter-bounce blocks show {key}`; once the cause is mended: `milter-bounce blocks lift {key}`.",
        "",
        notice_line(notice),
    ]
    return in_mail(section, f"{host}: {key} blocks our mail", body)


def in_mail(section: NotifySection, subject: str, body: list[str]) -> bytes:
    """Return a mail to the administrator; `subject` is printable ASCII."""
    sender = f"From: {section.mail_from}\n" if section.mail_from else ""
    head = (
        f"{sender}To: {', '.join(section.mail_to)}\nSubject: [milter-bounce] {subject}\n"
        # RFC 3834, 5: nobody shall answer
        "Auto-Submitted: auto-generated\nPrecedence: bulk\nMIME-Version: 1.0\n"
        "Content-Type: text/plain; charset=us-ascii\n\n"
    )
    return (head + "\n".join(body) + "\n").encode("ascii", "backslashreplace")


class Notifier:
    """Tells the administrator as section ``[notify]`` says. Raises nothing."""

    def __init__(self, section: NotifySection, log: MailLog) -> None:
        self._section, self._log = section, log
        self._running = threading.BoundedSemaphore(RUNNING_LIMIT)

    def use(self, section: NotifySection) -> None:
        """Tell as this section says from now on."""
        self._section = section

    def tell(self, notices: Iterable[Notice]) -> None:
        """Start what is to be started for those notices that an administrator wants to hear of."""
        for notice in notices:
            if notice.kind in TOLD:
                self._hand_out(as_json(notice), as_mail(notice, self._section, socket.gethostname()))

    def announce(self, facts: dict[str, object], subject: str, text: str) -> None:
        """Tell of something that is no block: `facts` go to the program, subject and text into the mail."""
        line = printable(subject, 200).encode("ascii", "backslashreplace").decode()
        mail = in_mail(self._section, f"{socket.gethostname()}: {line}", text.splitlines())
        self._hand_out(json.dumps(facts), mail)

    def _hand_out(self, as_object: str, mail: bytes) -> None:
        section = self._section
        if section.command:
            self._start(section.command, as_object.encode() + b"\n")
        if section.mail_to:
            words = [section.sendmail, "-i", *(["-f", section.mail_from] if section.mail_from else []), "--"]
            self._start([*words, *section.mail_to], mail)

    def _start(self, command: list[str], text: bytes) -> None:
        if not self._running.acquire(blocking=False):
            self._log.warning(f"{command[0]} not run for a notice: {RUNNING_LIMIT} are still running")
            return
        threading.Thread(target=self._run, args=(command, text), name="notify", daemon=True).start()

    def _run(self, command: list[str], text: bytes) -> None:
        try:
            done = subprocess.run(
                command,
                input=text,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                check=False,
                timeout=self._section.timeout_s,
            )
            if done.returncode:
                words = done.stderr[-200:].decode("utf-8", "replace").strip()
                self._log.warning(f"{command[0]}, run for a notice, ended with status {done.returncode}: {words}")
        except subprocess.TimeoutExpired:
            self._log.warning(f"{command[0]}, run for a notice, was ended after {self._section.timeout_s} s")
        except OSError as error:
            self._log.warning(f"{command[0]} cannot be run for a notice: {error.strerror}; see [notify]")
        finally:
            self._running.release()
