"""The office. pm_celery's own registers (instances, dead letters, …) stand beside these."""

from django.contrib import admin

from shop.models import Carrier, Customer, Discrepancy, Mail, Order, Payment, Product, Shipment


@admin.register(Product)
class ProductAdmin(admin.ModelAdmin):
    list_display = ["name", "price", "stock"]
    list_editable = ["stock"]
    prepopulated_fields = {"slug": ["name"]}


@admin.register(Carrier)
class CarrierAdmin(admin.ModelAdmin):
    list_display = ["name", "contract", "is_signed", "reachable", "busy_attempts"]
    list_editable = ["is_signed", "reachable"]


@admin.register(Customer)
class CustomerAdmin(admin.ModelAdmin):
    list_display = ["name", "email", "joined_at", "left_at"]
    search_fields = ["name", "email"]
    readonly_fields = ["joined_at", "left_at"]


@admin.register(Order)
class OrderAdmin(admin.ModelAdmin):
    list_display = ["short_id", "customer", "product", "status", "review_reason", "placed_at"]
    list_filter = ["status", "delivery", "card"]
    list_select_related = ["customer", "product"]
    ordering = ["-placed_at"]
    # An order's status follows its process: edited by hand, the two would contradict each other.
    readonly_fields = [
        "customer",
        "product",
        "quantity",
        "total",
        "card",
        "delivery",
        "status",
        "cancelled_because",
        "placed_at",
    ]

    def has_add_permission(self, request) -> bool:
        return False


class RecordAdmin(admin.ModelAdmin):
    """What was written down, and stays as it is."""

    def has_add_permission(self, request) -> bool:
        return False

    def has_change_permission(self, request, obj=None) -> bool:
        return False


@admin.register(Payment)
class PaymentAdmin(RecordAdmin):
    list_display = ["reference", "order", "amount", "taken_at", "settled_at", "refunded_at"]
    list_select_related = ["order"]
    search_fields = ["reference"]


@admin.register(Shipment)
class ShipmentAdmin(RecordAdmin):
    list_display = ["tracking", "order", "carrier", "shipped_at", "delivered_at"]
    list_select_related = ["order", "carrier"]


@admin.register(Mail)
class MailAdmin(RecordAdmin):
    list_display = ["subject", "customer", "sent_at"]
    list_select_related = ["customer"]


@admin.register(Discrepancy)
class DiscrepancyAdmin(admin.ModelAdmin):
    list_display = ["reference", "problem", "reported_at"]
