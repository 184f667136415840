"""The shop's own rows. Where a case stands is pm_celery's; what the shop owns and owes is here."""

import uuid
from decimal import Decimal

from django.db import models
from django.db.models import Q
from django.urls import reverse

from shop import providers


class Product(models.Model):
    name = models.CharField(max_length=100)
    slug = models.SlugField(unique=True)
    description = models.CharField(max_length=200)
    price = models.DecimalField(max_digits=8, decimal_places=2)
    stock = models.PositiveIntegerField()

    def __str__(self) -> str:
        return self.name


class Carrier(models.Model):
    """Who brings the parcels. The last two fields steer the fake behind it."""

    code = models.SlugField(unique=True)
    name = models.CharField(max_length=100)
    contract = models.CharField(max_length=50, unique=True)
    is_signed = models.BooleanField(default=True, help_text="Is the contract signed?")
    reachable = models.BooleanField(default=True, help_text="Does it answer our calls?")
    busy_attempts = models.PositiveSmallIntegerField(
        default=0, help_text="How often each booking is refused before it is accepted"
    )

    def __str__(self) -> str:
        return self.name


class Customer(models.Model):
    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    name = models.CharField(max_length=100)
    email = models.EmailField(unique=True)
    joined_at = models.DateTimeField()
    left_at = models.DateTimeField(null=True, blank=True)

    def __str__(self) -> str:
        return self.name

    def get_absolute_url(self) -> str:
        return reverse("shop:customer", args=[self.pk])


class Order(models.Model):
    class Status(models.TextChoices):
        PLACED = "placed", "placed"
        RESERVED = "reserved", "packed"
        UNCONFIRMED = "unconfirmed", "waiting for your payment"
        PAID = "paid", "paid"
        SHIPPED = "shipped", "on its way"
        DELIVERED = "delivered", "delivered"
        CANCELLED = "cancelled", "cancelled"

    class Card(models.TextChoices):
        IN_FUNDS = providers.CARD_IN_FUNDS, "Visa ending in 4242"
        DECLINED = providers.CARD_DECLINED, "Visa ending in 0002"
        TO_CONFIRM = providers.CARD_TO_CONFIRM, "Visa ending in 3184"

    class Delivery(models.TextChoices):
        COURIER = "courier", "Courier"
        POST = "post", "Night post"
        AIRSHIP = "airship", "Airship"
        DRONE = "drone", "Drone"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    customer = models.ForeignKey(Customer, on_delete=models.PROTECT, related_name="orders")
    product = models.ForeignKey(Product, on_delete=models.PROTECT, related_name="orders")
    quantity = models.PositiveIntegerField(default=1)
    total = models.DecimalField(max_digits=10, decimal_places=2)
    card = models.CharField(max_length=4, choices=Card)
    delivery = models.CharField(max_length=10, choices=Delivery)
    status = models.CharField(max_length=11, choices=Status, default=Status.PLACED)
    cancelled_because = models.CharField(max_length=200, blank=True)
    review_reason = models.TextField(blank=True, help_text="Filled: a person has to look at it")
    placed_at = models.DateTimeField(db_index=True)

    def __str__(self) -> str:
        return self.short_id

    def get_absolute_url(self) -> str:
        return reverse("shop:order", args=[self.pk])

    @property
    def short_id(self) -> str:
        return self.id.hex[:8].upper()

    @property
    def payment_reference(self) -> str:
        """What we tell the payment provider, and what its settlement lines repeat."""
        return f"PAY-{self.id.hex[:12].upper()}"


class Reservation(models.Model):
    """What an order took from the stock.

    A released one stays as a row with quantity 0: commands may overtake one another, and a
    ReserveStock that comes after its ReleaseStock finds that there is nothing left to do.
    """

    order = models.OneToOneField(Order, on_delete=models.CASCADE, related_name="reservation")
    product = models.ForeignKey(Product, on_delete=models.PROTECT, related_name="reservations")
    quantity = models.PositiveIntegerField()

    def __str__(self) -> str:
        return f"{self.quantity} of {self.product}"


class Payment(models.Model):
    order = models.OneToOneField(Order, on_delete=models.PROTECT, related_name="payment")
    reference = models.CharField(max_length=50, unique=True)
    amount = models.DecimalField(max_digits=10, decimal_places=2)
    taken_at = models.DateTimeField()
    refunded_at = models.DateTimeField(null=True, blank=True)
    settled_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [
            models.CheckConstraint(condition=Q(amount__gt=Decimal(0)), name="payment_above_zero")
        ]

    def __str__(self) -> str:
        return self.reference


class Shipment(models.Model):
    order = models.OneToOneField(Order, on_delete=models.PROTECT, related_name="shipment")
    carrier = models.ForeignKey(Carrier, on_delete=models.PROTECT, related_name="shipments")
    tracking = models.CharField(max_length=50)
    shipped_at = models.DateTimeField()
    delivered_at = models.DateTimeField(null=True, blank=True)

    def __str__(self) -> str:
        return self.tracking


class Mail(models.Model):
    """A mail that went out: the example sends none, it keeps them."""

    customer = models.ForeignKey(Customer, on_delete=models.CASCADE, related_name="mails")
    order = models.ForeignKey(
        Order, on_delete=models.CASCADE, related_name="mails", null=True, blank=True
    )
    sort = models.CharField(max_length=20)
    subject = models.CharField(max_length=200)
    sent_at = models.DateTimeField()

    def __str__(self) -> str:
        return self.subject


class Discrepancy(models.Model):
    """A payment reference that bookkeeping has to look at."""

    reference = models.CharField(max_length=50, unique=True)
    problem = models.CharField(max_length=200)
    reported_at = models.DateTimeField()

    class Meta:
        verbose_name_plural = "discrepancies"

    def __str__(self) -> str:
        return f"{self.reference}: {self.problem}"
