"""The search: breadth first, so that what is found is found by the shortest way."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

from pm_celery.testing.exploration.checks import Checks, Found, never_ends, raised
from pm_celery.testing.exploration.fingerprint import fingerprint
from pm_celery.testing.exploration.model import Faults, Model
from pm_celery.testing.exploration.steps import Step, possible
from pm_celery.testing.memory.instance import Memory
from pm_celery.testing.scenario import Scenario

__all__ = ["Search"]


@dataclass(slots=True, eq=False)
class Core:
    """A state of the process, and which events have happened; with where the steps that were taken lead.

    It does not tell what may go wrong still: so a step is taken once, however much that is.
    """

    memory: Memory
    happened: int
    taken: dict[Hashable, Core | Found] = field(default_factory=dict)

    @property
    def has_ended(self) -> bool:
        instance = self.memory.instance
        return instance is not None and instance.ended_at is not None

    @property
    def is_settled(self) -> bool:
        """Whether it has ended, or waits for an operator, or has not begun."""
        instance = self.memory.instance
        return instance is None or instance.ended_at is not None or instance.status == "failed"


@dataclass(slots=True, eq=False)
class Node:
    """A core with what may go wrong still, and the shortest way to it.

    is_known: whether all was seen that is sure to follow; not what lies behind a bound, or behind what must
        not be.
    goes_on: whether a step from here is sure to come.
    surely_from: from where such a step leads here.
    """

    core: Core
    faults: Faults
    parent: Node | None
    step: Step | None
    depth: int
    is_known: bool = False
    goes_on: bool = False
    surely_from: list[Node] = field(default_factory=list)

    def steps(self) -> list[Step]:
        steps = []
        node = self
        while node.parent is not None and node.step is not None:
            steps.append(node.step)
            node = node.parent
        return steps[::-1]


class Search:
    """One exploration. Its nodes are in the order in which they were reached; it has seen so many steps."""

    def __init__(self, model: Model, checks: Checks, most_states: int) -> None:
        self._model = model
        self._checks = checks
        self._most = most_states
        self._cores: dict[Hashable, Core] = {}
        self._known: dict[Hashable, Node] = {}
        self._found: dict[Hashable, Found] = {}
        self.nodes: list[Node] = []
        self.steps = 0
        self.is_complete = True

    def run(self, memory: Memory, faults: Faults) -> None:
        """Go everywhere from here, until there is nothing new, or too much."""
        self._reach(self._core(memory, 0), faults, None, None)
        waiting = deque(self.nodes)
        while waiting:
            if len(self.nodes) >= self._most:
                self.is_complete = False
                return
            node = waiting.popleft()
            core, seen = node.core, len(self.nodes)
            node.is_known = True
            for step in possible(self._model, core.memory, core.happened, node.faults):
                self._take(node, step)
            waiting.extend(self.nodes[seen:])

    def _take(self, node: Node, step: Step) -> None:
        self.steps += 1
        core = node.core
        reached = core.taken.get(step.what)
        if reached is None:
            reached = core.taken[step.what] = self._do(core, step)
        if isinstance(reached, Found):
            if step.is_sure:
                node.is_known = False
            if reached.key not in self._found:
                reached.steps = [*node.steps(), step]
                self._found[reached.key] = reached
        elif not core.has_ended:
            # After the end, what comes late is skipped, and was seen to be: nothing new lies behind it.
            found = self._reach(reached, step.faults or node.faults, node, step)
            if step.is_sure:
                node.goes_on = True
                found.surely_from.append(node)

    def _do(self, core: Core, step: Step) -> Core | Found:
        scenario: Scenario[Any] = Scenario(core.memory.copy())
        try:
            step.do(scenario)
        except Exception as error:  # noqa: BLE001 -- a handler's error is what is looked for
            return raised(error)
        if scenario.memory.plan:
            # It was not the turn of the handler that was to fail.
            return core
        broken = self._checks.broken(scenario)
        return broken or self._core(scenario.memory, core.happened | step.happens)

    def _core(self, memory: Memory, happened: int) -> Core:
        known = fingerprint(memory), happened
        found = self._cores.get(known)
        if found is None:
            found = self._cores[known] = Core(memory, happened)
        return found

    def _reach(self, core: Core, faults: Faults, parent: Node | None, step: Step | None) -> Node:
        known = id(core), faults
        found = self._known.get(known)
        if found is None:
            depth = parent.depth + 1 if parent else 0
            found = self._known[known] = Node(core, faults, parent, step, depth)
            self.nodes.append(found)
        return found

    def found(self, *, ends: bool) -> list[Found]:
        """What must not be, the shortest first.

        ends: also the first state that never ends.
        """
        found = list(self._found.values())
        stuck = self._first_that_never_ends() if ends else None
        if stuck is not None:
            found.append(never_ends(stuck.core.memory, stuck.steps()))
        return sorted(found, key=lambda one: len(one.steps))

    def _first_that_never_ends(self) -> Node | None:
        ending = [node for node in self.nodes if node.core.is_settled or not node.is_known]
        ends = set(ending)
        while ending:
            for before in ending.pop().surely_from:
                if before not in ends:
                    ends.add(before)
                    ending.append(before)
        stuck = [node for node in self.nodes if node not in ends]
        # One where nothing more is to come tells more than one where it can be foreseen.
        over = [node for node in stuck if not node.goes_on]
        return next(iter(over or stuck), None)
