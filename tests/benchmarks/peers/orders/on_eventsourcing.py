"""The orders on eventsourcing.

Used: an application for the orders, in the client; an event-sourced projection that is the process
manager; a projection that runs the commands. Each of the latter two follows its upstream in a
process of its own with its runner, by LISTEN and NOTIFY, on PostgreSQL. Aggregates are cached, as
each has one writer.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import psycopg
from eventsourcing.application import Application, ProcessingEvent
from eventsourcing.dispatch import singledispatchmethod
from eventsourcing.domain import Aggregate, event
from eventsourcing.persistence import Tracking, TrackingRecorder
from eventsourcing.postgres import PostgresTrackingRecorder
from eventsourcing.projection import (
    EventSourcedProjection,
    EventSourcedProjectionRunner,
    Projection,
    ProjectionRunner,
)
from eventsourcing.utils import get_topic
from orders.workload import Client, Effects, Job, measure


class Order(Aggregate):
    @event("Placed")
    def __init__(self, order_id: UUID) -> None:
        pass

    @staticmethod
    def create_id(order_id: UUID) -> UUID:
        return order_id

    @event("Paid")
    def pay(self) -> None:
        pass

    @event("Delivered")
    def deliver(self) -> None:
        pass


class Orders(Application[UUID]):
    """Where the events come from."""

    def place(self, order_id: UUID) -> None:
        self.save(Order(order_id))

    def pay(self, order_id: UUID) -> None:
        order: Order = self.repository.get(order_id)
        order.pay()
        self.save(order)

    def deliver(self, order_id: UUID) -> None:
        order: Order = self.repository.get(order_id)
        order.deliver()
        self.save(order)


class Fulfilment(Aggregate):
    """The process of one order; its events are the commands, and its end."""

    @event("ReserveRequested")
    def __init__(self, order_id: UUID) -> None:
        self.has_ended = False

    @staticmethod
    def create_id(order_id: UUID) -> UUID:
        return order_id

    @event("ShipRequested")
    def ship(self) -> None:
        pass

    @event("Ended")
    def end(self) -> None:
        self.has_ended = True


class Fulfilments(EventSourcedProjection[UUID]):
    """The process manager: its events and its position are recorded in one transaction."""

    name = "fulfilments"

    @singledispatchmethod
    def policy(self, domain_event: Any, processing_event: ProcessingEvent[UUID]) -> None:
        pass

    @policy.register
    def placed(self, domain_event: Order.Placed, processing_event: ProcessingEvent[UUID]) -> None:
        processing_event.collect_events(Fulfilment(domain_event.originator_id))

    @policy.register
    def paid(self, domain_event: Order.Paid, processing_event: ProcessingEvent[UUID]) -> None:
        fulfilment: Fulfilment = self.repository.get(domain_event.originator_id)
        fulfilment.ship()
        processing_event.collect_events(fulfilment)

    @policy.register
    def delivered(
        self, domain_event: Order.Delivered, processing_event: ProcessingEvent[UUID]
    ) -> None:
        fulfilment: Fulfilment = self.repository.get(domain_event.originator_id)
        fulfilment.end()
        processing_event.collect_events(fulfilment)


class Commands(Projection[TrackingRecorder]):
    """Runs the commands; its position is recorded after each."""

    name = "commands"

    def __init__(self, view: TrackingRecorder) -> None:
        super().__init__(view)
        self.effects = Effects(Job.given().effects)

    @singledispatchmethod
    def process_event(self, domain_event: Any, tracking: Tracking) -> None:
        self.view.insert_tracking(tracking)

    @process_event.register
    def reserve(self, domain_event: Fulfilment.ReserveRequested, tracking: Tracking) -> None:
        self.effects.append("reserve", str(domain_event.originator_id))
        self.view.insert_tracking(tracking)

    @process_event.register
    def ship(self, domain_event: Fulfilment.ShipRequested, tracking: Tracking) -> None:
        self.effects.append("ship", str(domain_event.originator_id))
        self.view.insert_tracking(tracking)


class OnEventsourcing(Client):
    module = "orders.on_eventsourcing"

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self._orders = Orders()
        # Creates the tables, once.
        Fulfilments().close()
        self._connection = psycopg.connect(job.urls["postgres"], autocommit=True)

    def worker_commands(self) -> Sequence[Sequence[str]]:
        return [("-m", self.module, "worker", name) for name in ("fulfilments", "commands")]

    def place(self, order_id: str) -> None:
        self._orders.place(UUID(order_id))

    def pay(self, order_id: str) -> None:
        self._orders.pay(UUID(order_id))

    def deliver(self, order_id: str) -> None:
        self._orders.deliver(UUID(order_id))

    def ended(self) -> int:
        query = "SELECT count(*) FROM fulfilments_events WHERE topic = %s"
        row = self._connection.execute(query, [get_topic(Fulfilment.Ended)]).fetchone()
        return row[0] if row else 0


def configure(job: Job) -> None:
    """The library is configured by the environment."""
    postgres = urlsplit(job.urls["postgres"])
    os.environ.update(
        PERSISTENCE_MODULE="eventsourcing.postgres",
        POSTGRES_DBNAME=postgres.path.lstrip("/"),
        POSTGRES_HOST=str(postgres.hostname),
        POSTGRES_PORT=str(postgres.port),
        POSTGRES_USER=str(postgres.username),
        POSTGRES_PASSWORD="none",
        POSTGRES_POOL_SIZE=str(job.senders + 1),
        AGGREGATE_CACHE_MAXSIZE="1000",
        AGGREGATE_CACHE_FASTFORWARD="n",
    )


def work(name: str) -> None:
    """A worker process."""
    runner: Any
    if name == "fulfilments":
        runner = EventSourcedProjectionRunner(
            application_class=Orders, projection_class=Fulfilments
        )
    else:
        runner = ProjectionRunner(
            application_class=Fulfilments,
            projection_class=Commands,
            view_class=PostgresTrackingRecorder,
        )
    with runner:
        runner.run_forever()


if __name__ == "__main__":
    configure(Job.given())
    if sys.argv[1:2] == ["worker"]:
        work(sys.argv[2])
    else:
        measure(OnEventsourcing(Job.given()))
