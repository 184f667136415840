"""The variants' names, in tables, in JSON and in plots."""

from __future__ import annotations

FLOOR = "floor: plain psycopg"
BARE = "bare"
BY_HAND = "by hand"
ENGINE = "pm_celery engine, no commands"
PM_CELERY = "pm_celery"
SEVERAL = "pm_celery, 50 commands to a message"
LISTENING = "pm_celery, with a listener"

# Those of publish_cost.
ALONE = "the row alone"
DELAY = "by hand: delay on commit"
WAKING = "pm_celery: with a wake-up"
AWAKE = "pm_celery: a wake-up is outstanding"
NOTIFYING = "pm_celery: tells the listener"
