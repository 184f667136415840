from django.urls import path

from shop import views

app_name = "shop"

urlpatterns = [
    path("", views.checkout, name="checkout"),
    path("orders/", views.orders, name="orders"),
    path("orders/<uuid:order_id>/", views.order, name="order"),
    path("orders/<uuid:order_id>/progress/", views.order_progress, name="order-progress"),
    path("orders/<uuid:order_id>/confirm/", views.confirm, name="confirm"),
    path("customers/<uuid:customer_id>/", views.customer, name="customer"),
    path("customers/<uuid:customer_id>/leave/", views.leave, name="leave"),
]
