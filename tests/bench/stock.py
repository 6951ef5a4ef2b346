"""Celery as it comes, with what ours guarantees by settings alone: late acknowledgement, JSON, no results."""

from __future__ import annotations

import os

from celery import Celery

app = Celery("stock", broker=os.environ["BENCH_REDIS_URL"], include=["bench.tasks"])
app.conf.update(
    task_default_queue="default",
    task_acks_late=True,
    task_ignore_result=True,
    worker_prefetch_multiplier=4,
    broker_transport_options={"global_keyprefix": os.environ["BENCH_PREFIX"]},
    broker_connection_retry_on_startup=True,
)
