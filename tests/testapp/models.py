"""What the tests' handlers write: effects that can be counted."""

from __future__ import annotations

from django.db import models


class Effect(models.Model):
    """Something that a handler did, once for each row."""

    name = models.CharField(max_length=200)
    at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return self.name
