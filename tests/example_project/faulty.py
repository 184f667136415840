"""The shop's processes with mistakes in them, which an exploration has to find by the shortest way.

Run by ``manage.py test tests.example_project.faulty`` in the example's folder: see ``test_shop.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.test import SimpleTestCase
from shop.commands import BookShipment, RefundPayment, ReserveStock, SendOnboardingMail, TakePayment
from shop.events import (
    OnboardingMailSent,
    PaymentDeclined,
    PaymentTaken,
)
from shop.processes import Onboarding, OrderFulfilment, PaymentReconciliation
from shop.test_processes import (
    JOINED,
    LEFT,
    MAILS,
    ORDER_ALTERNATIVES,
    ORDER_CAUSES,
    ORDER_EVENTS,
    PAID,
    SETTLED,
    contract,
    nobody_who_paid_is_reminded,
)

from pm_celery import handle
from pm_celery.testing import Broken, Report, Scenario, explore


class RemindsWhoPaid(OrderFulfilment):
    """Its reminder stays set when the payment is there."""

    @handle(PaymentTaken)
    def paid(self, event: PaymentTaken) -> None:
        self.send(BookShipment(order_id=event.order_id, contract="P-1"))


class RefundsTwice(OrderFulfilment):
    """It pays back each time that it hears of a declined payment."""

    @handle(PaymentDeclined)
    def declined(self, event: PaymentDeclined) -> None:
        super().declined(event)
        self.send(RefundPayment(order_id=event.order_id))


class MatchesOneOrderOnly(PaymentReconciliation):
    """It looks at both sides only when the provider's comes second, and waits for ever."""

    class Meta(PaymentReconciliation.Meta):
        timeout = None

    @handle(PaymentTaken, start=True)
    def we_were_paid(self, event: PaymentTaken) -> None:
        self.ours = event.amount


class EndsWithTheTip(Onboarding):
    """It takes the second mail for the last one."""

    @handle(OnboardingMailSent)
    def sent(self, event: OnboardingMailSent) -> None:
        self.mails.append(event.mail)
        if event.mail == "tip":
            self.complete()


def everybody_gets_all_mails(case: Scenario[Onboarding]) -> bool:
    return case.status != "completed" or LEFT in case.handled or len(case.state.mails) == 3


def found_in(explored: Callable[[], Report]) -> Report:
    try:
        explored()
    except Broken as broken:
        return broken.report
    raise AssertionError("nothing was found")


class FaultyVariantsTests(SimpleTestCase):
    def assert_found(self, report: Report, kind: str, steps: list[str], **known: Any) -> None:
        """The shortest way is this one, and its test runs, and fails for that reason."""
        [found] = [one for one in report.violations if one.kind == kind]
        lines = [line.strip() for line in found.test.splitlines()]
        taken = [line for line in lines if line.startswith("instance.")][: found.steps]
        assert len(taken) == len(steps), found.test
        for line, step in zip(taken, steps, strict=True):
            assert step in line
        # Faulty processes are no module's own: what it imports is all there is.
        namespace: dict[str, Any] = {}
        exec(found.test, namespace)
        [test] = [value for name, value in namespace.items() if name.startswith("test_")]
        with self.assertRaises(AssertionError), contract():  # noqa: PT027 -- no pytest here
            test()

    def test_a_reminder_that_stays_set_after_the_payment_is_found(self) -> None:
        """Conformance 48."""
        report = found_in(
            lambda: explore(
                RemindsWhoPaid,
                ORDER_EVENTS,
                causes=ORDER_CAUSES,
                alternatives=ORDER_ALTERNATIVES,
                duplicates=0,
                once=[ReserveStock, TakePayment],
                invariants=[nobody_who_paid_is_reminded],
            )
        )

        steps = ["OrderPlaced", "StockReserved", "PaymentTaken", 'elapse("1d")']
        self.assert_found(report, "invariant", steps)

    def test_a_payment_that_is_paid_back_twice_is_found(self) -> None:
        """Conformance 48."""
        with contract():
            report = found_in(
                lambda: explore(
                    RefundsTwice,
                    ORDER_EVENTS,
                    causes=ORDER_CAUSES,
                    alternatives=ORDER_ALTERNATIVES,
                    once=[RefundPayment],
                )
            )

        steps = ["OrderPlaced", "StockReserved", "PaymentDeclined", "PaymentDeclined"]
        self.assert_found(report, "once", steps)

    def test_a_reconciliation_that_never_ends_in_one_order_of_its_events_is_found(self) -> None:
        """Conformance 48."""
        report = found_in(lambda: explore(MatchesOneOrderOnly, [PAID, SETTLED], missing=False))

        self.assert_found(report, "ends", ["SettlementLineReceived", "PaymentTaken"])

    def test_an_onboarding_that_ends_with_the_wrong_mail_is_found(self) -> None:
        """Conformance 48."""
        report = found_in(
            lambda: explore(
                EndsWithTheTip,
                [JOINED, *MAILS, LEFT],
                causes=MAILS,
                duplicates=0,
                once=[SendOnboardingMail],
                invariants=[everybody_gets_all_mails],
            )
        )

        steps = ["CustomerJoined", 'elapse("1m")', 'elapse("23h59m")', "OnboardingMailSent"]
        self.assert_found(report, "invariant", steps)
