"""One JSON object in one line, whatever text stands in it.

Goes in: plain values. Comes out: a line that every reader takes for one line of
UTF-8. Does not: print it.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

_ODD: Final = re.compile("[\x7f-\x9f\u2028\u2029\ud800-\udfff]")
"""What JSON lets stand, but some readers take for the end of a line, or UTF-8 cannot hold."""


def json_line(values: Any) -> str:
    """Return `values` as JSON without line ends of any kind and without halves of surrogate pairs.

    Section: RFC 8259, 7 and 8.1.
    """
    line = json.dumps(values, ensure_ascii=False)
    return line if line.isascii() else _ODD.sub(lambda found: f"\\u{ord(found[0]):04x}", line)
