"""The demo's play: 200 orders, and the parts of customer, bank and operator that go with them.

Nothing here is known to the processes. The play does what people would do through the pages and the
admin, and reads from the rows what became of each order.
"""

import random
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from uuid import UUID

from django.db.models import Count, F, Max, Sum

from pm_celery.models import DeadLetter, InboxMessage, Instance, OutboxCommand
from pm_celery.operations import dead_letters
from shop import customers
from shop.models import Carrier, Customer, Discrepancy, Mail, Order, Payment, Product, Reservation
from shop.payments import SettlementLine, import_settlement
from shop.processes import Onboarding, OrderFulfilment

DELIVERED = "delivered"
REFUSED_FIRST = "delivered, the carrier having refused twice"
REMINDED = "delivered, the customer having been reminded"
LETTER_OF_COMMAND = "delivered, a command's dead letter having been retried"
LETTER_OF_EVENT = "delivered, an event's dead letter having been retried"
DECLINED = "compensated: card declined"
SOLD_OUT = "compensated: out of stock"
TIMED_OUT = "timed out: never paid"
FAILED = "failed, flagged for review"


@dataclass(frozen=True)
class Part:
    """So many orders that differ in nothing but their customers, and what is to become of them."""

    outcome: str
    number: int
    card: str = Order.Card.IN_FUNDS
    delivery: str = Order.Delivery.COURIER
    products: tuple[str, ...] = ("copper-kettle", "green-tea", "teapot")

    @property
    def is_paid(self) -> bool:
        return self.outcome not in (DECLINED, SOLD_OUT, TIMED_OUT)


# Those that take their time are placed first; the others a few at a time, as customers come.
SLOW = [
    Part(TIMED_OUT, 16, card=Order.Card.TO_CONFIRM),
    Part(REMINDED, 10, card=Order.Card.TO_CONFIRM),
    Part(LETTER_OF_COMMAND, 14, delivery=Order.Delivery.AIRSHIP),
    Part(LETTER_OF_EVENT, 10, delivery=Order.Delivery.DRONE),
    Part(FAILED, 10, delivery=Order.Delivery.DRONE),
]
QUICK = [
    Part(REFUSED_FIRST, 16, delivery=Order.Delivery.POST),
    Part(DELIVERED, 80),
    Part(DECLINED, 24, card=Order.Card.DECLINED),
    Part(SOLD_OUT, 20, products=("moon-jar",)),
]
PARTS = SLOW + QUICK
ORDERS = sum(part.number for part in PARTS)
PAID = sum(part.number for part in PARTS if part.is_paid)
UNDERWAY_AT_MOST = 40

# Of the settlement lines, some never come, some are wrong, and some are for nothing we know.
LINES_MISSING = 6
LINES_WRONG = 4
LINES_UNKNOWN = 6

CUSTOMERS = 12
LEAVERS = 4


@dataclass(frozen=True)
class Check:
    """One line of the table at the end."""

    title: str
    expected: int
    actual: int

    @property
    def is_right(self) -> bool:
        return self.expected == self.actual


class Rehearsal:
    """Call ``step`` until ``finished``; then ``checks`` tells what became of everything."""

    def __init__(self) -> None:
        self.parts: dict[UUID, Part] = {}
        self.outcomes: dict[UUID, str] = {}
        self.customers: list[Customer] = []
        self.waiting = list(self._queue())
        self.stock_at_first = self._stock()

    def _queue(self) -> Iterator[Part]:
        dice = random.Random(200)  # the same play every time
        for parts in (SLOW, QUICK):
            batch = [part for part in parts for _ in range(part.number)]
            dice.shuffle(batch)
            yield from batch

    # -- playing --------------------------------------------------------------------------------

    def begin(self) -> None:
        """The customers join, the slow orders are placed, and lines come for unknown payments."""
        self.customers = [
            customers.join(f"Customer {number}", f"customer{number}@example.com")
            for number in range(1, CUSTOMERS + 1)
        ]
        import_settlement(
            SettlementLine(f"unknown-{number}", f"PAY-UNKNOWN-{number}", Decimal("9.99"))
            for number in range(LINES_UNKNOWN)
        )
        self._place(sum(part.number for part in SLOW))

    def step(self) -> None:
        """Look what became of the orders, and do what people would do now."""
        self.outcomes = outcomes()
        self._place(UNDERWAY_AT_MOST - self._underway())
        self._confirm_what_was_reminded()
        self._leave_after_the_welcome()
        self._bring_back_the_airship()
        self._sign_with_the_drones()

    def end(self) -> None:
        """Everything is again as the visitors of the shop are told."""
        Carrier.objects.filter(code=Order.Delivery.AIRSHIP).update(reachable=False)
        Carrier.objects.filter(code=Order.Delivery.DRONE).update(is_signed=False)

    @property
    def at_rest(self) -> int:
        """How many orders have become what they were to become."""
        return sum(self.outcomes.get(id_) == part.outcome for id_, part in self.parts.items())

    @property
    def finished(self) -> bool:
        return self.at_rest == ORDERS and all(check.is_right for check in self.checks())

    def _underway(self) -> int:
        return sum(
            part.outcome != TIMED_OUT and self.outcomes.get(id_) != part.outcome
            for id_, part in self.parts.items()
        )

    def _place(self, number: int) -> None:
        lines = []
        for _ in range(min(number, len(self.waiting))):
            part, index = self.waiting.pop(0), len(self.parts)
            order = customers.place_order(
                self.customers[index % CUSTOMERS],
                Product.objects.get(slug=part.products[index % len(part.products)]),
                card=part.card,
                delivery=part.delivery,
            )
            self.parts[order.id] = part
            if part.is_paid:
                lines.append((order, sum(other.is_paid for other in self.parts.values())))
        # Often before the payment is taken: the reconciliation takes either first.
        import_settlement(
            SettlementLine(
                id=order.short_id,
                reference=order.payment_reference,
                amount=order.total + (number <= LINES_MISSING + LINES_WRONG),
            )
            for order, number in lines
            if number > LINES_MISSING
        )

    def _ids(self, outcome: str) -> list[UUID]:
        return [id_ for id_, part in self.parts.items() if part.outcome == outcome]

    def _confirm_what_was_reminded(self) -> None:
        reminded = Order.objects.filter(
            id__in=self._ids(REMINDED), status=Order.Status.UNCONFIRMED, mails__sort="reminder"
        )
        for order in reminded:
            customers.confirm_payment(order.id)

    def _leave_after_the_welcome(self) -> None:
        for customer in self.customers[:LEAVERS]:
            if customer.left_at is None and customer.mails.filter(sort="welcome").exists():
                customers.leave(customer.id)
                customer.refresh_from_db()

    def _bring_back_the_airship(self) -> None:
        """What an operator does in the admin: put the cause right, retry the dead letters."""
        letters = self._open_letters(LETTER_OF_COMMAND)
        if len(letters) == len(self._ids(LETTER_OF_COMMAND)):
            Carrier.objects.filter(code=Order.Delivery.AIRSHIP).update(reachable=True)
            self._retry(letters)

    def _sign_with_the_drones(self) -> None:
        both = self._ids(LETTER_OF_EVENT) + self._ids(FAILED)
        unsigned = Carrier.objects.filter(code=Order.Delivery.DRONE, is_signed=False)
        flagged = Order.objects.filter(id__in=both).exclude(review_reason="").count()
        if flagged == len(both) and unsigned.update(is_signed=True):
            self._retry(self._open_letters(LETTER_OF_EVENT))

    def _open_letters(self, outcome: str) -> list[DeadLetter]:
        keys = [str(id_) for id_ in self._ids(outcome)]
        process = OrderFulfilment.definition.name
        return list(DeadLetter.objects.open().filter(process=process, key__in=keys))

    def _retry(self, letters: list[DeadLetter]) -> None:
        for letter in letters:
            dead_letters.retry(letter.pk, by="the demo")

    # -- what became of it ----------------------------------------------------------------------

    def checks(self) -> list[Check]:
        return [*self._order_checks(), *self._other_checks(), *self._book_checks()]

    def _order_checks(self) -> Iterator[Check]:
        actual = Counter(self.outcomes.values())
        for part in sorted(PARTS, key=lambda part: -part.number):
            yield Check(f"Orders {part.outcome}", part.number, actual.pop(part.outcome, 0))
        for outcome, number in sorted(actual.items()):
            yield Check(f"Orders {outcome}", 0, number)

    def _other_checks(self) -> Iterator[Check]:
        settled = Payment.objects.exclude(settled_at=None).count()
        yield Check("Payments settled", PAID - LINES_MISSING - LINES_WRONG, settled)
        for title, expected, problem in (
            ("Payments settled with another amount", LINES_WRONG, "we took"),
            ("Payments never settled", LINES_MISSING, "never settled"),
            ("Settlement lines without a payment", LINES_UNKNOWN, "no payment"),
        ):
            reported = Discrepancy.objects.filter(problem__startswith=problem).count()
            yield Check(title, expected, reported)
        onboardings = Instance.objects.filter(
            process=Onboarding.definition.name, status="completed"
        )
        yield Check("Onboardings ended", CUSTOMERS, onboardings.count())
        mails = Mail.objects.filter(sort__in=["welcome", "tip", "survey"]).count()
        yield Check("Onboarding mails", 3 * CUSTOMERS - 2 * LEAVERS, mails)

    def _book_checks(self) -> Iterator[Check]:
        """Whatever happened on the way, nothing was lost and nothing was done twice."""
        yield Check("Goods, in stock or reserved", self.stock_at_first, self._stock())
        yield Check("Payments taken", PAID, Payment.objects.filter(refunded_at=None).count())
        open_letters = DeadLetter.objects.open().count()
        yield Check("Dead letters open", len(self._ids(FAILED)), open_letters)
        numbers = Instance.objects.annotate(
            steps=Count("transitions"), last=Max("transitions__number")
        )
        gaps = numbers.exclude(steps=F("number"), last=F("number")).count()
        yield Check("Instances with a gap in their transitions", 0, gaps)
        unfinished = InboxMessage.objects.open().count() + OutboxCommand.objects.unsettled().count()
        yield Check("Messages and commands left over", 0, unfinished)

    def _stock(self) -> int:
        in_stock = Product.objects.aggregate(number=Sum("stock"))["number"]
        reserved = Reservation.objects.aggregate(number=Sum("quantity"))["number"]
        return in_stock + (reserved or 0)


def outcomes() -> dict[UUID, str]:
    """What has become of each order, read from the rows."""
    process = OrderFulfilment.definition.name
    instances = {i.key: i for i in Instance.objects.filter(process=process).defer("state")}
    retried = defaultdict(set)
    letters = DeadLetter.objects.filter(process=process, status="retried")
    for key, place in letters.values_list("key", "place"):
        retried[key].add(place)
    refused = set(
        OutboxCommand.objects.filter(process=process, attempts__gt=1).values_list("key", flat=True)
    )
    reminded = set(Mail.objects.filter(sort="reminder").values_list("order_id", flat=True))

    def outcome_of(order: Order) -> str:
        key = str(order.id)
        status = instances[key].status if key in instances else "not started"
        match status, order.status:
            case "completed", Order.Status.DELIVERED:
                if "command" in retried[key]:
                    return LETTER_OF_COMMAND
                if "handler" in retried[key]:
                    return LETTER_OF_EVENT
                if order.id in reminded:
                    return REMINDED
                return REFUSED_FIRST if key in refused else DELIVERED
            case "completed", Order.Status.CANCELLED:
                return SOLD_OUT if order.cancelled_because == "out of stock" else DECLINED
            case "timed_out", Order.Status.CANCELLED:
                return TIMED_OUT
            case "failed", _ if order.review_reason:
                return FAILED
        return f"underway: instance {status}, order {order.status}"

    return {order.id: outcome_of(order) for order in Order.objects.all()}
