"""A worker whose app accepts pickles, and gets one for each of our tasks and for one of the project's own.

A process of its own, for tests/test_forged.py: Celery's worker makes its app the current one, and sets up
logging. Prints, as JSON, our tasks' names and those whose pickle was read.
"""

from __future__ import annotations

import json
import os
import pickle
import sys
from time import sleep
from typing import Any
from uuid import uuid4

import django
from celery import Celery
from celery.contrib.testing.worker import start_worker
from kombu import Connection

BROKER = "memory://"
PICKLE = "application/x-python-serialize"

unpickled: list[str] = []
done: list[object] = []


def explode(name: str) -> None:
    unpickled.append(name)


class Bomb:
    """What a pickle runs while it is read."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __reduce__(self) -> Any:
        return explode, (self.name,)


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")
    django.setup()
    app = Celery("pickles")
    app.conf.update(
        broker_url=BROKER,
        accept_content=["json", "pickle"],
        broker_transport_options={"polling_interval": 0.01},
    )

    @app.task(name="project.own")
    def own(value: object) -> None:
        done.append(value)

    ours = sorted(name for name in app.tasks if name.startswith("pm_celery."))
    with Connection(BROKER) as connection:
        producer = connection.Producer(connection.channel())
        # The last one tells that the others have been looked at.
        for name in [*ours, "project.own"]:
            producer.publish(
                pickle.dumps(((Bomb(name),), {}, {})),
                exchange="",
                routing_key="celery",
                declare=[app.amqp.queues["celery"]],
                content_type=PICKLE,
                content_encoding="binary",
                headers={"task": name, "id": str(uuid4()), "lang": "py"},
            )
        with start_worker(app, pool="solo", perform_ping_check=False, loglevel="WARNING"):
            while not done:
                sleep(0.01)
    sys.stdout.write(f"\n{json.dumps({'ours': ours, 'unpickled': unpickled})}\n")


if __name__ == "__main__":
    # As the module that pickles name.
    from tests import pickles

    pickles.main()
