"""Every limit that protects us, with its reason: what comes in from outside ends somewhere.

Goes in: nothing. Comes out: constants, importable by every room. Does not: hold
schedules and thresholds (configuration, rules/) or time limits inside one program.

What is beyond a limit is left unread, counted or refused with a word about it, as
the reader that keeps the limit says under "Limits:"; it never stops mail.
tests/unit/test_limits.py tries each at, below and above its edge.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Final

# -- a message, from its envelope to the reply in it ----------------------------------------------------

MESSAGE_BYTES: Final = 1 << 20
"""Bytes of a message that are read: a report stands before the returned message, whose 30 MB say nothing about the
delivery."""

ENVELOPE_RECIPIENTS: Final = 1000
"""Envelope recipients that are remembered: Postfix's smtpd_recipient_limit."""

MESSAGE_HEADER_BYTES: Final = 262_144
"""Bytes of header fields that the milter keeps: Postfix's own header_size_limit is 100 KiB a field, 250 KiB is its
message header limit in practice; what is beyond passes unread."""

HEADER_BYTES: Final = 1 << 17
"""Bytes of one header block of an entity: Postfix's header_size_limit is 102,400."""

HEADER_FIELDS: Final = 2000
"""Header fields of one block that are read; Sendmail's MaxHeadersLength stops at 32 KB, real mail has some 40 fields."""

HEADER_VALUE: Final = 8192
"""Characters of one field's value that are looked at."""

MIME_PARTS: Final = 200
"""Entities that are read: a report has three, a digest of reports a few dozen."""

MIME_DEPTH: Final = 20
"""Open multiparts: real mail nests five deep, a forwarded report in a report ten."""

MIME_DELIMITERS: Final = 20_000
"""Lines beginning with ``--`` that are looked at: a text table has hundreds."""

MIME_GUESSES: Final = 3
"""Times that a lost boundary is searched for: each search reads up to `HEADER_BYTES` bytes."""

PART_BYTES: Final = 1 << 17
"""Bytes of a part that are decoded: the longest report text seen (AOL, with its style sheet) has 50,000."""

STATUS_LINES: Final = 20_000
"""Lines of one delivery-status part: a list's report with 1,000 recipients has 8,000."""

STATUS_RECIPIENTS: Final = 2000
"""Recipients of one delivery-status part: Postfix's default_recipient_limit is 20,000, a bounce names those of one
queue file."""

JUDGED_RECIPIENTS: Final = 1000
"""Recipients of one report that are judged, as many as Postfix takes in one message; the rest is counted."""

REPORT_WORDINGS: Final = 50
"""Wordings of one report that are judged; a recipient with yet another one is judged by its codes. A real report has
one to five, and each that no rule set has met costs milliseconds: a thousand of them would keep milterd for seconds."""

FEEDBACK_RECIPIENTS: Final = 200
"""Recipients of one complaint: a report on a message to many names them all (Return Path, up to some dozens)."""

JSON_CHARACTERS: Final = 100_000
"""Characters of JSON that are read; SNS sends 256 KB at most, a notification with its headers has some 5."""

JSON_RECIPIENTS: Final = 200
"""Recipients of one notification (SES allows 50 a message)."""

WORDS_CHARACTERS: Final = 60_000
"""Characters of a report's own words that are read: Exim's with 1,000 recipients has 100,000 and names 600 in these."""

WORDS_LINES: Final = 3000
"""Lines that are looked at: a report to a list with 500 dead recipients has 2,000."""

WORDS_LINE: Final = 1000
"""Characters of a line that are looked at for a recipient (RFC 5322, 2.1.1: 998)."""

WORDS_SENTENCES: Final = 6000
"""Characters in which a sentence is looked for that names a recipient: reports say so at once, patterns are many."""

WORDS_RECIPIENTS: Final = 1000
"""Recipients of one report in words."""

TRANSCRIPT_LINES: Final = 2000
"""Lines of Sendmail's transcript that are read."""

TOLD_CHARACTERS: Final = 6000
"""Characters of one recipient's lines that are looked at: a transcript of ten hosts has 3,000."""

TOLD_REASON: Final = 700
"""Characters kept of a reason without a reply code."""

DIAGNOSTIC: Final = 2000
"""Characters of a diagnostic that are kept: the longest real one seen (Microsoft's, with a trace) has 1,500."""

ADDRESS: Final = 320
"""Characters of an address: RFC 5321, 4.5.3.1 grants 64 + 1 + 255."""

ADDED_FIELDS: Final = 20
"""X-Milter-Bounce fields on one message; a report with more recipients is rare and its lines are in the log."""

# -- a reply and the rules that look at it --------------------------------------------------------------

REPLY: Final = 4096
"""Characters of a reply that are looked at: RFC 5321, 4.5.3.1.5 grants 512 a line, real replies have a few lines."""

RULE_WORDS: Final = 1024
"""Characters of a reply that rules look at: two lines of RFC 5321, 4.5.3.1.5. No real reply seen says its reason later,
and words never met before cost RE2 some 20 microseconds a character."""

MATCHED_BYTES: Final = 200
"""Bytes of matched text in a verdict."""

CLOCK_AHEAD: Final = timedelta(days=1)
"""How far ahead of now something remembered may lie when the queue asks: beyond that it was remembered under a wrong
clock and holds nothing back. The hosts of a fleet differ by minutes."""

LOG_BEHIND: Final = timedelta(days=30)
"""The same where an attempt is judged: logs may be read late, so what is remembered may be that much younger."""

EPISODE_GAP: Final = timedelta(days=14)
"""A failure so long after the last one begins a new episode: no retry waits so long. The store keeps them as long."""

STATED_WAIT: Final = timedelta(days=30)
"""A longer time is no waiting time: an expiry date, a typing error or an attack."""

TEMPLATE: Final = 512
"""Characters of a reply that make its template (RFC 5321, 4.5.3.1.5)."""

TEMPLATES: Final = 100_000
"""Templates counted at most; a log with more has no templates."""

LOG_LINE_CUT: Final = 900
"""Characters of a line of Postfix's beyond which a missing end means that it was cut (at 1,024 bytes by RFC 3164 and
old syslog daemons, at 2,000 by Postfix): an address may have filled it with the words of another line."""

LOGGED_TEXT: Final = 512
"""Characters of reply text in a log line: syslog implementations cut lines at 1,024 to 2,048 bytes (RFC 3164: 1,024)."""

ANSWERED_TEXT: Final = 400
"""Characters of an answer: smtpd's reply lines end at 512 octets (RFC 5321, 4.5.3.1.5) and carry the address too."""

# -- logs ---------------------------------------------------------------------------------------------------

LOG_LINE: Final = 16_384
"""Characters of a line that are looked at: rsyslog cuts at 8 KiB by default, Postfix itself at 2,000, Sendmail writes
one line per 1,024 to 2,048."""

STAMP_AHEAD: Final = timedelta(minutes=5)
"""A time stamp further in the future than this is a wrong clock's: the time of reading counts instead."""

LOG_LINE_BYTES: Final = 65_536
"""Bytes without a line end after which logd takes what has come for a line: no program writes such a line."""

PIPE_LINE_BYTES: Final = 1_048_576
"""Bytes of one line of a pipe or of standard input; what is longer is cut there."""

UNPACKED_RATIO: Final = 400
"""Times that a packed log may grow: mail logs pack 10 to 60 times; ten million equal bytes pack 1,000 times (gzip's
limit) and more."""

UNPACKED_FREE_BYTES: Final = 64 << 20
"""So much may come out whatever the ratio: a small file of equal lines packs beyond any ratio."""

XZ_MEMORY_BYTES: Final = 256 << 20
"""``xz -9`` needs 65 MiB to unpack; the header of a hostile file may ask for 4 GiB."""

ROTATED_FILES: Final = 64
"""Rotated logs that are looked through for the place where logd stopped: logrotate keeps 4 to 52."""

WRITTEN_LINE: Final = 2000
"""Characters in a line of ours, all told: rsyslog's default cuts at 8 KiB, syslogd at 2 KiB, RFC 3164 asks for 1 KiB at
least."""

TALLIED_REFUSALS: Final = 20_000
"""Different refusals that are told apart in one piece of a log; beyond it only their categories are counted."""

TALLIED_TEXT: Final = 160
"""Characters of a refusal that tell it apart from others."""

# -- sockets ------------------------------------------------------------------------------------------------

SOCKETMAP_QUESTION_BYTES: Final = 10_000
"""Postfix's socketmap client asks at most this much; more is a stranger."""

SOCKETMAP_ANSWER_BYTES: Final = 100_000
"""Postfix's socketmap client takes at most this much (socketmap_max_reply_size)."""

MEMCACHE_KEY_BYTES: Final = 1_000
"""memcached stops at 250, but Postfix sends any address it has: RFC 5321 (4.5.3.1) allows a path of 256 octets and
Postfix more. A longer key is not found; an error would cost Postfix a second try."""

MEMCACHE_LINE_BYTES: Final = 8_192
"""A command of more is no ``get`` of Postfix's, which asks one key at a time."""

MEMCACHE_VALUE_BYTES: Final = 900
"""Postfix's client reads lines of at most line_size_limit = 1,024 bytes; the answer stays below with room to spare."""

POLICY_REQUEST_BYTES: Final = 65_536
"""Some 40 attributes of Postfix 3.10 with every certificate field filled stay below 10,000 bytes."""

CONNECTIONS: Final = 1000
"""Connections at one time on each socket (default of answer.connections); more are closed at once, which the MTA takes
as "no opinion". Postfix's default_process_limit is 100."""

REQUEST_S: Final = 10
"""Seconds in which a question that has begun must end (default of answer.request_s): a slow-loris holds no longer."""

IDLE_S: Final = 300
"""Seconds after which a silent connection is closed (default of answer.idle_s); Postfix's own clients stay silent for
100 s at most."""

LINES_WAITING: Final = 10_000
"""Log lines that wait for a log that hangs or is away; beyond, lines are lost, never answers or mail."""

# -- DNS ----------------------------------------------------------------------------------------------------

DNS_PAYLOAD_BYTES: Final = 1232
"""UDP bytes we take: what passes every path without fragments (DNS flag day 2020)."""

DNS_NAME_BYTES: Final = 255
"""Bytes of a name on the wire (RFC 1035, 2.3.4)."""

DNS_LABEL_BYTES: Final = 63
"""Bytes of one label (RFC 1035, 2.3.4)."""

DNS_RECORDS: Final = 64
"""Records of an answer that are read: a list has a dozen codes, and no more A records than those."""

DNS_REASON: Final = 400
"""Characters of a TXT reason that are kept."""

MX_HOSTS: Final = 100
"""MX hosts that are looked at; a domain has a few."""

# -- the token ----------------------------------------------------------------------------------------------

TOKEN_RECIPIENTS: Final = 50
"""Recipients with a MAC of eight characters, 450 bytes of header in all. Above it four characters each, up to
ENVELOPE_RECIPIENTS; above those ``r=*``."""

TOKEN_VALUE: Final = 5000
"""Characters of a returned value that are looked at; ours have 4,200 at most, for 1,000 recipients."""

KEYS: Final = 64
"""Keys in one folder: a rotation a week for a year, and then some."""

# -- files ----------------------------------------------------------------------------------------------------

SETTINGS_BYTES: Final = 1_048_576
"""A configuration of more than 1 MiB is some other file."""

RULE_FILE_BYTES: Final = 1_048_576
"""A rule file of more than 1 MiB is some other file."""

RULE_FILES: Final = 1000
"""Local rule files that are read; there are a few."""

LIST_KEYS_BYTES: Final = 65_536
"""A file of list keys has some lines of a hundred bytes."""

SENDMAIL_CF: Final = 4_000_000
"""Characters that are looked at; a sendmail.cf has some 60,000."""

IMPORT_LINE: Final = 65_536
"""Characters of one line of a suppression list."""

IMPORT_ARRAY: Final = 268_435_456
"""Characters of a JSON array: 256 Mi hold more than a million suppressions."""

# -- memory: what outsiders can make us remember ----------------------------------------------------------------

RULE_SET_BYTES: Final = 1 << 20
"""States of each RE2 Set of some 1,200 characters of patterns, a hundred of them; they are made as texts need them, and
thrown away when it is reached. Half of it still missed no match (tried)."""

RULE_BYTES: Final = 8 << 20
"""States of one pattern by itself (RE2's own default)."""

CODES_KEPT: Final = 4096
"""Pairs of codes whose rules are remembered; a hostile sender cannot make it grow beyond."""

HOSTS_KEPT: Final = 8192
"""Host names whose operator is remembered; beyond, it is worked out each time."""

CLIENTS_KEPT: Final = 1024
"""Client addresses of which milterd remembers whether they are in token.networks; the oldest make room."""

DECISIONS_KEPT: Final = 8192
"""Decisions of the rules remembered ..."""

DECISION_WORDS: Final = 600
"""... and the longest words among them: 5 MB at most, whatever is sent to us."""

TEXTS_KEPT: Final = 2048
"""Status texts whose verdict is kept: a remote that refuses one message often refuses the next in the same words."""

POSTFIX_MESSAGES: Final = 200_000
"""Queue IDs whose sender and Message-ID are remembered: about 60 MB when full; few queues hold more."""

SENDMAIL_MESSAGES: Final = 50_000
"""Queue IDs whose sender is remembered: some hours of a busy server, a few MB."""

OPERATORS_KEPT: Final = 50_000
"""Domains whose operator is kept in memory, some 10 MB; beyond it the memory begins anew."""

DOMAINS_KEPT: Final = 50_000
"""Domains that logd remembers to have told the operator of."""

# -- the store ---------------------------------------------------------------------------------------------------

STORED_ADDRESS: Final = 512
"""Characters of an address that are kept as they are: RFC 5321 allows 320 octets."""

EPISODE_TEXT: Final = 256
"""Characters of a recipient's last refusal that are kept: a reply's reason stands at its beginning, and there may be a
million recipients."""

BLOCKS_FOLLOWED: Final = 10_000
"""Blocks that are followed at one time; a host with more of them is not sending mail any more."""

BLOCKS_HELD: Final = 5_000
"""Blocks of single domains at one time: each is read again at every change, and whoever owns a wildcard domain makes as
many as we send him mail. Beyond, each refused recipient is held by itself."""

REFUSALS_READ: Final = 20_000
"""Rows of refusals that are looked at: 2,000 destinations at a threshold of 10."""

SHARE_LOOKED_AT: Final = 20_000
"""Messages of a blocked destination that are looked at for its share, the oldest first."""

FLUSHED_KEPT: Final = 100_000
"""Messages of blocked destinations that are remembered as handed to the MTA."""

SUBJECTS_NAMED: Final = 10_000
"""Subjects named by refusals that are kept; anybody can write a refusal, so their number must end somewhere."""

SUBJECTS_LEARNT: Final = 64
"""Addresses that dnsd watches because refusals name them: a host has a few, and each costs a question per list."""

STORE_ROOM_BYTES: Final = 128 << 20
"""Free bytes below which `check` warns: twice what the store's journal may grow to between two checkpoints."""

PAGE_CACHE_KIB: Final = 8192
"""Pages of the store in the memory of each connection, SQLite's own count; a full one is where a program stops growing."""

LEDGER_CACHE_KIB: Final = 512
"""The same of the ledger, which milterd adds to once a second and never reads."""

REPORT_ROWS: Final = 200_000
"""Rows of believed and disbelieved reports that are kept."""

REPORT_ROWS_WAITING: Final = 10_000
"""Recipients of reports that wait for a store that cannot be written: their rows of the ledger, and what they teach."""

# -- programs that we start ------------------------------------------------------------------------------------------

NOTICES_RUNNING: Final = 8
"""Notices on their way at one time: a flood of blocks must not become a flood of processes."""

QUEUE_LISTING_S: Final = 30.0
"""Seconds for ``postqueue -j``; a queue of 100,000 messages takes a few, a longer one is not compared."""

POSTQUEUE_S: Final = 10.0
"""postqueue answers in milliseconds; one that hangs is left behind."""

SENDMAIL_COMMAND_S: Final = 20.0
"""The command only hands the wish over; one that takes longer waits for a disk and is left behind."""

POSTCONF_S: Final = 30.0
"""postconf and postfix check read a few files; one that takes longer hangs."""

QUARANTINE_REASON: Final = 200
"""Characters of a quarantine reason; it stands in one line of the queue file and in mailq."""
