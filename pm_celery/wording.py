"""How an error is put into words: whatever it is, they can be stored and shown."""

from __future__ import annotations

import traceback
from collections.abc import Callable

from pm_celery.exceptions import PmCeleryError

__all__ = [
    "Hide",
    "described",
    "name_of",
    "nothing_hidden",
    "one_line",
    "printable",
    "reason_of",
    "summary",
    "text_of",
    "trace_of",
]

# An error's text is cut there, as is a traceback: nobody reads more of it.
LONGEST = 20_000
_OURS = ("pm_celery.", "pydantic")

Hide = Callable[[str], str]


def nothing_hidden(text: str) -> str:
    return text


def name_of(error: object) -> str:
    """The name of an exception's class."""
    return printable(str(type(error).__name__))[:255]


def text_of(error: object, hide: Hide = nothing_hidden) -> str:
    """An exception's text, also where its class fails to give one. Nothing that a database refuses.

    hide: takes out of it what is not to be shown.
    """
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 -- a user's exception may raise anything
        text = f"<{name_of(error)} that cannot be printed>"
    # First hidden and then cut: what is cut in two would not be found.
    return printable(hide(text)[:LONGEST])[:LONGEST]


def trace_of(error: BaseException, hide: Hide = nothing_hidden) -> str:
    """An exception's traceback from where the user's code begins; "" for an error of ours never raised."""
    if isinstance(error, PmCeleryError) and error.__traceback__ is None:
        return ""
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_globals.get("__name__", "").startswith(_OURS):
        frames = frames.tb_next
    try:
        lines = traceback.format_exception(type(error), error, frames or error.__traceback__)
    except Exception:  # noqa: BLE001 -- what its notes or its group hold may raise anything
        lines = traceback.format_tb(frames or error.__traceback__)
    text = hide("".join(lines))
    if len(text) > LONGEST:
        half = LONGEST // 2
        text = f"{text[:half]}\n… {len(text) - LONGEST} characters left out …\n{text[-half:]}"
    return printable(text)


def described(error: BaseException, hide: Hide = nothing_hidden) -> dict[str, str]:
    """An exception as a dead letter stores it: class, text, traceback; nothing a database refuses."""
    return {
        "exception": name_of(error),
        "error": text_of(error, hide),
        "traceback": trace_of(error, hide),
    }


def reason_of(error: BaseException, hide: Hide = nothing_hidden) -> str:
    """An exception as a row's reason, and as a log line, tells it."""
    return summary(name_of(error), text_of(error, hide))


def summary(exception: str, error: str) -> str:
    """The same, of an exception that is described already."""
    return f"{exception}: {error[:1000]}"


def printable(text: str) -> str:
    """Text without what a database refuses: U+0000 and lone surrogates, written as escapes."""
    return text.replace("\x00", "\\x00").encode("utf-8", "backslashreplace").decode()


def one_line(text: object) -> str:
    """Text without what would begin a line of its own in a log, or colour it, or turn it around."""
    try:
        shown = str(text)
    except Exception:  # noqa: BLE001 -- as above
        shown = f"<{type(text).__name__} that cannot be printed>"
    if shown.isprintable():
        return shown
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in shown
    )
