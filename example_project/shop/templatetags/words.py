"""Names and moments as a person reads them."""

import re
from datetime import datetime

from django import template

register = template.Library()


@register.filter
def words(name: str) -> str:
    """``shop.OrderPlaced`` → "Order placed", ``payment_reminder`` → "Payment reminder"."""
    bare = name.rpartition(".")[2].replace("_", " ")
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", bare).capitalize()


@register.filter
def away(moment: datetime, now: datetime) -> str:
    """How far off a moment is, roughly: "in 12 s", "in 3 days"."""
    seconds = (moment - now).total_seconds()
    if seconds <= 0:
        return "now"
    for name, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= 2 * length:
            return f"in {round(seconds / length)} {name}s"
    return f"in {round(seconds)} s"
