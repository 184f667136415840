from django.contrib import admin
from django.contrib.staticfiles.views import serve
from django.urls import include, path

urlpatterns = [
    path("admin/", admin.site.urls),
    path("", include("shop.urls")),
    # An example needs no web server beside it. A real site leaves its static files to one.
    path("static/<path:path>", serve, {"insecure": True}),
]
