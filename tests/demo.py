"""``make demo``: the main job on a throw-away Postfix on loopback.

A scripted remote side takes some mail and returns reports later, refuses other
mail at once, greylists, and one stranger forges a report; the queue follows the
advice (mode enforce), hours lasting seconds. Postfix's log is printed, the lines
of milter-bounce in colour, then a table; exit status 0 only if every expected line
was there. Nothing under /etc is touched; everything is stopped and removed at the
end, also on Ctrl-C.
"""

from __future__ import annotations

import contextlib
import re
import smtplib
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table
from rich.text import Text

from milter_bounce.system import keys
from tests.integration import postfix as harness
from tests.integration.enforcing import Enforced
from tests.integration.postfix import Postfix
from tests.integration.sink import Script, Sink, Sinks

SENDER = "news@home.example"
WAIT_S = 60
NOTHING = contextlib.nullcontext()
NO_DNS = ("--only", "milterd", "--only", "answerd", "--only", "logd")
"""All but dnsd: a demonstration asks no DNS question of the world."""


@dataclass(frozen=True)
class Case:
    """One recipient, what the remote side does with its mail, and what must stand in the log."""

    title: str
    recipient: str
    said: str
    expect: str
    """``class category advice``"""

    report: str = ""
    """Comes back as a report with this Action; empty: refused at once with `said`."""

    host: str = "mx.remote.example"


CASES = [
    Case("user unknown", "gone@partner.test", "550 5.1.1 <gone@partner.test>: User unknown", "hard invalid-recipient suppress", "failed"),
    Case("mailbox full", "full@partner.test", "552 5.2.2 Mailbox full: over quota", "soft mailbox-full retry", "failed"),
    Case("delayed report", "slow@partner.test", "connect to mx.partner.test[192.0.2.9]:25: Connection timed out", "soft network-error retry", "delayed"),
    Case("success report", "fine@partner.test", "250 2.1.5 delivered", "none delivered none", "delivered"),
    Case("out of office", "away@partner.test", "", "none auto-reply none", "vacation"),
    Case("message too large", "big@partner.test", "552 5.3.4 Message size exceeds fixed limit", "hard message-too-large fix", "failed"),
    Case("null MX", "info@nullmx.test", "556 5.1.10 Recipient address has null MX", "hard invalid-domain suppress", "failed"),
    Case("greylisting", "grey@small.test", "450 4.2.0 <grey@small.test>: Recipient address rejected: Greylisted, see https://postgrey.schweikert.ch/help/small.test.html", "soft greylisted retry"),
    Case("Yahoo TSS04", "a@yahoo.test", "421 4.7.0 [TSS04] Messages from 192.0.2.1 temporarily deferred due to unexpected volume or user complaints - 4.16.55.1; see https://postmaster.yahooinc.com/error-codes", "policy poor-reputation hold", host="mta5.am0.yahoodns.net"),
    Case("Gmail 4.7.28", "b@gmail.test", "421 4.7.28 Gmail has detected an unusual rate of unsolicited mail originating from your IP address. To protect our users from spam, mail sent from your IP address has been temporarily rate limited. - gsmtp", "policy poor-reputation hold", host="gmail-smtp-in.l.google.com"),
    Case("Spamhaus ZEN", "c@listed.test", "554 5.7.1 Service unavailable; Client host [192.0.2.1] blocked using zen.spamhaus.org; https://check.spamhaus.org/query/ip/192.0.2.1", "policy blocklisted hold"),
    Case("DMARC", "d@dmarc.test", "550 5.7.26 Unauthenticated email from home.example is not accepted due to domain's DMARC policy. - gsmtp", "policy auth-failure hold", host="alt1.gmail-smtp-in.l.google.com"),
]  # fmt: skip
ENDED = re.compile(r"milter-bounce/logd.*to=<grey@small\.test>, notice=delivered")
FORGED = Case(
    "forged report", "victim@partner.test", "550 5.1.1 User unknown", "hard invalid-recipient suppress", "forged"
)

REPORT = """\
From: Mail Delivery Subsystem <MAILER-DAEMON@mx.remote.example>
To: <{sender}>
Subject: {subject}
Message-ID: <report-{n}@mx.remote.example>
Auto-Submitted: auto-replied
MIME-Version: 1.0
Content-Type: multipart/report; report-type=delivery-status; boundary="=_r"

--=_r
Content-Type: text/plain

This is the mail system at host mx.remote.example. About your message to {recipient}:

    {said}

--=_r
Content-Type: message/delivery-status

Reporting-MTA: dns; mx.remote.example
Arrival-Date: Fri, 20 Nov 2026 10:00:00 +0000

Original-Recipient: rfc822;{recipient}
Final-Recipient: rfc822;{recipient}
Action: {action}
Status: {status}
Remote-MTA: dns; mx.remote.example
{diagnostic}
--=_r
Content-Type: text/rfc822-headers

{headers}
--=_r--
"""

VACATION = """\
From: <{recipient}>
To: <{sender}>
Subject: Out of office: Re: demonstration
Message-ID: <vacation-{n}@mx.remote.example>
Auto-Submitted: auto-replied (vacation)

I am away until Monday.
"""


def returned(case: Case, number: int, headers: str) -> str:
    """Return the report, or the vacation notice, that the remote side sends for one case."""
    if case.report == "vacation":
        return VACATION.format(recipient=case.recipient, sender=SENDER, n=number)
    status = re.search(r"\b[245]\.\d+\.\d+\b", case.said)
    subjects = {"delayed": "Warning: message delayed", "delivered": "Delivery report"}
    return REPORT.format(
        sender=SENDER,
        recipient=case.recipient,
        said=case.said,
        n=number,
        headers=headers,
        subject=subjects.get(case.report, "Undelivered mail"),
        action="failed" if case.report == "forged" else case.report,
        status=status[0] if status else "4.4.1",
        diagnostic=f"Diagnostic-Code: smtp; {case.said}\n" if status else f"Diagnostic-Code: x-mta; {case.said}\n",
    )


def send_reports(port: int, sinks: list[Sink]) -> None:
    """Be the remote side: return a report for each message that was taken, and one for a message that never was."""
    waiting = {case.recipient: case for case in CASES if case.report}
    headers = {}
    deadline = time.monotonic() + WAIT_S
    while len(headers) < len(waiting) and time.monotonic() < deadline:
        for taken in [t for sink in sinks for t in sink.taken]:
            headers[taken.recipients[0]] = taken.data.decode().replace("\r\n", "\n").partition("\n\n")[0] + "\n"
        time.sleep(0.1)
    todo = [(waiting[address], text) for address, text in headers.items()]
    todo.append((FORGED, "From: <news@home.example>\nMessage-ID: <never@home.example>\nSubject: never sent\n"))
    for number, (case, text) in enumerate(todo):
        with smtplib.SMTP("127.0.0.1", port, "mx.remote.example") as client:
            client.sendmail("", [SENDER], returned(case, number, text).replace("\n", "\r\n"))


def script_of(case: Case) -> Script:
    """Return what the remote side says: who greylists takes the second attempt."""
    if case.report:
        return Script()
    return Script(rcpt=[case.said, "250 2.1.5 Ok"] if "greylisted" in case.expect else case.said)


def routes_of(sinks: Sinks) -> tuple[dict[str, str], dict[str, str]]:
    """Start a sink a domain; return the routes and the hosts file that gives relays their names."""
    routes, hosts = {}, {}
    for case in CASES:
        domain = case.recipient.rpartition("@")[2]
        if domain in routes:
            continue
        sink = sinks.add(domain, script_of(case))
        name = case.host if not case.report else f"mx.{domain}"
        name = name if name not in hosts else f"mx.{domain}"
        hosts[name] = sink.address
        routes[domain] = f"smtp:[{name}]:{sinks.port}"
    return routes, hosts


def wanted(case: Case) -> re.Pattern[str]:
    """Return what the advice line of a case looks like."""
    class_, category, advice = case.expect.split()
    genuine = "genuine=no" if case.report == "forged" else "genuine=yes" if case.report not in {"", "vacation"} else ""
    return re.compile(
        rf"milter-bounce/\w+\[\d+\]: \w+: to=<{re.escape(case.recipient)}>, .*"
        rf"class={class_}, category={category}, .*advice={advice},.*{genuine}"
    )


def verdicts(lines: list[str]) -> dict[str, str]:
    """Return the first fitting advice line of each case, by its title."""
    found = {}
    for case in [*CASES, FORGED]:
        line = next((line for line in lines if wanted(case).search(line)), None)
        if line is not None:
            found[case.title] = line
    return found


def attempts(sinks: Sinks) -> Counter[str]:
    """Return how often each recipient was tried, as the remote side counted."""
    return sum((sink.attempts for sink in sinks.by_name.values()), Counter())


def show(console: Console, lines: list[str], found: dict[str, str], tried: Counter[str]) -> None:
    """Print the log, ours in colour, and the table; `tried` counts RCPT commands at the remote side."""
    for line in lines:
        if "milter-bounce/" in line:
            console.print(Text(line, style="bold cyan"), soft_wrap=True)
        elif re.search(r"status=(?:deferred|bounced)|: to=.*, stat=(?!Sent)", line):
            console.print(Text(line, style="dim"), soft_wrap=True)
    table = Table(title="what milter-bounce says (one hour lasts one second here)")
    for column in ("outcome", "recipient", "class", "category", "advice", "not before", "tried", "rule"):
        table.add_column(column, overflow="fold")
    for case in [*CASES, FORGED]:
        line = found.get(case.title)
        if line is None:
            table.add_row(case.title, case.recipient, "[red]missing[/red]", case.expect, "", "", "", "")
            continue
        value = dict(re.findall(r"(\w+)=([^ ,]+)", line.partition(", text=")[0]))
        advice = value["advice"] + (" (not believed)" if value.get("genuine") == "no" else "")
        style = {"hard": "red", "policy": "magenta", "soft": "yellow"}.get(value["class"], "green")
        table.add_row(
            case.title, case.recipient, f"[{style}]{value['class']}[/{style}]", value["category"], advice,
            value.get("not_before", "-")[11:] or "-", str(tried[case.recipient] or "-"), value["rule"],
        )  # fmt: skip
    console.print(table)


def run(folder: Path, console: Console) -> int:
    """Run the demonstration in `folder`; return the exit status."""
    with Sinks("127.0.88") as sinks:
        routes, hosts = routes_of(sinks)
        parts = ("milterd", "answerd", "logd")
        enforced = Enforced(folder / "postfix", {"log": {"output": "postlog"}}, parts, routes=routes, hosts=hosts)
        keys.new_key(enforced.folder / "keys")
        with enforced as postfix:
            # the queue manager remembers its last resolver answer for 30 s, a day here; other mail makes it forget
            return talk(console, postfix, sinks, postfix.traffic("reader@partner.test"))


def talk(
    console: Console, postfix: Postfix, sinks: Sinks, meanwhile: contextlib.AbstractContextManager = NOTHING
) -> int:
    """Send the mail, be the remote side, wait for the lines, show them."""
    remote = threading.Thread(target=send_reports, args=(postfix.port, list(sinks.by_name.values())), daemon=True)
    remote.start()
    for case in CASES:
        postfix.send(SENDER, case.recipient)
    remote.join(WAIT_S)
    deadline = time.monotonic() + WAIT_S
    with meanwhile:
        while time.monotonic() < deadline:
            lines = postfix.lines()
            found, over = verdicts(lines), [line for line in lines if ENDED.search(line)]
            if len(found) == len(CASES) + 1 and over:
                break
            time.sleep(0.2)
    show(console, lines, found, attempts(sinks))
    missing = [case.title for case in [*CASES, FORGED] if case.title not in found]
    missing += [] if over else ["the greylisted message delivered after its wait"]
    if missing:
        console.print(f"[red]missing: {', '.join(missing)}[/red]")
        return 1
    console.print(f"all {len(found)} outcomes, and the end of the greylisting, stand in the log as expected")
    return 0


def console() -> Console:
    """Return a console that is wide enough for the table where no terminal says how wide it is."""
    return Console() if sys.stdout.isatty() else Console(width=150)


def main() -> int:
    """Run the demonstration; 0 = every expected line was there."""
    if harness.WHY_NOT:
        sys.stderr.write(f"make demo: {harness.WHY_NOT}; run it as root on a machine where `make setup` went through\n")
        return 2
    with tempfile.TemporaryDirectory(prefix="mb-demo-", dir="/tmp") as folder:
        try:
            return run(Path(folder), console())
        except pytest.fail.Exception as waited:
            sys.stderr.write(f"make demo: {waited}\n")
            return 1
        except KeyboardInterrupt:
            sys.stderr.write("stopped; everything was taken down\n")
            return 130


if __name__ == "__main__":
    sys.exit(main())
