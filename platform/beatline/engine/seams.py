"""The parts of Celery 5.7 and kombu 5.7 that the engine rests on, as their sources have them.

The published stubs lack most of them and contradict some. What is declared here is the whole surface that an upgrade of
Celery must be checked against; a contract test compares it with what is installed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

__all__ = [
    "AMQP",
    "AsyncResult",
    "Channel",
    "Chord",
    "Connection",
    "Consumer",
    "ExceptionWithTraceback",
    "Group",
    "GroupResult",
    "Logging",
    "Message",
    "RedisBackend",
    "RedisQoS",
    "Request",
    "ResultConsumer",
    "Router",
    "StartStopStep",
    "Task",
    "Transport",
    "VirtualQoS",
]

if TYPE_CHECKING:

    class Request:
        """celery.worker.request.Request"""

        id: str
        name: str
        type: str
        task: Any
        message: Any
        acknowledged: bool
        ignore_result: bool
        time_limits: tuple[float | None, float | None] | None
        delivery_info: Mapping[str, Any]
        request_dict: dict[str, Any]
        _request_dict: dict[str, Any]
        _already_revoked: bool
        time_start: float | None
        worker_pid: int
        _already_cancelled: bool

        def __init__(self, message: Any, **options: Any) -> None: ...
        def execute_using_pool(self, pool: Any, **options: Any) -> Any: ...
        def on_accepted(self, pid: int, time_accepted: float) -> None: ...
        def on_timeout(self, soft: bool, timeout: float) -> None: ...
        def on_success(self, failed__retval__runtime: Any, **options: Any) -> Any: ...
        def on_retry(self, exc_info: Any) -> None: ...
        def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> None: ...
        def acknowledge(self) -> None: ...
        def reject(self, requeue: bool = False) -> None: ...
        def _success_was_stored(self) -> Any: ...
        def send_event(self, type: str, **fields: Any) -> None: ...
        def _announce_revoked(self, reason: str, terminated: bool, signum: Any, expired: bool) -> None: ...

    class Task:
        """celery.Task"""

        abstract: bool
        name: str
        request: Any
        Strategy: str
        Request: str

        def on_replace(self, sig: Any) -> Any: ...
        def retry(self, *args: Any, **options: Any) -> Any: ...

    class AMQP:
        """celery.app.amqp.AMQP"""

        Connection: Any
        BrokerConnection: Any
        app: Any
        routes: Any
        queues: Any
        argsrepr_maxsize: int
        kwargsrepr_maxsize: int

        def __init__(self, app: Any) -> None: ...
        def as_task_v2(
            self, task_id: str, name: str, args: Any = None, kwargs: Any = None, *rest: Any, **options: Any
        ) -> Any: ...
        def _create_task_sender(self) -> Callable[..., Any]: ...

    class Router:
        """celery.app.routes.Router"""

        queues: Mapping[str, Any]

        def __init__(self, routes: Any, queues: Any, create_missing: bool, app: Any) -> None: ...
        def expand_destination(self, route: Any) -> dict[str, Any]: ...

    class Channel:
        """kombu.transport.redis.Channel"""

        from_transport_options: tuple[str, ...]
        priority_steps: list[int]
        connection_class: type
        connection_class_ssl: type
        qos: Any
        QoS: type
        Message: type
        client: Any
        connection: Any
        connection_errors: tuple[type[BaseException], ...]
        sep: str
        global_keyprefix: str
        _queue_cycle: Any
        _in_poll: Any

        def basic_consume(
            self, queue: str, no_ack: bool, callback: Callable[[Any], Any], consumer_tag: str, **options: Any
        ) -> Any: ...
        def basic_get(self, queue: str, no_ack: bool = False, **options: Any) -> Any: ...
        def conn_or_acquire(self, client: Any = None) -> Any: ...
        def _get_message_priority(self, message: dict[str, Any], reverse: bool = False) -> int: ...
        def _q_for_pri(self, queue: str, pri: int) -> str: ...
        def _put(self, queue: str, message: dict[str, Any], **kwargs: Any) -> None: ...
        def _purge(self, queue: str) -> int: ...
        def _brpop_read(self, **options: Any) -> bool: ...
        def _deliver_fanout_message(self, message: Any, exchange: str) -> Any: ...
        def _flush_brpop_reauth(self) -> None: ...

    class Message:
        """kombu.transport.virtual.base.Message"""

        def __init__(self, payload: Any, channel: Any = None, **options: Any) -> None: ...

    class VirtualQoS:
        """kombu.transport.virtual.base.QoS: deliveries that are open, in memory"""

        channel: Any
        _delivered: dict[str, Any]
        _dirty: set[str]

        def __init__(self, channel: Any, prefetch_count: int = 0) -> None: ...
        def append(self, message: Any, delivery_tag: str) -> None: ...
        def ack(self, delivery_tag: str) -> None: ...

    class RedisQoS(VirtualQoS):
        """kombu.transport.redis.QoS: the same book in Redis, too"""

        def append(self, message: Any, delivery_tag: str) -> None: ...
        def ack(self, delivery_tag: str) -> None: ...
        def _remove_from_indices(self, delivery_tag: str) -> Any: ...
        def reject(self, delivery_tag: str, requeue: bool = False) -> None: ...
        def restore_unacked(self, client: Any = None) -> None: ...

    class RedisBackend:
        """celery.backends.redis.RedisBackend"""

        app: Any
        client: Any
        ResultConsumer: type

        def __init__(self, *args: Any, **options: Any) -> None: ...
        def on_task_call(self, producer: Any, task_id: str) -> None: ...
        def ensure(self, fun: Callable[..., Any], args: Any, **policy: Any) -> Any: ...
        def apply_chord(self, header_result_args: Any, body: Any, **options: Any) -> None: ...
        def set_chord_size(self, group_id: str, chord_size: int) -> None: ...
        def _get_pool(self, **options: Any) -> Any: ...

    class ResultConsumer:
        """celery.backends.redis.ResultConsumer"""

        backend: Any

        def consume_from(self, task_id: str) -> None: ...
        def cancel_for(self, task_id: str) -> None: ...
        def on_wait_for_pending(self, result: Any, **options: Any) -> None: ...
        def on_state_change(self, meta: Any, message: Any) -> None: ...
        def drain_events(self, timeout: float | None = None) -> None: ...
        def _locked(self) -> Any: ...
        def _reset_sync(self) -> None: ...

    class Transport:
        """kombu.transport.redis.Transport"""

        Channel: type

    class Connection:
        """kombu.Connection"""

        ssl: Any

        def as_uri(self, include_password: bool = False, **options: Any) -> str: ...

    class Consumer:
        """celery.worker.consumer.Consumer"""

        connection_errors: tuple[type[BaseException], ...]
        channel_errors: tuple[type[BaseException], ...]

        def create_task_handler(self, **options: Any) -> Callable[[Any], Any]: ...
        def on_unknown_task(self, body: Any, message: Any, exc: Exception) -> None: ...
        def on_decode_error(self, message: Any, exc: Exception) -> None: ...
        def _message_report(self, body: Any, message: Any) -> str: ...
        def on_invalid_task(self, body: Any, message: Any, exc: Exception) -> None: ...

    class ExceptionWithTraceback(Exception):
        """billiard.einfo.ExceptionWithTraceback: how a pool brings an exception home"""

        exc: BaseException

    class Chord(dict[str, Any]):
        """celery.chord"""

        app: Any
        options: dict[str, Any]
        tasks: Any

        def freeze(self, *args: Any, **options: Any) -> Any: ...
        def clone(self, *args: Any, **options: Any) -> Any: ...

    class Group(dict[str, Any]):
        """celery.group"""

        def __init__(self, *tasks: Any, **options: Any) -> None: ...

    class GroupResult:
        """celery.result.GroupResult"""

        results: list[Any]

    class Logging:
        """celery.app.log.Logging"""

        app: Any
        already_setup: bool

        def __init__(self, app: Any) -> None: ...
        def setup_logging_subsystem(
            self, loglevel: Any = None, logfile: Any = None, format: Any = None, colorize: Any = None, **options: Any
        ) -> Any: ...

    class StartStopStep:
        """celery.bootsteps.StartStopStep"""

        def __init__(self, parent: Any, **options: Any) -> None: ...
        def include_if(self, parent: Any) -> bool: ...
        def start(self, parent: Any) -> None: ...
        def stop(self, parent: Any) -> None: ...
        def info(self, parent: Any) -> Any: ...

    class AsyncResult:
        """celery.result.AsyncResult"""

        id: str
        app: Any
        ignored: bool
        _cache: Any

        def get(self, timeout: float | None = None, **options: Any) -> Any: ...
        def ready(self) -> bool: ...

else:
    from billiard.einfo import ExceptionWithTraceback
    from celery import Task
    from celery import chord as Chord
    from celery import group as Group
    from celery.app.amqp import AMQP
    from celery.app.log import Logging
    from celery.app.routes import Router
    from celery.backends.redis import RedisBackend, ResultConsumer
    from celery.bootsteps import StartStopStep
    from celery.result import AsyncResult, GroupResult
    from celery.worker.consumer import Consumer
    from celery.worker.request import Request
    from kombu import Connection
    from kombu.transport.redis import Channel, Transport
    from kombu.transport.redis import QoS as RedisQoS
    from kombu.transport.virtual.base import Message
    from kombu.transport.virtual.base import QoS as VirtualQoS
