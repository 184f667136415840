"""Growth: what becomes of the figures where there is much of something. PostgreSQL only.

``python -m tests.benchmarks.growth`` runs all parts on servers of its own.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path

from tests.benchmarks import report
from tests.benchmarks.growing.figures import Figure, Sizes
from tests.benchmarks.results import CheckFailed
from tests.benchmarks.stage import Stage
from tests.benchmarks.workers import Stalled
from tests.servers import ServerFailed, ServerMissing

__all__ = ["main"]

_PARTS = ("full", "long", "storm", "hot", "waits", "memory", "rows")

_EPILOG = """\
parts (default: all):
  full    the engine, the tick and one event alone: full tables beside empty ones
  long    an event of an instance that has 10,000 transitions
  storm   100,000 timers due at one moment, and fresh events meanwhile
  hot     every second event is for one instance: the latency of the others
  waits   handlers that wait: four processes beside one
  memory  a worker's process after 150,000 events beside after 10,000
  rows    bytes of disk that a row of each table takes, indexes included

Every figure is printed once the run's counts and order are checked. A check that fails ends the
benchmark with status 1; a goal that is missed does not."""


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    sizes = Sizes(options.instances or (20_000 if options.quick else 1_000_000), options.quick)
    found: list[Figure] = []
    try:
        with Stage("postgres") as stage:
            about = _about(stage, sizes)
            for figure in _figures(stage, options.parts, sizes):
                found.append(figure)
                sys.stdout.write(f"{figure.line()}\n")
                sys.stdout.flush()
    except CheckFailed as error:
        _say(f"A check failed: {error}")
        return 1
    except (ServerFailed, ServerMissing, Stalled) as error:
        _say(str(error))
        return 1
    except KeyboardInterrupt:
        _say("Stopped.")
        return 130
    finally:
        if found:
            _write(options.json, about, found)
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.growth",
        description="Measure pm_celery where there is much of something.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help="see below")
    parser.add_argument(
        "--instances", type=int, metavar="N", help="what fills the tables (default: 1,000,000)"
    )
    parser.add_argument("--json", type=Path, default=Path("build/growth.json"), metavar="PATH")
    parser.add_argument(
        "--quick", action="store_true", help="a twentieth of the sizes: shows that it works"
    )
    options = parser.parse_args(arguments)
    if unknown := set(options.parts) - set(_PARTS):
        parser.error(f"no part {', '.join(sorted(unknown))}; there are {', '.join(_PARTS)}")
    options.parts = [part for part in _PARTS if not options.parts or part in options.parts]
    return options


def _figures(stage: Stage, parts: Sequence[str], sizes: Sizes) -> Iterator[Figure]:
    for part in parts:
        _say(f"{part} …")
        # Only now, because the modules need Django to be set up.
        yield from import_module(f"tests.benchmarks.growing.{part}").run(stage, sizes)


def _about(stage: Stage, sizes: Sizes) -> dict[str, object]:
    about = report.about(stage, 0, 0)
    del about["orders"], about["rounds"]
    return about | {"instances": sizes.instances, "quick": sizes.quick}


def _write(path: Path, about: dict[str, object], figures: Sequence[Figure]) -> None:
    document = {"about": about, "figures": [figure.as_json() for figure in figures]}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")


def _say(text: str) -> None:
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
