"""Makes the example project's modules importable as it imports them itself."""

from __future__ import annotations

import sys
from pathlib import Path

EXAMPLE_PROJECT = str(Path(__file__).resolve().parents[2] / "example_project")

if EXAMPLE_PROJECT not in sys.path:
    sys.path.insert(0, EXAMPLE_PROJECT)
