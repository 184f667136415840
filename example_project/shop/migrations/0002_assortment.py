"""What the shop sells, and by whom it delivers.."""

from django.db import migrations

PRODUCTS = [
    ("copper-kettle", "Copper kettle", "Sings when the water boils.", "64.00", 500),
    ("green-tea", "Green tea", "First flush, 100 g.", "12.50", 500),
    ("teapot", "Teapot for two", "Terracotta, glazed inside.", "38.00", 500),
    ("moon-jar", "Moon jar", "White porcelain, thrown by hand.", "240.00", 0),
]
CARRIERS = [
    ("courier", "Courier", "CO-7", True, True, 0),
    ("post", "Night post", "NP-3", True, True, 2),
    ("airship", "Airship", "AS-1", True, False, 0),
    ("drone", "Drone", "DR-1", False, True, 0),
]


def fill(apps, schema_editor):
    alias = schema_editor.connection.alias
    apps.get_model("shop", "Product").objects.using(alias).bulk_create(
        apps.get_model("shop", "Product")(
            slug=slug, name=name, description=description, price=price, stock=stock
        )
        for slug, name, description, price, stock in PRODUCTS
    )
    apps.get_model("shop", "Carrier").objects.using(alias).bulk_create(
        apps.get_model("shop", "Carrier")(
            code=code,
            name=name,
            contract=contract,
            is_signed=is_signed,
            reachable=reachable,
            busy_attempts=busy,
        )
        for code, name, contract, is_signed, reachable, busy in CARRIERS
    )


class Migration(migrations.Migration):
    dependencies = [("shop", "0001_initial")]

    operations = [migrations.RunPython(fill, migrations.RunPython.noop)]
