"""logd - follows the mail log and advises on every failed attempt.

SYNOPSIS
    milter-bounce logd [-c CONF] [--follow WHAT] [--from-start] [--events jsonl]

DESCRIPTION
    Reads the delivery lines of Postfix and Sendmail as they are written ([log] follow:
    a file, the journal or standard input), classifies each, remembers it in the store
    and writes one advice line per failed attempt into the mail log; further lines tell
    when an episode ends, a destination is backed off, a block begins and ends. The
    position in the log commits in the transaction that remembers what was read: a
    kill -9 loses nothing and counts nothing twice.

SIGNALS
    HUP reads configuration and rules again; broken ones leave the old in force and log
    why, and what only a restart puts in force is named. TERM and INT end the program
    after the portion under way.

DIAGNOSTICS
    Warnings go to the mail log. Exit status 0 after TERM or at the end of standard
    input, 1 where another logd works on the same store (both would count everything), 2
    for a wrong configuration (one line: file, key, remedy). What it last did stands in
    STORE.logd, for `milter-bounce check`.

LIMITS
    1 MiB of log, or a second of judging it, in one transaction; see logtail and parse/log
    for lines and memory.

SECURITY
    Started as root it becomes settings.user before it reads the log; that user must be
    allowed to (Debian: group adm). Replies in the log are outside text: they are read by
    Postfix's own form alone, and escaped wherever they are written. Of the journal only
    entries count that root, Postfix's owner or Sendmail's users wrote. A file tells no
    writer: where syslog writes it, every local user can add a line with logger(1); where
    users are not trusted, have Postfix write its own (maillog_file), or follow the journal.

BUGS
    Lines that were committed but not yet written when the program was killed are not
    written again. See also DESIGN.md section 6, postlogd(8), journalctl(1).
"""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import TYPE_CHECKING, Final

from milter_bounce.escape import harmless
from milter_bounce.parse.log import LogReader

from .advising import limits_of, make_adviser, make_store, retention_of
from .claim import Claim, TakenError
from .clock import SteadyClock
from .heartbeat import STALL_S, Heartbeat
from .learner import Learner, utc_now
from .logsource import followed, local_zone, make_source
from .logtail import Batch
from .maillog import MailLog
from .memory import settle
from .nanny import drop_privileges
from .notify import Notifier
from .reloading import renewed, tell_at_start
from .rulefiles import load_rules
from .settings import load_settings
from .sqlite_file import guarded
from .store import StoreCorruptError, StoreError
from .store_dns import Mentions

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import FrameType

    from milter_bounce.config import Settings
    from milter_bounce.decide.advise import Adviser, Limits
    from milter_bounce.decide.ruleset import RuleSet

    from .logsource import Source
    from .store import Retention

TURN_S: Final = 0.5
"""Seconds that one turn waits for lines: as often as the heartbeat wants."""

REST_S: Final = (0.2, 0.5, 1.0, 2.0)
"""Seconds between two tries of a store that cannot be used."""

GRUMBLE_S: Final = 60.0
"""Seconds between two warnings about the same trouble."""

MISSING_S: Final = 5.0
"""Seconds after which a log that is not there is no rotation under way."""

_NOTHING: Final = Batch([], None)
EXPIRE_EVERY_S: Final = 60.0
PRUNE_EVERY_S: Final = 3600.0


class Logd:
    """The loop: a batch, portion by portion, now and then the housekeeping; it beats all along."""

    def __init__(self, settings: Settings, config_path: Path | None, *, events: bool) -> None:
        self._began = self._settings = settings
        self._config_path = config_path
        self.log = MailLog(settings.log, "logd")
        self.store = make_store(_patient(settings))
        self._claim = Claim(settings.store.path, "logd")
        self._heart = Heartbeat()
        self._missing_since: float | None = None
        self._stopping = self._reload = False
        self._told: dict[str, float] = {}
        self._expired = self._pruned = time.monotonic()
        self._pruning: Iterator[int] = iter(())
        self._clock = SteadyClock()
        self._reader = LogReader(utc_now(), local_zone())
        self._name = followed(settings.log)
        rules, adviser = load_rules(settings), make_adviser(settings)
        self._notifier = Notifier(settings.notify, self.log)
        mentions = Mentions(settings.store.path)
        self.learner = Learner(
            self._name,
            self._reader,
            rules,
            adviser,
            self.store,
            self.log,
            self._notifier,
            events=events,
            mentions=mentions,
            alive=self._heart.beat,
        )

    # -- signals -----------------------------------------------------------------

    def stop(self, number: int = 0, frame: FrameType | None = None) -> None:
        """End after the portion under way."""
        del number, frame
        self._stopping = True

    def reload(self, number: int = 0, frame: FrameType | None = None) -> None:
        """Read configuration and rules again before the next portion."""
        del number, frame
        self._reload = True

    def _do_reload(self) -> None:
        self._reload = False

        def make() -> tuple[Settings, RuleSet, Adviser, Limits, Retention]:
            settings = load_settings(self._config_path)
            adviser = make_adviser(settings)
            return settings, load_rules(settings), adviser, limits_of(settings), retention_of(settings)

        fresh = renewed(make, self.log.warning)
        if fresh is None:
            return
        settings, rules, adviser, limits, retention = fresh
        self._settings = settings
        self.store.use(limits, retention)
        self._notifier.use(settings.notify)
        self.learner.use(rules, adviser, self._notifier)
        settle()
        self.log.line("configuration and rules reloaded")
        tell_at_start("logd", self._began, settings, self.log.warning)

    # -- the loop ------------------------------------------------------------------

    def run(self) -> int:
        """Work until told to stop, or until standard input ends; return the exit status.

        Raises:
            TakenError: another logd works on this store.
        """
        position = self._known_position()
        source = make_source(
            self._name,
            position,
            from_start=self._settings.log.from_start,
            warn=self.log.warning,
            alive=self._heart.beat,
        )
        settle()
        self._heart.ready()
        self.log.line(f"started, following {self._name} {'where it left off' if position else 'for the first time'}")
        try:
            while not self._stopping:
                self._heart.beat()
                if self._reload:
                    self._do_reload()
                if not self.learner.busy:
                    batch = self._batch(source)
                    if batch is None:
                        break
                    # the very first position counts without a line, too: what is written while we are away is news
                    if batch.lines or batch.position not in (None, position):
                        self.learner.take(batch, utc_now())
                        position = batch.position
                if self.learner.busy:
                    self._commit()
                self._housekeeping()
                self._look_for_log()
                if batch is not _NOTHING and not self._claim.sign(follows=self._name):
                    self._claim.take()  # tells who has it
        finally:
            self._heart.stopping()
            self._claim.leave()
            source.close()
            self.store.close()
            self.log.close()
        return 0

    def _known_position(self) -> str | None:
        """Return where the log was left; wait for a store that cannot tell, for guessing would count twice."""
        tries = 0
        while not self._stopping:
            try:
                with guarded(self.store.path):  # before the position is read, which another logd may be about to commit
                    self._claim.take()
                known = self.store.log_position(self._name)
            except StoreError as error:
                self._grumble("store", f"waits for the store: {error}")
                self._rest(tries)
                tries += 1
            else:
                return known.cursor if known else None
        return None

    def _batch(self, source: Source) -> Batch | None:
        try:
            return source.batch(TURN_S)
        except OSError as error:
            self._grumble("source", f"cannot read {self._name}: {error}")
            time.sleep(TURN_S)
            return _NOTHING

    def _look_for_log(self) -> None:
        """Warn of a log file that does not come to be, once each time."""
        now = time.monotonic()
        if self._name in {"-", "journal"} or os.path.lexists(self._name):
            self._missing_since = None
        elif self._missing_since is None:
            self._missing_since = now
        elif now - self._missing_since >= MISSING_S:
            self._missing_since = float("inf")
            self.log.warning(
                f"{self._name} does not exist, so that nothing is learnt; set log.follow to the file that the MTA writes "
                "(postconf maillog_file), or to journal"
            )

    def _commit(self) -> None:
        """Commit what was taken, however often that takes; the log can wait, it is on disk."""
        tries = 0
        while not self._stopping or tries == 0:
            try:
                self.learner.commit(utc_now())
            except StoreError as error:
                self._grumble("store", f"{_put_off(error)}: {error}")
                self._rest(tries)
                tries += 1
            else:
                if tries:
                    self._told.pop("store", None)
                    self.log.line(f"the store is back after {tries} tries; catching up")
                return

    def _rest(self, tries: int) -> None:
        self._heart.beat()
        time.sleep(REST_S[min(tries, len(REST_S) - 1)])
        self._heart.beat()

    def _grumble(self, what: str, text: str) -> None:
        now = time.monotonic()
        if now - self._told.get(what, -GRUMBLE_S) >= GRUMBLE_S:
            self._told[what] = now
            self.log.warning(text)

    def _housekeeping(self) -> None:
        """End and forget what its time has come for - unless the clock has just jumped by days or years."""
        if moved := self._clock.jumped_s():
            self.log.warning(
                f"the clock jumped by {moved / 86_400:+.1f} days: for a day nothing is ended or forgotten for its age; "
                "look at this host's time (timedatectl)"
            )
        if not self._clock.steady:
            return
        now = time.monotonic()
        scale = self._settings.advice.time_scale
        try:
            if now - self._expired >= max(EXPIRE_EVERY_S * scale, TURN_S):
                self._expired = now
                self.learner.notices(self.store.expire(utc_now()))
            if now - self._pruned >= PRUNE_EVERY_S:
                self._pruned = now
                self._pruning = self.store.pruning(utc_now())
            next(self._pruning, None)  # one step a turn: the log does not wait for the rest
        except StoreError as error:
            self._grumble("store", f"housekeeping is put off: {error}")


def _put_off(error: StoreError) -> str:
    """Return what a store that cannot be used means for what the log tells."""
    if isinstance(error, StoreCorruptError):
        return "the log is not learnt from until the store is mended or replaced"
    return "the log is not learnt from for now, nothing is lost"


def _patient(settings: Settings) -> Settings:
    """Return the settings with a wait for the store that is shorter than the silence that counts as a stall."""
    section = settings.store
    wait = min(section.lock_wait_s, STALL_S / 2)
    return settings.model_copy(update={"store": section.model_copy(update={"lock_wait_s": wait})})


def main(settings: Settings, config_path: Path | None = None, *, events: bool = False) -> int:
    """Run logd until TERM; return the exit status.

    Raises:
        ConfigError, RulesError: before anything is started.
    """
    drop_privileges(settings, config_path)
    daemon = Logd(settings, config_path, events=events)
    signal.signal(signal.SIGTERM, daemon.stop)
    signal.signal(signal.SIGINT, daemon.stop)
    signal.signal(signal.SIGHUP, daemon.reload)
    try:
        return daemon.run()
    except TakenError as error:
        sys.stderr.write(f"milter-bounce logd: {harmless(str(error))}\n")
        return 1
