"""One run: the market opens, the monkey plays, then all is left in peace, and judged."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.chaos.crew import Crew
from tests.chaos.monkey import KINDS, Monkey
from tests.chaos.stage import Stage

if TYPE_CHECKING:
    from tests.chaos.market import Market

__all__ = ["MOST_SECONDS", "Options", "Outcome", "run"]

# Within so many seconds of the last disturbance all must be quiet; how long we watch it otherwise.
MOST_SECONDS = 30.0
_PATIENCE_SECONDS = 60.0
# It is over, if for so long not one order ended.
_STALLED_SECONDS = 45.0
# What was delivered twice is to have its chance to take effect twice.
_LINGER_SECONDS = 2.0
_POLL_SECONDS = 0.25
_LOOK_SECONDS = 0.5
_PROGRESS_SECONDS = 5.0

# A lease is doubled with each dispatch: by default, what was lost twice is found after a minute.
PM_CELERY: dict[str, Any] = {"COMMAND_LEASE": "3s"}


@dataclass(frozen=True)
class Options:
    broker: str = "redis"
    orders: int = 5000
    seconds: float = 90.0
    seed: int = 1
    pause: float = 1.5
    only: tuple[str, ...] = ()
    listen: bool = False
    under_way: int = 60
    tick: bool = True
    sync: bool = True


@dataclass
class Outcome:
    """What happened, for the report and for JSON."""

    options: dict[str, Any]
    kinds: list[str]
    disturbances: dict[str, int]
    last_disturbance: str
    disturbed_seconds: float
    quiet_after: float | None
    messages_taken: int
    clocks: dict[str, float | None]
    started: dict[str, int]
    ended_by_themselves: list[str]
    published: dict[str, int]
    counts: dict[str, int]
    faults: dict[str, list[str]]
    text: str
    logs: str = ""

    @property
    def is_late(self) -> bool:
        return self.quiet_after is None or self.quiet_after > MOST_SECONDS

    @property
    def is_clean(self) -> bool:
        return not self.is_late and not any(self.faults.values())

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=2) + "\n")


def run(options: Options, say: Callable[[str], None]) -> Outcome:
    """Run it; needs several minutes with the default options."""
    settings = {**PM_CELERY, "LISTEN": options.listen}
    if not options.tick:
        settings["TICK_SECONDS"] = None
    with Stage(options.broker, json.dumps(settings), sync=options.sync) as stage:
        # Only now, because they need Django to be set up.
        from tests.chaos.market import Market

        with Crew(stage.folder) as crew:
            clocks = {
                member.name: crew.clock_of(member) for member in crew.members if member.is_worker
            }
            market = Market(options.orders, options.seconds * 0.95, options.seed, options.under_way)
            monkey = Monkey(stage, crew, options.seed, options.pause, options.only)
            say(f"Everything runs; {options.orders} orders in {options.seconds:.0f} s.")
            began = time.monotonic()
            market.open()
            try:
                quiet_after = None
                if _disturb(options, market, monkey, say, began):
                    say(f"Left in peace after: {monkey.last}.")
                    quiet_after = _wait_until_quiet(market, monkey, say)
                    time.sleep(_LINGER_SECONDS)
            finally:
                market.close()
            logs = crew.logs(60)
        return _judge(options, market, monkey, crew, clocks, began, quiet_after, logs)


def _disturb(
    options: Options, market: Market, monkey: Monkey, say: Callable[[str], None], began: float
) -> bool:
    """Until everything is published, at least for so many seconds. False: orders no longer ended."""
    from django.db import Error, connection

    from tests.chaos import back_office, verdict

    next_word = next_look = moved_at = began
    while time.monotonic() - began < options.seconds or not market.is_done:
        monkey.play()
        if time.monotonic() > next_look:
            next_look = time.monotonic() + _LOOK_SECONDS
            try:
                back_office.settle_letters()
                ended = verdict.ended()
            except Error:
                # The database was restarted since; the letters wait.
                connection.close()
            else:
                if ended > market.ended:
                    market.ended, moved_at = ended, time.monotonic()
        if time.monotonic() - moved_at > _STALLED_SECONDS:
            say(f"No order has ended for {_STALLED_SECONDS:.0f} s.")
            return False
        if time.monotonic() > next_word:
            next_word += _PROGRESS_SECONDS
            broken = ", ".join(f"{kind} {number}" for kind, number in monkey.done.items())
            say(f"orders: {market.placed} placed, {market.ended} ended; {broken or 'all well'}")
        time.sleep(0.02)
    if monkey.done:
        monkey.bow_out()
    return True


def _wait_until_quiet(market: Market, monkey: Monkey, say: Callable[[str], None]) -> float | None:
    """The seconds from the last disturbance until nothing was pending; None if that never came."""
    from django.db import connection

    from tests.chaos import back_office, verdict

    # It was open before the database was restarted.
    connection.close()
    expected = sum(order.fate != "ghost" for order in market.all)
    next_word = time.monotonic()
    while (waited := time.monotonic() - monkey.last_at) < _PATIENCE_SECONDS:
        back_office.settle_letters()
        unended = expected - verdict.ended()
        left = verdict.pending()
        if not unended and not any(left.values()):
            return waited
        if time.monotonic() > next_word:
            next_word += _PROGRESS_SECONDS
            say(f"{unended} not ended; " + ", ".join(f"{left[name]} {name}" for name in left))
        time.sleep(_POLL_SECONDS)
    return None


def _judge(
    options: Options,
    market: Market,
    monkey: Monkey,
    crew: Crew,
    clocks: dict[str, float | None],
    began: float,
    quiet_after: float | None,
    logs: str,
) -> Outcome:
    from tests.chaos import verdict

    found = verdict.judge(market.all)
    return Outcome(
        options=asdict(options),
        kinds=list(KINDS),
        disturbances=dict(monkey.done),
        last_disturbance=monkey.last,
        disturbed_seconds=monkey.last_at - began,
        quiet_after=quiet_after,
        messages_taken=monkey.messages_taken,
        clocks=clocks,
        started={member.name: member.started for member in crew.members},
        ended_by_themselves=crew.ended_by_themselves,
        published={
            "events": market.events,
            "repeated transactions": market.repeated,
            "doubled clicks": market.twice,
        },
        counts={
            name: getattr(found, name)
            for name in ("orders", "events", "commands", "letters", "redispatched")
        },
        faults=found.faults,
        text=found.text(),
        logs=logs,
    )
