"""The shop's tests: ``python manage.py test shop``. No worker and no broker takes part.

``self.process_managers`` does in this process what they would do, and lets time go by.
"""

import logging
import re
from decimal import Decimal

from django.contrib.auth import get_user_model
from django.test import TestCase
from django.urls import reverse

from pm_celery.models import DeadLetter, Instance
from pm_celery.operations import dead_letters
from pm_celery.testing import ProcessManagersMixin
from shop import customers, rehearsal
from shop.command_handlers import release_stock, reserve_stock
from shop.commands import ReleaseStock, ReserveStock
from shop.models import Carrier, Discrepancy, Mail, Order, Payment, Product, Reservation
from shop.payments import SettlementLine, import_settlement
from shop.templatetags.words import words


def setUpModule() -> None:
    logging.disable(logging.CRITICAL)  # much is to go wrong here


def tearDownModule() -> None:
    logging.disable(logging.NOTSET)


class ShopTestCase(ProcessManagersMixin, TestCase):
    def setUp(self) -> None:
        super().setUp()
        self.customer = customers.join("Ada", "ada@example.com")
        self.teapot = Product.objects.get(slug="teapot")

    def place(
        self,
        product: str = "teapot",
        *,
        card: str = Order.Card.IN_FUNDS,
        delivery: str = Order.Delivery.COURIER,
    ) -> Order:
        chosen = Product.objects.get(slug=product)
        return customers.place_order(self.customer, chosen, card=card, delivery=delivery)

    def instance_of(self, order: Order) -> Instance:
        return Instance.objects.get(process="shop.OrderFulfilment", key=str(order.id))

    def assert_became(self, order: Order, instance: str, status: str) -> None:
        order.refresh_from_db()
        assert (self.instance_of(order).status, order.status) == (instance, status)

    def assert_in_stock(self, product: Product, number: int) -> None:
        assert Product.objects.get(pk=product.pk).stock == number


class OrderFulfilmentTests(ShopTestCase):
    def test_an_order_is_reserved_paid_shipped_and_delivered(self) -> None:
        order = self.place()

        self.process_managers.drain()
        self.process_managers.elapse("10s")
        self.assert_became(order, "completed", "delivered")

        assert order.payment.amount == self.teapot.price
        self.assert_in_stock(self.teapot, self.teapot.stock - 1)
        names = [t.name for t in self.instance_of(order).transitions.order_by("number")]
        assert [words(name) for name in names] == [
            "Order placed",
            "Stock reserved",
            "Payment taken",
            "Order shipped",
            "Order delivered",
        ]

    def test_an_order_of_what_is_sold_out_is_cancelled(self) -> None:
        order = self.place("moon-jar")

        self.process_managers.drain()

        self.assert_became(order, "completed", "cancelled")
        assert order.cancelled_because == "out of stock"
        assert not Payment.objects.exists()

    def test_a_declined_card_releases_the_stock_and_cancels(self) -> None:
        order = self.place(card=Order.Card.DECLINED)

        self.process_managers.drain()

        self.assert_became(order, "completed", "cancelled")
        self.assert_in_stock(self.teapot, self.teapot.stock)

    def test_a_customer_who_waits_is_reminded_and_may_still_pay(self) -> None:
        order = self.place(card=Order.Card.TO_CONFIRM)
        self.process_managers.drain()

        self.process_managers.elapse("25h")
        assert Mail.objects.filter(sort="reminder").count() == 1
        assert customers.confirm_payment(order.id)
        self.process_managers.drain()
        self.process_managers.elapse("10s")
        self.assert_became(order, "completed", "delivered")

    def test_a_customer_who_never_pays_loses_the_order(self) -> None:
        order = self.place(card=Order.Card.TO_CONFIRM)
        self.process_managers.drain()

        self.process_managers.elapse("8d")
        self.assert_became(order, "timed_out", "cancelled")
        self.assert_in_stock(self.teapot, self.teapot.stock)
        assert not customers.confirm_payment(order.id)

    def test_the_money_goes_back_when_a_paid_order_times_out(self) -> None:
        order = self.place(delivery=Order.Delivery.AIRSHIP)
        self.process_managers.drain()

        self.process_managers.elapse("8d")
        self.assert_became(order, "timed_out", "cancelled")

        assert Payment.objects.get(order=order).refunded_at is not None
        self.assert_in_stock(self.teapot, self.teapot.stock)

    def test_a_carrier_that_refuses_twice_is_asked_three_times(self) -> None:
        order = self.place(delivery=Order.Delivery.POST)
        self.process_managers.drain()

        self.process_managers.elapse("1m")
        self.process_managers.elapse("2m")
        self.process_managers.elapse("10s")
        self.assert_became(order, "completed", "delivered")
        assert not DeadLetter.objects.exists()

    def test_a_carrier_out_of_reach_is_a_dead_letter_that_can_be_retried(self) -> None:
        order = self.place(delivery=Order.Delivery.AIRSHIP)
        self.process_managers.drain()

        self.process_managers.elapse("1m")
        self.process_managers.elapse("2m")
        self.process_managers.elapse("3m")
        self.assert_became(order, "started", "paid")
        assert order.review_reason == "Airship does not answer"

        Carrier.objects.filter(code="airship").update(reachable=True)
        dead_letters.retry(DeadLetter.objects.get().pk, by="a test")
        self.process_managers.drain()
        self.process_managers.elapse("10s")
        self.assert_became(order, "completed", "delivered")
        assert order.review_reason == ""

    def test_a_contract_that_is_not_signed_fails_the_process_until_it_is(self) -> None:
        order = self.place(delivery=Order.Delivery.DRONE)

        self.process_managers.drain()

        self.assert_became(order, "failed", "paid")
        assert "Carrier" in order.review_reason

        Carrier.objects.filter(code="drone").update(is_signed=True)
        dead_letters.retry(DeadLetter.objects.get().pk, by="a test")
        self.process_managers.drain()
        self.process_managers.elapse("10s")
        self.assert_became(order, "completed", "delivered")

    def test_a_reservation_that_comes_after_its_release_takes_nothing(self) -> None:
        order = self.place()

        release_stock(ReleaseStock(order_id=order.id))
        reserve_stock(ReserveStock(order_id=order.id))

        self.assert_in_stock(self.teapot, self.teapot.stock)
        assert Reservation.objects.get(order=order).quantity == 0


class PaymentReconciliationTests(ShopTestCase):
    def settle(self, order: Order, amount: Decimal | None = None) -> None:
        line = SettlementLine("1", order.payment_reference, amount or order.total)
        import_settlement([line])

    def assert_settled(self, order: Order) -> None:
        assert Payment.objects.get(order=order).settled_at is not None
        assert not Discrepancy.objects.exists()

    def test_a_payment_is_matched_with_the_line_that_follows(self) -> None:
        order = self.place()
        self.process_managers.drain()

        self.settle(order)
        self.process_managers.drain()

        self.assert_settled(order)

    def test_a_line_is_matched_with_the_payment_that_follows(self) -> None:
        order = self.place()

        self.settle(order)
        self.process_managers.drain()

        self.assert_settled(order)

    def test_a_line_that_is_imported_twice_counts_once(self) -> None:
        order = self.place()

        self.settle(order)
        self.settle(order)
        self.process_managers.drain()

        self.assert_settled(order)

    def test_another_amount_is_reported(self) -> None:
        order = self.place()
        self.process_managers.drain()

        self.settle(order, order.total + 1)
        self.process_managers.drain()

        assert "the provider settled 39.00" in Discrepancy.objects.get().problem

    def test_what_is_unmatched_after_a_day_is_reported(self) -> None:
        paid = self.place()
        unknown = SettlementLine("2", "PAY-UNKNOWN", Decimal("9.99"))
        self.process_managers.drain()

        import_settlement([unknown])
        self.process_managers.drain()
        self.process_managers.elapse("25h")
        problems = dict(Discrepancy.objects.values_list("reference", "problem"))

        assert problems == {
            paid.payment_reference: "never settled by the provider",
            "PAY-UNKNOWN": "no payment of ours",
        }


class OnboardingTests(ShopTestCase):
    def mails(self) -> list[str]:
        return list(self.customer.mails.order_by("pk").values_list("sort", flat=True))

    def test_a_new_customer_gets_a_welcome_a_tip_and_a_survey(self) -> None:
        self.process_managers.drain()
        assert self.mails() == []

        self.process_managers.elapse("1m")
        assert self.mails() == ["welcome"]
        self.process_managers.elapse("1d")
        assert self.mails() == ["welcome", "tip"]
        self.process_managers.elapse("7d")
        assert self.mails() == ["welcome", "tip", "survey"]
        assert Instance.objects.get(process="shop.Onboarding").status == "completed"

    def test_a_customer_who_leaves_gets_no_more_mails(self) -> None:
        self.process_managers.drain()
        self.process_managers.elapse("1m")
        customers.leave(self.customer.id)
        self.process_managers.drain()

        self.process_managers.elapse("29d")
        assert self.mails() == ["welcome"]

    def test_a_customer_who_comes_back_is_welcomed_once(self) -> None:
        customers.leave(self.customer.id)

        again = customers.join("Ada", "ada@example.com")

        assert again == self.customer
        assert again.left_at is None


class PageTests(ShopTestCase):
    def page(self, path: str) -> str:
        answer = self.client.get(path)
        assert answer.status_code == 200
        return answer.content.decode()

    def test_a_person_places_an_order_and_watches_it_move(self) -> None:
        answer = self.client.post(
            reverse("shop:checkout"),
            {
                "name": "Grace",
                "email": "grace@example.com",
                "product": "teapot",
                "card": Order.Card.IN_FUNDS,
                "delivery": Order.Delivery.COURIER,
            },
        )
        order = Order.objects.get(customer__email="grace@example.com")
        self.assertRedirects(answer, order.get_absolute_url())
        assert "waits in the inbox" in self.page(order.get_absolute_url())

        self.process_managers.drain()

        progress = self.page(reverse("shop:order-progress", args=[order.id]))
        assert "Payment taken" in progress
        assert "data-ended" not in progress
        self.process_managers.elapse("10s")
        assert "data-ended" in self.page(order.get_absolute_url())

    def test_a_form_with_mistakes_places_nothing(self) -> None:
        answer = self.client.post(reverse("shop:checkout"), {"product": "a dragon"})

        self.assertContains(answer, "Please look again")
        assert not Order.objects.exists()

    def test_the_payment_is_confirmed_on_the_order_page(self) -> None:
        order = self.place(card=Order.Card.TO_CONFIRM)
        self.process_managers.drain()

        self.client.post(reverse("shop:confirm", args=[order.id]))
        again = self.client.post(reverse("shop:confirm", args=[order.id]), follow=True)

        assert Payment.objects.filter(order=order).count() == 1
        self.assertContains(again, "nothing to confirm")

    def test_an_order_with_a_dead_letter_says_what_to_do(self) -> None:
        order = self.place(delivery=Order.Delivery.DRONE)
        self.process_managers.drain()

        page = self.page(order.get_absolute_url())

        letter = DeadLetter.objects.get()
        assert reverse("admin:pm_celery_deadletter_change", args=[letter.pk]) in page

    def test_the_customer_page_shows_the_mails_to_come_until_the_customer_leaves(self) -> None:
        self.process_managers.drain()
        assert "Survey" in self.page(self.customer.get_absolute_url())

        self.client.post(reverse("shop:leave", args=[self.customer.id]))
        self.process_managers.drain()

        assert "Survey" not in self.page(self.customer.get_absolute_url())

    def test_the_list_shows_every_order(self) -> None:
        assert "None yet" in self.page(reverse("shop:orders"))

        order = self.place()

        assert order.short_id in self.page(reverse("shop:orders"))

    def test_no_page_holds_a_script_or_a_style_of_its_own(self) -> None:
        order = self.place()
        self.process_managers.drain()
        paths = [reverse("shop:checkout"), reverse("shop:orders"), order.get_absolute_url()]

        pages = "".join(self.page(path) for path in paths)

        assert re.search(r"<script(?![^>]*\bsrc=)|<style|\bstyle=|\bon\w+=", pages) is None
        assert "//cdn" not in pages

    def test_the_static_files_are_there(self) -> None:
        for name in ("shop.css", "watch.js", "teapot.svg", "moon-jar.svg"):
            assert self.client.get(f"/static/shop/{name}").status_code == 200

    def test_the_admin_shows_what_the_shop_has(self) -> None:
        self.client.force_login(get_user_model().objects.create_superuser("admin"))
        self.place()
        self.process_managers.drain()

        for model in ("product", "carrier", "customer", "order", "payment", "shipment", "mail"):
            self.page(reverse(f"admin:shop_{model}_changelist"))


class RehearsalTests(TestCase):
    def test_the_demo_has_200_orders_and_every_outcome_once(self) -> None:
        parts = rehearsal.PARTS

        assert sum(part.number for part in parts) == 200
        assert len({part.outcome for part in parts}) == len(parts)
