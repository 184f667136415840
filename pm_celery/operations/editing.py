"""The verb that changes what cannot be handled: edit a dead letter's payload, and retry it.

Off unless ``PM_CELERY["EDIT_PAYLOADS"]`` says so. Nobody sees by it what redaction hides: ``•••`` stands for
the value that was there, at its own place and nowhere else.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, NoReturn

from django.db import transaction
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from pm_celery import redaction, registry
from pm_celery.conf import get_settings
from pm_celery.deciding import timer_adapter
from pm_celery.definitions import ProcessDefinition
from pm_celery.exceptions import Refused
from pm_celery.keys import partition_of
from pm_celery.messages import MessageType, unstorable
from pm_celery.models import DeadLetter, InboxMessage, OutboxCommand
from pm_celery.models.dead_letters import Place
from pm_celery.operations import dead_letters
from pm_celery.redaction import HIDDEN
from pm_celery.wording import name_of, text_of

__all__ = ["edit_and_retry", "editable"]

_HINT = _("payloads are not changed here: set PM_CELERY['EDIT_PAYLOADS'] = True to allow it")


@dataclass(frozen=True, slots=True)
class Payloads:
    """What an operator edits: the payload as shown, and the one that the letter began with, if it was
    changed."""

    shown: str
    original: str


def editable(letter_id: int) -> Payloads:
    """The payload of a letter's message as it may be shown and edited. Raises ``Refused``."""
    alias = get_settings().database
    letter = DeadLetter.objects.using(alias).filter(pk=letter_id).first()
    if letter is None:
        raise Refused(_("there is no such letter"))
    row = _row(alias, letter)
    if row is None:
        raise Refused(_("its message is no longer there"))
    original = letter.original_payload
    # It may be of an older version than what was written in its place.
    shown = redaction.payload_shown(row.name, row.process, original, kind=row.kind)
    return Payloads(_shown(row), shown if original else "")


def edit_and_retry(letter_id: int, payload: str, *, by: str = "", reason: str = "") -> None:
    """Give the letter's message or command another payload, as JSON text, and run it again.

    It is validated first against what the event, command or timer handler declares; ``•••`` leaves a hidden
    value as it is. The payload from before is kept on the letter. Raises ``Refused``, and does nothing.
    """
    if not get_settings().edit_payloads:
        raise Refused(_HINT)
    alias = get_settings().database
    # If we die before the commit, the payload is the old one and the letter open.
    with transaction.atomic(using=alias):
        letter, _instance = dead_letters.locked(alias, letter_id)
        row = _row(alias, letter, lock=True)
        if letter.place == Place.PUBLISH or row is None or row.status != "dead":
            raise Refused(_("there is no dead message whose payload could be changed"))
        before = row.payload
        row.payload = _filled(row, payload)
        _validate(row, letter, before)
        row.save(using=alias)
        letter.original_payload = before
        letter.save(using=alias, update_fields=["original_payload"])
        details = {"letter": letter.pk}
        dead_letters.write_down(alias, letter, "edit dead letter", by, reason, details)
        dead_letters.retry(letter_id, by=by, reason=reason)


def _row(
    alias: str, letter: DeadLetter, *, lock: bool = False
) -> InboxMessage | OutboxCommand | None:
    if letter.command_id is not None:
        commands = OutboxCommand.objects.using(alias).filter(pk=letter.command_id)
        return (commands.select_for_update() if lock else commands).first()
    messages = InboxMessage.objects.using(alias).filter(pk=letter.message_id or 0)
    return (messages.select_for_update() if lock else messages).first()


def _shown(row: InboxMessage | OutboxCommand) -> str:
    return redaction.payload_shown(
        row.name, row.process, row.payload, kind=row.kind, version=row.version
    )


# -- what was hidden stays ----------------------------------------------------------------------------


def _filled(row: InboxMessage | OutboxCommand, given: str) -> str:
    """The payload that is meant: with the hidden values that the operator left as they were shown."""
    try:
        meant = json.loads(given, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise Refused(_("that is no JSON: %(error)s"), error=str(error)) from None
    if HIDDEN not in given and "\\u2022" not in given:
        return json.dumps(meant, ensure_ascii=False)
    shown_text = _shown(row)
    try:
        stored = json.loads(row.payload)
        # What is hidden as a whole is shown as no JSON.
        shown = HIDDEN if shown_text == HIDDEN else json.loads(shown_text)
        return json.dumps(
            _restored(meant, shown, stored, gettext("the payload")), ensure_ascii=False
        )
    except (ValueError, RecursionError):
        raise Refused(
            _("write a value for each %(hidden)s: the stored payload is no JSON"), hidden=HIDDEN
        ) from None


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _restored(meant: Any, shown: Any, stored: Any, where: str) -> Any:
    if meant == HIDDEN:
        if shown != HIDDEN:
            # Else a hidden value could be moved to where it is shown.
            raise Refused(
                _("%(where)s: nothing was hidden there: write the value instead of %(hidden)s"),
                where=where,
                hidden=HIDDEN,
            )
        return stored
    if isinstance(meant, dict):
        of, under = (shown, stored) if isinstance(shown, dict) else ({}, {})
        return {
            key: _restored(value, of.get(key), under.get(key), f"{where}, {key}")
            for key, value in meant.items()
        }
    if isinstance(meant, list):
        if not _holds_hidden(meant):
            return meant
        if not isinstance(shown, list) or len(shown) != len(meant):
            raise Refused(
                _(
                    "%(where)s: give as many items as there were, in their order, or write a value "
                    "for each %(hidden)s"
                ),
                where=where,
                hidden=HIDDEN,
            )
        for index, item in enumerate(meant):
            # An item on another's place would get the other's hidden values.
            if _holds_hidden(item) and item != shown[index] and item in shown:
                raise Refused(
                    _("%(where)s: leave the items in their order, for the sake of %(hidden)s"),
                    where=where,
                    hidden=HIDDEN,
                )
        return [
            _restored(item, shown[index], stored[index], _item(where, index + 1))
            for index, item in enumerate(meant)
        ]
    return meant


def _item(where: str, number: int) -> str:
    return gettext("%(where)s, item %(number)s") % {"where": where, "number": number}


def _holds_hidden(data: Any) -> bool:
    if isinstance(data, dict):
        return any(map(_holds_hidden, data.values()))
    if isinstance(data, list):
        return any(map(_holds_hidden, data))
    return bool(data == HIDDEN)


# -- what is declared ---------------------------------------------------------------------------------


def _validate(row: InboxMessage | OutboxCommand, letter: DeadLetter, before: str) -> None:
    """Bring a changed row's payload into its declared form. Raises ``Refused``."""
    if row.kind == "timer":
        _validate_timer(row, before)
        return
    if row.kind not in ("event", "command"):
        raise Refused(_("what it holds is not declared, and so is not changed"))
    declared = registry.messages.get(row.name)
    if declared is None or declared.kind != row.kind or row.version > declared.version:
        unknown = _("this release does not know the event %(name)s v%(version)s")
        if row.kind == "command":
            unknown = _("this release does not know the command %(name)s v%(version)s")
        raise Refused(unknown, name=row.name, version=row.version)
    try:
        # It was shown in the version in which it is stored, and so that is what was written.
        message = declared.decode(row.payload, row.version)
        row.payload, message = declared.encode(message)
        row.version = declared.version
        if isinstance(row, InboxMessage) and letter.place != Place.CORRELATE:
            _keep_key(row, letter, declared, message)
    except Refused:
        raise
    except Exception as error:  # noqa: BLE001 -- validators and correlates raise anything
        raise _refusal(row, before, error) from None


def _validate_timer(row: InboxMessage | OutboxCommand, before: str) -> None:
    listener = registry.listeners.get(row.process)
    if not isinstance(listener, ProcessDefinition) or row.name not in listener.timer_handlers:
        raise Refused(_("this release does not know the timer %(name)s"), name=row.name)
    method = listener.timer_handlers[row.name]
    try:
        adapter = timer_adapter(getattr(listener.cls, method))
        if adapter is None:
            raise Refused(_("%(handler)s takes no payload"), handler=method)
        adapter.validate_json(row.payload)
    except Refused:
        raise
    except Exception as error:  # noqa: BLE001 -- validators and correlates raise anything
        raise _refusal(row, before, error) from None
    if problem := unstorable(row.payload):
        raise Refused(_("the payload %(problem)s"), problem=problem)


def _keep_key(
    row: InboxMessage, letter: DeadLetter, declared: MessageType, message: object
) -> None:
    """A message stays with its instance; one that found none may name another."""
    listener = registry.listeners.get(row.process)
    if not isinstance(listener, ProcessDefinition) or declared not in listener.event_handlers:
        return
    key = listener.key_of(declared, message)
    if key == row.key:
        return
    if letter.place != Place.UNMATCHED or key is None:
        raise Refused(
            _(
                "with this payload it would be for another process instance: discard it, and publish "
                "an event of its own"
            )
        )
    row.key, row.partition = key, partition_of(row.process, key)


def _refusal(row: InboxMessage | OutboxCommand, before: str, error: Exception) -> Refused:
    words = text_of(error)
    for payload in (row.payload, before):
        words = redaction.hider(row.name, row.process, payload, kind=row.kind)(words)
    return Refused(f"{name_of(error)}: {words}")
