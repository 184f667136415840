from collections.abc import Iterator

from django import forms

from shop.models import Order, Product

# What a person who tries the shop wants to know; no real shop would say it.
HINTS = {
    Order.Card.IN_FUNDS: "Pays at once.",
    Order.Card.DECLINED: "Is declined: the stock is released, the order cancelled.",
    Order.Card.TO_CONFIRM: "Waits until you confirm: a reminder comes, then a timeout.",
    Order.Delivery.COURIER: "Comes at once.",
    Order.Delivery.POST: "Refuses twice, then comes: the command is retried.",
    Order.Delivery.AIRSHIP: "Out of reach: the command becomes a dead letter.",
    Order.Delivery.DRONE: "Contract not signed: the process fails, a person must look.",
}


class CheckoutForm(forms.Form):
    name = forms.CharField(max_length=100, initial="Ada Lovelace", label="Your name")
    email = forms.EmailField(initial="ada@example.com", label="Your mail address")
    product = forms.ModelChoiceField(
        Product.objects.order_by("pk"), to_field_name="slug", empty_label=None
    )
    card = forms.ChoiceField(choices=Order.Card.choices, initial=Order.Card.IN_FUNDS)
    delivery = forms.ChoiceField(choices=Order.Delivery.choices, initial=Order.Delivery.COURIER)

    @property
    def cards(self) -> Iterator[dict[str, object]]:
        return self._options("card")

    @property
    def deliveries(self) -> Iterator[dict[str, object]]:
        return self._options("delivery")

    def _options(self, name: str) -> Iterator[dict[str, object]]:
        for value, label in self.fields[name].choices:
            chosen = self[name].value() == value
            yield {"value": value, "label": label, "hint": HINTS[value], "chosen": chosen}
