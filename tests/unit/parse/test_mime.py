"""The walk over a message: parts, depths, broken boundaries, codings and charsets."""

import pytest

from milter_bounce.parse.mime import SIZE_LIMIT, decode_text, read_message


def shape(data: bytes) -> list[tuple[str, int, bytes]]:
    return [(p.type, p.depth, p.body.strip()) for p in read_message(data).parts]


def test_message_without_mime_is_one_text_part():
    """RFC 2045, 5.2: no Content-Type means text/plain."""
    assert shape(b"Subject: x\n\nhello\n") == [("text/plain", 0, b"hello")]


def test_parts_come_in_order_with_their_depth():
    """A returned message's header and body lie one envelope deeper."""
    mail = b"Content-Type: multipart/report; boundary=a\n\npre\n--a\n\none\n--a\nContent-Type: message/rfc822\n\nSubject: y\n\ntwo\n--a--\nafter\n"
    assert shape(mail) == [("text/plain", 0, b"one"), ("message/rfc822", 1, b""), ("text/plain", 1, b"two")]


@pytest.mark.parametrize(
    ("mail", "expected"),
    [
        pytest.param(b"Content-Type: multipart/mixed; boundary=a\n\n--a\n\none", [b"one"], id="no-end-boundary"),
        pytest.param(b"Content-Type: multipart/mixed; boundary=wrong\n\n--a\nContent-Type: text/plain\n\none\n--a--", [b"one"], id="wrong-boundary"),
        pytest.param(b"Content-Type: multipart/mixed; boundary=gone\n\njust text\n", [b"just text"], id="no-parts-at-all"),
        pytest.param(b'Content-Type: multipart/mixed; boundary*0="a"; boundary*1="b"\n\n--ab\n\none\n--ab--', [b"one"], id="rfc2231"),
        pytest.param(b'Content-Type: multipart/mixed;\n boundary="a b"\n\n--a b  \n\none\n--a b--', [b"one"], id="blanks-after-boundary"),
        pytest.param(b"From x Thu Apr 29 23:34:45 2015\nSubject: x\n\none", [b"one"], id="mbox-line"),
        pytest.param(b"\n\n\nSubject: x\n\none", [b"one"], id="blank-lines-first"),
        pytest.param(b"Content-Type: multipart/mixed; boundary=a\n\n--a\nContent-Type: text/plain\n--a\n\ntwo\n--a--", [b"", b"two"], id="part-without-body"),
    ],
)  # fmt: skip
def test_broken_structures_give_their_text(mail, expected):
    """What was meant to be read is read."""
    assert [body for _, _, body in shape(mail)] == expected


def test_boundary_reused_when_nesting_ends_both():
    """A boundary used by parent and child must not make the walk go round."""
    mail = b'Content-Type: multipart/mixed; boundary="a"\n\n--a\nContent-Type: multipart/mixed; boundary="a"\n\n--a\n\nx\n--a--\n'
    assert b"x" in [body for _, _, body in shape(mail)]


@pytest.mark.parametrize(
    "ends",
    [pytest.param(b"\n", id="lf"), pytest.param(b"\r\n", id="crlf"), pytest.param(b"\r", id="cr")],
)
def test_any_line_end_is_read(ends):
    """CRLF, LF and bare CR give the same parts."""
    mail = b"Content-Type: multipart/mixed; boundary=a\n\n--a\n\none\n--a\n\ntwo\n--a--\n".replace(b"\n", ends)
    assert [body for _, _, body in shape(mail)] == [b"one", b"two"]


def test_message_stored_as_utf16_is_read():
    """A mail that a Windows tool saved as UTF-16 is what it was before."""
    assert shape("Subject: x\n\nhello".encode("utf-16"))[0][2] == b"hello"


@pytest.mark.parametrize("coding", ["base64", "quoted-printable"])
def test_encoded_message_is_opened(coding):
    """A message/rfc822 part in base64 or quoted-printable is a message all the same."""
    inner = {"base64": b"U3ViamVjdDogeQoKdHdvCg==", "quoted-printable": b"Subject: y\n\ntwo=20"}[coding]
    mail = b"Content-Type: message/rfc822\nContent-Transfer-Encoding: " + coding.encode() + b"\n\n" + inner
    assert [(t, d) for t, d, _ in shape(mail)] == [("message/rfc822", 1), ("text/plain", 1)]


@pytest.mark.parametrize(
    ("raw", "charset", "text"),
    [
        pytest.param("Grüße".encode(), "", "Grüße", id="utf8-undeclared"),
        pytest.param("Grüße".encode("latin-1"), "", "Grüße", id="latin1-undeclared"),
        pytest.param("配信".encode("iso2022_jp"), "iso-2022-jp", "配信", id="iso-2022-jp"),
        pytest.param("配信".encode("iso2022_jp"), "", "配信", id="iso-2022-jp-undeclared"),
        pytest.param("配信".encode("cp932"), "Shift_JIS", "配信", id="shift-jis"),
        pytest.param("退信".encode("gbk"), "gb2312", "退信", id="gbk-as-gb2312"),
        pytest.param("반송".encode("cp949"), "ks_c_5601-1987", "반송", id="korean"),
        pytest.param("“x”".encode("cp1252"), "iso-8859-1", "“x”", id="cp1252-as-latin1"),
        pytest.param(b"a+AOQ-b", "unicode-1-1-utf-7", "aäb", id="utf-7"),
        pytest.param("weiß".encode(), "x-nonsense", "weiß", id="unknown"),
        pytest.param(b"abc", "hex", "abc", id="codec-that-is-no-charset"),
        pytest.param("x".encode("utf-16"), "utf-16", "x", id="utf-16"),
    ],
)
def test_charsets_are_read(raw, charset, text):
    """By the stated name, by a better name for it, or by what the bytes look like."""
    assert decode_text(raw, charset) == text


def test_size_limit_is_noted():
    """Beyond the limit nothing is read, and the report says so."""
    message = read_message(b"Subject: x\n\n" + b"y" * SIZE_LIMIT)
    assert message.defects == ("cut-at-size-limit",)
    assert len(message.parts[0].body) <= SIZE_LIMIT
