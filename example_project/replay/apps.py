import os
import signal
import threading
import time

from celery import current_app
from django.apps import AppConfig

from replay.definition import Definition


class ReplayConfig(AppConfig):
    name = "replay"

    def ready(self) -> None:
        definition = Definition.of_this_worker()
        if definition is not None:
            # A queue of the run's own: other workers on this broker do not know its process.
            current_app.conf.task_default_queue = definition.queue
            # The command needs no remote control, and brokers keep its queues for a while.
            current_app.conf.worker_enable_remote_control = False
            threading.Thread(target=_end_with, args=[definition.command], daemon=True).start()


def _end_with(command: int) -> None:
    """Shut this worker down when the command is gone: it was killed and could not do it itself."""
    while os.getppid() == command:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)
