"""One of the crew: ``celery``, on a machine whose clock is wrong."""

from __future__ import annotations

import os
import sys

from tests.chaos.clocks import put_ahead

__all__ = ["CLOCK_VARIABLE", "FOLDER_VARIABLE"]

# How many seconds the clock is ahead, and where a worker says that it is ready.
CLOCK_VARIABLE, FOLDER_VARIABLE = "PM_CHAOS_CLOCK", "PM_CHAOS_FOLDER"

if __name__ == "__main__":
    put_ahead(float(os.environ[CLOCK_VARIABLE]))
    # Only now, because some of it keeps time.time for itself.
    from celery.__main__ import main
    from celery.platforms import set_pdeathsig

    # Nobody is to be left where the run itself is killed.
    set_pdeathsig("SIGKILL")
    sys.exit(main())
