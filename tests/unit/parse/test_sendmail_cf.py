"""The reader of sendmail.cf."""

from __future__ import annotations

from datetime import timedelta

import pytest

from milter_bounce.parse.sendmail_cf import read_cf, read_limits, read_time

CF = """\
# comment
O LogLevel=9
O Timeout.queuereturn=2d
O InputMailFilters=milter-bounce, other
Xmilter-bounce, S=unix:/run/milter-bounce/milter.sock, T=C:2s;S:5s;R:10s;E:20s
Xother, S=inet:8891@localhost, F=T
Kcompat socket -f -T<TMPF> -d3 unix:/run/milter-bounce/answer.sock
Karith arith
Scheck_compat
R$* $| $*\t\t$: $1 $| $2 $| $>milter_bounce_gate $1 $| $2
R$*\t\t$@ OK
Sother
R$*\t\t$1
Scheck_compat
Rown\t\t$#error
"""


def test_cf_is_read_as_far_as_it_matters():
    """Options, milters, maps and rulesets come out; a ruleset named twice goes on."""
    cf = read_cf(CF)
    assert cf.options["LogLevel"] == "9"
    assert cf.options["Timeout.queuereturn"] == "2d"
    assert cf.milters["milter-bounce"] == {"S": "unix:/run/milter-bounce/milter.sock", "T": "C:2s;S:5s;R:10s;E:20s"}
    assert cf.milters["other"] == {"S": "inet:8891@localhost", "F": "T"}
    assert cf.maps["compat"].class_ == "socket"
    assert cf.maps["compat"].flags == ["-f", "-T<TMPF>", "-d3"]
    assert cf.maps["compat"].target == "unix:/run/milter-bounce/answer.sock"
    assert (cf.maps["arith"].flags, cf.maps["arith"].target) == ([], None)
    assert [rule.split("\t")[0] for rule in cf.rulesets["check_compat"]] == ["$* $| $*", "$*", "own"]


@pytest.mark.parametrize("text", ["", "X", "K", "S", "O", "R", "Kx", "Xa,b", "\0" * 50, "O =", "Sx\nR"])
def test_any_text_is_read(text):
    """What is no sendmail.cf gives an empty one, or little."""
    assert read_cf(text).milters in ({}, {"a": {}})


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        pytest.param("2h", 7200, id="hours"),
        pytest.param("1d12h", 129_600, id="two"),
        pytest.param("30", 1800, id="bare-minutes"),
        pytest.param("1w", 604_800, id="week"),
        pytest.param("", None, id="empty"),
        pytest.param("soon", None, id="word"),
        pytest.param("2hx", None, id="tail"),
        pytest.param("9" * 9 + "w" + "9" * 9 + "w", None, id="beyond"),
    ],
)
def test_time_is_read(text, seconds):
    """Sendmail's times: numbers with units, minutes without one."""
    assert read_time(text) == (None if seconds is None else timedelta(seconds=seconds))


def test_milter_limits_are_read():
    """T= has a limit per letter; what is no time is left out."""
    limits = {name: limit.total_seconds() for name, limit in read_limits("C:2s;S:5s; R:10s;E:5m;X:soon").items()}
    assert limits == {"C": 2, "S": 5, "R": 10, "E": 300}
