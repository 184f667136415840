"""The order's process, its events and its commands."""

from __future__ import annotations

from uuid import UUID

from orders.workload import Effects, Job

from pm_celery import ProcessManager, command, command_handler, event, handle

effects = Effects(Job.given().effects)


@event
class OrderPlaced:
    order_id: UUID


@event
class OrderPaid:
    order_id: UUID


@event
class OrderDelivered:
    order_id: UUID


@command
class ReserveStock:
    order_id: UUID


@command
class ShipOrder:
    order_id: UUID


class Order(ProcessManager):
    """Drives an order from placement to delivery."""

    class Meta:
        timeout = "7d"

    @handle(OrderPlaced, start=True, correlate="order_id")
    def placed(self, event: OrderPlaced) -> None:
        self.send(ReserveStock(event.order_id))

    @handle(OrderPaid, correlate="order_id")
    def paid(self, event: OrderPaid) -> None:
        self.send(ShipOrder(event.order_id))

    @handle(OrderDelivered, correlate="order_id", end=True)
    def delivered(self, event: OrderDelivered) -> None:
        pass


@command_handler(ReserveStock)
def reserve_stock(command: ReserveStock) -> None:
    effects.append("reserve", str(command.order_id))


@command_handler(ShipOrder)
def ship_order(command: ShipOrder) -> None:
    effects.append("ship", str(command.order_id))
