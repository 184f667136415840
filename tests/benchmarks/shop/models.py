"""The rows of the variant written by hand, and the business row that every publisher writes."""

from __future__ import annotations

from django.db import models


class Purchase(models.Model):
    """What a web request writes in the transaction in which it publishes."""

    order_id = models.UUIDField()
    step = models.PositiveSmallIntegerField()
    made_at = models.DateTimeField(auto_now_add=True)


class Order(models.Model):
    """The state of one order, by hand."""

    order_id = models.UUIDField(unique=True)
    status = models.CharField(max_length=20, default="new")
    paid = models.PositiveIntegerField(default=0)
    seen = models.JSONField(default=list)
    created_at = models.DateTimeField(auto_now_add=True)
    changed_at = models.DateTimeField(auto_now=True)


class OrderTransition(models.Model):
    """One step of an order, by hand."""

    order = models.ForeignKey(Order, on_delete=models.CASCADE, related_name="transitions")
    number = models.PositiveSmallIntegerField()
    event = models.CharField(max_length=50)
    state = models.JSONField()
    recorded_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = (
            models.UniqueConstraint(fields=["order", "number"], name="transition_number_once"),
        )
