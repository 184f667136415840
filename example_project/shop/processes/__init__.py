"""The process managers, one to a file. pm_celery imports this package at start-up."""

from shop.processes.onboarding import Onboarding
from shop.processes.order_fulfilment import OrderFulfilment
from shop.processes.payment_reconciliation import PaymentReconciliation

__all__ = ["Onboarding", "OrderFulfilment", "PaymentReconciliation"]
