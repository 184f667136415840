"""Third parties, as fakes: a payment provider and four carriers.

What they answer is chosen by the order: by its card and by its way of delivery. Like real ones they
take an idempotency key, because a call may be repeated: a worker can die between the call and the
commit. A command's id is such a key.
"""

from decimal import Decimal
from typing import TYPE_CHECKING, Literal
from uuid import UUID

if TYPE_CHECKING:
    from shop.models import Carrier

CARD_IN_FUNDS = "4242"
CARD_DECLINED = "0002"
CARD_TO_CONFIRM = "3184"


class CardDeclined(Exception):
    """The provider's answer, not a failure of the call."""


class CarrierUnreachable(Exception):
    """The call failed: it may well succeed a moment later."""


def charge(
    card: str, amount: Decimal, reference: str, *, idempotency_key: str
) -> Literal["taken", "to_be_confirmed"]:
    """Take the money. Raises ``CardDeclined``."""
    if card == CARD_DECLINED:
        raise CardDeclined("the card was declined")
    return "to_be_confirmed" if card == CARD_TO_CONFIRM else "taken"


def refund(reference: str, *, idempotency_key: str) -> None:
    """Give the money back."""


def book(carrier: "Carrier", order_id: UUID, *, idempotency_key: str, attempt: int) -> str:
    """Hand a parcel over; returns its tracking number. Raises ``CarrierUnreachable``."""
    if not carrier.reachable:
        raise CarrierUnreachable(f"{carrier.name} does not answer")
    if attempt <= carrier.busy_attempts:
        raise CarrierUnreachable(f"{carrier.name} is busy")
    return f"{carrier.code.upper()}-{idempotency_key[:8]}"
