"""What all tests share: where the project and the material beside it lie."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("MILTER_BOUNCE_SHARED", ROOT.parent / "shared"))
