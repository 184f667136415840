"""Every error that pm_celery raises, by the person who has to act on it."""

from __future__ import annotations


class PmCeleryError(Exception):
    """The root of all errors of this package."""


# -- the developer's: raised while a project starts or code publishes ----------------------------


class SettingsError(PmCeleryError):
    """``PM_CELERY`` holds an unknown key or an unusable value."""


class DeclarationError(PmCeleryError):
    """A process manager, policy, event or command is declared in a way that cannot work."""


class InvalidMessage(PmCeleryError, ValueError):
    """What was published or sent is no declared message, or does not validate, or is too large."""


class Misuse(PmCeleryError):
    """A handler did what handlers cannot do (returned a value, sent no command, …).

    Never retried: running the same code again cannot help.
    """


# -- the message's: they end in a dead letter ----------------------------------------------------


class UnusableKey(PmCeleryError, ValueError):
    """A correlate yielded nothing that can be a correlation key."""


class UndecodablePayload(PmCeleryError):
    """A stored payload no longer validates against its declaration."""


class UndecodableState(PmCeleryError):
    """A stored state no longer validates against the process manager's fields."""


class UnmatchedEvent(PmCeleryError):
    """No instance waits for the event, and its handler asks for a dead letter then."""


class EventIdConflict(PmCeleryError):
    """An event id was used again with another payload; the first one stands."""


class ChainTooDeep(PmCeleryError):
    """A chain of events and commands is deeper than ``PM_CELERY["MAX_CHAIN_DEPTH"]``."""


class WorkerLost(PmCeleryError):
    """Workers died while they handled this message, as often as it may be tried."""


class CommandExpired(PmCeleryError):
    """The command's ``expires`` passed before it ran."""


class CommandDied(PmCeleryError):
    """A command is a dead letter; its handler's own error may hold what ``REDACT`` hides."""


class NoCommandHandler(PmCeleryError):
    """No command handler is registered for the command."""


class RefusedMessage(PmCeleryError):
    """A Celery message asks one of our tasks for what cannot be: it was forged, or is of another release."""


# -- the operator's ------------------------------------------------------------------------------


class Refused(PmCeleryError):
    """An operator's action did nothing, and this is why (someone else was faster, say).

    text: for an operator; a lazy one is translated when it is read, and so into the reader's language.
    values: what its ``%(name)s`` stand for.
    """

    def __init__(self, text: object = "", /, **values: object) -> None:
        super().__init__(text)
        self.values = values

    def __str__(self) -> str:
        text = str(self.args[0])
        return text % self.values if self.values else text


# -- the engine's own ----------------------------------------------------------------------------


class UnknownMessage(PmCeleryError):
    """This worker's release does not know the message's type: its row waits for one that does."""
