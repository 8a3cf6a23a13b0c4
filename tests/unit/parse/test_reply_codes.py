"""Which reply code and status a text tells of, and where a quoted reply begins."""

import pytest

from milter_bounce.parse.reply import codes_in, reply_start


@pytest.mark.parametrize(
    ("text", "reply", "status"),
    [
        pytest.param("550 5.1.1 user unknown", 550, "5.1.1", id="plain"),
        pytest.param("550-5.7.26 a 550 5.7.26 b", 550, "5.7.26", id="continued"),
        pytest.param("550 #5.1.0 Address rejected.", 550, "5.1.0", id="hash"),
        pytest.param("5.1.0 - Unknown address error 550-'5.7.1 <x>... Access denied'", 550, "5.7.1", id="ironport"),
        pytest.param("554 4.4.7 Message expired: unable to deliver in 840 minutes.<421 4.4.2 timed out>", 421, "4.4.2", id="cause-before-expiry"),
        pytest.param("550 4.4.7 QUEUE.Expired; message expired", 550, "4.4.7", id="expiry-alone"),
        pytest.param("501 Rcpt-To failed: 5.7.1 not configured to relay", 501, "5.7.1", id="status-later"),
        pytest.param("220-mx 421 4.2.1 Service refuse", 421, "4.2.1", id="behind-a-greeting"),
        pytest.param("Sorry, no mailbox here by that name. (#5.1.1)", None, "5.1.1", id="qmail"),
        pytest.param("host mx said: 550 no", 550, None, id="said"),
        pytest.param("ERROR_CODE :550, ERROR_CODE :5.1.1 <x>", 550, "5.1.1", id="zoho"),
        pytest.param("Exim 4.92.3 and 192.0.2.5.1.1 at 5.5.2652.78", None, None, id="versions-and-addresses"),
        pytest.param("we tried for 450 hours and 500 messages", None, None, id="counts"),
        pytest.param("call us at 555 1234", None, None, id="telephone"),
        pytest.param("", None, None, id="empty"),
    ],
)  # fmt: skip
def test_codes_in_text(text, reply, status):
    """The first refusal's own codes; the cause before a mere "given up"; never a version or a count."""
    found = codes_in(text)
    assert (found.reply, str(found.status) if found.status else None) == (reply, status)


@pytest.mark.parametrize(
    ("text", "begins"),
    [
        pytest.param("  host mx [192.0.2.1]: 550 5.1.1 no", "550 5.1.1", id="exim"),
        pytest.param("Remote host said:\n550 5.1.1 no", "550 5.1.1", id="next-line"),
        pytest.param("returned '550 5.1.10 RESOLVER'", "550 5.1.10", id="quoted"),
        pytest.param("(reason: 550 5.1.1 no)", "550 5.1.1", id="bracketed"),
        pytest.param("5.3.0 - Other problem 554-'Blocked'", "5.3.0", id="status-first"),
        pytest.param("nothing here", None, id="none"),
    ],
)
def test_reply_start(text, begins):
    """The place where the quotation begins."""
    at = reply_start(text)
    assert at is None if begins is None else text[at:].startswith(begins)
