"""Where mails lie: files, folders, Maildirs, mboxes."""

from milter_bounce.parse.mime import SIZE_LIMIT
from milter_bounce.system.mailfiles import found_in, mails_of

MBOX = b"From a@example.net Thu Apr 29 23:34:45 2026\nSubject: 1\n\none\n\nFrom here on it is text\n\nFrom b@example.net Thu Apr 29 23:34:46 2026\nSubject: 2\n\ntwo\n"


def test_maildir_gives_cur_and_new_and_folder_gives_all(tmp_path):
    """A Maildir's tmp is no mail; another folder is read with its subfolders, hidden files aside."""
    for name in ("cur/1", "new/2", "tmp/3"):
        (tmp_path / "Maildir" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "Maildir" / name).write_bytes(b"x")
    (tmp_path / "plain" / "deep").mkdir(parents=True)
    for name in ("a.eml", ".hidden", "deep/b.eml"):
        (tmp_path / "plain" / name).write_bytes(b"x")
    names = [n.removeprefix(str(tmp_path)) for n in found_in([str(tmp_path / "Maildir"), str(tmp_path / "plain"), "-"])]
    assert names == ["/Maildir/cur/1", "/Maildir/new/2", "/plain/a.eml", "/plain/deep/b.eml", "-"]


def test_mbox_is_divided_by_name_or_when_told(tmp_path):
    """A mail that quotes From lines stays one; an mbox gives each of its mails, From lines in the text aside."""
    for name in ("x.eml", "x.mbox"):
        (tmp_path / name).write_bytes(MBOX)
    assert [n for n, _ in mails_of(str(tmp_path / "x.eml"))] == [str(tmp_path / "x.eml")]
    found = list(mails_of(str(tmp_path / "x.mbox")))
    assert [n.removeprefix(str(tmp_path)) for n, _ in found] == ["/x.mbox", "/x.mbox#2"]
    assert b"one" in found[0][1]
    assert b"two" in found[1][1]
    assert len(list(mails_of(str(tmp_path / "x.eml"), as_mbox=True))) == 2


def test_only_what_is_read_is_kept(tmp_path):
    """A huge file costs its first MiB."""
    (tmp_path / "big.eml").write_bytes(b"x" * (SIZE_LIMIT * 3))
    assert len(next(iter(mails_of(str(tmp_path / "big.eml"))))[1]) == SIZE_LIMIT + 1
