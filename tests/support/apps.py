"""Celery apps inside a test's own process: made, and closed with every connection they opened."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from beatline.app import create_app
from beatline.settings import Settings


@contextmanager
def open_app(settings: Settings) -> Generator[Any]:
    """A Beatline app of an installation; its tasks are imported."""
    app: Any = create_app(settings)
    app.loader.import_default_modules()
    try:
        yield app
    finally:
        close(app)


def close(app: Any) -> None:
    """Close what Celery's own `close` leaves to the garbage collector: pools, and the result backend's connections."""
    if app._pool is not None:
        app.pool.force_close_all()
    if app.amqp._producer_pool is not None:
        app.amqp.producer_pool.force_close_all()
    backend = app.backend
    if "client" in getattr(backend, "__dict__", {}):
        pubsub = backend.result_consumer._pubsub
        if pubsub is not None:
            pubsub.close()
        # A result that the garbage collector takes later says good-bye to Redis, over a connection that nobody would close.
        backend.remove_pending_result = _forget
        backend.client.close()
        backend.client.connection_pool.disconnect()
    if "beatline" in app.conf:
        app.conf["beatline"].redis.close()
    app.close()


def _forget(result: Any) -> None:
    del result
