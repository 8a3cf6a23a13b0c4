"""Reports written for the tests: what a remote system sends back."""

from __future__ import annotations


def dsn(
    *recipients: str,
    said: str = "550 5.1.1 User unknown",
    status: str = "5.1.1",
    action: str = "failed",
    headers: str = "From: <news@home.example>\nMessage-ID: <1@home.example>\nSubject: news\n",
    to: str = "news@home.example",
    fields: str = "",
) -> str:
    """Return an RFC 3464 report as text with LF line ends; `fields` stand in each recipient's group besides."""
    groups = "\n".join(
        f"{fields}Final-Recipient: rfc822;{r}\nAction: {action}\nStatus: {status}\nDiagnostic-Code: smtp; {said}\n"
        for r in recipients
    )
    return f"""\
From: Mail Delivery Subsystem <MAILER-DAEMON@mx.remote.example>
To: <{to}>
Subject: Undelivered Mail Returned to Sender
Message-ID: <report@mx.remote.example>
MIME-Version: 1.0
Content-Type: multipart/report; report-type=delivery-status; boundary="=_r"

--=_r
Content-Type: text/plain

Your mail could not be delivered.

--=_r
Content-Type: message/delivery-status

Reporting-MTA: dns; mx.remote.example

{groups}
--=_r
Content-Type: text/rfc822-headers

{headers}
--=_r--
"""
