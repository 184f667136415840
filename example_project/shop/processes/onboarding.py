"""A new customer's first mails."""

from dataclasses import field
from uuid import UUID

from django.conf import settings

from pm_celery import Failure, ProcessManager, handle, on_failure, on_timeout
from shop.commands import SendOnboardingMail
from shop.events import CustomerJoined, CustomerLeft, OnboardingMailSent


class Onboarding(ProcessManager):
    """A welcome, a tip, a survey; nothing more once the customer has left."""

    customer_id: UUID | None = None
    mails: list[str] = field(default_factory=list)

    class Meta:
        correlate = {"customer_id": "customer_id"}
        timeout = "30d"

    @handle(CustomerJoined, start=True)
    def joined(self, event: CustomerJoined) -> None:
        for mail, delay in (
            ("welcome", settings.SHOP_WELCOME_AFTER),
            ("tip", settings.SHOP_TIP_AFTER),
            ("survey", settings.SHOP_SURVEY_AFTER),
        ):
            # A delayed command is a row with a moment: it survives every restart.
            self.send(SendOnboardingMail(customer_id=event.customer_id, mail=mail), delay=delay)

    @handle(OnboardingMailSent)
    def sent(self, event: OnboardingMailSent) -> None:
        self.mails.append(event.mail)
        if event.mail == "survey":
            self.complete()

    @handle(CustomerLeft, end=True)
    def left(self, event: CustomerLeft) -> None:
        self.cancel_command(SendOnboardingMail)

    @on_timeout
    def timed_out(self) -> None:
        self.cancel_command(SendOnboardingMail)

    @on_failure
    def failed(self, failure: Failure) -> None:
        """A customer whom one mail did not reach is not written to any more."""
        self.cancel_command(SendOnboardingMail)
