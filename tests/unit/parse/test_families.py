"""Families with a layout of their own: every record of a report is read, and each ends where the next begins."""

import time

import pytest

from milter_bounce.parse.families import OWN_LAYOUT
from milter_bounce.parse.mime import read_message
from milter_bounce.parse.report import parse_report
from milter_bounce.parse.view import View
from milter_bounce.system.readers import load_readers

READERS = load_readers().readers
FROM = "MAILER-DAEMON@mx.example.net"
BY_ZOHO = "This message was created automatically by mail delivery software.\nA message that you sent could not be delivered.\n\n"
BY_DOMINO = "Your message\n\n  Subject: Spring letter\n\n"


def bounce(words, returned=""):
    """Return a report in words, with a returned message where its fields are given."""
    original = f"\n\n   ----- Original message follows -----\n\n{returned}\n" if returned else "\n"
    fields = f"Return-Path: <>\nFrom: {FROM}\nTo: news@example.org\nSubject: Undeliverable: Spring letter\n\n"
    return f"{fields}{words}{original}".encode()


def told(words, returned=""):
    """Return recipient, status, reply and diagnostic of each recipient."""
    report = parse_report(bounce(words, returned), READERS)
    return [
        (s.recipient, str(s.status) if "status-derived" not in s.defects else None, s.reply_code, s.diagnostic)
        for s in report.statuses
    ]


def reasons(words, returned=""):
    """Return recipient and diagnostic of each recipient."""
    return [(recipient, diagnostic) for recipient, _, _, diagnostic in told(words, returned)]


DOMINO = [
    pytest.param(
        "was not delivered to:\n\n  a@example.com\n\nbecause:\n\n  Database is full\n\n"
        "and was not delivered to:\n\n  b@example.com\n\nbecause:\n\n  User b (b@example.com) not listed in Domino Directory\n",
        [("a@example.com", "Database is full"), ("b@example.com", "User b (b@example.com) not listed in Domino Directory")],
        id="two",
    ),
    pytest.param(
        "was not delivered to:\n\n  a@example.com\n  b@example.com\n\nbecause:\n\n  No route\n\n"
        "was not delivered to:\n\n  c@example.com\n\nbecause:\n\n  Quota\n",
        [("a@example.com", "No route"), ("b@example.com", "No route"), ("c@example.com", "Quota")],
        id="several-share-one-reason",
    ),
    pytest.param(
        "was not delivered to:\n\n  a@example.com\n\nbecause:\n\n  Quota\n\n"
        "was not delivered to:\n\n  Ann Example/Firm\n\nbecause:\n\n  User not unique\n",
        [("a@example.com", "Quota")],
        id="no-address",
    ),
    pytest.param(
        "wurde nicht zugestellt an:\n\n  a@example.com\n\nweil:\n\n  Datenbank voll\n\n"
        "wurde nicht zugestellt an:\n\n  b@example.com\n\nGrund:\n\n  Nicht verzeichnet\n",
        ["a@example.com", "b@example.com"],
        id="another-label",
    ),
    pytest.param(
        "------- Failure Reasons  --------\n\nUser not listed in public Name & Address Book\na@example.com\nb@example.com\n\n"
        "------- Failure Reasons  --------\n\nDisk full\nc@example.com\n\n------- Returned Message --------\n",
        [("a@example.com", "User not listed in public Name & Address Book"),
         ("b@example.com", "User not listed in public Name & Address Book"), ("c@example.com", "Disk full")],
        id="sections",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("words", "expected"), DOMINO)
def test_domino_record_ends_at_the_next(words, expected):
    """Each recipient has its own reason, in "was not delivered to" records as in sections."""
    found = reasons(BY_DOMINO + words)
    assert (found if isinstance(expected[0], tuple) else [recipient for recipient, _ in found]) == expected


def test_family_without_its_layout_is_read_by_the_general_reader():
    """The phrases that tell a family may stand in a report that has no record of its layout."""
    assert reasons("a@example.com: User a not listed in Domino Directory\n") == [
        ("a@example.com", "User a not listed in Domino Directory")
    ]
    for read in OWN_LAYOUT.values():
        assert read(View(read_message(bounce("nothing of the kind")), READERS)) == []


def test_domino_fields_are_corrected_by_their_own_record():
    """Where the words hold several records, the one about the same name has what the sender wrote."""
    words = "".join(
        f"was not delivered to:\n\n  {name}@example.com\n\nbecause:\n\n  {reason}\n\n"
        for name, reason in (("b", "Database is full"), ("a", "User a (a@example.com) not listed in Domino Directory"))
    )
    message = (
        f"Return-Path: <>\nFrom: {FROM}\nTo: news@example.org\nSubject: DELIVERY FAILURE\n"
        'Content-Type: multipart/report; report-type=delivery-status; boundary="b"\n\n'
        f"--b\n\n{BY_DOMINO}{words}\n--b\nContent-Type: message/delivery-status\n\nReporting-MTA: dns; hub.example.net\n\n"
        "Final-Recipient: rfc822; a@inner.example.net\nAction: failed\nStatus: 5.1.1\n"
        "Diagnostic-Code: X-Notes; User a (a@example.com) not listed in Domino Dir\n ectory\n\n--b--\n"
    )
    status = parse_report(message.encode(), READERS).statuses[0]
    assert (status.recipient, status.diagnostic) == (
        "a@example.com",
        "User a (a@example.com) not listed in Domino Directory",
    )


ZOHO = [
    pytest.param(
        "a@example.com, ERROR CODE :550 - 5.1.1 User unknown\nb@example.com, ERROR CODE :552 - 5.2.2 Mailbox full\n",
        [("a@example.com", "550 5.1.1 User unknown"), ("b@example.com", "552 5.2.2 Mailbox full")],
        id="two-lines",
    ),
    pytest.param(
        "a@example.com Invalid Address, ERROR_CODE :550, ERROR_CODE :5.1.1\n<a@example.com>... User unknown\n"
        "b@example.com Error, ERROR_CODE :421, ERROR_CODE :, Host not\nreachable.\n\nGoodbye\n",
        [("a@example.com", "550 5.1.1 <a@example.com>... User unknown (Invalid Address)"),
         ("b@example.com", "421 Host not reachable. (Error)")],
        id="reply-goes-on",
    ),
    pytest.param(
        "a@example.com, ERROR CODE :550 - 5.1.1 User unknown\nb@example.com, Host not reachable\n",
        [("a@example.com", "550 5.1.1 User unknown"), ("b@example.com", "Host not reachable")],
        id="one-without-code",
    ),
    pytest.param(
        "a@example.com, b@example.com, ERROR CODE :550 - 5.1.1 User unknown\n",
        [("a@example.com", "550 5.1.1 User unknown"), ("b@example.com", "550 5.1.1 User unknown")],
        id="shared-line",
    ),
    pytest.param(
        "a@example.com, ERROR CODE :550 - 5.1.1 User unknown\n[Status: Error, Address: <b@example.com>, ResponseCode 421, , Host not reachable.]\n",
        [("a@example.com", "550 5.1.1 User unknown"), ("b@example.com", "421 Host not reachable.")],
        id="status-line-below",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("words", "expected"), ZOHO)
def test_zoho_recipient_ends_at_the_next(words, expected):
    """A line is a recipient, unless it goes on with the reply of the line above."""
    assert reasons(BY_ZOHO + words) == expected


BY_EXCHANGE = "Delivery has failed to these recipients or groups:\n\n{}\nDiagnostic information for administrators:\n\nGenerating server: ex.example.com\n\n{}\n"
UNKNOWN = "a@example.com\n#550 5.1.1 RESOLVER.ADR.RecipNotFound; not found ##\n\n"
NOT_FOUND = ("a@example.com", "550 5.1.1 RESOLVER.ADR.RecipNotFound; not found")
FULL = ("b@example.com", "552 5.2.2 mailbox full")
PEOPLE = "a@example.com<mailto:a@example.com>\nThe address couldn't be found.\n\nb@example.com<mailto:b@example.com>\nThe mailbox is full.\n\n"

EXCHANGE = [
    pytest.param("", "b@example.com\n#< #5.2.2 smtp;552 5.2.2 mailbox full> #SMTP#\n", FULL, id="enclosed"),
    pytest.param("", "b@example.com\nmx.example.com #<mx.example.com #5.2.2 smtp;552 5.2.2 mailbox full> #SMTP#\n", FULL, id="enclosed-behind-host"),
    pytest.param("", "b@example.com\nmx.example.com\n#<mx.example.com #5.2.2 SMTP;552 5.2.2 mailbox full> #SMTP#\n", FULL, id="enclosed-below-host"),
    pytest.param("", "b@example.com\nmx.example.com #552 5.2.2 mailbox full ##\n", FULL, id="marked-behind-host"),
    pytest.param("", "b@example.com\n#552 5.2.2 mailbox full #SMTP#\n", FULL, id="marked-smtp"),
    pytest.param("", "b@example.com\n#552 mailbox full (#5.2.2) ##\n", ("b@example.com", "552 mailbox full (#5.2.2)"), id="mark-in-reply"),
    pytest.param("", "b@example.com\n#552 5.2.2 mailbox\nfull ##\n", FULL, id="marked-two-lines"),
    pytest.param("", "b@example.com<mailto:b@example.com>\nRemote Server returned '552 5.2.2 mailbox full'\n", FULL, id="link-behind-address"),
    pytest.param(PEOPLE, "b@example.com\n#<mx.example.com #5.2.2> #SMTP#\n", ("b@example.com", "5.2.2 The mailbox is full."), id="bare-status"),
    pytest.param(PEOPLE, "", ("b@example.com", "The mailbox is full."), id="named-to-people-only"),
]  # fmt: skip


@pytest.mark.parametrize(("people", "other", "expected"), EXCHANGE)
@pytest.mark.parametrize("first", [pytest.param(True, id="first"), pytest.param(False, id="last")])
def test_exchange_writes_replies_in_several_ways(people, other, expected, first):
    """A reply in another form than its neighbour's is read, before it as behind it."""
    found = reasons(BY_EXCHANGE.format(people, other + UNKNOWN if first else UNKNOWN + other))
    assert sorted(found) == [NOT_FOUND, expected]


def test_exchange_group_has_not_failed_because_a_member_has():
    """The part for people names the group, the other one the member."""
    group = "all@example.com<mailto:all@example.com>\nThe address couldn't be found.\n\n"
    assert reasons(BY_EXCHANGE.format(group, UNKNOWN)) == [NOT_FOUND]


def test_exchange_names_the_host_that_refused():
    """Behind the address or in the brackets, not the server that wrote the report."""
    words = BY_EXCHANGE.format(
        "",
        "b@example.com\n#<mx.example.org #5.2.2 smtp;552 full> #SMTP#\n\na@example.com\nmx.example.net #550 5.1.1 no ##\n",
    )
    assert [s.remote_mta for s in parse_report(bounce(words), READERS).statuses] == ["mx.example.org", "mx.example.net"]


def test_exchange_recipient_by_name_ends_the_lines_of_the_last():
    """Exchange 5.5 names people of its address book without an address: their reason is not the one of who stands above."""
    words = (
        "Your message\n\n  To: a\n\ndid not reach the following recipient(s):\n\n"
        "SMTP:a@example.com on Fri, 6 Mar 2026 09:01:00 -0000\n    The recipient name is not recognized\n\n"
        "Example, Ann on Fri, 6 Mar 2026 09:01:00 -0000\n    The mailbox is full\n\n"
        "b@example.com on Fri, 6 Mar 2026 09:01:00 -0000\n    The message is too large\n"
    )
    assert reasons(words) == [
        ("a@example.com", "The recipient name is not recognized"),
        ("b@example.com", "The message is too large"),
    ]


BY_SENDMAIL = "   ----- The following addresses had permanent fatal errors -----\n{}\n   ----- Transcript of session follows -----\n{}"
BY_FULL = "<b@example.com>\n    (reason: 552 5.2.2 <b@example.com>... Mailbox full)\n"
REMOTE_FULL = "... while talking to mx.example.com.:\n>>> DATA\n<<< 552 5.2.2 <b@example.com>... Mailbox full\n554 5.0.0 Service unavailable\n"
SENDMAIL_FULL = ("b@example.com", "552 5.2.2 <b@example.com>... Mailbox full")
TO_ANN = "Received: by mx.example.org; Fri, 6 Mar 2026 09:00:00 +0000\nFrom: news@example.org\nTo: Ann <ann@example.com>, Bob <bob@example.net>\nSubject: Spring letter"

SENDMAIL = [
    pytest.param(
        '"|/usr/local/bin/sort -x"\n    (reason: 2)\n    (expanded from: <ann@example.com>)\n', "sh: sort: not found\n554 5.3.0 unknown mailer error 2\n",
        ("ann@example.com", "554 5.3.0 unknown mailer error 2"), id="program"),
    pytest.param(
        '"|/usr/local/bin/sort -x"\n    (reason: Can\'t create output)\n    (expanded from: <ann@example.com>)\n', '550 5.0.0 "|/usr/local/bin/sort -x"... Can\'t create output\n',
        ("ann@example.com", '550 5.0.0 "|/usr/local/bin/sort -x"... Can\'t create output'), id="program-in-transcript"),
    pytest.param(
        '"|IFS=\' \' && exec \\"sort\\" || exit 75 #ann"\n    (reason: Broken pipe)\n    (expanded from: <ann@example.com>)\n', "",
        ("ann@example.com", "Broken pipe"), id="quotes-in-program"),
    pytest.param(
        "/home/ann/archive\n    (reason: cannot create)\n    (expanded from: ann)\n", "",
        ("ann@example.com", "cannot create"), id="file-of-local-alias"),
    pytest.param(
        ":include:/etc/mail/list\n    (reason: Cannot open /etc/mail/list: No such file)\n    (expanded from: <ann@example.com>)\n", "",
        ("ann@example.com", "Cannot open /etc/mail/list: No such file"), id="include"),
    pytest.param("ann\n    (reason: 550 5.1.1 User unknown)\n", "550 5.1.1 ann... User unknown\n", ("ann@example.com", "550 5.1.1 ann... User unknown"), id="local-name"),
    pytest.param("<ann>\n", "550 5.1.1 <ann>... User unknown\n", ("ann@example.com", "550 5.1.1 <ann>... User unknown"), id="local-name-in-brackets"),
]  # fmt: skip


@pytest.mark.parametrize(("head", "said", "expected"), SENDMAIL)
@pytest.mark.parametrize("first", [pytest.param(True, id="first"), pytest.param(False, id="last")])
def test_sendmail_lists_programs_and_local_names_among_addresses(head, said, expected, first):
    """Neither is lost, and neither lends its alias or its reason to the address above it."""
    listed, session = (head + BY_FULL, said + REMOTE_FULL) if first else (BY_FULL + head, REMOTE_FULL + said)
    report = parse_report(bounce(BY_SENDMAIL.format(listed, session), TO_ANN), READERS)
    assert sorted((s.recipient, s.diagnostic) for s in report.statuses) == [expected, SENDMAIL_FULL]
    assert {s.original_recipient for s in report.statuses} == {None}


def test_sendmail_name_that_nobody_bears_is_no_recipient():
    """A local name that the returned message was not sent to names nobody, and its reason belongs to nobody else."""
    words = BY_SENDMAIL.format("<b@example.com>\ncarl\n    (reason: 550 5.1.1 User unknown)\n", "")
    assert [
        (recipient, diagnostic) for recipient, diagnostic in reasons(words, TO_ANN) if "unknown" in (diagnostic or "")
    ] == []


def test_sendmail_list_below_the_transcript_counts():
    """Old versions put the list behind it; one that the transcript names does not hide the others."""
    words = (
        "   ----- Transcript of session follows -----\n550 5.1.1 <a@example.com>... User unknown\n"
        "   ----- The following addresses had permanent fatal errors -----\n<a@example.com>\n"
        "<b@example.com>\n    (reason: 552 5.2.2 Mailbox full)\n"
    )
    assert reasons(words) == [("a@example.com", "550 5.1.1 User unknown"), ("b@example.com", "552 5.2.2 Mailbox full")]


@pytest.mark.parametrize(
    ("remote", "own", "expected"),
    [
        pytest.param("550 Unknown", "550 5.1.1", "5.1.1", id="own-alone"),
        pytest.param("550 5.2.1 Unknown", "550 5.1.1", "5.2.1", id="remote-first"),
        pytest.param("450 Try later", "550 5.1.1", None, id="another-class"),
        pytest.param("550 Unknown", "550", None, id="neither"),
    ],
)
def test_sendmail_states_the_status_that_the_remote_reply_lacks(remote, own, expected):
    """Its own line says in words what its Status field says in a standard report."""
    words = BY_SENDMAIL.format(
        "<a@example.com>\n", f">>> RCPT To:<a@example.com>\n<<< {remote}\n{own} <a@example.com>... User unknown\n"
    )
    assert [status for _, status, _, _ in told(words)] == [expected]


BY_GROUPWISE = "The message that you sent was undeliverable to the following:\n{}"
WITH_SESSION = "The attached file had the following undeliverable recipient(s):\n{}\nTranscript of session follows:\n\t550 5.1.1 No such user\n"

GROUPWISE = [
    pytest.param(BY_GROUPWISE.format("\tann (user not found)\n\tb@example.com (mailbox full)\n"), [("ann@example.com", "(user not found)"), ("b@example.com", "(mailbox full)")], id="name-first"),
    pytest.param(BY_GROUPWISE.format("\tb@example.com (mailbox full)\n\tann (user not\n\tfound)\n"), [("b@example.com", "(mailbox full)"), ("ann@example.com", "(user not found)")], id="name-last-and-folded"),
    pytest.param(BY_GROUPWISE.format("\tann (ann@example.com) user not found\n\tb@example.com (mailbox full)\n"), [("ann@example.com", "user not found"), ("b@example.com", "(mailbox full)")], id="name-and-address"),
    pytest.param(BY_GROUPWISE.format("\tcarl (user not found)\n\tb@example.com (mailbox full)\n\tcarla (user not found)\n"), [("b@example.com", "(mailbox full)")], id="names-not-written-to"),
    pytest.param(BY_GROUPWISE.format("\tann (550 5.1.1 User not found)\n\tbob (mailbox full)\n"), [("ann@example.com", "550 5.1.1 User not found"), ("bob@example.net", "(mailbox full)")], id="two-names"),
    pytest.param(WITH_SESSION.format("\tann\n\tb@example.com\n"), [("ann@example.com", "550 5.1.1 No such user"), ("b@example.com", "550 5.1.1 No such user")], id="session-below"),
    pytest.param(WITH_SESSION.format("\tann\n\tb@example.com (mailbox full)\n"), [("ann@example.com", "550 5.1.1 No such user"), ("b@example.com", "(mailbox full)")], id="session-below-a-reason"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "expected"), GROUPWISE)
def test_groupwise_names_its_own_recipients_without_domain(words, expected):
    """The returned To completes the name where one address has it; an unknown name lends its reason to nobody."""
    assert reasons(words, TO_ANN) == expected


def test_groupwise_name_that_two_addresses_bear_is_not_completed():
    """Nobody knows which of them failed."""
    words = BY_GROUPWISE.format("\tann (user not found)\n\tb@example.com (mailbox full)\n")
    assert reasons(words, f"{TO_ANN}\nCc: ann@example.net") == [("b@example.com", "(mailbox full)")]


HOSTILE = {
    "domino": BY_DOMINO + "was not delivered to:\n" * 20_000 + "because:\n a@example.com",
    "domino-because": BY_DOMINO + "was not delivered to:\na@example.com\nbecause:\n" * 4000,
    "domino-sections": "------- Failure Reasons -------\n" * 5000 + "a@example.com",
    "exchange-addresses": BY_EXCHANGE.format("", "a@b\n" * 20_000),
    "exchange-two-addresses": BY_EXCHANGE.format("", "a@b\nc@d\n" * 10_000),
    "exchange-quotes": BY_EXCHANGE.format("", ("a@b\n" + "' " * 80 + "'4" + "'" * 900 + "\n") * 60),
    "exchange-marks": BY_EXCHANGE.format("", "a@b\nx #<x #5.1.1 smtp;<<<<\n" * 3000),
    "exchange-brackets": BY_EXCHANGE.format("", "a@b\n#<x #5.1.1 smtp;" + "<>" * 30_000),
    "exchange-dates": BY_EXCHANGE.format("", "a@b on 1 Mar 09:01\n\nx on" + " on" * 30 + " 9:0\n\n" * 600),
    "sendmail-names": BY_SENDMAIL.format("ann\n(" * 10_000, "550 ann... x\n" * 3000),
    "sendmail-programs": BY_SENDMAIL.format('"|' + '|"' * 30_000, '550 "|' + '"...' * 10_000),
    "sendmail-numbers": BY_SENDMAIL.format("ann\n(reason: 2)\n" * 3000, "mailer error 3\n" * 2500),
    "sendmail-details": BY_SENDMAIL.format("ann\n" + "(expanded from: (reason: " * 2000, ""),
    "sendmail-sections": BY_SENDMAIL.format("", "-- the following addresses --\n" * 2000),
    "sendmail-dashes": BY_SENDMAIL.format("", "-- the following addresses " + "-" * 50_000),
    "groupwise-names": BY_GROUPWISE.format("\tann (user not found\n" * 3000),
    "groupwise-reason": BY_GROUPWISE.format("\tann (x\n" + "going on and on\n" * 4000),
    "groupwise-lists": "undeliverable to the following:\n" * 2000,
    "groupwise-blanks": BY_GROUPWISE.format("\tann" + " " * 50_000 + "("),
    "zoho": BY_ZOHO + "a@example.com, ERROR CODE :" * 20_000,
    "zoho-lines": BY_ZOHO + "a@example.com, ERROR CODE :550\nb@example.com, x\n" * 10_000,
    "zoho-blanks": BY_ZOHO + "a@example.com" + " " * 60_000 + "ERROR CODE :",
}


@pytest.mark.parametrize("words", [pytest.param(words, id=name) for name, words in HOSTILE.items()])
def test_hostile_words_are_read_in_time(words):
    """Repeating a layout's marks costs no more than reading it: well below a second, where quadratic search takes many."""
    start = time.process_time()
    parse_report(bounce(words, "To: " + "ann@example.com, " * 4000), READERS)
    assert time.process_time() - start < 2
