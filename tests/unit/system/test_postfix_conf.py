"""system.postfix_conf: addresses and files, without a Postfix."""

from __future__ import annotations

from pathlib import Path

import pytest

from milter_bounce.config import Settings, from_values
from milter_bounce.system.postfix_conf import endpoint, gate_files

SPOOL = "/var/spool/postfix"


@pytest.mark.parametrize(
    ("ours", "postfix"),
    [
        pytest.param("unix:/var/spool/postfix/milter-bounce/a.sock", "unix:milter-bounce/a.sock", id="in-the-queue"),
        pytest.param("unix:/run/milter-bounce/a.sock", "unix:/run/milter-bounce/a.sock", id="elsewhere"),
        pytest.param("inet:8891@127.0.0.1", "inet:127.0.0.1:8891", id="inet"),
        pytest.param("inet6:8891@::1", "inet:[::1]:8891", id="inet6"),
    ],
)
def test_endpoint_is_written_as_postfix_wants_it(ours, postfix):
    """Relative to the queue directory, so that it works inside and outside the chroot."""
    assert endpoint(ours, SPOOL) == postfix


def test_gate_files_name_the_socket_by_its_whole_path_and_an_empty_backup():
    """With the gate away the empty table answers; a second is the longest that it may cost."""
    files = gate_files(Settings(), Path("/etc/milter-bounce"))
    assert "memcache = unix:/var/spool/postfix/milter-bounce/gate.sock\n" in files[Path("/etc/milter-bounce/gate.cf")]
    assert "timeout = 1\nmax_try = 1\n" in files[Path("/etc/milter-bounce/gate.cf")]
    settings = from_values({"answer": {"gate_socket": "inet:11211@127.0.0.1"}}, "test")
    assert "memcache = inet:127.0.0.1:11211\n" in gate_files(settings, Path("/x"))[Path("/x/gate.cf")]
