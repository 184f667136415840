"""The business rows, and the ledger. No constraint of the ledger's could hide that something came twice."""

from __future__ import annotations

from typing import Literal

from django.db import models


class Order(models.Model):
    """What the web writes in the transaction in which it publishes."""

    order_id = models.UUIDField(unique=True)
    fate = models.CharField(max_length=20)


class Entry(models.Model):
    """A line of the ledger, written by a handler in its own transaction. The id tells the order."""

    order_id = models.UUIDField()
    kind = models.CharField(max_length=7)
    name = models.CharField(max_length=40)

    @classmethod
    def write(cls, order_id: object, kind: Literal["event", "command"], name: str) -> None:
        cls.objects.create(order_id=order_id, kind=kind, name=name)


class Repair(models.Model):
    """Somebody has mended what this order, of the fate ``broken``, fails for."""

    order_id = models.UUIDField()
