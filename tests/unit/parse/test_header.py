"""Header fields: encoded words, parameters, dates, ids."""

from datetime import UTC, datetime

import pytest

from milter_bounce.parse.header import date_of, decoded, fields_of, message_id_of, parameter


@pytest.mark.parametrize(
    ("value", "text"),
    [
        pytest.param("=?utf-8?B?R3LDvMOfZQ==?=", "Grüße", id="base64"),
        pytest.param("=?utf-8?B?R3LDvMOfZQ?=", "Grüße", id="base64-without-padding"),
        pytest.param("=?iso-8859-1?Q?Non_remis=A0=3A_x?=", "Non remis\xa0: x", id="quoted"),
        pytest.param("=?utf-8?Q?a?=\n =?utf-8?Q?b?= c", "ab c", id="two-words-and-text"),
        pytest.param("a\n b", "a b", id="folded"),
        pytest.param("=?utf-8?B?%%%?=", "=?utf-8?B?%%%?=", id="broken"),
        pytest.param("=?x-none?Q?abc?=", "abc", id="unknown-charset"),
        pytest.param(None, "", id="absent"),
    ],
)
def test_encoded_words_are_read(value, text):
    """RFC 2047, and what real mail makes of it."""
    assert decoded(value).strip("\x00") in {text, text.replace("=?utf-8?B?%%%?=", "")}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param('multipart/report; boundary="a;b"', "a;b", id="quoted"),
        pytest.param("multipart/report; Boundary=ab; x=y", "ab", id="token"),
        pytest.param("multipart/report; boundary = ab", "ab", id="blanks"),
        pytest.param("multipart/report; boundary*=us-ascii''ab", "ab", id="rfc2231-charset"),
        pytest.param("multipart/report; xboundary=no", "", id="other-name"),
        pytest.param(None, "", id="absent"),
    ],
)
def test_parameters_are_found(value, expected):
    """RFC 2045, 5.1 and RFC 2231."""
    assert parameter(value, "boundary") == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param("Fri, 6 Mar 2026 10:00:00 +0100 (CET)", datetime(2026, 3, 6, 9, tzinfo=UTC), id="comment"),
        pytest.param("Fri,  6 Mar 2026 10:00:00 -0000", datetime(2026, 3, 6, 10, tzinfo=UTC), id="no-zone"),
        pytest.param("Fri, 99 Foo 2026", None, id="nonsense"),
        pytest.param("Fri, 6 Mar 2026 10:00:00 +9999", None, id="impossible-zone"),
        pytest.param("", None, id="empty"),
    ],
)
def test_dates_are_aware_utc_or_none(value, expected):
    """RFC 5322, 3.3; nonsense is None, never an exception."""
    assert date_of(value) == expected


def test_fields_keep_order_and_find_the_first():
    """Two fields of one name: `get` gives the first, `all` both."""
    fields = fields_of("A: 1\nB: 2\nnonsense\na: 3\n\tfolded\n")
    assert [name for name, _ in fields] == ["A", "B", "a"]
    assert fields.get("a") == "1"
    assert fields.all("a") == ["1", "3\n\tfolded"]
    assert len(fields) == 3


@pytest.mark.parametrize(("value", "expected"), [("<a@b>", "a@b"), (" a@b (x)", "a@b"), ("", None), (None, None)])
def test_message_ids_lose_their_brackets(value, expected):
    """RFC 5322, 3.6.4."""
    assert message_id_of(value) == expected
