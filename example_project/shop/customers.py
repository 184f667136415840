"""What customers do. Each function is one transaction: its rows and its event commit together."""

from uuid import UUID

from django.db import transaction
from django.utils import timezone

from pm_celery import publish
from shop.events import CustomerJoined, CustomerLeft, OrderPlaced
from shop.models import Customer, Order, Product
from shop.payments import record_payment


@transaction.atomic
def join(name: str, email: str) -> Customer:
    """The customer with that address, new or known. Who has left joins again, without the mails."""
    customer, is_new = Customer.objects.get_or_create(
        email=email, defaults={"name": name, "joined_at": timezone.now()}
    )
    if is_new:
        publish(CustomerJoined(customer_id=customer.id))
    elif customer.left_at:
        customer.left_at = None
        customer.save(update_fields=["left_at"])
    return customer


@transaction.atomic
def leave(customer_id: UUID) -> None:
    left = Customer.objects.filter(pk=customer_id, left_at=None).update(left_at=timezone.now())
    if left:
        publish(CustomerLeft(customer_id=customer_id))


@transaction.atomic
def place_order(
    customer: Customer, product: Product, *, card: str, delivery: str, quantity: int = 1
) -> Order:
    """Whether it is in stock and whether the card is good, the process will find out."""
    order = Order.objects.create(
        customer=customer,
        product=product,
        quantity=quantity,
        total=product.price * quantity,
        card=card,
        delivery=delivery,
        placed_at=timezone.now(),
    )
    publish(OrderPlaced(order_id=order.id, delivery=order.delivery))
    return order


@transaction.atomic
def confirm_payment(order_id: UUID) -> bool:
    """The customer confirms at the bank what the provider asked for; False where it is too late."""
    order = Order.objects.select_for_update().get(pk=order_id)
    if order.status != Order.Status.UNCONFIRMED:
        return False
    record_payment(order)
    return True
