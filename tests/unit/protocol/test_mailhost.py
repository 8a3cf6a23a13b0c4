"""MX records: order, null MX, and the operator they name."""

from __future__ import annotations

import pytest

from milter_bounce.protocol.mailhost import MX_LIMIT, is_null_mx, mx_hosts, operator_of_hosts


def operator_of(host: str | None) -> str | None:
    return {"mx1.example.net": "one", "mx2.example.net": "two"}.get(host or "")


@pytest.mark.parametrize(
    ("values", "hosts", "null", "operator"),
    [
        pytest.param(
            ["20 mx2.example.net.", "10 MX1.example.net."],
            ["mx1.example.net", "mx2.example.net"],
            False,
            "one",
            id="order",
        ),
        pytest.param(
            ["10 own.example.com.", "20 mx2.example.net."],
            ["own.example.com", "mx2.example.net"],
            False,
            "two",
            id="backup-known",
        ),
        pytest.param(["0 ."], [""], True, None, id="null-mx"),
        pytest.param(["0 .", "10 mx1.example.net."], ["", "mx1.example.net"], False, "one", id="null-mx-beside-others"),
        pytest.param([], [], False, None, id="none"),
        pytest.param(["x y", "٣ mx1.example.net.", ""], [], False, None, id="no-records"),
    ],
)
def test_mx_records_tell_hosts_and_operator(values, hosts, null, operator):
    """The preferred host comes first, a single empty name is the null MX, the first known operator counts."""
    found = mx_hosts(values)
    assert found == hosts
    assert is_null_mx(found) is null
    assert operator_of_hosts(found, operator_of) == operator


def test_mx_records_are_limited():
    """No more hosts than the limit are looked at."""
    assert len(mx_hosts(f"{n} mx{n}.example.com." for n in range(MX_LIMIT + 50))) == MX_LIMIT
