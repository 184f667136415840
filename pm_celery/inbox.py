"""The inbox's verbs: put messages in, once each, and note what could not be routed."""

from __future__ import annotations

from collections.abc import Sequence

from pm_celery import redaction, registry, wakeups
from pm_celery.conf import get_settings
from pm_celery.exceptions import EventIdConflict
from pm_celery.letters import open_letter
from pm_celery.models import DeadLetter, InboxMessage
from pm_celery.models.dead_letters import Place
from pm_celery.rows import NewMessage
from pm_celery.statements import statements

__all__ = ["put"]

_IDS_AT_ONCE = 500


def put(rows: Sequence[NewMessage], errors: Sequence[Exception | None] = ()) -> None:
    """Insert messages in the caller's transaction, and wake their partitions when it commits.

    ``errors``: for each row, why its correlate failed, or None; such a row is inserted as dead, with a
    dead letter. A message whose id its process has had already is not inserted again.
    """
    if not rows:
        return
    alias = get_settings().database
    inserted = statements(alias).insert_messages(alias, rows)
    if inserted != len(rows):
        _note_conflicts(alias, rows)
    for row, error in zip(rows, errors, strict=False):
        if error is not None:
            _note_correlate_error(alias, row, error)
    wakeups.wake_on_commit({row.partition for row in rows if row.status == "pending"})


def _note_conflicts(alias: str, rows: Sequence[NewMessage]) -> None:
    """The first event of an id stands; another payload under the same id is recorded, not handled."""
    for start in range(0, len(rows), _IDS_AT_ONCE):
        chunk = rows[start : start + _IDS_AT_ONCE]
        stored = {
            (found.message_id, found.process): found
            for found in InboxMessage.objects.using(alias)
            .filter(message_id__in={row.message_id for row in chunk})
            .only("message_id", "process", "name", "version", "payload")
        }
        for row in chunk:
            found = stored.get((row.message_id, row.process))
            if found is None or _is_same(found, row):
                continue
            known = DeadLetter.objects.using(alias).open()
            if known.filter(
                place=Place.PUBLISH,
                process=row.process,
                message_ref=row.message_id,
                payload=redaction.payload_shown(
                    row.name, row.process, row.payload, version=row.version
                ),
            ).exists():
                continue
            error = EventIdConflict(
                f"The event id {row.message_id!r} was used before with another payload; the first "
                "one stands. Publish with a new id if both are meant."
            )
            open_letter(alias, row, error, place=Place.PUBLISH, attempts=0, message_pk=found.pk)


def _is_same(stored: InboxMessage, row: NewMessage) -> bool:
    """Whether both are one event, also where two releases have written it in versions of their own."""
    if stored.name != row.name:
        return False
    if stored.version == row.version or (declared := registry.messages.get(row.name)) is None:
        return stored.payload == row.payload
    try:
        first, second = (
            declared.encode(declared.decode(one.payload, one.version))[0] for one in (stored, row)
        )
    except Exception:  # noqa: BLE001 -- an upcast is user code; nor is a newer version known here
        return stored.payload == row.payload
    return first == second


def _note_correlate_error(alias: str, row: NewMessage, error: Exception) -> None:
    stored = (
        InboxMessage.objects.using(alias)
        .filter(message_id=row.message_id, process=row.process, status="dead")
        .first()
    )
    if stored is not None and not stored.dead_letters.using(alias).exists():
        open_letter(alias, row, error, place=Place.CORRELATE, attempts=1, message_pk=stored.pk)
