"""The command line: ``python -m tests.benchmarks``."""

from __future__ import annotations

import sys

from tests.benchmarks.command import main

if __name__ == "__main__":
    sys.exit(main())
