"""atheris target: the readers of reports on any bytes.

``python tests/fuzz/fuzz_report.py -max_total_time=60 tests/corpus`` (``make fuzz``). An exception is a find: commit
the bytes as tests/corpus/NAME.eml.
"""

import sys

import atheris

with atheris.instrument_imports():
    from milter_bounce.parse import report
    from milter_bounce.system.readers import load_readers

READERS = load_readers().readers


def one_input(data: bytes) -> None:
    """Read one message; nothing may be raised."""
    report.parse_report(data, READERS)


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
