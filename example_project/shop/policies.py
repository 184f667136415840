"""Stateless reactions to one event, where a process manager would be too much."""

from django.conf import settings

from pm_celery import Reaction, policy
from shop.commands import DeliverParcel, RefundPayment
from shop.events import OrderCancelled, OrderShipped


@policy(OrderCancelled)
def give_the_money_back(event: OrderCancelled, reaction: Reaction) -> None:
    """Whoever cancelled, and even if the customer paid at that very moment."""
    reaction.send(RefundPayment(order_id=event.order_id))


@policy(OrderShipped)
def let_the_van_drive(event: OrderShipped, reaction: Reaction) -> None:
    """Stands for the carrier, which would tell a webhook of ours when it has delivered."""
    reaction.send(DeliverParcel(order_id=event.order_id), delay=settings.SHOP_DELIVERY_TAKES)
