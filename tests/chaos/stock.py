"""Celery as it comes, as careful people run it: late acknowledgement, redelivery after the visibility time-out, retries.

The time-out is scaled down as our lease is, and the sweep that redelivers runs every second instead of every hundred.
"""

from __future__ import annotations

import os
from typing import Any, Final

from celery import Celery

URL: Final = "CHAOS_STOCK_URL"
VISIBILITY_S: Final = 6


def configured(url: str) -> Celery:
    """The app for one Redis."""
    app: Any = Celery("stock", broker=url, include=["chaos.workload"], set_as_current=False)
    app.conf.update(
        task_default_queue="default",
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        task_ignore_result=True,
        worker_prefetch_multiplier=4,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        broker_transport_options={
            "global_keyprefix": "{stock}:",
            "visibility_timeout": VISIBILITY_S,
            "unacked_restore_interval": 1,
            "unacked_restore_throttle": 1,
        },
        broker_connection_retry_on_startup=True,
    )
    return app  # type: ignore[no-any-return]


app = configured(os.environ.get(URL, "redis://127.0.0.1:1/0"))
