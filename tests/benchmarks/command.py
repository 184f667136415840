"""The benchmark's command: which scenarios, how often, on which database; then the report."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tests.benchmarks import report
from tests.benchmarks.results import CheckFailed, Result
from tests.benchmarks.stage import Stage
from tests.benchmarks.workers import Stalled
from tests.servers import ServerFailed, ServerMissing

if TYPE_CHECKING:
    from types import ModuleType

    from tests.benchmarks.variants import Variant

__all__ = ["main"]

_COMPARED = ("backlog", "stream", "latency")
_SINGLE = ("publish_cost", "publish_many")
_SCENARIOS = (*_COMPARED, *_SINGLE, "replay")

_HELP = """\
Measure pm_celery beside what it replaces: the same orders as tasks written by hand, as bare tasks, and
by plain psycopg. Servers are started for the purpose, on loopback ports, and are gone afterwards."""

_EPILOG = """\
scenarios (default: all; with --quick all but replay):
  backlog       what is there before the clock starts is worked off
  stream        two publishers, one event to a transaction, and two workers
  latency       50 events a second: from publishing to the start of the command's handler
  publish_cost  what publishing adds to a transaction
  publish_many  one call with 20,000 events
  replay        manage.py replay_log of the example project, on a real event log

Every run is checked before its figures count: each event once and in order, each command once. A check
that fails ends the benchmark with status 1. tests/benchmarks/README.md says how to read the figures."""


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    orders, rounds = (200, 1) if options.quick else (options.orders, options.rounds)
    results: list[Result] = []
    try:
        with Stage(options.database) as stage:
            for result in _run_all(stage, _chosen(options), orders, rounds):
                results.append(result)
                _say(report.line(result))
            about = report.about(stage, orders, rounds)
    except CheckFailed as error:
        _say(f"A check failed: {error}")
        return 1
    except (ServerFailed, ServerMissing, Stalled) as error:
        _say(str(error))
        return 1
    except KeyboardInterrupt:
        _say("Stopped.")
        return 130
    sys.stdout.write(report.text(results, about))
    report.write_json(options.json, results, about)
    _say(f"Every run: {options.json}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks",
        description=_HELP,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help="see below")
    parser.add_argument(
        "--orders",
        type=_positive,
        default=2000,
        help="orders of a run, three events each; the engine alone and the floor get ten times as "
        "many (default: 2000)",
    )
    parser.add_argument(
        "--rounds", type=_positive, default=3, help="how often; medians count (default: 3)"
    )
    parser.add_argument(
        "--database",
        choices=("postgres", "sqlite", "mysql"),
        default="postgres",
        help="mysql starts a MariaDB (default: postgres)",
    )
    parser.add_argument(
        "--json",
        type=Path,
        default=Path("build/bench.json"),
        metavar="PATH",
        help="where every run is written (default: build/bench.json)",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="200 orders, one round: shows that it works, says little about speed",
    )
    parser.add_argument("--replay", action="store_true", help="the replay too, with --quick")
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("give 1 or more")
    return number


def _chosen(options: argparse.Namespace) -> list[str]:
    unknown = set(options.scenarios) - set(_SCENARIOS)
    if unknown:
        _parser().error(f"no scenario {', '.join(sorted(unknown))}; there are {_SCENARIOS}")
    chosen = set(options.scenarios or (_SCENARIOS[:-1] if options.quick else _SCENARIOS))
    if options.replay:
        chosen.add("replay")
    return [name for name in _SCENARIOS if name in chosen]


def _run_all(stage: Stage, scenarios: Sequence[str], orders: int, rounds: int) -> Iterator[Result]:
    for name in scenarios:
        if name in _COMPARED:
            yield from _compared(stage, name, orders, rounds)
        elif name == "replay":
            yield from _replay(stage, orders)
        else:
            for number in range(1, rounds + 1):
                yield from _scenario(name).run(stage, orders, number)


def _compared(stage: Stage, name: str, orders: int, rounds: int) -> Iterator[Result]:
    """Variants take turns within a round, and every other round goes backwards."""
    scenario = _scenario(name)
    kinds: list[Callable[[], Variant]] = []
    for kind in scenario.VARIANTS:
        if reason := kind.missing(stage.database):
            _say(f"{name}: {kind.name} is skipped: {reason}")
        else:
            kinds.append(kind)
    for number in range(1, rounds + 1):
        for kind in kinds if number % 2 else reversed(kinds):
            yield scenario.run(stage, kind(), orders, number)


def _replay(stage: Stage, orders: int) -> Iterator[Result]:
    scenario = _scenario("replay")
    if reason := scenario.missing(stage):
        _say(f"replay is skipped: {reason}")
    else:
        yield from scenario.run(stage, orders, 1)


def _scenario(name: str) -> ModuleType:
    # Only now, because their modules need Django to be set up.
    from importlib import import_module

    return import_module(f"tests.benchmarks.scenarios.{name}")


def _say(text: str) -> None:
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stderr.flush()
