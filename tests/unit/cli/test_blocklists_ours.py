"""``milter-bounce blocklists`` without an argument: ours, as dnsd knows them."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from milter_bounce.cli import blocklists
from milter_bounce.system.store_dns import DnsStore


@pytest.mark.parametrize("learn", [True, False])
def test_without_an_argument_learnt_addresses_are_ours(conf, tmp_path, learn):
    """An address that two refusals named is asked about too, as dnsd does; not with dns.learn = false."""
    with conf.open("a") as file:
        file.write(f'[dns]\naddresses = ["8.8.4.4"]\ndomains = ["shop.example"]\nlearn = {str(learn).lower()}\n')
    store = DnsStore(tmp_path / "state.db")
    for subject, times in (("8.8.8.8", 2), ("9.9.9.9", 1), ("10.0.0.1", 3)):
        for _ in range(times):
            store.named("zen.spamhaus.org", subject, datetime.now(UTC))
    store.close()
    _, _, wanted = blocklists._prepared((), str(conf))
    assert wanted == ["8.8.4.4", "shop.example", *(["8.8.8.8"] if learn else [])]
