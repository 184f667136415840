"""What a replay consists of, as a value that the command hands to its workers in a file."""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass
from pathlib import Path

from django.utils.text import slugify

__all__ = ["VARIABLE", "Activity", "Definition"]

#: The environment variable that names the file. Only the workers of a replay have it.
VARIABLE = "REPLAY_DEFINITION"


@dataclass(frozen=True)
class Activity:
    """One activity of the log, and whether it starts or ends a case."""

    name: str
    start: bool = False
    end: bool = False


@dataclass(frozen=True)
class Definition:
    """One run of ``replay_log``: rows, queue and workers bear its name, so that runs do not mix."""

    run: str
    activities: tuple[Activity, ...]
    #: The process id of the command: its workers end when it does.
    command: int = dataclasses.field(default_factory=os.getpid)

    @property
    def process(self) -> str:
        return f"replay.{self.run}"

    @property
    def queue(self) -> str:
        return f"replay-{self.run}"

    def event(self, number: int) -> str:
        """The wire name of an activity's events.

        Activities may be of any length, in any script, and differ in case only, so a number tells them
        apart; what follows it is for whoever reads it in the admin.
        """
        words = slugify(self.activities[number].name)[:80]
        return f"replay.{self.run}.{number}.{words}".rstrip(".-_")

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(dataclasses.asdict(self)), encoding="utf-8")

    @classmethod
    def of_this_worker(cls) -> Definition | None:
        """The run for which this process works; None in every other process of the project."""
        path = os.environ.get(VARIABLE)
        if not path:
            return None
        stored = json.loads(Path(path).read_text(encoding="utf-8"))
        activities = tuple(Activity(**activity) for activity in stored.pop("activities"))
        return cls(**stored, activities=activities)
