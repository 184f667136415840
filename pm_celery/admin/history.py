"""The history of a row: stored in English, whatever an operator speaks; shown in the reader's language."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.http import HttpRequest
from django.utils.translation import gettext as _
from django.utils.translation import override

if TYPE_CHECKING:
    from django.contrib.admin import ModelAdmin
    from django_stubs_ext import StrOrPromise

__all__ = ["shown", "write"]

_REASON = " Reason: "


def write(
    its_admin: ModelAdmin[Any],
    request: HttpRequest,
    row: Any,
    done: StrOrPromise,
    reason: str = "",
) -> None:
    """Write down what was done to a row. done: a lazy text, for it is stored untranslated."""
    with override(None):
        told = str(done)
    its_admin.log_change(request, row, f"{told}{_REASON}{reason}" if reason else told)


def shown(stored: str) -> str:
    """What was written down, in the reader's language; what others have stored as it is."""
    done, reason_follows, reason = stored.partition(_REASON)
    told = _(done) if done else ""
    if not reason_follows:
        return told
    return _("%(done)s Reason: %(reason)s") % {"done": told, "reason": reason}
