"""decide.release: who went as the probe of a block."""

from __future__ import annotations

from datetime import timedelta

import pytest

from milter_bounce.decide.release import KEYS_LIMIT, Probes
from tests.answering import NOW, later


@pytest.mark.parametrize(
    ("address", "seconds", "went"),
    [
        pytest.param("user+list@example.net", 0, True, id="itself"),
        pytest.param("user@example.net", 0.1, True, id="without-its-extension"),
        pytest.param("user+list@example.net", 5, False, id="the-next-message"),
        pytest.param("other@example.net", 0, False, id="another"),
        pytest.param("user@example.org", 0, False, id="another-domain"),
        pytest.param("@example.net", 0, False, id="no-user"),
    ],
)
def test_probe_is_the_same_question_or_it_is_not(address, seconds, went):
    """Postfix asks twice about one recipient; that is one probe."""
    probes = Probes(timedelta(minutes=10))
    probes.note("block", "user+list@example.net", NOW)
    assert probes.went("block", address, later(seconds)) is went


def test_probe_is_recent_until_its_patience_ends():
    """Without news another one may go."""
    probes = Probes(timedelta(minutes=10))
    assert not probes.recent("block", NOW)
    probes.note("block", "a@example.net", NOW)
    assert probes.recent("block", later(599))
    assert not probes.recent("block", later(600))
    assert not probes.recent("other", NOW)


def test_probes_remember_a_bounded_number_of_blocks():
    """A host with very many blocks forgets, it does not grow."""
    probes = Probes(timedelta(minutes=10))
    for number in range(KEYS_LIMIT + 1):
        probes.note(str(number), "a@example.net", NOW)
    assert not probes.recent("0", NOW)
    assert probes.recent(str(KEYS_LIMIT), NOW)
