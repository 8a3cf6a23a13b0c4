"""Nouns to rows and back: what the columns of the store mean.

Goes in: values of ``verdict``. Comes out: tuples in the order of the columns in
``sqlite_file``. Does not: touch the file.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from typing import Any, Final, NamedTuple

from milter_bounce import limits
from milter_bounce.delivery import lowered
from milter_bounce.verdict import AdviceKind, Backoff, Block, BlockState, Episode, Scope, Standing, Suppression

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MS: Final = timedelta(milliseconds=1)
ADDRESS_LIMIT: Final = limits.STORED_ADDRESS
EPISODE_TEXT: Final = limits.EPISODE_TEXT


class Waiting(NamedTuple):
    """One message that waits for one recipient: a row of ``waiting`` behind its key."""

    since: int
    """When it first failed; of one that only our gate held, when that was first heard of."""

    due: int | None
    block: str | None
    failed: bool = True
    """False where no attempt was made: then it is no failure of its recipient's, whatever becomes of it."""


def escaped(text: str) -> str:
    """Return `text` as SQLite takes it: a lone surrogate, which stands for a byte that was no UTF-8, comes out escaped."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")


def folded(address: str) -> str:
    """Return `address` as it is kept: lower case, without brackets; a longer one than any real one with a digest.

    Local parts differ in case by RFC 5321, 2.4, and nowhere in practice; Postfix folds the keys of its look-ups.
    """
    bare = escaped(lowered(address.strip().strip("<>")))
    if len(bare) <= ADDRESS_LIMIT:
        return bare
    return f"{bare[:400]}#{blake2b(bare.encode(), digest_size=16).hexdigest()}"


def plain(text: str, limit: int = 512) -> str:
    """Return `text` escaped and not longer than `limit` characters."""
    return escaped(text[:limit])


def to_ms(when: datetime) -> int:
    """Return milliseconds since 1970, rounded down."""
    return (when - _EPOCH) // _MS


def maybe_ms(when: datetime | None) -> int | None:
    """Return milliseconds since 1970; None stays None."""
    return None if when is None else (when - _EPOCH) // _MS


def from_ms(value: int) -> datetime:
    """Return the aware UTC time that many milliseconds after 1970 began."""
    return _EPOCH + timedelta(milliseconds=value)


def maybe_time(value: int | None) -> datetime | None:
    """Return an aware UTC time; None stays None."""
    return None if value is None else _EPOCH + timedelta(milliseconds=value)


def _span_ms(span: timedelta | None) -> int | None:
    return None if span is None else span // _MS


def _maybe_span(value: int | None) -> timedelta | None:
    return None if value is None else timedelta(milliseconds=value)


EPISODE: Final = (
    "first_failure, last_failure, attempts, not_before, delay, category, rule, block, given_up, countable, text"
)
SUPPRESSION: Final = "recipient, since, category, rule, reason, origin"
BLOCK: Final = (
    "key, operator, scope, category, rule, began, probe_at, ends, text, zones, refusals, lifted_at, lifted_by, state, "
    "probe_after, ramp_from, last_refusal"
)
BACKOFF: Final = "key, since, not_before, delay, category"


def holes(columns: str) -> str:
    """Return as many placeholders as there are columns."""
    return ", ".join("?" * (columns.count(",") + 1))


BLOCK_HOLES: Final = holes(BLOCK)


def episode_row(episode: Episode) -> tuple[Any, ...]:
    """Return the columns `EPISODE`."""
    return (
        to_ms(episode.first_failure),
        to_ms(episode.last_failure),
        episode.attempts,
        maybe_ms(episode.not_before),
        _span_ms(episode.delay),
        episode.category,
        episode.rule,
        episode.block,
        maybe_ms(episode.given_up),
        episode.countable,
        plain(episode.text, EPISODE_TEXT),
    )


def episode_of(row: tuple[Any, ...]) -> Episode:
    """Return the episode in the columns `EPISODE`."""
    first, last, attempts, not_before, delay, category, rule, block, given_up, countable, text = row
    return Episode(
        from_ms(first),
        from_ms(last),
        attempts,
        maybe_time(not_before),
        _maybe_span(delay),
        category,
        rule,
        block,
        maybe_time(given_up),
        bool(countable),
        text,
    )


def waiting_for(standing: Standing, last: Waiting | None, now_ms: int, again_ms: int) -> Waiting:
    """Return what is kept of a message that our gate held for what stands in its way.

    Where nothing does (any more) it is due at once; if it was asked for already, only after `again_ms`: should gate and
    store not agree, our own flushes do not turn in a circle.
    """
    since, failed = (last.since, last.failed) if last else (now_ms, False)
    if standing.kind is AdviceKind.HOLD and standing.block is not None:
        return Waiting(since, None, standing.block, failed)
    if standing.until is not None and standing.kind in {AdviceKind.HOLD, AdviceKind.RETRY}:
        return Waiting(since, to_ms(standing.until), None, failed)
    asked = last is not None and last.due is None and last.block is None
    return Waiting(since, now_ms + again_ms if asked else now_ms, None, failed)


def suppression_row(suppression: Suppression) -> tuple[Any, ...]:
    """Return the columns `SUPPRESSION`."""
    s = suppression
    return folded(s.recipient), to_ms(s.since), plain(s.category), plain(s.rule), plain(s.reason), plain(s.origin)


def suppression_of(row: tuple[Any, ...]) -> Suppression:
    """Return the suppression in the columns `SUPPRESSION`."""
    recipient, since, category, rule, reason, origin = row
    return Suppression(recipient, from_ms(since), category, rule, reason, origin)


def block_row(block: Block) -> tuple[Any, ...]:
    """Return the columns `BLOCK`."""
    return (
        block.key,
        block.operator,
        str(block.scope),
        block.category,
        block.rule,
        to_ms(block.began),
        maybe_ms(block.probe_at),
        to_ms(block.ends),
        plain(block.text),
        " ".join(block.zones),
        block.refusals,
        maybe_ms(block.lifted_at),
        block.lifted_by,
        str(block.state),
        _span_ms(block.probe_after),
        maybe_ms(block.ramp_from),
        maybe_ms(block.last_refusal),
    )


def block_of(row: tuple[Any, ...]) -> Block:
    """Return the block in the columns `BLOCK`."""
    key, operator, scope, category, rule, began, probe_at, ends, text, zones, refusals = row[:11]
    lifted_at, lifted_by, state, probe_after, ramp_from, last_refusal = row[11:]
    return Block(
        key,
        operator,
        Scope(scope),
        category,
        rule,
        from_ms(began),
        maybe_time(probe_at),
        from_ms(ends),
        text,
        tuple(zones.split()),
        refusals,
        maybe_time(lifted_at),
        lifted_by,
        BlockState(state),
        _maybe_span(probe_after),
        maybe_time(ramp_from),
        maybe_time(last_refusal),
    )


def backoff_row(backoff: Backoff) -> tuple[Any, ...]:
    """Return the columns `BACKOFF`."""
    b = backoff
    return b.key, to_ms(b.since), to_ms(b.not_before), b.delay // _MS, b.category


def backoff_of(row: tuple[Any, ...]) -> Backoff:
    """Return the back-off in the columns `BACKOFF`."""
    key, since, not_before, delay, category = row
    return Backoff(key, from_ms(since), from_ms(not_before), timedelta(milliseconds=delay), category)
