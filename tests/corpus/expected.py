"""What the readers make of an own mail, as JSON: shared by the test and by the command that writes the expectations."""

import json
from pathlib import Path

from milter_bounce.system.readers import load_readers
from milter_bounce.verdict import stamp

MAILS = sorted(Path(__file__).parent.glob("*.eml"))


def expected_of(message: bytes) -> dict:
    """Return a report as plain values; what is not stated is left out."""
    report = load_readers().read(message)
    return _stated(
        {
            "kind": str(report.kind),
            "reader": report.reader,
            "reporting_mta": report.reporting_mta,
            "message_id": report.message_id,
            "envelope_id": report.envelope_id,
            "subject": report.subject,
            "verp_recipient": report.verp_recipient,
            "arrival_date": stamp(report.arrival_date),
            "feedback_type": report.feedback_type,
            "defects": list(report.defects),
            "statuses": [
                _stated(
                    {
                        "recipient": s.recipient,
                        "original_recipient": s.original_recipient,
                        "action": str(s.action),
                        "status": str(s.status) if s.status else None,
                        "reply": s.reply_code,
                        "diagnostic": s.diagnostic,
                        "diagnostic_type": s.diagnostic_type,
                        "remote_mta": s.remote_mta,
                        "remote_ip": s.remote_ip,
                        "command": s.command,
                        "sender": s.sender,
                        "last_attempt": stamp(s.last_attempt),
                        "will_retry_until": stamp(s.will_retry_until),
                        "defects": list(s.defects),
                    }
                )
                for s in report.statuses
            ],
        }
    )


def _stated(values: dict) -> dict:
    return {key: value for key, value in values.items() if value not in (None, [])}


if __name__ == "__main__":
    for mail in MAILS:
        text = json.dumps(expected_of(mail.read_bytes()), ensure_ascii=False, indent=1) + "\n"
        mail.with_suffix(".json").write_text(text, encoding="utf-8")
        print(mail.with_suffix(".json").name)
