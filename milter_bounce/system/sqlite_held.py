"""What is held and why, and its release by hand: back-offs, recipients before their time, messages that wait.

Goes in: orders and questions of the command line and of the flusher. Comes out:
records, counts, notices. Does not: decide what may pass (``decide.block`` does).
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any, Final

from milter_bounce.verdict import Notice, NoticeKind

from .sqlite_admin import Administration
from .sqlite_rows import BACKOFF, backoff_of, escaped, folded, from_ms, to_ms
from .store import HeldRecipients, Released, StoreError, WaitingMessage

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Iterator
    from datetime import datetime
    from pathlib import Path

    from milter_bounce.verdict import Backoff

_THERE: Final = "(mb_domain({0}) = :key OR mb_domain({0}) IN (SELECT domain FROM operators WHERE operator = :key))"
"""Whether a recipient belongs to a destination: the domain itself, or one that the operator runs."""

_UNTIL: Final = "block IS NULL AND given_up IS NULL AND not_before > :now"
_ENDED: Final = (
    "given_up > :ended AND EXISTS (SELECT 1 FROM waiting WHERE waiting.recipient = recipients.recipient AND failed)"
)
_HELD: Final = f"(({_UNTIL}) OR ({_ENDED}))"
"""What of ``recipients`` the gate keeps back, or returns, for the recipient's own sake."""


class Holding(Administration):
    """What of `store.Store` tells of and releases what is held; `SqliteStore` brings the file."""

    def backoffs(self, now: datetime) -> list[Backoff]:
        """Return the back-offs that are not over, the oldest first."""
        with self.reading() as db:
            rows = db.execute(f"SELECT {BACKOFF} FROM backoffs WHERE not_before > ? ORDER BY since", (to_ms(now),))
            return [backoff_of(row) for row in rows]

    def holds(self, now: datetime) -> list[HeldRecipients]:
        """Return the recipients that are held by themselves, counted by destination and category, most first."""
        sql = (
            "SELECT coalesce((SELECT operator FROM operators WHERE domain = mb_domain(recipient)),"
            " mb_domain(recipient)) AS key, category, count(*), min(not_before), max(not_before), min(text)"
            f" FROM recipients WHERE {_UNTIL} AND delay IS NULL GROUP BY key, category ORDER BY count(*) DESC, key"
        )
        with self._asking() as db:
            rows = db.execute(sql, {"now": to_ms(now)}).fetchall()
        return [
            HeldRecipients(key, category, number, from_ms(first), from_ms(last), text)
            for key, category, number, first, last, text in rows
        ]

    def waiting_for(self, key: str, limit: int) -> tuple[list[WaitingMessage], int]:
        """Return messages that wait for a block or back-off, the oldest first, and how many there are in all."""
        backed_off = "EXISTS (SELECT 1 FROM backoffs WHERE key = :key)"
        where = f"w.block = :key OR (w.block IS NULL AND {backed_off} AND {_THERE.format('w.recipient')})"
        return self._waiting(where, {"key": escaped(key)}, limit)

    def waiting_under(self, queue_id: str, limit: int) -> tuple[list[WaitingMessage], int]:
        """Return whom a queue ID waits for, and how many they are in all."""
        return self._waiting("w.queue_id = :key", {"key": escaped(queue_id)}, limit)

    def _waiting(self, where: str, values: dict[str, Any], limit: int) -> tuple[list[WaitingMessage], int]:
        columns = "w.queue_id, w.recipient, w.since, CASE WHEN w.failed THEN coalesce(r.attempts, 0) ELSE 0 END"
        join = "FROM waiting AS w LEFT JOIN recipients AS r ON r.recipient = w.recipient"
        with self._asking() as db:
            (total,) = db.execute(f"SELECT count(*) FROM waiting AS w WHERE {where}", values).fetchone()
            sql = f"SELECT {columns} {join} WHERE {where} ORDER BY w.since, w.queue_id LIMIT {int(limit)}"
            rows = db.execute(sql, values).fetchall()
        return [WaitingMessage(queue, who, from_ms(since), tries) for queue, who, since, tries in rows], total

    def recipients_at(self, destination: str, limit: int) -> tuple[list[str], int]:
        """Return recipients of a domain or operator of whom anything is known, and how many they are in all."""
        union = " UNION ".join(
            f"SELECT recipient FROM {table} WHERE {_THERE.format('recipient')}"
            for table in ("recipients", "suppressions", "waiting")
        )
        values = {"key": folded(destination)}
        with self._asking() as db:
            (total,) = db.execute(f"SELECT count(*) FROM ({union})", values).fetchone()
            rows = db.execute(f"SELECT recipient FROM ({union}) ORDER BY recipient LIMIT {int(limit)}", values)
            return [row[0] for row in rows], total

    # orders

    def release(self, key: str | None, now: datetime) -> Released:
        """Let what is held for its own sake be tried now: an address, a destination with its back-off, None = all.

        A used-up schedule gets one more attempt. Blocks and suppressions stand.
        """
        which = "1" if key is None else "recipient = :key" if "@" in key else _THERE.format("recipient")
        values = {
            "key": None if key is None else folded(key),
            "now": to_ms(now),
            "ended": to_ms(now - self.limits.give_up_grace),
        }
        with self._asking(writes=True) as db:
            held = f"SELECT recipient FROM recipients WHERE {_HELD} AND {which}"
            db.execute(f"UPDATE waiting SET due = :now WHERE block IS NULL AND recipient IN ({held})", values)
            sql = f"UPDATE recipients SET not_before = NULL, given_up = NULL WHERE {_HELD} AND {which}"
            recipients = db.execute(sql, values).rowcount
            keys = [] if key is not None and "@" in key else [key] if key else self._backed_off(db, now)
            backoffs = sum(self._end_backoff(db, folded(name), now) for name in keys)
        return Released(recipients, backoffs)

    def end_backoff(self, key: str, by: str, now: datetime) -> Notice | None:
        """End the back-off of a destination: what waits for nothing else is due; None where there is none."""
        with self._asking(writes=True) as db:
            ended = self._end_backoff(db, key, now)
        return Notice(NoticeKind.BACKOFF_ENDED, key, now, by=by) if ended else None

    @staticmethod
    def _backed_off(db: sqlite3.Connection, now: datetime) -> list[str]:
        return [row[0] for row in db.execute("SELECT key FROM backoffs WHERE not_before > ?", (to_ms(now),))]

    @staticmethod
    def _end_backoff(db: sqlite3.Connection, key: str, now: datetime) -> bool:
        values = {"key": key, "now": to_ms(now)}
        if db.execute("DELETE FROM backoffs WHERE key = :key AND not_before > :now", values).rowcount == 0:
            return False
        own = f"SELECT recipient FROM recipients WHERE {_UNTIL}"
        db.execute(
            f"UPDATE waiting SET due = :now WHERE block IS NULL AND {_THERE.format('recipient')}"
            f" AND recipient NOT IN ({own})",
            values,
        )
        return True

    def backup(self, file: Path) -> int:
        """Copy the store into the new `file`, mode 0600, as it is at one moment; return its bytes.

        Raises:
            StoreError: also where `file` exists or cannot be made; nothing is left of it then.
        """
        try:
            os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
        except OSError as error:
            raise StoreError(f"{file}: {error.strerror}; name a new file in a folder that you may write to") from None
        try:
            with self.reading() as db:
                db.execute("VACUUM INTO ?", (str(file),))
            return file.stat().st_size
        except BaseException:  # whatever it was, half a copy must not pass for one
            with contextlib.suppress(OSError):
                file.unlink()
            raise

    def queue_ids(self) -> set[str]:
        """Return the queue IDs of all messages that wait."""
        with self.reading() as db:
            return {row[0] for row in db.execute("SELECT DISTINCT queue_id FROM waiting")}

    def gone(self, queue_ids: Iterable[str]) -> int:
        """Forget messages that are in no queue any more; return how many rows that were."""
        with self.writing() as db:
            before = db.total_changes
            db.executemany("DELETE FROM waiting WHERE queue_id = ?", [(escaped(one),) for one in queue_ids])
            return db.total_changes - before

    @contextlib.contextmanager
    def _asking(self, *, writes: bool = False) -> Iterator[sqlite3.Connection]:
        """Yield the connection with a function for the domain of an address, which may have several ``@``."""
        with self.writing() if writes else self.reading() as db:
            db.create_function("mb_domain", 1, _domain, deterministic=True)
            yield db


def _domain(recipient: str) -> str:
    return recipient.rpartition("@")[2]
