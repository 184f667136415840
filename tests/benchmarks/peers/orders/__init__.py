"""What runs in the peers' own environments, as the top-level package `orders`.

Not as part of `tests`, whose import needs Celery, which the other peers' environments have not.
"""
