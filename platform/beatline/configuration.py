"""Celery's configuration under Beatline, each value that differs from Celery's default with its reason."""

from __future__ import annotations

from typing import Any, Final

from kombu import Exchange
from kombu import Queue as KombuQueue

from beatline.queues.routing import known_queues
from beatline.queues.topology import DEFAULT
from beatline.settings import Settings

GUARANTEED: Final[dict[str, Any]] = {
    # Pickle lets who can write to Redis run code.
    "task_serializer": "json",
    "result_serializer": "json",
    "accept_content": ["json"],
    "result_accept_content": ["json"],
    # Only protocol 2 has headers, and the run id and attempt travel there.
    "task_protocol": 2,
    # A typing error in a queue's name must fail at the caller instead of filling a list that nobody reads.
    "task_create_missing_queues": False,
    # Messages of a lost worker are found by lease, and an acknowledged one could not be compared with its run.
    "task_acks_late": True,
    # A pool process that died is a lost attempt, counted and repeated by the reconciler; the broker's own redelivery
    # knows no count and loops for ever.
    "task_reject_on_worker_lost": False,
    # False would make a task that runs into its hard limit a hot loop.
    "task_acks_on_failure_or_timeout": True,
    # Beat and everything stored is in UTC; a schedule carries its own zone.
    "enable_utc": True,
    "timezone": "UTC",
    # Eager tasks pass by the queue, the lease and the history.
    "task_always_eager": False,
}
"""What the promises rest on: an attached project that set one of these otherwise is refused by name."""


def defaults() -> dict[str, Any]:
    """What a project may set for itself; ours where it did not."""
    return {
        # A result that nobody reads is a write and a channel a task: families ignore theirs, others keep them an hour.
        "result_expires": 3600,
        # What a chord has counted of its parts; one of them may be delayed, or wait behind a backlog.
        "result_chord_expires": 30 * 24 * 3600,
        # The time a stuck server may hold a caller or a worker.
        "result_backend_always_retry": True,
        "result_backend_max_retries": 10,
        "redis_socket_timeout": 10,
        "redis_socket_connect_timeout": 3,
        "redis_socket_keepalive": True,
        "redis_backend_health_check_interval": 30,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        # A worker survives a full Redis and goes on when there is room (Celery's default exits).
        "broker_channel_error_retry": True,
        "task_publish_retry_policy": {"max_retries": 2, "interval_start": 0.1, "interval_step": 0.3, "interval_max": 1},
        # A message reserved behind a long task waits for nothing; queues of short tasks raise it.
        "worker_prefetch_multiplier": 1,
        # A short outage must not abort good work; the fence guards against a long one.
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        # Stopping lets a running task end within this time, then requeues it.
        "worker_soft_shutdown_timeout": 8.0,
        "worker_enable_soft_shutdown_on_idle": True,
        # Ours: no message, whatever stands in it, ends a worker, and none's arguments are logged.
        "worker_consumer": "beatline.engine.consumer:Consumer",
        # Ours: a run's context on every line, secrets masked.
        "worker_hijack_root_logger": False,
        "worker_redirect_stdouts": False,
        # Flower lives on these; the history does not.
        "worker_send_task_events": True,
        "event_queue_ttl": 60.0,
    }


def broker_options(settings: Settings, longest_limit_s: int) -> dict[str, Any]:
    """Options of the transport."""
    return {
        "global_keyprefix": settings.key_prefix,
        "beatline_events": settings.keys.events,
        "beatline_low_first": settings.priority_order == "low_first",
        # kombu redelivers what was not acknowledged within this time of its receipt. The claim drops such copies, so it
        # only has to be longer than any task.
        "visibility_timeout": longest_limit_s + 600,
        # None waits for ever on a half-open connection.
        "socket_timeout": 10,
        "socket_connect_timeout": 3,
        "socket_keepalive": True,
        "health_check_interval": 20,
        "queue_order_strategy": "round_robin",
    }


def queue_declarations(settings: Settings) -> tuple[KombuQueue, ...]:
    """Every queue there is. They use the default exchange: a message goes to the list it names or is refused, where a
    named exchange with a lost binding swallows it."""
    exchange = Exchange("", type="direct")
    return tuple(KombuQueue(name, exchange=exchange, routing_key=name) for name in known_queues(settings.queues))


def connections(settings: Settings) -> dict[str, Any]:
    """Where the broker, the results and RedBeat's entries are."""
    limits = [queue.hard_limit_s for queue in known_queues(settings.queues).values()]
    return {
        "broker_url": settings.redis_url,
        "broker_transport": "beatline.engine.transport:Transport",
        "broker_transport_options": broker_options(settings, max(limits)),
        "result_backend": settings.result_url,
        "result_backend_transport_options": {"global_keyprefix": settings.key_prefix},
        "redbeat_redis_url": settings.redis_url,
        "redbeat_key_prefix": settings.keys.redbeat,
        "redbeat_lock_timeout": settings.beat_lock_s,
        # Else stock RedBeat's tools take the broker's options, and warn that they will not any more.
        "redbeat_redis_options": {"socket_timeout": 5, "socket_connect_timeout": 3, "socket_keepalive": True},
        "beat_max_loop_interval": settings.beat_interval_s,
        "beat_scheduler": "beatline",
        "task_default_queue": DEFAULT,
        "task_default_exchange": "",
        "task_default_routing_key": DEFAULT,
        "task_queues": queue_declarations(settings),
    }
