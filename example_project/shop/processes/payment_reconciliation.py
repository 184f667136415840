"""Our payments and the provider's settlement lines, matched in whichever order they arrive."""

from decimal import Decimal

from django.conf import settings

from pm_celery import Failure, ProcessManager, handle, on_failure, on_timeout
from shop.commands import MarkSettled, ReportDiscrepancy
from shop.events import PaymentTaken, SettlementLineReceived


class PaymentReconciliation(ProcessManager):
    """Waits for both sides of one payment reference; reports what stays alone or differs."""

    reference: str = ""
    ours: Decimal | None = None
    theirs: Decimal | None = None

    class Meta:
        correlate = {"reference": "reference"}
        timeout = settings.SHOP_SETTLEMENT_WITHIN

    # Either may be the first: both start an instance, and neither a second one.

    @handle(PaymentTaken, start=True)
    def we_were_paid(self, event: PaymentTaken) -> None:
        self.ours = event.amount
        self._match()

    @handle(SettlementLineReceived, start=True)
    def provider_settled(self, event: SettlementLineReceived) -> None:
        self.theirs = event.amount
        self._match()

    @on_timeout
    def unmatched(self) -> None:
        problem = "no payment of ours" if self.ours is None else "never settled by the provider"
        self.send(ReportDiscrepancy(reference=self.reference, problem=problem))

    @on_failure
    def failed(self, failure: Failure) -> None:
        problem = f"could not be matched: {failure.error}"
        self.send(ReportDiscrepancy(reference=self.reference, problem=problem))

    def _match(self) -> None:
        if self.ours is None or self.theirs is None:
            return
        if self.ours == self.theirs:
            self.send(MarkSettled(reference=self.reference))
        else:
            problem = f"we took {self.ours}, the provider settled {self.theirs}"
            self.send(ReportDiscrepancy(reference=self.reference, problem=problem))
        self.complete()
