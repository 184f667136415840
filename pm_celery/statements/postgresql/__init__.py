"""The hot path in PostgreSQL's SQL: arrays in, ``unnest``, one statement for each step of the heart.

Measured against the ORM's bulk calls, this takes a sixth to a tenth of a worker's CPU. Parameters are
bound by the server, and arrays go there in binary: written as text by the client, they were two thirds
of a batch's CPU. What is executed here passes Django's wrappers (errors, query log) like any query.
"""

from pm_celery.statements.postgresql.claiming import (
    begin_batch,
    claim,
    due_partitions,
    lock_instances,
    lock_messages,
    notify,
    read_open,
    rest,
    wake,
)
from pm_celery.statements.postgresql.recording import (
    finish_commands,
    insert_messages,
    record,
    take_commands,
)

__all__ = [
    "begin_batch",
    "claim",
    "due_partitions",
    "finish_commands",
    "insert_messages",
    "lock_instances",
    "lock_messages",
    "notify",
    "read_open",
    "record",
    "rest",
    "take_commands",
    "wake",
]
