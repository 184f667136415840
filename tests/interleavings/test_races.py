"""Races of two, at every step: each schedule is forced, and none is left to chance.

All of them have one schedule, told here once. Two connections. A does its thing; before its first, second,
… last statement or commit, each in a run of its own, B does its thing, to the end or to a lock of A's that
it has to wait for; then A goes on. So whatever may fall between two statements of A is tried. On SQLite,
where one writes at a time, B comes between A's transactions. After each run everything is let come to rest,
and what must be true of any sequence must be true of this one (`invariants.py`).

Races in which one of the two is inside a handler are told where that handler is: first events of a key in
`test_routing.py`, events of a batch in `test_handling.py`, a command in `test_commands.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import pytest

from pm_celery import execution, outbox, retention, ticks
from pm_celery.exceptions import Refused
from pm_celery.models import DeadLetter, InboxMessage, Instance, OutboxCommand, Timer, Transition
from pm_celery.operations import dead_letters, instances
from tests.interleavings.invariants import broken
from tests.interleavings.operations import COMMON, Operation, options_of
from tests.interleavings.runs import Runs
from tests.interleavings.subject import KEYS, LANES, PROCESS
from tests.interleavings.world import World, forget_rows, world
from tests.testapp.models import Effect

pytestmark = pytest.mark.django_db(transaction=True)

KEY, LANE = KEYS[0], LANES[0]
OPTIONS = {
    **options_of(0),
    "BATCH_SIZE": 500,
    "BATCH_SECONDS": 1e6,
    "ADVANCE_SECONDS": 1e6,
    "COMMANDS_PER_MESSAGE": 1,
    "slow": False,
}
Deed = Callable[[], object]


class Race:
    """Lets B meet A at every step of A, in a world that begins with the same operations each time."""

    def __init__(self, runs: Runs) -> None:
        self.runs = runs
        self.refusals: list[str] = []

    def each(self, before: Sequence[Operation], a: Deed, b: Deed) -> Iterator[World]:
        """For each step of A, a world in which both are done."""
        after: int | None = 0
        while after is not None:
            forget_rows()
            self.refusals.clear()
            with world(OPTIONS, self.runs.events, self.runs.pair) as made:
                self.made = made
                for operation in before:
                    made.apply(operation)
                came_after = made.together(a, [after, 999], b)
                yield made
                made.settle(to_the_end=False)
                found = broken(made, after_timeouts=False)
                assert found == [], f"B came after {came_after} steps of A"
            assert came_after is not None or after > 1, "A did nothing that B could come into"
            after = None if came_after is None else came_after + 1

    def do(self, *operations: Operation) -> Deed:
        def run() -> None:
            for operation in operations:
                self.made.apply(operation)

        return run

    def verb(self, do: Deed) -> Deed:
        """An operator's verb, who is told why it was refused."""

        def run() -> None:
            try:
                do()
            except Refused as refused:
                self.refusals.append(str(refused))

        return run


@pytest.fixture
def race() -> Iterator[Race]:
    with Runs() as runs:
        yield Race(runs)


@pytest.fixture(params=["A and B", "B and A"])
def in_turn(request: pytest.FixtureRequest) -> Callable[[Deed, Deed], tuple[Deed, Deed]]:
    """Both ways round."""
    return lambda a, b: (a, b) if request.param == "A and B" else (b, a)


def publish(word: str, *do: str, id_: str | None = None) -> Operation:
    return ["publish", [[id_ or word, word, KEY, list(do)]], True]


STARTED = [publish("opened", "set a 60"), ["rest"]]
FAILED = [
    *STARTED,
    ["poison", f"poked {KEY}", 2],
    publish("poked"),
    ["rest"],
    ["jump", 2],
    ["tick"],
    ["rest"],
]
COMMANDED = [publish("opened", "send"), ["deliver", 0]]


def steps() -> list[tuple[str, str]]:
    found = Transition.objects.order_by("instance_id", "number")
    return [(kind, name.removeprefix("fuzz.")) for kind, name in found.values_list("kind", "name")]


def the_instance() -> Instance:
    return Instance.objects.get(process=PROCESS, key=KEY)


def letter_of(name: str) -> int:
    # The id, however many runs there were before.
    return DeadLetter.objects.filter(name=name, process=PROCESS).latest("pk").pk


def the_command() -> OutboxCommand:
    return OutboxCommand.objects.get()


# -- workers among themselves ------------------------------------------------------------------------


def test_two_first_events_of_a_key_give_one_instance_on_workers_in_two_lanes(race: Race) -> None:
    """A advances the lane of the key's partition, B the common one; two start events are there.

    Without ON CONFLICT where the instance is created this fails."""
    before = [publish("opened", id_="first"), publish("opened", id_="second")]

    for _ in race.each(before, race.do(["advance", LANE]), race.do(["advance", COMMON])):
        ids = Transition.objects.order_by("number").values_list("message_id", flat=True)
        assert list(ids) == ["first", "second"]


def test_two_workers_at_one_instance_handle_each_event_once(race: Race) -> None:
    """As before, with an instance that is there already. Without its lock this fails."""
    before = [*STARTED, publish("poked"), publish("early")]

    for made in race.each(before, race.do(["advance", LANE]), race.do(["advance", COMMON])):
        made.obey_all()
        assert steps() == [("event", "Opened"), ("event", "Poked"), ("event", "Early")]


def test_an_event_that_comes_while_a_worker_is_there_needs_no_tick(race: Race) -> None:
    """A advances the common lane, where one event is; B publishes another one of its instance.

    Without the last look, after the mark of the lane is removed, this fails."""
    before = [publish("opened")]

    for made in race.each(before, race.do(["deliver", 0]), race.do(publish("poked"))):
        made.obey_all()
        assert made.forgotten() == []


def test_an_event_whose_publisher_commits_late_needs_no_tick(race: Race) -> None:
    """A publishes; B is a worker that was woken before: it looks, rests and leaves at any moment of that.

    With the wake-up sent before the commit, and not after it, this fails."""
    before = [publish("opened")]

    for made in race.each(before, race.do(publish("poked")), race.do(["deliver", 0])):
        made.obey_all()
        assert made.forgotten() == []


def test_two_dispatchers_send_a_stranded_command_once(race: Race) -> None:
    """A and B both find a command whose lease has ended, as two ticks do.

    Without the row's lock, or the comparison of its moment under it, this fails."""
    before = [*COMMANDED, ["lose", 0], ["jump", 25.0]]

    for made in race.each(before, outbox.dispatch_due, outbox.dispatch_due):
        assert [kind for kind, _ in made.mail].count("run") == 1
        assert the_command().dispatches == 2


@pytest.mark.parametrize("dispatched_before", [False, True])
def test_a_command_that_comes_twice_takes_effect_once(race: Race, dispatched_before: bool) -> None:
    """Conformance 35. A and B run one command; once as it is dispatched first, once as after a lost message,
    when its run is counted, and committed, before.

    Without the done mark, or the question for it under the lock, this fails."""
    before = [*COMMANDED, ["lose", 0], ["jump", 25.0], ["tick"]] if dispatched_before else COMMANDED

    def run() -> object:
        return execution.run(str(the_command().command_id))

    for _ in race.each(before, run, run):
        assert the_command().status == "done"
        assert Effect.objects.filter(name__startswith="command").count() == 1
        assert InboxMessage.objects.filter(name="fuzz.Done").count() == 1


# -- time --------------------------------------------------------------------------------------------


def test_two_ticks_fire_a_timer_once(race: Race) -> None:
    """A and B tick, and a timer is due."""
    before = [*STARTED, ["jump", 61.0]]

    for made in race.each(before, ticks.tick, ticks.tick):
        made.obey_all()
        assert steps() == [("event", "Opened"), ("timer", "a")]
        assert not Timer.objects.exists()


def test_a_timer_has_fired_before_the_event_that_cancels_it_or_never_fires(
    race: Race, in_turn: Callable[[Deed, Deed], tuple[Deed, Deed]]
) -> None:
    """A handles the event that cancels a timer which is due, B ticks and handles what that puts into the
    inbox; and the other way round.

    Without the comparison of what has fired with what stands, this fails."""
    before = [*STARTED, ["jump", 61.0], publish("poked", "unset a")]
    outcomes = set()

    both = in_turn(race.do(["advance", LANE]), race.do(["tick"], ["advance", COMMON]))
    for made in race.each(before, *both):
        made.settle(to_the_end=False)
        outcomes.add(tuple(name for _, name in steps()))
        assert not Timer.objects.exists()

    # The event was committed before the timer entered the inbox.
    assert outcomes == {("Opened", "Poked")}


def test_a_timer_that_is_moved_while_it_fires_fires_at_one_of_its_moments(
    race: Race, in_turn: Callable[[Deed, Deed], tuple[Deed, Deed]]
) -> None:
    """A handles an event that sets a timer again which is due, B ticks; and the other way round."""
    before = [*STARTED, ["jump", 61.0], publish("poked", "set a 5")]

    both = in_turn(race.do(["advance", LANE]), race.do(["tick"]))
    for made in race.each(before, *both):
        made.settle(to_the_end=False)
        assert steps() == [("event", "Opened"), ("event", "Poked"), ("timer", "a")]


# -- operators ---------------------------------------------------------------------------------------


def test_an_event_is_handled_before_the_cancellation_or_skipped_after_it(
    race: Race, in_turn: Callable[[Deed, Deed], tuple[Deed, Deed]]
) -> None:
    """A handles an event, B cancels the instance; and the other way round.

    Without the lock of either of them this fails."""
    cancel = race.verb(lambda: instances.cancel(the_instance().pk))
    outcomes = set()

    both = in_turn(race.do(["advance", LANE]), cancel)
    for made in race.each([*STARTED, publish("poked")], *both):
        made.settle(to_the_end=False)
        status = InboxMessage.objects.get(message_id="poked", process=PROCESS).status
        outcomes.add((status, tuple(kind for kind, _ in steps())))
        assert race.refusals == []
        assert not Timer.objects.exists()

    assert outcomes <= {
        ("handled", ("event", "event", "cancelled")),
        ("skipped", ("event", "cancelled")),
    }


def test_of_two_operators_who_retry_one_letter_one_succeeds_and_the_other_is_told(
    race: Race,
) -> None:
    """Conformance 43. A and B retry.

    Without the comparison of the letter's status under its lock this fails."""
    retry = race.verb(lambda: dead_letters.retry(letter_of("fuzz.Poked")))

    for made in race.each(FAILED, retry, retry):
        assert race.refusals == ["already settled"]
        made.settle(to_the_end=False)
        kinds = [kind for kind, _ in steps()]
        assert kinds.count("resumed") == 1
        assert kinds[-1] in ("event", "timer")


def test_a_letter_is_retried_or_discarded_and_never_both(
    race: Race, in_turn: Callable[[Deed, Deed], tuple[Deed, Deed]]
) -> None:
    """A retries, B discards and leaves the instance failed for good; and the other way round."""
    retry = race.verb(lambda: dead_letters.retry(letter_of("fuzz.Poked")))
    discard = race.verb(lambda: dead_letters.discard(letter_of("fuzz.Poked"), resume=False))

    for _ in race.each(FAILED, *in_turn(retry, discard)):
        assert len(race.refusals) == 1
        status = DeadLetter.objects.get().status
        message = InboxMessage.objects.get(message_id="poked", process=PROCESS)
        ended = the_instance().ended_at is not None
        assert (status, message.status, ended) in {
            ("retried", "pending", False),
            ("discarded", "discarded", True),
        }


def test_what_comes_while_an_instance_is_started_again_comes_behind_what_was_parked(
    race: Race, in_turn: Callable[[Deed, Deed], tuple[Deed, Deed]]
) -> None:
    """Conformance 41. An event is parked behind a failure. A retries the letter, B publishes another one
    and advances; and the other way round.

    With parked events let through, this fails."""
    before = [*FAILED, publish("early", id_="parked"), ["rest"]]
    retry = race.verb(lambda: dead_letters.retry(letter_of("fuzz.Poked")))

    both = in_turn(retry, race.do(publish("early", id_="later"), ["advance", COMMON]))
    for made in race.each(before, *both):
        made.settle(to_the_end=False)
        rows = Transition.objects.filter(kind="event").order_by("number")
        ids = list(rows.values_list("message_id", flat=True))
        assert ids == ["opened", "poked", "parked", "later"]


def test_what_an_operator_retries_is_not_pruned(
    race: Race, in_turn: Callable[[Deed, Deed], tuple[Deed, Deed]]
) -> None:
    """Conformance 27. An instance ended long ago, with a dead command. A prunes, B retries the command's
    letter; and the other way round."""
    before = [
        publish("opened", "send", "complete"),
        ["poison", f"command {KEY}", 2],
        ["rest"],
        ["jump", 2],
        ["tick"],
        ["rest"],
        ["jump", 3 * 86400.0],
    ]
    retry = race.verb(lambda: dead_letters.retry(letter_of("fuzz.Do")))

    both = in_turn(partial(retention.prune, "1d"), retry)
    for made in race.each(before, *both):
        assert race.refusals == []
        made.settle(to_the_end=False)
        assert the_command().status == "done"
        assert steps() == [("event", "Opened")]
