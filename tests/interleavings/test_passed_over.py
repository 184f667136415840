"""A message whose instance somebody holds is passed over, and does not wait for the tick.

Whoever holds the instance looks again after the commit, or wakes somebody who does. So if every wake-up
is obeyed, nothing is due when none is outstanding. SQLite passes nothing over: there one writes at a time.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from pm_celery.models import Timer
from pm_celery.operations import dead_letters, instances, timers
from tests.interleavings.operations import Operation
from tests.interleavings.subject import LANES
from tests.interleavings.test_races import (
    FAILED,
    OPTIONS,
    STARTED,
    Deed,
    Race,
    letter_of,
    publish,
    race,
    the_instance,
)
from tests.interleavings.world import forget_rows, world

__all__ = ["race"]

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.postgresql]

VERBS: dict[str, tuple[Sequence[Operation], Deed]] = {
    "cancel": (STARTED, lambda: instances.cancel(the_instance().pk)),
    "fire the timeout": (STARTED, lambda: instances.fire_timeout(the_instance().pk)),
    "cancel a timer": (STARTED, lambda: timers.cancel(Timer.objects.get().pk)),
    "retry": (FAILED, lambda: dead_letters.retry(letter_of("fuzz.Poked"))),
    "discard": (FAILED, lambda: dead_letters.discard(letter_of("fuzz.Poked"))),
    "give up": (FAILED, lambda: dead_letters.discard(letter_of("fuzz.Poked"), resume=False)),
}


@pytest.mark.parametrize("verb", VERBS)
def test_what_comes_while_an_operator_holds_the_instance_needs_no_tick(
    race: Race, verb: str
) -> None:
    """A is the operator; B publishes an event of the instance, and obeys the wake-up."""
    before, do = VERBS[verb]

    for made in race.each(before, do, race.do(publish("early", id_="meanwhile"), ["rest"])):
        made.obey_all()
        assert made.forgotten() == []


@pytest.mark.parametrize("verb", ["advance", "cancel", "fire the timeout", "cancel a timer"])
@pytest.mark.parametrize("steps_before", [1, 2])
def test_what_a_worker_passed_over_needs_no_tick_when_it_is_free_again(
    race: Race, verb: str, steps_before: int
) -> None:
    """A is woken and claims an event; B locks its instance (another worker does, or an operator); A passes
    the event over, and takes one step after another; before each of them, each in a run of its own, B
    commits and publishes one event more. Nobody is woken for that one: A is there.
    """
    do = VERBS[verb][1] if verb in VERBS else None
    for steps_of_b in (2, 4, 6):
        for steps_after in range(1, 9):
            forget_rows()
            with world(OPTIONS, race.runs.events, race.runs.pair) as made:
                race.made = made
                for operation in [*STARTED, publish("early", id_="passed over")]:
                    made.apply(operation)
                a = race.do(["deliver", 0])
                b = [do or race.do(["advance", LANES[0]]), race.do(publish("early", id_="after"))]
                turns = [steps_before, steps_of_b, steps_after, 999]

                made.together(a, turns, lambda deeds=b: [deed() for deed in deeds])
                made.obey_all()
                assert made.forgotten() == [], turns


@pytest.mark.parametrize("first", [0, 10])
def test_nothing_waits_for_the_tick_if_every_wake_up_is_obeyed(race: Race, first: int) -> None:
    """In any order of events, two things at a time, as long as nothing fails and time stands nearly still."""
    for seed in range(first, first + 10):
        failed = race.runs.seed(seed, 60, obedient=True)
        assert failed is None, str(failed)
