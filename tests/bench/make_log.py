"""Writer of a Postfix log for benches and soak tests: `messages` messages of five lines each, always the same.

Nine of ten messages are delivered; the others are refused or deferred in the
words of real servers. ``python -m tests.bench.make_log 150000 > mail.log``
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

DOMAINS = (
    ("gmail.example", "gmail-smtp-in.l.google.com", "192.0.2.26"),
    ("yahoo.example", "mta5.am0.yahoodns.net", "192.0.2.74"),
    ("outlook.example", "outlook-com.olc.protection.outlook.com", "192.0.2.160"),
    ("example.net", "mx1.example.net", "198.51.100.7"),
    ("example.org", "mail.example.org", "198.51.100.77"),
    ("firma.example", "mx00.kundenserver.de", "203.0.113.9"),
)
BOUNCED = (
    ("5.1.1", "550 5.1.1 <{to}>: Recipient address rejected: User unknown", "RCPT TO"),
    ("5.1.1", "550-5.1.1 The email account that you tried to reach does not exist. 550 5.1.1 gsmtp", "RCPT TO"),
    ("5.2.1", "550 5.2.1 The email account that you tried to reach is disabled.", "RCPT TO"),
    ("5.7.1", "554 5.7.1 Service unavailable; Client host [192.0.2.1] blocked using zen.spamhaus.org", "RCPT TO"),
    (
        "5.7.26",
        "550-5.7.26 This mail has been blocked because the sender is unauthenticated. 550 5.7.26 gsmtp",
        "end of DATA",
    ),
    ("5.3.4", "552 5.3.4 Message size exceeds fixed limit", "MAIL FROM"),
)
DEFERRED = (
    ("4.2.2", "452 4.2.2 The email account that you tried to reach is over quota.", "RCPT TO"),
    ("4.2.0", "450 4.2.0 <{to}>: Recipient address rejected: Greylisted, see http://postgrey.example/", "RCPT TO"),
    ("4.7.0", "421 4.7.0 [TSS04] Messages from 192.0.2.1 temporarily deferred due to unexpected volume", None),
    ("4.7.28", "421-4.7.28 Gmail has detected an unusual rate of unsolicited mail. 421 4.7.28 gsmtp", "end of DATA"),
    ("4.4.1", None, None),
)
START = datetime(2026, 11, 20, 6, 0, 0, tzinfo=UTC)


class _Clock:
    """Time stamps that go on by a millisecond a line."""

    def __init__(self, iso: bool) -> None:
        self.now, self.iso = START, iso

    def __call__(self) -> str:
        self.now += timedelta(milliseconds=1)
        if self.iso:
            return self.now.isoformat(timespec="microseconds")
        return f"{self.now:%b} {self.now.day:2} {self.now:%H:%M:%S}"


def _failure(dice: random.Random, to: str, name: str, address: str, choices: tuple) -> tuple[str, str, str]:
    """Return relay, dsn and text of one failed attempt."""
    dsn, reply, command = dice.choice(choices)
    if reply is None:
        return "none", dsn, f"connect to {name}[{address}]:25: Connection timed out"
    said = reply.format(to=to)
    verb = "refused to talk to me" if command is None else "said"
    tail = "" if command is None else f" (in reply to {command} command)"
    return f"{name}[{address}]:25", dsn, f"host {name}[{address}] {verb}: {said}{tail}"


def lines(messages: int, seed: int = 5, *, iso: bool = False) -> Iterator[str]:
    """Return the lines of `messages` messages, newlines included; at last `messages` * 5 of them."""
    dice, clock = random.Random(seed), _Clock(iso)
    for number in range(messages):
        queue_id = f"4d{number:09X}"
        domain, name, address = dice.choice(DOMAINS)
        to = f"user{dice.randrange(10**6)}@{domain}"
        luck = dice.random()
        sender = f"news{number % 50}@shop.example"
        yield f"{clock()} mx postfix/smtpd[2101]: {queue_id}: client=app.shop.example[192.0.2.200]\n"
        yield f"{clock()} mx postfix/cleanup[2102]: {queue_id}: message-id=<{number}.{seed}@shop.example>\n"
        yield f"{clock()} mx postfix/qmgr[2103]: {queue_id}: from=<{sender}>, size=24{number % 900:03}, nrcpt=1 (queue active)\n"
        head = f"{queue_id}: to=<{to}>, relay="
        delays = f"delay={dice.randrange(1, 90) / 10}, delays=0.1/0.01/0.4/{dice.randrange(1, 80) / 10}"
        agent = f"mx postfix/smtp[{2200 + number % 40}]: "
        if luck < 0.9:
            relay, dsn, text = f"{name}[{address}]:25", "2.0.0", f"250 2.0.0 Ok: queued as {queue_id[::-1]}"
            yield f"{clock()} {agent}{head}{relay}, {delays}, dsn={dsn}, status=sent ({text})\n"
        elif luck < 0.96:
            relay, dsn, text = _failure(dice, to, name, address, BOUNCED)
            yield f"{clock()} {agent}{head}{relay}, {delays}, dsn={dsn}, status=bounced ({text})\n"
        else:
            relay, dsn, text = _failure(dice, to, name, address, DEFERRED)
            yield f"{clock()} {agent}{head}{relay}, {delays}, dsn={dsn}, status=deferred ({text})\n"
            yield f"{clock()} mx postfix/qmgr[2103]: {queue_id}: from=<{sender}>, size=24{number % 900:03}, nrcpt=1 (queue active)\n"
            continue
        yield f"{clock()} mx postfix/qmgr[2103]: {queue_id}: removed\n"


if __name__ == "__main__":
    sys.stdout.writelines(lines(int(sys.argv[1]), iso="--iso" in sys.argv))
