"""Interventions: what an operator did, to what, and why; for the instance's timeline and for auditors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pm_celery import clock, signals
from pm_celery.models import DeadLetter, Instance, Intervention

__all__ = ["intervene"]

_LONGEST_SUBJECT = 500


def intervene(
    alias: str,
    verb: str,
    subject: object,
    *,
    by: str,
    reason: str = "",
    instance: Instance | None = None,
    letter: DeadLetter | None = None,
    process: str = "",
    key: str = "",
    details: Mapping[str, Any] | None = None,
) -> Intervention:
    """Write down what is being done, in the caller's transaction, and announce it once it is committed.

    instance: in whose timeline it is to stand. letter: on whose page.
    """
    entry = Intervention.objects.using(alias).create(
        verb=verb,
        subject=str(subject)[:_LONGEST_SUBJECT],
        instance=instance,
        letter=letter,
        process=instance.process if instance else process,
        key=instance.key if instance else key,
        details=json.dumps(details or {}),
        by=by[:255] or "unknown",
        reason=reason,
        at=clock.now(),
    )
    signals.operated.send_on_commit(
        alias,
        sender=Intervention,
        verb=verb,
        by=entry.by,
        subject=entry.subject,
        reason=reason,
    )
    return entry
