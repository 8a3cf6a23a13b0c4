"""Findings become records and lines; blocks are lifted when every list that they name let go."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from milter_bounce.protocol.dnsbl import Family, Listing, State, Zone
from milter_bounce.system.dnsledger import GRACE, lifts, listing_facts, listing_line, notice_text, updated
from milter_bounce.system.dnswatch import Finding
from milter_bounce.system.store_dns import ListingRecord, Named
from milter_bounce.verdict import Block, BlockState, Scope

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
US, OTHER = "192.0.2.1", "192.0.2.2"
ZEN = Zone("zen.example", "Zen", lookup="https://zen.example/?q={listed}", removal="ask nicely")
COP = Zone("cop.example", "Cop")
L2 = Zone("l2.example", "Level 2", weight="advise")
KEYED = Zone("paid.example", "Paid", template="{key}.paid.example")
USABLE = {zone.zone: zone for zone in (ZEN, COP, L2, KEYED)}


def finding(state: State, zone: Zone = ZEN, why: str = "", reason: str = "") -> Finding:
    listed = state is State.LISTED
    codes = ("127.0.0.2",) if listed else ()
    return Finding(zone, US, Listing(state, codes, ("SBL",) if listed else (), why), reason)


def record(state: State, zone: Zone = ZEN, subject: str = US, **more) -> ListingRecord:
    values = {"since": NOW - HOUR, "known": NOW, "checked": NOW, "listed": NOW - HOUR} | more
    return ListingRecord(subject, zone.zone, state, **values)


def block(*zones: str, **more) -> Block:
    values = {"began": NOW - 2 * HOUR, "last_refusal": NOW - HOUR, "zones": zones} | more
    base = Block("hard.example", "hard.example", Scope.SENDING_HOST, "blocklisted", "r", NOW, None, NOW + 100 * HOUR)
    return replace(base, **values)


def test_record_follows_begin_unknown_and_end():
    """A listing keeps its beginning and reason through unknown answers, and loses them when it ends."""
    first, began = updated(None, finding(State.LISTED, reason="spam seen"), NOW)
    assert (first.state, first.since, first.listed, first.reason, began.began) == (
        State.LISTED,
        NOW,
        NOW,
        "spam seen",
        True,
    )
    unsure, nothing = updated(first, finding(State.UNKNOWN, why="no answer in time"), NOW + HOUR)
    assert (nothing.began, nothing.ended) == (False, False)
    assert (unsure.state, unsure.since, unsure.known, unsure.checked) == (State.LISTED, NOW, NOW, NOW + HOUR)
    assert (unsure.reason, unsure.codes, unsure.why) == ("spam seen", ("127.0.0.2",), "no answer in time")
    last, ended = updated(unsure, finding(State.NOT_LISTED), NOW + 2 * HOUR)
    assert ended.ended
    assert (last.state, last.since, last.listed, last.reason, last.codes, last.why) == (
        State.NOT_LISTED, NOW + 2 * HOUR, NOW, "", (), "",
    )  # fmt: skip


def test_first_unknown_answer_is_no_state():
    """Where nothing was ever known the record says unknown, and why."""
    made, happened = updated(None, finding(State.UNKNOWN, why="refused"), NOW)
    assert (made.state, made.known, made.why, happened.began) == (State.UNKNOWN, None, "refused", False)


def test_lines_name_subject_list_and_reason_and_escape_what_lists_say():
    """The line has a fixed order; what a list says can forge neither a field nor a line."""
    made, _ = updated(None, finding(State.LISTED, reason='x", notice=fake\nNov 20 forged'), NOW)
    assert listing_line(ZEN, made) == (
        "listing=192.0.2.1, notice=listing-began, blocklist=zen.example, operator=Zen, weight=block, codes=127.0.0.2, "
        "meaning=SBL, since=2026-11-20T12:00:00Z, lookup=https://zen.example/?q=192.0.2.1, "
        'text="x\', notice=fake\\nNov 20 forged"'
    )
    ended, _ = updated(made, finding(State.NOT_LISTED), NOW + timedelta(minutes=90))
    assert listing_line(ZEN, ended, made) == (
        "listing=192.0.2.1, notice=listing-ended, blocklist=zen.example, operator=Zen, weight=block, "
        "since=2026-11-20T12:00:00Z, hours=1.5"
    )


def test_notice_says_what_to_do():
    """The administrator's notice has reason, link and remedy, and says when nothing is held for it."""
    made, _ = updated(None, finding(State.LISTED, reason="spam seen"), NOW)
    text = notice_text(ZEN, made)
    assert "The list says: spam seen" in text
    assert "https://zen.example/?q=192.0.2.1" in text
    assert "How to get off: ask nicely" in text
    assert listing_facts(ZEN, made)["lookup"] == "https://zen.example/?q=192.0.2.1"
    assert "holds no mail" in notice_text(L2, replace(made, zone=L2.zone, reason=""))


def free(zone: Zone = ZEN, subject: str = US, **more) -> tuple[tuple[str, str], ListingRecord]:
    return (subject, zone.zone), record(State.NOT_LISTED, zone, subject, **more)


def held(zone: Zone = ZEN, subject: str = US) -> tuple[tuple[str, str], ListingRecord]:
    return (subject, zone.zone), record(State.LISTED, zone, subject)


NAMED_OTHER = Named(ZEN.zone, OTHER, NOW - HOUR, NOW - HOUR, 1)


@pytest.mark.parametrize(
    ("blocked", "records", "names", "by"),
    [
        pytest.param(block(ZEN.zone), [free()], [], "dns:zen.example", id="let-go"),
        pytest.param(block(ZEN.zone), [held()], [], None, id="still-listed"),
        pytest.param(block(ZEN.zone), [], [], None, id="never-asked"),
        pytest.param(block(ZEN.zone), [free(known=NOW - 3 * HOUR)], [], None, id="not-asked-since-the-refusal"),
        pytest.param(block(ZEN.zone), [free(known=None)], [], None, id="nothing-known"),
        pytest.param(block(ZEN.zone), [free(why="no answer")], [], None, id="last-answer-unknown"),
        pytest.param(block(ZEN.zone, COP.zone), [free(), held(COP)], [], None, id="one-of-two-still-lists"),
        pytest.param(
            block(ZEN.zone, COP.zone), [free(), free(COP, since=NOW)], [], "dns:cop.example", id="both-let-go-last-named"
        ),
        pytest.param(block(ZEN.zone, L2.zone), [free(), held(L2)], [], "dns:zen.example", id="advise-list-holds-nothing"),
        pytest.param(block(L2.zone), [free(L2)], [], "dns:l2.example", id="advise-list-alone"),
        pytest.param(block("vendor-own-list"), [free()], [], None, id="list-without-zone"),
        pytest.param(block(ZEN.zone, "gone.example"), [free()], [], None, id="one-cannot-be-asked"),
        pytest.param(block("{key}.paid.example"), [free(KEYED)], [], "dns:paid.example", id="named-with-its-key"),
        pytest.param(block(), [free()], [], None, id="names-no-list"),
        pytest.param(block(ZEN.zone, state=BlockState.TRIAL), [free()], [], None, id="already-on-trial"),
        pytest.param(block(ZEN.zone, lifted_at=NOW), [free()], [], None, id="already-lifted"),
        pytest.param(
            block(ZEN.zone), [free(listed=None)], [], "dns:zen.example", id="never-seen-listed-after-grace"
        ),
        pytest.param(
            block(ZEN.zone, last_refusal=NOW - GRACE / 2), [free(listed=None)], [], None, id="never-seen-listed-too-early"
        ),
        pytest.param(block(ZEN.zone), [free(), held(ZEN, OTHER)], [], None, id="other-address-of-ours-listed"),
        pytest.param(
            block(ZEN.zone), [held(), free(ZEN, OTHER)], [NAMED_OTHER], "dns:zen.example", id="refusal-named-the-free-one"
        ),
        pytest.param(
            block(ZEN.zone), [free(), free(ZEN, OTHER)],
            [Named(ZEN.zone, "203.0.113.9", NOW - HOUR, NOW - HOUR, 1)], None, id="stranger-named-counts-with-ours",
        ),
        pytest.param(
            block(ZEN.zone), [free(), free(ZEN, OTHER)], [Named(ZEN.zone, "no address!", NOW, NOW, 1)],
            "dns:zen.example", id="nonsense-named",
        ),
    ],
)  # fmt: skip
def test_block_is_lifted_only_when_every_list_let_go(blocked, records, names, by):
    """Every list that the block names has answered since the refusal, and lists nothing that matters."""
    own = [US] if all(key[0] == US for key, _ in records) else [US, OTHER]
    found = lifts([blocked], dict(records), USABLE, own, names, NOW)
    assert [(lift.key, lift.by) for lift in found] == ([] if by is None else [("hard.example", by)])


def test_domain_lists_count_for_domains():
    """A block that names a domain list waits for our domains, not for our addresses."""
    dbl = Zone("dbl.example", families=frozenset({Family.DOMAIN}))
    usable = {dbl.zone: dbl}
    records = dict([free(dbl, "example.com")])
    assert lifts([block(dbl.zone)], records, usable, [US, "example.com"], [], NOW)
    assert not lifts([block(dbl.zone)], records, usable, [US], [], NOW)
