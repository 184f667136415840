"""The pages. A view publishes and answers at once: the work is done by workers."""

from uuid import UUID

from django.contrib import messages
from django.db.models import Count
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.views.decorators.http import require_POST, require_safe

from shop import customers
from shop.forms import CheckoutForm
from shop.models import Customer, Order
from shop.progress import planned_mails, progress_of, stops_of

ORDERS_SHOWN = 60


def checkout(request: HttpRequest) -> HttpResponse:
    form = CheckoutForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        given = form.cleaned_data
        order = customers.place_order(
            customers.join(given["name"], given["email"]),
            given["product"],
            card=given["card"],
            delivery=given["delivery"],
        )
        return redirect(order)
    products = list(form.fields["product"].queryset)
    chosen = form["product"].value() or (products[0].slug if products else "")
    return render(
        request, "shop/checkout.html", {"form": form, "products": products, "chosen": chosen}
    )


@require_safe
def orders(request: HttpRequest) -> HttpResponse:
    counts = dict(
        Order.objects.values_list("status").annotate(number=Count("pk")).order_by("status")
    )
    latest = Order.objects.select_related("customer", "product").order_by("-placed_at")
    context = {
        "orders": latest[:ORDERS_SHOWN],
        "counts": [(status, counts[status.value]) for status in Order.Status if status in counts],
        "total": sum(counts.values()),
    }
    return render(request, "shop/orders.html", context)


@require_safe
def order(request: HttpRequest, order_id: UUID) -> HttpResponse:
    return render(request, "shop/order.html", _order_context(order_id))


@require_safe
def order_progress(request: HttpRequest, order_id: UUID) -> HttpResponse:
    """The moving part of the page, for the script that keeps it up to date."""
    return render(request, "shop/_progress.html", _order_context(order_id))


def _order_context(order_id: UUID) -> dict[str, object]:
    order = get_object_or_404(Order.objects.select_related("customer", "product"), pk=order_id)
    return {
        "order": order,
        "stops": stops_of(order),
        "progress": progress_of(order),
        "now": timezone.now(),
    }


@require_POST
def confirm(request: HttpRequest, order_id: UUID) -> HttpResponse:
    order = get_object_or_404(Order, pk=order_id)
    if not customers.confirm_payment(order.pk):
        messages.warning(request, "There is nothing to confirm on this order.")
    return redirect(order)


@require_safe
def customer(request: HttpRequest, customer_id: UUID) -> HttpResponse:
    customer = get_object_or_404(Customer, pk=customer_id)
    context = {
        "customer": customer,
        "mails": customer.mails.order_by("-sent_at")[:ORDERS_SHOWN],
        "planned": planned_mails(customer),
        "now": timezone.now(),
    }
    return render(request, "shop/customer.html", context)


@require_POST
def leave(request: HttpRequest, customer_id: UUID) -> HttpResponse:
    customer = get_object_or_404(Customer, pk=customer_id)
    customers.leave(customer.pk)
    return redirect(customer)
