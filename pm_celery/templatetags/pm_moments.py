"""``{{ row.died_at|moment }}``: a moment to the second, as the reader's language writes it."""

from __future__ import annotations

from datetime import datetime

from django import template
from django.utils.formats import localize_input

register = template.Library()


@register.filter(expects_localtime=True)
def moment(value: datetime | None) -> str:
    """In the first of Django's DATETIME_INPUT_FORMATS: those for output have no seconds, and of two steps one
    wants to see which came first. "" for none."""
    return str(localize_input(value)) if value else ""
