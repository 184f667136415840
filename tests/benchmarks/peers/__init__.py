"""The same small work, done with pm_celery and with other libraries for durable execution.

An order is placed, paid and delivered; being placed it reserves stock, being paid it is shipped.
Each library is used as its documentation recommends, in a process of its own and, but for
pm_celery, in a virtual environment of its own. `workload.py` is what they share.
"""
