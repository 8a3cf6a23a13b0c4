"""Attacks on the live programs: after each the state is as it was, every program lives, and mail flows.

One Postfix with milterd, answerd and logd in mode enforce stands for the whole
module; each attack runs against it, in random order.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import os
import re
import shutil
import smtplib
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from milter_bounce.protocol import token
from milter_bounce.system import keys
from tests.integration.enforcing import Enforced
from tests.integration.postfix import needs_postfix
from tests.integration.sink import Script, Sinks
from tests.reports import dsn

pytestmark = [pytest.mark.integration, needs_postfix]

NEWS = "news@home.example"
FAKE = (
    "550 5.1.1 no) \n550 5.1.1 Nov 20 10:00:00 mx postfix/smtp[1]: 4cFAKE1: to=<victim@ok.test>, relay=mx[192.0.2.1]:25, "
    "delay=1, delays=0/0/0/1, dsn=5.1.1, status=bounced (host mx[192.0.2.1] said: 550 5.1.1 unknown"
)


@pytest.fixture(scope="module")
def host():
    """Return the Postfix under attack, with a key, and one genuine message's returned headers."""
    folder = Path(tempfile.mkdtemp(prefix="mb-attack-", dir="/tmp"))
    with Sinks("127.0.66") as sinks:
        ok = sinks.add("ok.test")
        liar = sinks.add("liar.test", Script(rcpt=FAKE))
        routes = {
            "ok.test": ok,
            "liar.test": liar,
            "evil.test": sinks.add("evil.test"),
            "foul.test": sinks.add("foul.test"),
        }
        # the programs start before Postfix here; what they say is to stand in its log all the same
        over = {"log": {"output": "postlog"}, "advice": {"time_scale": 1.0}, "answer": {"request_s": 2}}
        mta = Enforced(folder / "p", over, ("milterd", "answerd", "logd"), routes=routes)
        mta.main |= {"message_size_limit": "60000000", "mailbox_size_limit": "0", "virtual_mailbox_limit": "0"}
        keys.new_key(mta.folder / "keys")
        with mta:
            mta.sinks = sinks
            mta.send(NEWS, ["real@ok.test"])
            mta.wait_log(r"to=<real@ok.test>.*status=sent")
            mta.headers = ok.taken[0].data.decode().replace("\r\n", "\n").partition("\n\n")[0] + "\n"
            assert "X-Milter-Bounce-Token" in mta.headers
            yield mta
    shutil.rmtree(folder, ignore_errors=True)


def state(host) -> dict[str, list]:
    """Return what an attacker would like to change."""
    with contextlib.closing(sqlite3.connect(host.folder / "state.db", timeout=10)) as store:
        tables = ("suppressions", "blocks", "bounces", "refusals", "backoffs")
        rows = {t: store.execute(f"SELECT * FROM {t}").fetchall() for t in tables}
        return {t: [row for row in rows[t] if not re.search(r"(?:liar|evil|foul)\.test", str(row))] for t in tables}


def report(host, *recipients, to=NEWS, headers=None, **words) -> None:
    """Send a report in, as a stranger can."""
    text = dsn(*recipients, to=to, headers=host.headers if headers is None else headers, **words)
    host.send("", to, text.replace("\n", "\r\n").encode())


def with_token(host, value: str) -> str:
    return re.sub(r"(?m)^X-Milter-Bounce-Token:.*\n(?:[ \t].*\n)*", f"X-Milter-Bounce-Token: {value}\n", host.headers)


def value_of(host) -> str:
    return " ".join(re.search(r"(?m)^X-Milter-Bounce-Token:((?:.*\n)(?:[ \t].*\n)*)", host.headers)[1].split())


def key_of(host) -> token.Key:
    return keys.read_keyring(host.folder / "keys")[0].stamping


def message_id(host) -> str:
    return re.search(r"(?mi)^Message-ID: <(.*)>", host.headers)[1]


# -- forged and replayed reports --------------------------------------------------------------------


def forged_without_token(host):
    report(host, "victim@ok.test", headers="From: <news@home.example>\nMessage-ID: <x@y>\n")


def replayed_for_another_recipient(host):
    report(host, "victim@ok.test")


def token_of_an_unknown_key(host):
    other = token.Key("0ther", b"o" * 32)
    value = token.mint(other, keys.today(), NEWS, message_id(host), ["victim@ok.test"])
    report(host, "victim@ok.test", headers=with_token(host, value))


def token_of_a_guessed_key(host):
    guessed = token.Key(key_of(host).id, b"\0" * 32)
    value = token.mint(guessed, keys.today(), NEWS, message_id(host), ["victim@ok.test"])
    report(host, "victim@ok.test", headers=with_token(host, value))


def token_too_old(host):
    value = token.mint(key_of(host), keys.today() - 15, NEWS, message_id(host), ["victim@ok.test"])
    report(host, "victim@ok.test", headers=with_token(host, value))


def token_from_the_future(host):
    value = token.mint(key_of(host), keys.today() + 2, NEWS, message_id(host), ["victim@ok.test"])
    report(host, "victim@ok.test", headers=with_token(host, value))


def token_truncated(host):
    value = token.mint(key_of(host), keys.today(), NEWS, message_id(host), ["victim@ok.test"])
    report(host, "victim@ok.test", headers=with_token(host, value[:-1]))


def token_widened(host):
    report(host, "victim@ok.test", headers=with_token(host, value_of(host).partition("r=")[0] + "r=*"))


def token_of_another_sender(host):
    value = token.mint(key_of(host), keys.today(), "boss@home.example", message_id(host), ["victim@ok.test"])
    report(host, "victim@ok.test", headers=with_token(host, value))


def token_with_unicode_digits(host):
    value = token.mint(key_of(host), keys.today(), NEWS, message_id(host), ["victim@ok.test"])
    report(host, "victim@ok.test", headers=with_token(host, value.replace("d=2", "d=٢")))


def token_of_a_crowd_for_a_stranger(host):
    """A message to 60, all with one token: it fits none who did not get it, nor may its MACs be replaced."""
    host.send(NEWS, [f"crowd{n}@evil.test" for n in range(60)])
    taken = host.wait_for(
        lambda: next((t for t in host.sinks["evil.test"].taken if "crowd0@evil.test" in t.recipients), None)
    )
    headers = taken.data.decode().replace("\r\n", "\n").partition("\n\n")[0] + "\n"
    report(host, "victim@ok.test", headers=headers)
    own = token.mint(token.Key("0ther", b"o" * 32), keys.today(), NEWS, message_id(host), ["victim@ok.test"])
    report(host, "victim@ok.test", headers=re.sub(r"r=[A-Za-z0-9_-]+\n", f"r={own.partition('r=')[2]}\n", headers))
    report(host, "victim@ok.test", headers=re.sub(r"r=[^:]+\n(?=\S)", "r=*\n", headers))
    report(host, "crowd59@evil.test", headers=headers)
    host.wait_log(r"to=<crowd59@evil.test>, operator=.*genuine=yes")


def thousand_recipients_in_one_report(host):
    report(host, *(f"v{n}@ok.test" for n in range(1000)))


def returned_by(host, recipient: str) -> str:
    """Return the header of the message that the attacker got as `recipient`, as a report returns it."""
    sink = host.sinks[recipient.partition("@")[2]]
    taken = host.wait_for(lambda: next((t for t in sink.taken if t.recipients == [recipient]), None))
    return taken.data.decode().replace("\r\n", "\n").partition("\n\n")[0] + "\n"


def own_recipient_as_the_original_of_another(host):
    """Who got a message of ours says that it was redirected to the victim, and that it failed there: it is his own failure."""
    host.send(NEWS, "mallory@foul.test")
    headers = returned_by(host, "mallory@foul.test")
    report(host, "victim@ok.test", headers=headers, fields="Original-Recipient: rfc822;mallory@foul.test\n")
    host.wait_log(r"milterd\[\d+\]: \w+: to=<mallory@foul.test>, operator=.*genuine=yes")


def genuine_reports_that_speak_for_gmail(host):
    """Twenty subscribers at a domain of the attacker's return genuine tokens, and say that Gmail refuses us."""
    said = "550 5.7.1 Service unavailable; blocked using zen.spamhaus.org - gsmtp"
    claim = "Remote-MTA: dns; gmail-smtp-in.l.google.com\n"
    recipients = [f"r{number}@{('evil', 'foul')[number % 2]}.test" for number in range(20)]
    for recipient in recipients:
        host.send(NEWS, recipient)
    for recipient in recipients:
        report(host, recipient, headers=returned_by(host, recipient), said=said, status="5.7.1", fields=claim)
        host.wait_log(rf"milterd\[\d+\]: \w+: to=<{recipient}>, operator=google, .*advice=hold, .*genuine=yes")


def report_claims_to_be_ours(host):
    own = dsn("victim@ok.test", headers="Message-ID: <x@y>\n").replace("mx.remote.example", "mx.test.example")
    host.send("", NEWS, ("X-Postfix-Queue-ID: 4cXyz\n" + own).replace("\n", "\r\n"))


def forged_blocks_to_hold_gmail(host):
    said = "550 5.7.1 Service unavailable; blocked using zen.spamhaus.org gmail-smtp-in.l.google.com - gsmtp"
    for number in range(30):
        report(host, f"u{number}@gmail.com", said=said, status="5.7.1", headers="Message-ID: <x@y>\n")


def report_with_nul_everywhere(host):
    text = dsn("victim@ok.test").replace("\n", "\r\n").encode()
    host.send("", NEWS, text.replace(b"victim", b"v\0ic\0tim").replace(b"550", b"5\x0050"))


def codes_in_unicode_digits(host):
    report(host, "victim@ok.test", said="٥٥٠ ٥.١.١ User unknown", status="٥.١.١", headers="Message-ID: <x@y>\n")


def ten_thousand_parts(host):
    part = "--b\r\nContent-Type: message/delivery-status\r\n\r\nFinal-Recipient: rfc822;v@ok.test\r\nAction: failed\r\n\r\n"
    host.send("", NEWS, 'Content-Type: multipart/report; boundary="b"\r\n\r\n' + part * 10_000)


def nesting_a_thousand_deep(host):
    lines = ['Content-Type: multipart/mixed; boundary="b0"', ""]
    for depth in range(1, 1001):
        lines += [f"--b{depth - 1}", f'Content-Type: multipart/mixed; boundary="b{depth}"', ""]
    host.send("", NEWS, "\r\n".join([*lines, "--b1000", "", "deep", ""]))


def thirty_megabytes(host):
    text = dsn("victim@ok.test", headers="Message-ID: <x@y>\n").replace("\n", "\r\n")
    host.send("", NEWS, text + "x" * 76 + ("\r\n" + "y" * 76) * 390_000)


# -- lies in the log ---------------------------------------------------------------------------------


def fake_log_line_in_a_reply(host):
    """A server's reply looks like a log line about somebody else; the failure of its own recipient is real."""
    host.send(NEWS, "x@liar.test")
    host.wait_log(r"milter-bounce/logd\[\d+\]: \w+: to=<x@liar.test>, operator=")


def fake_fields_in_a_recipient(host):
    with smtplib.SMTP("127.0.0.1", host.port, timeout=30) as client:
        client.ehlo()
        client.mail(NEWS)
        client.docmd("RCPT", 'TO:<"x>, relay=y, dsn=5.1.1, status=bounced (550 to=<victim@ok.test"@ok.test>')
        client.rcpt("real@ok.test")
        client.data("Subject: x\r\n\r\nx\r\n")


LONG = (
    "victim@ok.test>, relay=ok.test[127.0.66.1]:25, delay=1, delays=0/0/0/1, dsn=5.1.1, "
    "status=bounced (host ok.test[127.0.66.1] said: 550 5.1.1 User unknown "
).ljust(1950, "A")
"""Postfix takes it as a local part in quotes, and cuts the line that tells of it before the real relay and status."""


def read_so_far(host, name: str) -> None:
    """Wait until logd has read what is in the log now."""
    host.send(NEWS, f"{name}@liar.test")
    host.wait_log(rf"milter-bounce/logd\[\d+\]: \w+: to=<{name}@liar.test>, operator=")


def recipient_as_long_as_a_log_line(host):
    with smtplib.SMTP("127.0.0.1", host.port, timeout=30) as client:
        client.ehlo()
        client.mail(NEWS)
        assert client.docmd("RCPT", f'TO:<"{LONG}"@evil.test>')[0] == 250
        client.data("Subject: x\r\n\r\nx\r\n")
    host.wait_log('to=<"victim@ok.test>, relay=ok.test')
    read_so_far(host, "longrecipient")


def sender_as_long_as_a_log_line(host):
    """Our own bounce to such a sender is logged, too."""
    seen = sum('to=<"victim@ok.test>, relay=ok.test' in line for line in host.lines())
    with smtplib.SMTP("127.0.0.1", host.port, timeout=30) as client:
        client.ehlo()
        assert client.docmd("MAIL", f'FROM:<"{LONG}"@evil.test>')[0] == 250
        client.rcpt("nobody@liar.test")
        client.data("Subject: x\r\n\r\nx\r\n")
    host.wait_log('to=<"victim@ok.test>, relay=ok.test', count=seen + 1)
    read_so_far(host, "longsender")


def fake_sender_and_helo(host):
    with smtplib.SMTP("127.0.0.1", host.port, "x: to=<victim@ok.test>, status=bounced", timeout=30) as client:
        client.docmd("EHLO", "4cX:to=<victim@ok.test>,status=bounced")
        client.docmd("MAIL", 'FROM:<"to=<victim@ok.test>, status=bounced (550 5.1.1"@x.example>')
        client.docmd("RCPT", "TO:<real@ok.test>")


# -- sockets ------------------------------------------------------------------------------------------


def talk(host, name: str, data: bytes, wait: float = 3) -> bytes:
    """Send bytes to one of answerd's sockets; return what comes until it closes or `wait` is over."""
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(str(host.queue_directory / "milter-bounce" / name))
        line.settimeout(wait)
        got = b""
        with contextlib.suppress(OSError):
            line.sendall(data)
            while piece := line.recv(65536):
                got += piece
        return got


def netstring(words: bytes):
    def attack(host):
        assert b"OK" not in talk(host, "answer_sock", words)

    attack.__name__ = f"netstring_{words[:12]!r}"
    return attack


def memcached(words: bytes):
    def attack(host):
        assert b"VALUE" not in talk(host, "gate_sock", words, 1)

    attack.__name__ = f"memcached_{words[:12]!r}"
    return attack


def policy_request_without_end(host):
    """Attributes for ever, and no empty line: the connection is closed, nothing is answered but DUNNO."""
    assert b"550" not in talk(host, "policy_sock", b"request=smtpd_access_policy\nrecipient=a@b\n" * 50_000)


def slow_loris_on_each_socket(host):
    """500 connections a socket that begin a question and never end it: others are answered, and stamped, meanwhile."""
    sink = host.sinks["ok.test"]

    async def attack() -> None:
        lines = []
        begun = (("answer_sock", b"1"), ("gate_sock", b"g"), ("policy_sock", b"r"), ("milter.sock", b"\0\0\0\x0dO"))
        for name, byte in begun:
            for _ in range(500):
                _, writer = await asyncio.open_unix_connection(host.queue_directory / "milter-bounce" / name)
                writer.write(byte)
                lines.append(writer)
        answer = await asyncio.to_thread(talk, host, "gate_sock", b"get a@ok.test\r\n", 1)
        assert answer == b"END\r\n"
        await asyncio.to_thread(host.send, NEWS, "loris@ok.test")
        taken = host.wait_for(lambda: next((t for t in sink.taken if t.recipients == ["loris@ok.test"]), None))
        assert b"X-Milter-Bounce-Token" in taken.data
        for writer in lines:
            writer.close()

    asyncio.run(attack())


# -- files --------------------------------------------------------------------------------------------


def ours(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "milter_bounce", *words]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)


def config(host, name: str, **over) -> str:
    from tests.integration.programs import merged, toml

    path = host.folder / f"{name}.toml"
    path.write_text(toml(merged(host.settings, over)))
    return str(path)


def rules_folder(host, text: str) -> str:
    folder = Path(tempfile.mkdtemp(prefix="rules-", dir=host.folder))
    (folder / "own.toml").write_text(text)
    return str(folder)


def bomb(pattern: str) -> str:
    return f"[[rule]]\nid = 'bomb'\ncategory = 'spam-content'\ntext = '{pattern}'\nsource = 'x, 2026'\nexamples = ['550 aaaa']\n"


def regex_bomb_in_a_local_rule(host):
    """A pattern that takes for ever elsewhere is linear here; one that RE2 does not take is refused by name."""
    path = config(host, "bomb", rules={"local": rules_folder(host, bomb("(a+)+$"))})
    ran = ours("classify", "--json", "-c", path, "550 " + "a" * 2000 + "!")
    assert ran.returncode == 0, ran.stderr
    for pattern in ("(?=x)y", "(a{1000}){1000}"):
        path = config(host, "bomb", rules={"local": rules_folder(host, bomb(pattern))})
        ran = ours("classify", "-c", path, "550 x")
        assert ran.returncode == 2
        assert "own.toml" in ran.stderr
        assert "bomb" in ran.stderr


def rule_file_of_another_user(host):
    folder = rules_folder(host, bomb("aaaa"))
    os.chown(Path(folder) / "own.toml", 65534, 65534)
    ran = ours("classify", "-c", config(host, "foreign", rules={"local": folder}), "550 aaaa")
    assert ran.returncode == 2
    assert "belongs to user 65534" in ran.stderr


def symlink_in_place_of_the_state(host):
    target = host.folder / "precious"
    target.write_text("precious")
    link = host.folder / "link.db"
    link.unlink(missing_ok=True)
    link.symlink_to(target)
    ran = ours("blocks", "list", "-c", config(host, "link", store={"path": str(link)}))
    assert ran.returncode != 0
    assert "symbolic link" in ran.stderr
    assert target.read_text() == "precious"


def symlink_in_place_of_the_socket(host):
    target = host.folder / "precious2"
    target.write_text("precious")
    link = host.folder / "link.sock"
    link.unlink(missing_ok=True)
    link.symlink_to(target)
    ran = ours("milterd", "-c", config(host, "sock", milter={"socket": f"unix:{link}"}))
    assert ran.returncode == 2
    assert "is no socket" in ran.stderr
    assert target.read_text() == "precious"


def symlink_in_place_of_the_log(host):
    target = host.folder / "precious3"
    target.write_text("")
    link = host.folder / "link.log"
    link.unlink(missing_ok=True)
    link.symlink_to(target)
    code = (
        "import sys; from milter_bounce.config import LogSection; from milter_bounce.system.maillog import MailLog;"
        f"log = MailLog(LogSection(output='file', output_file={str(link)!r}), 'x'); log.line('y');"
        "sys.exit(log.close())"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert target.read_text() == ""


def key_that_others_can_read(host):
    folder = Path(tempfile.mkdtemp(prefix="keys-", dir=host.folder))
    keys.new_key(folder).chmod(0o444)
    ran = ours("keys", "list", "-c", config(host, "keys", token={"keys": str(folder)}))
    assert ran.returncode == 1
    assert "chmod 0400" in ran.stderr


def compression_bomb(host):
    """A log that grows a thousandfold when unpacked is read in pieces, with bounded memory."""
    path = host.folder / "bomb.log.gz"
    with gzip.open(path, "wb", 9) as file:
        for _ in range(300):
            file.write(b"\0" * 1_000_000)
    code = (
        "import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30));"
        f"sys.argv = ['milter-bounce', 'log', '--json', {str(path)!r}]; runpy.run_module('milter_bounce', run_name='__main__')"
    )
    ran = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=120)
    assert "MemoryError" not in ran.stderr
    assert ran.stdout == ""


ATTACKS = [
    forged_without_token,
    replayed_for_another_recipient,
    token_of_an_unknown_key,
    token_of_a_guessed_key,
    token_too_old,
    token_from_the_future,
    token_truncated,
    token_widened,
    token_of_another_sender,
    token_with_unicode_digits,
    token_of_a_crowd_for_a_stranger,
    thousand_recipients_in_one_report,
    own_recipient_as_the_original_of_another,
    genuine_reports_that_speak_for_gmail,
    report_claims_to_be_ours,
    forged_blocks_to_hold_gmail,
    report_with_nul_everywhere,
    codes_in_unicode_digits,
    ten_thousand_parts,
    nesting_a_thousand_deep,
    thirty_megabytes,
    fake_log_line_in_a_reply,
    fake_fields_in_a_recipient,
    recipient_as_long_as_a_log_line,
    sender_as_long_as_a_log_line,
    fake_sender_and_helo,
    netstring(b"99999999999999999999:x,"),
    netstring(b"-5:hello,"),
    netstring(b"00005:hello,"),
    netstring(b"5:helloX"),
    netstring("٥:hello,".encode()),
    memcached(b"get a b c d\r\n"),
    memcached(b"get " + b"k" * 10_000 + b"\r\n"),
    memcached(b"flush_all\r\nset a@ok.test 0 0 5\r\nhello\r\ndelete a\r\nstats\r\n"),
    memcached(b"get \x00\xff\r\n"),
    policy_request_without_end,
    slow_loris_on_each_socket,
    regex_bomb_in_a_local_rule,
    rule_file_of_another_user,
    symlink_in_place_of_the_state,
    symlink_in_place_of_the_socket,
    symlink_in_place_of_the_log,
    key_that_others_can_read,
    compression_bomb,
]


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda a: a.__name__)
def test_attack_changes_nothing_and_mail_flows(host, attack):
    """State after the attack: unchanged; programs: the same processes; mail: flows."""
    before = state(host)
    alive = {name: program.process.pid for name, program in host.programs.items()}
    attack(host)
    mark = f"after-{attack.__name__}-{time.monotonic_ns()}@ok.test".replace("'", "").replace("\\", "")
    host.send(NEWS, re.sub(r"[^A-Za-z0-9@._-]", "", mark))
    sink = host.sinks["ok.test"]
    host.wait_for(lambda: sink.delivered(re.sub(r"[^A-Za-z0-9@._-]", "", mark)) == 1, 30)
    assert state(host) == before
    assert {name: program.process.pid for name, program in host.programs.items()} == alive
    assert all(program.process.poll() is None for program in host.programs.values())
    died = [line for line in host.lines() if "died" in line and "milter-bounce/" in line]
    assert died == []


def test_genuine_report_is_the_control(host):
    """What the attacks try to fake works when it is real: the same report for its own recipient suppresses him."""
    host.send(NEWS, "control@ok.test")
    sink = host.sinks["ok.test"]
    taken = host.wait_for(lambda: next((t for t in sink.taken if t.recipients == ["control@ok.test"]), None))
    headers = taken.data.decode().replace("\r\n", "\n").partition("\n\n")[0] + "\n"
    report(host, "control@ok.test", headers=headers)
    host.wait_log(r"to=<control@ok.test>, operator=.*genuine=yes")
    host.wait_for(lambda: [row for row in state(host)["suppressions"] if row[0] == "control@ok.test"])
    assert ours("suppressions", "remove", "control@ok.test", "-c", str(host.conf)).returncode == 0
