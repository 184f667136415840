"""The shop's processes, tested in memory: ``python manage.py test shop``. No database takes part.

What each order of events, each timer and each failure leads to is not thought up here but tried.
"""

from decimal import Decimal
from unittest import mock
from uuid import UUID

from django.test import SimpleTestCase

from pm_celery.testing import Scenario, explore, given
from shop.commands import (
    BookShipment,
    CancelOrder,
    FlagForReview,
    MarkSettled,
    ReleaseStock,
    RemindOfPayment,
    ReportDiscrepancy,
    ReserveStock,
    SendOnboardingMail,
    TakePayment,
)
from shop.events import (
    CustomerJoined,
    CustomerLeft,
    OnboardingMailSent,
    OrderCancelled,
    OrderDelivered,
    OrderPlaced,
    OrderShipped,
    PaymentDeclined,
    PaymentTaken,
    SettlementLineReceived,
    StockRanOut,
    StockReserved,
)
from shop.models import Carrier
from shop.processes import Onboarding, OrderFulfilment, PaymentReconciliation

ORDER, CUSTOMER = UUID(int=1), UUID(int=2)
PLACED = OrderPlaced(order_id=ORDER, delivery="post")
RESERVED = StockReserved(order_id=ORDER)
PAID = PaymentTaken(order_id=ORDER, reference="PAY-1", amount=Decimal("12.50"))
SETTLED = SettlementLineReceived(reference="PAY-1", amount=Decimal("12.50"))
JOINED, LEFT = CustomerJoined(customer_id=CUSTOMER), CustomerLeft(customer_id=CUSTOMER)

# What the shop's command handlers publish, and what only one of them does.
ORDER_EVENTS = [
    PLACED,
    RESERVED,
    StockRanOut(order_id=ORDER),
    PAID,
    PaymentDeclined(order_id=ORDER, reason="no funds"),
    OrderShipped(order_id=ORDER, tracking="T-1"),
    OrderDelivered(order_id=ORDER),
    OrderCancelled(order_id=ORDER, reason="any"),
]
ORDER_CAUSES = {
    StockReserved: ReserveStock,
    StockRanOut: ReserveStock,
    PaymentTaken: TakePayment,
    PaymentDeclined: TakePayment,
    OrderShipped: BookShipment,
    OrderDelivered: OrderShipped,
    OrderCancelled: CancelOrder,
}
ORDER_ALTERNATIVES = [(StockReserved, StockRanOut), (PaymentTaken, PaymentDeclined)]

MAILS = {
    OnboardingMailSent(customer_id=CUSTOMER, mail=mail): SendOnboardingMail(
        customer_id=CUSTOMER, mail=mail
    )
    for mail in ("welcome", "tip", "survey")
}


def contract(is_signed: bool = True) -> "mock._patch[mock.Mock]":
    """The one question that a handler asks the database, answered."""
    answer = {"return_value": Carrier(code="post", contract="P-1")}
    return mock.patch.object(
        Carrier.objects, "get", **(answer if is_signed else {"side_effect": Carrier.DoesNotExist})
    )


def nobody_who_paid_is_reminded(order: Scenario[OrderFulfilment]) -> bool:
    paid = [step.number for step in order.transitions if step.message == PAID]
    reminder = RemindOfPayment(order_id=ORDER)
    return not any(
        reminder in step.commands for step in order.transitions if paid and step.number > paid[0]
    )


def nobody_is_written_to_after_the_end(case: Scenario[Onboarding]) -> bool:
    return not (case.has_ended and any(sent.status == "pending" for sent in case.outbox))


class OrderFulfilmentTests(SimpleTestCase):
    def test_a_declined_payment_gives_the_stock_back(self) -> None:
        order = given(OrderFulfilment, PLACED, RESERVED)

        order.when(PaymentDeclined(order_id=ORDER, reason="no funds"))

        order.expect(
            commands=[
                ReleaseStock(order_id=ORDER),
                CancelOrder(order_id=ORDER, reason="no funds"),
            ],
            timers={},
        )

    def test_who_does_not_pay_is_reminded_and_given_up_after_a_week(self) -> None:
        order = given(OrderFulfilment, PLACED, RESERVED)

        order.elapse("24h").expect(commands=[RemindOfPayment(order_id=ORDER)])

        order.elapse("6d").expect(status="timed_out")

    def test_an_order_without_a_contract_waits_for_a_person_who_signs_one(self) -> None:
        order = given(OrderFulfilment, PLACED, RESERVED, raises=Carrier.DoesNotExist)
        with contract(is_signed=False):
            order.when(PAID)
        order.expect(
            status="failed",
            commands=[FlagForReview(order_id=ORDER, reason="shop.PaymentTaken: ")],
        )

        with contract():
            order.retry()

        order.expect(status="started", commands=[BookShipment(order_id=ORDER, contract="P-1")])

    def test_in_every_order_of_things_it_ends_and_does_nothing_twice(self) -> None:
        with contract():
            report = explore(
                OrderFulfilment,
                ORDER_EVENTS,
                causes=ORDER_CAUSES,
                alternatives=ORDER_ALTERNATIVES,
                duplicates=0,
                once=[ReserveStock, TakePayment, BookShipment],
                invariants=[nobody_who_paid_is_reminded],
            )

        assert report.unreached == []

    def test_also_where_handlers_fail_and_are_retried(self) -> None:
        with contract():
            explore(
                OrderFulfilment,
                ORDER_EVENTS,
                causes=ORDER_CAUSES,
                alternatives=ORDER_ALTERNATIVES,
                duplicates=0,
                command_failures=0,
                handler_failures=1,
                invariants=[nobody_who_paid_is_reminded],
            )


class PaymentReconciliationTests(SimpleTestCase):
    def test_both_sides_may_come_first(self) -> None:
        ours = given(PaymentReconciliation, PAID).when(SETTLED)
        theirs = given(PaymentReconciliation, SETTLED).when(PAID)

        for case in (ours, theirs):
            case.expect(status="completed", commands=[MarkSettled(reference="PAY-1")])

    def test_in_every_order_of_things_it_ends_and_says_so_once(self) -> None:
        report = explore(
            PaymentReconciliation,
            [PAID, SETTLED],
            once=[MarkSettled, ReportDiscrepancy],
            handler_failures=1,
        )

        assert report.unreached == []


class OnboardingTests(SimpleTestCase):
    def test_the_mails_come_after_a_minute_a_day_and_a_week(self) -> None:
        customer = given(Onboarding, JOINED)

        for time_goes_by, mails in (("1m", 1), ("1d", 2), ("6d", 3)):
            customer.elapse(time_goes_by)
            dispatched = [sent for sent in customer.outbox if sent.status == "dispatched"]
            assert len(dispatched) == mails

    def test_in_every_order_of_things_nobody_who_left_is_written_to(self) -> None:
        report = explore(
            Onboarding,
            [JOINED, *MAILS, LEFT],
            causes=MAILS,
            duplicates=0,
            once=[SendOnboardingMail],
            invariants=[nobody_is_written_to_after_the_end],
        )

        assert report.unreached == []
