"""Chaos's command: one run with one broker, its report, and a status that says whether all was well."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.chaos.monkey import KINDS
from tests.chaos.run import MOST_SECONDS, Options, Outcome, run
from tests.chaos.stage import BROKERS
from tests.servers import ServerFailed, ServerMissing

__all__ = ["main"]

_HELP = """\
Let orders flow while workers, Beats, the broker and the database are killed; then compare a ledger, which
the handlers wrote, with what was published. Servers are started for the purpose, on loopback ports, and are
gone afterwards. Status 1: something was lost, doubled, out of order, unexplained, pending, or late."""


def main(arguments: Sequence[str] | None = None) -> int:
    given = _parser().parse_args(arguments)
    options = Options(
        broker=given.broker,
        orders=given.orders,
        seconds=given.seconds,
        seed=given.seed,
        pause=given.pause,
        under_way=given.under_way,
        only=tuple(given.only),
        listen=given.listen,
        tick=not given.no_tick,
        sync=not given.no_sync,
    )
    try:
        outcome = run(options, _say)
    except (ServerFailed, ServerMissing, TimeoutError) as error:
        _say(str(error))
        return 1
    except KeyboardInterrupt:
        _say("Stopped.")
        return 130
    path = given.json or Path(f"build/chaos-{options.broker}.json")
    outcome.write(path)
    sys.stdout.write(report(outcome))
    _say(f"All of it: {path}")
    return 0 if outcome.is_clean else 1


def report(outcome: Outcome) -> str:
    """The outcome as a person wants to read it."""
    options, counts = outcome.options, outcome.counts
    clocks = ", ".join(
        f"{name} {seconds:+.0f} s"
        for name, seconds in outcome.clocks.items()
        if seconds is not None
    )
    quiet = "never" if outcome.quiet_after is None else f"{outcome.quiet_after:.1f} s"
    rows = [
        ("broker", f"{options['broker']}{', with a listener' if options['listen'] else ''}"),
        ("seed", options["seed"]),
        ("clocks", clocks),
        *outcome.disturbances.items(),
        ("disturbed for", f"{outcome.disturbed_seconds:.0f} s"),
        ("messages taken from the broker", outcome.messages_taken),
        ("ended by themselves", len(outcome.ended_by_themselves)),
        ("orders", counts["orders"]),
        ("events", counts["events"]),
        *((f"published: {name}", number) for name, number in outcome.published.items()),
        ("commands", counts["commands"]),
        ("commands dispatched again", counts["redispatched"]),
        ("dead letters", counts["letters"]),
        *((name.replace("_", " "), len(faults)) for name, faults in outcome.faults.items()),
        ("quiet after", f"{quiet} (at most {MOST_SECONDS:.0f} s)"),
    ]
    width = max(len(str(name)) for name, _ in rows) + 2
    lines = [f"{name:<{width}}{value}" for name, value in rows]
    lines += [f"! {fault}" for fault in outcome.text.splitlines()]
    lines += [f"  {ended}" for ended in outcome.ended_by_themselves]
    return "\n".join([*lines, "clean" if outcome.is_clean else "NOT CLEAN", ""])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=_HELP)
    parser.add_argument("--broker", choices=tuple(BROKERS), default=Options.broker)
    parser.add_argument("--orders", type=int, default=Options.orders)
    parser.add_argument(
        "--seconds",
        type=float,
        default=Options.seconds,
        help="for how long orders flow, and everything is disturbed",
    )
    parser.add_argument(
        "--seed", type=int, default=Options.seed, help="of everything that is chance"
    )
    parser.add_argument(
        "--pause",
        type=float,
        default=Options.pause,
        help="seconds between two disturbances, on average",
    )
    parser.add_argument(
        "--only",
        action="append",
        choices=tuple(KINDS),
        default=[],
        help="this kind of disturbance, and others that are named likewise (default: all)",
    )
    parser.add_argument(
        "--under-way",
        type=int,
        default=Options.under_way,
        help="how many orders have not ended at most; on a slow machine it takes longer than --seconds",
    )
    parser.add_argument("--listen", action="store_true", help="with PM_CELERY['LISTEN']")
    parser.add_argument(
        "--no-tick", action="store_true", help="without Beat's tick, to see that this loses"
    )
    parser.add_argument(
        "--no-sync",
        action="store_true",
        help="PostgreSQL does not sync, and so is up again in no time; it survives its own death, "
        "not the machine's",
    )
    parser.add_argument(
        "--json", type=Path, metavar="PATH", help="default: build/chaos-BROKER.json"
    )
    return parser


def _say(text: str) -> None:
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stderr.flush()
