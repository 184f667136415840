"""Events that came by a name which the release then running did not know."""

from __future__ import annotations

from django.db import transaction

from pm_celery import clock, redaction, registry, signals
from pm_celery.conf import get_settings
from pm_celery.letters import open_letter
from pm_celery.models import InboxMessage
from pm_celery.models.dead_letters import Place
from pm_celery.publishing import route_stored
from pm_celery.tallies import UNKNOWN, Tallies, write
from pm_celery.wording import text_of

__all__ = ["route_unrouted"]


def route_unrouted(message_id: int) -> None:
    """Put an unrouted event into the inboxes of those who hear it, if this release knows it.

    Else it waits, and is looked at again. If we die in here, it is as if we had never looked.
    """
    settings = get_settings()
    alias = settings.database
    with transaction.atomic(using=alias, durable=True):
        rows = InboxMessage.objects.using(alias).select_for_update().open()
        row = rows.filter(pk=message_id, process="").first()
        if row is None:
            return
        declared = registry.messages.get(row.name)
        now = clock.now()
        if declared is None or declared.version < row.version:
            row.due_at = now + settings.unknown_message_wait
            counted = Tallies()
            counted.add("", UNKNOWN, detail=row.name)
            write(alias, counted, now)
            signals.unknown_message.send_on_commit(
                alias,
                sender=InboxMessage,
                process="",
                name=row.name,
                version=row.version,
                message_id=row.message_id,
                why=f"no process of this release knows {row.name} v{row.version}",
            )
        else:
            try:
                hearers = route_stored(declared, row)
            except Exception as error:  # noqa: BLE001 -- a correlate is user code
                row.status, row.reason = (
                    "dead",
                    text_of(error, redaction.hider(row.name, "", row.payload)),
                )
                open_letter(alias, row, error, place=Place.CORRELATE, attempts=1, message_pk=row.pk)
            else:
                row.status = "handled" if hearers else "unmatched"
                row.reason = f"put into {hearers} inboxes" if hearers else "nobody hears it"
                row.handled_at = now
        row.save(using=alias, update_fields=["due_at", "status", "reason", "handled_at"])
