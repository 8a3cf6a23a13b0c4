"""``milter-bounce sendmail print|check``."""

from __future__ import annotations

import json
import socket

import pytest
from click.testing import CliRunner

from milter_bounce.cli.sendmail import FRAGMENTS, sendmail
from milter_bounce.config import load
from tests.conftest import ROOT

GOOD = """\
O LogLevel=9
O InputMailFilters=milter-bounce
Xmilter-bounce, S={milter}, T=C:2s;S:5s;R:10s;E:20s
Kcompat socket -f -T<TMPF> -d3 {answer}
Smilter_bounce_gate
R$* <TMPF>\t$@ OK
Scheck_compat
R$* $| $*\t$: $1 $| $2 $| $>milter_bounce_gate $1 $| $2
"""


@pytest.fixture
def host(tmp_path):
    """A configuration in mode enforce, both sockets served."""
    sockets = {name: f"unix:{tmp_path}/{name}.sock" for name in ("milter", "answer")}
    servers = [socket.socket(socket.AF_UNIX) for _ in sockets]
    for server, address in zip(servers, sockets.values(), strict=True):
        server.bind(address.removeprefix("unix:"))
        server.listen()
    conf = tmp_path / "milter-bounce.toml"
    conf.write_text(
        f'mode = "enforce"\n[milter]\nsocket = "{sockets["milter"]}"\n[answer]\nsocket = "{sockets["answer"]}"\n'
        f'[due]\nmta = "sendmail"\nsendmail_command = ["true"]\n'
    )

    def check(old: str = "", new: str = "", *words: str):
        (tmp_path / "sendmail.cf").write_text(GOOD.format(**sockets).replace(old, new))
        return CliRunner().invoke(sendmail, ["check", "-C", f"{tmp_path}/sendmail.cf", "-c", str(conf), *words])

    yield check
    for server in servers:
        server.close()


def test_check_finds_nothing_wrong(host):
    """All in place: exit status 0."""
    ran = host("", "", "--json")
    assert ran.exit_code == 0
    assert {json.loads(line)["state"] for line in ran.stdout.splitlines()} == {"ok"}


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        pytest.param("Xmilter-bounce, S=", "Xmilter-bounce, S=inet:1@x, Y=", "no milter at", id="other-milter"),
        pytest.param("O InputMailFilters=milter-bounce", "", "is defined and not used", id="not-used"),
        pytest.param(", T=", ", F=T, T=", "F=T: mail stops", id="flag"),
        pytest.param("R:10s;", "", "limit R is over", id="no-limit"),
        pytest.param("Kcompat", "Kelse", "nothing is held", id="no-map"),
        pytest.param("answer.sock", "else.sock", "answerd listens at", id="other-socket"),
        pytest.param("-T<TMPF> ", "", "has no -T", id="no-mark"),
        pytest.param("-d3", "-d30", "waits 30 s", id="slow"),
        pytest.param("-f ", "", "lower case", id="folded"),
        pytest.param("$>milter_bounce_gate", "$>else", "does not ask", id="no-question"),
        pytest.param("R$* <TMPF>", "Rx", "no rule for <TMPF>", id="no-rule"),
        pytest.param("LogLevel=9", "LogLevel=5", "sees no deliveries", id="log"),
        pytest.param("Kcompat socket", "Kcompat hash", "nothing is held", id="map-of-another-class"),
        pytest.param("O LogLevel", "O MinQueueAge=2h\nO LogLevel", "come too late", id="queue-age"),
    ],
)
def test_check_tells_what_is_wrong_and_the_remedy(host, old, new, told):
    """Each mistake is named with what to do; exit status 1."""
    ran = host(old, new, "--json")
    bad = [found for found in map(json.loads, ran.stdout.splitlines()) if found["state"] == "bad"]
    assert ran.exit_code == 1
    assert any(told in found["text"] and found["remedy"] for found in bad)
    assert "bad" in host(old, new).stdout


def test_check_tells_that_nobody_listens(host, tmp_path):
    """A program that is away is found, and named."""
    (tmp_path / "milter.sock").unlink()
    ran = host()
    assert ran.exit_code == 1
    assert "start milterd" in ran.stdout


def test_check_in_mode_advise_wants_no_gate(tmp_path):
    """Without a map and with an empty milter socket nothing is missing; what is off is told as off."""
    conf, cf = tmp_path / "x.toml", tmp_path / "sendmail.cf"
    conf.write_text('[milter]\nsocket = ""\n')
    cf.write_text("O LogLevel=9\n")
    ran = CliRunner().invoke(sendmail, ["check", "-C", str(cf), "-c", str(conf), "--json"])
    assert ran.exit_code == 0
    states = {(found["what"], found["state"]) for found in map(json.loads, ran.stdout.splitlines())}
    assert states == {("milter", "off"), ("gate", "off"), ("queue", "off"), ("queue", "ok"), ("log", "ok")}


def test_check_reaches_inet_sockets(tmp_path):
    """A socket written inet:PORT@HOST is tried, too."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"inet:{server.getsockname()[1]}@127.0.0.1"
        conf, cf = tmp_path / "x.toml", tmp_path / "sendmail.cf"
        conf.write_text(f'[milter]\nsocket = "{address}"\n')
        cf.write_text(f"O InputMailFilters=m\nXm, S={address}, T=C:2s;S:5s;R:10s;E:20s\n")
        ran = CliRunner().invoke(sendmail, ["check", "-C", str(cf), "-c", str(conf), "--json"])
    assert ran.exit_code == 0


def test_wrong_configuration_is_told_with_status_2(tmp_path):
    """One line: file, key, remedy."""
    conf = tmp_path / "x.toml"
    conf.write_text("mode = 'strict'\n")
    ran = CliRunner().invoke(sendmail, ["print", "-c", str(conf)])
    assert ran.exit_code == 2
    assert "x.toml: mode = 'strict'" in ran.output


def test_check_needs_a_sendmail_cf(tmp_path):
    """Without one: exit status 2 and one line with the remedy."""
    ran = CliRunner().invoke(sendmail, ["check", "-C", str(tmp_path / "none")])
    assert ran.exit_code == 2
    assert "name the sendmail.cf with -C" in ran.output


def test_print_puts_the_configured_sockets_in_front(tmp_path):
    """What is printed names the sockets of the configuration; the mode decides what is printed."""
    conf = tmp_path / "x.toml"
    conf.write_text('mode = "enforce"\n[milter]\nsocket = "unix:/x/m"\n[answer]\nsocket = "inet:7@127.0.0.1"\n')
    ran = CliRunner().invoke(sendmail, ["print", "-c", str(conf)])
    assert "milter.socket = unix:/x/m: /x is not here; see " in ran.stderr
    text = ran.stdout
    assert "define(`MILTER_BOUNCE_MILTER', `unix:/x/m')dnl" in text
    assert "define(`MILTER_BOUNCE_ANSWER', `inet:7@127.0.0.1')dnl" in text
    assert "confMIN_QUEUE_AGE" not in text
    conf.write_text("")
    advise = CliRunner().invoke(sendmail, ["print", "-c", str(conf)]).stdout
    assert "confMIN_QUEUE_AGE" in advise
    assert "Kcompat" not in advise


@pytest.mark.parametrize("name", FRAGMENTS)
def test_print_gives_each_fragment_whole(name):
    """A named fragment comes as it is shipped."""
    ran = CliRunner().invoke(sendmail, ["print", name])
    assert ran.exit_code == 0
    assert (ROOT / "conf" / "sendmail" / f"{name}.mc").read_text() in ran.stdout


def test_shipped_configuration_names_the_sockets_of_the_fragments():
    """conf/sendmail/milter-bounce.toml is valid, and its sockets are those that the fragments fall back to."""
    folder = ROOT / "conf" / "sendmail"
    settings = load((folder / "milter-bounce.toml").read_text(), "milter-bounce.toml")
    assert f"`{settings.milter.socket}'" in (folder / "milter.mc").read_text()
    assert f"`{settings.answer.socket}'" in (folder / "gate.mc").read_text()
