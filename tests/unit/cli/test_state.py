"""``milter-bounce blocks|suppressions|recipient|store``."""

from __future__ import annotations

import csv
import io
import json
from datetime import UTC, datetime, timedelta

import pytest

from milter_bounce.delivery import Action, DeliveryStatus, Source
from milter_bounce.verdict import CATEGORIES, Advice, AdviceKind, Classification, FailureClass, Outcome, Suppression

NOW = datetime.now(UTC).replace(microsecond=0)
HOUR = timedelta(hours=1)
WHO = "user@example.net"


def fails(store, who=WHO, queue_id="4cA"):
    default = CATEGORIES["mailbox-full"]
    verdict = Classification(default.class_, "mailbox-full", default.advice, default.scope, "r")
    status = DeliveryStatus(who, Action.DELAYED, queue_id=queue_id, at=NOW, source=Source.LOG)
    advice = Advice(AdviceKind.RETRY, NOW + HOUR, delay=HOUR, counts=FailureClass.SOFT)
    store.record(Outcome(status, verdict, advice), NOW)


# blocks


def test_blocks_add_list_show_lift(run, tmp_path):
    """A block by hand holds, is listed and shown, and is lifted on record in the MTA's log."""
    assert run("blocks", "list").output == "No blocks.\n"
    assert run("blocks", "add", "Yahoo", "--reason", "complaints", "--probe-after", "2").exit_code == 0
    listed = run("blocks", "list")
    assert "yahoo" in listed.output
    assert "complaints" in listed.output
    (block,) = map(json.loads, run("blocks", "list", "--json").output.splitlines())
    assert (block["key"], block["state"], block["lifted_by"]) == ("yahoo", "held", None)
    shown = json.loads(run("blocks", "show", "yahoo", "--json").output)
    assert shown == {**block, "waiting_total": 0, "waiting": []}
    assert "policy-rejection" in run("blocks", "show", "yahoo").output
    assert run("blocks", "lift", "yahoo", "--by", "eve\nil").exit_code == 0
    # added by hand, so lifted by hand for good: nobody has refused anything that a probe could ask about
    assert run("blocks", "list", "--json").output == ""
    lifted = json.loads(run("blocks", "list", "--json", "--all").output)
    assert (lifted["state"], lifted["lifted_by"]) == ("closed", "eve\\nil")
    log = (tmp_path / "mail.log").read_text(encoding="utf-8").splitlines()
    assert len(log) == 2
    assert "notice=block-began" in log[0]
    assert "notice=block-ended" in log[1]


def test_blocks_unknown_key_is_exit_1(run):
    """A key under which nothing is held is named."""
    for words in (("show", "nobody"), ("lift", "nobody")):
        told = run("blocks", *words)
        assert (told.exit_code, "nobody" in told.output) == (1, True)


# suppressions


def test_suppressions_add_show_remove(run, store):
    """By hand on and off; each answer tells how many."""
    assert run("suppressions", "list").output == "No suppressions.\n"
    assert run("suppressions", "add", WHO, "other@example.net", "--reason", "asked").output.startswith("2 added")
    assert json.loads(run("suppressions", "show", WHO.upper(), "--json").output)["reason"] == "asked"
    assert "asked" in run("suppressions", "show", WHO).output
    assert "other@example.net" in run("suppressions", "list").output
    removed = run("suppressions", "remove", WHO, "nobody@example.net")
    assert (removed.exit_code, "1 removed." in removed.output) == (1, True)
    assert run("suppressions", "remove", "other@example.net").exit_code == 0
    assert list(store.suppressions()) == []


@pytest.mark.parametrize("bad", ["nobody", "a b@c.d", "@c.d", "a@", "\udcff@x.y"])
def test_suppressions_add_refuses_no_address(run, store, bad):
    """One bad address, and none is added."""
    told = run("suppressions", "add", WHO, bad)
    assert (told.exit_code, ": no address" in told.output) == (2, True)
    assert list(store.suppressions()) == []


def test_suppressions_show_of_a_stranger_is_exit_1(run):
    """Who is not suppressed is no error, but an answer."""
    assert run("suppressions", "show", WHO).exit_code == 1


@pytest.mark.parametrize("form", ["csv", "json"])
def test_suppressions_export_comes_back_by_import(run, store, form):
    """What one host exports another one takes, whatever stands in the reason."""
    odd = 'said: "550, gone"\nreally; 日本'
    given = [
        Suppression("a@example.net", NOW, "mailbox-full", "r-1", odd, "log"),
        Suppression("b@example.net", NOW - HOUR, "feedback", "r-2", "complained", "feedback"),
    ]
    store.suppress(given)
    exported = run("suppressions", "export", "--format", form).output
    store.unsuppress([s.recipient for s in given])
    taken = run("suppressions", "import", "-", text=exported)
    assert (taken.exit_code, taken.output) == (0, "2 added, 0 suppressed before, 0 bad lines.\n")
    assert list(store.suppressions()) == given


@pytest.mark.parametrize(
    ("text", "addresses", "bad"),
    [
        pytest.param("a@example.net\nb@example.net\n", "ab", [], id="plain-list"),
        pytest.param("a@example.net", "a", [], id="no-line-end"),
        pytest.param("\ufeffrecipient\r\na@example.net\r\n", "a", [], id="byte-order-mark-crlf"),
        pytest.param("reason,recipient\nx,a@example.net\n", "a", [], id="own-order"),
        pytest.param("# list of old\n\na@example.net\n", "a", [], id="comment-and-blank"),
        pytest.param("a@example.net\nnobody\nb@example.net,soon\n", "a", [2, 3], id="bad-address-and-time"),
        pytest.param("a@example.net,,odd\nb@example.net,,,,,nobody\n", "", [1, 2], id="bad-category-and-origin"),
        pytest.param("a@example.net,,,,,,,x\n", "", [1], id="too-many-columns"),
        pytest.param("recipient,colour\na@example.net,red\n", "", [2], id="unknown-column"),
        pytest.param('a@example.net,,,,"two\nlines"\nnobody\nb@example.net\n', "ab", [3], id="quoted-line-break"),
        pytest.param("x" * 70_000 + "\na@example.net\n", "a", [1], id="endless-line"),
        pytest.param("a@example.net\x00\nb@example.net\n", "b", [1], id="nul"),
        pytest.param("a@example.net,9999-12-31T23:59:59-23:59\n", "", [1], id="beyond-all-years"),
        pytest.param('["a@example.net", {"recipient": "b@example.net"}, 5, null]', "ab", [3, 4], id="array"),
        pytest.param('[["a@example.net"]', "", [1], id="array-cut"),
        pytest.param("[" * 100_000, "", [1], id="array-deep"),
        pytest.param(
            '{"recipient": "a@example.net"}\n{"recipient": 5}\n{\n"b@example.net"\n', "ab", [2, 3], id="lines"
        ),
        pytest.param(b"\xff@x.y\na@example.net,,,,\xff\nb@example.net\n", "b", [1, 2], id="no-utf-8"),
        pytest.param('["\\ud800@x.y", "a@example.net"]', "a", [1], id="half-a-pair"),
        pytest.param("", "", [], id="empty"),
    ],
)
def test_suppressions_import_tells_each_bad_line(run, store, text, addresses, bad):
    """Good lines are taken, bad ones told with their number, and the exit status says that there were some."""
    told = run("suppressions", "import", "-", text=text)
    assert [s.recipient for s in store.suppressions()] == [f"{a}@example.net" for a in addresses]
    lines = [int(line.split(":")[1]) for line in told.stderr.splitlines()]
    assert (lines, told.exit_code) == (bad, 1 if bad else 0)


def test_suppressions_import_dry_run_changes_nothing(run, store):
    """A trial tells the bad lines and adds nobody."""
    told = run("suppressions", "import", "-", "--dry-run", text="a@example.net\nnobody\n")
    assert (told.exit_code, "1 good lines, 1 bad lines." in told.output) == (1, True)
    assert list(store.suppressions()) == []


def test_suppressions_large_import_comes_complete(run, store):
    """More than a page, no address lost or doubled."""
    text = "".join(f"u{i}@example.net\n" for i in range(3456))
    assert run("suppressions", "import", "-", text=text).output.startswith("3456 added")
    assert run("suppressions", "import", "-", text=text).output.startswith("0 added, 3456 suppressed before")
    assert len(list(store.suppressions())) == 3456
    rows = list(csv.reader(io.StringIO(run("suppressions", "export").output)))
    assert len(rows) == 3457


# recipient, store


def test_recipient_show(run, store):
    """Episode, bounces, waiting messages and what stands in the way, as table and as JSON."""
    fails(store)
    shown = json.loads(run("recipient", "show", WHO, "--json").output)
    assert (shown["standing"], shown["episode"]["attempts"], shown["waiting"][0]["queue_id"]) == ("retry", 1, "4cA")
    assert shown["bounces"][0]["class"] == "soft"
    table = run("recipient", "show", WHO)
    assert table.exit_code == 0
    assert "episode attempts" in table.output
    assert "waiting 1 queue_id" in table.output


def test_recipient_show_of_a_stranger_is_exit_1(run):
    """Nothing known is told by the exit status."""
    told = run("recipient", "show", WHO, "--json")
    assert (told.exit_code, json.loads(told.output)["standing"]) == (1, "none")


def test_store_check_vacuum_export(run, store):
    """A sound store says so, its rows come as JSON, upkeep tells the bytes."""
    fails(store)
    assert run("store", "check").output.endswith("sound.\n")
    rows = [json.loads(line) for line in run("store", "export").output.splitlines()]
    assert {"recipients", "bounces", "waiting", "counts"} <= {row["table"] for row in rows}
    assert "bytes before" in run("store", "vacuum").output


def test_store_backup_is_a_store(run, store, tmp_path):
    """Whole, for its owner only, never over another file, and good in the place of the first."""
    run("suppressions", "add", WHO)
    copy = tmp_path / "copy.db"
    assert run("store", "backup", str(copy)).exit_code == 0
    assert copy.stat().st_mode & 0o777 == 0o600
    before = copy.read_bytes()
    again = run("store", "backup", str(copy))
    assert (again.exit_code, len(again.output.splitlines()), copy.read_bytes()) == (2, 1, before)
    assert run("store", "backup", str(tmp_path / "none" / "copy.db")).exit_code == 2
    store.close()
    for path in tmp_path.glob("state.db*"):
        path.unlink()
    copy.rename(tmp_path / "state.db")
    assert WHO in run("suppressions", "list").output
    assert run("store", "check").exit_code == 0


def test_damaged_store_says_what_is_lost(run, tmp_path):
    """A new file knows nothing of the old one, and logd begins at the log's end."""
    (tmp_path / "state.db").write_bytes(b"no database at all, and long enough to be sure" * 50)
    told = run("suppressions", "list").output
    assert all(words in told for words in ("suppressions", "are lost", "--from-start", "store backup"))
    assert run("store", "backup", str(tmp_path / "copy.db")).exit_code == 2
    assert not (tmp_path / "copy.db").exists()


def test_store_check_tells_a_fault(run, store):
    """A missing table is a fault, exit status 1, with what to do."""
    store.connection().execute("DROP TABLE counts")
    told = run("store", "check")
    assert told.exit_code == 1
    assert "table counts is missing" in told.output
    assert "backup" in told.output


@pytest.mark.parametrize("words", [("blocks", "list"), ("suppressions", "list"), ("store", "check")])
def test_state_commands_tell_a_store_that_cannot_be_opened(run, tmp_path, words):
    """One line and exit status 2, for a damaged file as for a wrong option."""
    (tmp_path / "state.db").write_bytes(b"no database at all, and long enough to be sure" * 50)
    told = run(*words)
    assert (told.exit_code, len(told.output.splitlines())) == (2, 1)
    (tmp_path / "milter-bounce.toml").write_text("[store]\nfolder = 1\n", encoding="utf-8")
    told = run(*words)
    assert (told.exit_code, "store.folder" in told.output) == (2, True)
