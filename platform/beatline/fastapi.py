"""Beatline in a FastAPI app of yours: opened and closed with it, at hand in a route as a dependency.

    from beatline.fastapi import Beatline, beatline, lifespan

    app = FastAPI(lifespan=lifespan)

    @app.post("/orders", status_code=202)
    async def order(number: int, tasks: Annotated[Beatline, Depends(beatline)]) -> dict[str, str]:
        return {"run": await tasks.send("shop.invoice", [number])}

With a lifespan of your own, or a Celery app that you have attached: `async with lifespan(app, celery): yield`. The admin
API goes beside it: `app.mount("/beatline", create_api(tasks.installation))` with `beatline.api.app.create_api`.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol
from uuid import uuid4

import anyio
from anyio import CapacityLimiter, from_thread, to_thread
from fastapi import FastAPI
from starlette.requests import HTTPConnection

from beatline.clock import monotonic_s
from beatline.engine.worker import CONF_KEY
from beatline.errors import BeatlineError, NotFoundError, ServiceError
from beatline.ledger.database import guarded
from beatline.ledger.history import Run, find_run
from beatline.outage import server_of
from beatline.settings import Settings

if TYPE_CHECKING:
    from celery import Celery

    from beatline.installation import Installation

WAIT_S: Final = 5.0
PATIENCE_S: Final = 2.0
AT_ONCE: Final = 16
_LOOK_EVERY_S: Final = 0.1
_KEPT_AS: Final = "beatline_sender"


class Named(Protocol):
    """A task, as `@shared_task` and `@app.task` make it."""

    @property
    def name(self) -> str: ...


class Beatline:
    """Sends tasks and looks at runs for one web app. A call waits `wait_s` at the longest, however Redis does."""

    def __init__(self, celery: Celery, *, wait_s: float = WAIT_S) -> None:
        installation: Installation | None = celery.conf.get(CONF_KEY)
        if installation is None:
            raise BeatlineError("This Celery app is not a Beatline app: call beatline.attach(app) where it is made.")
        self.celery, self.installation = celery, installation
        self._wait_s = wait_s
        # Its own: what waits for a Redis that hangs must not take the threads of other routes.
        self._threads = CapacityLimiter(AT_ONCE)

    async def send(
        self, task: str | Named, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> str:
        """Put a run of the task into its queue, and return its id. `options` are those of `apply_async`.

        Raises UnknownQueueError or MessageTooLargeError, and ServiceError if Redis has not taken it in time; if the run
        may come to be all the same, that says so and names its id.
        """
        run_id = str(options.pop("task_id", None) or uuid4())
        name = task if isinstance(task, str) else task.name
        given_up = threading.Event()
        publish = partial(self._publish, name, args, kwargs or {}, run_id, options, given_up)
        try:
            with anyio.fail_after(self._wait_s):
                await to_thread.run_sync(publish, abandon_on_cancel=True, limiter=self._threads)
        except TimeoutError:
            given_up.set()
            raise ServiceError(
                f"Redis has not taken the task {name!r} within {self._wait_s:g} s. Its run {run_id} may come to be all "
                "the same: look for it before you send it again."
            ) from None
        except Exception as exc:
            if server_of(exc) is None:
                raise
            raise ServiceError(f"Redis does not answer: the task {name!r} was not sent.") from exc
        return run_id

    def send_sync(
        self, task: str | Named, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> str:
        """As `send`, for a route that is a plain `def`."""
        return from_thread.run(partial(self.send, task, args, kwargs, **options))

    async def run(self, run_id: str, *, patience_s: float = PATIENCE_S) -> Run:
        """The run as history shows it. One just sent is waited for: history is a moment behind.

        Raises NotFoundError, and ServiceError if PostgreSQL does not answer.
        """
        give_up_s = monotonic_s() + patience_s
        while True:
            found = await to_thread.run_sync(self._find, run_id, limiter=self._threads)
            if found is not None:
                return found
            if monotonic_s() >= give_up_s:
                raise NotFoundError("run", run_id, "If it was sent just now, no recorder runs.")
            await anyio.sleep(_LOOK_EVERY_S)

    def close(self) -> None:
        """Close the connections that were opened; one that is needed again is opened again."""
        app: Any = self.celery
        for pool in (app.amqp._producer_pool, app._pool):
            if pool is not None:
                pool.force_close_all(close_pool=False)
        self.installation.redis.close()
        self.installation.engine.dispose()

    def _publish(
        self,
        name: str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        run_id: str,
        options: Mapping[str, Any],
        given_up: threading.Event,
    ) -> None:
        self.installation.redis.ping()  # Celery tries again for longer than a request waits
        if given_up.is_set():
            return  # nobody waits for it any more, and it can still be left undone
        # Through the app that was given: in a thread of its own, Celery's current app is another.
        app: Any = self.celery
        task = app.tasks.get(name)
        if task is None:
            app.send_task(name, list(args), dict(kwargs), task_id=run_id, **options)
        else:
            task.apply_async(list(args), dict(kwargs), task_id=run_id, **options)

    def _find(self, run_id: str) -> Run | None:
        with guarded(self.installation.settings), self.installation.engine.connect() as conn:
            try:
                found = find_run(conn, run_id)
            except NotFoundError:
                return None
        return found if found.id == run_id else None


@asynccontextmanager
async def lifespan(app: FastAPI, celery: Celery | None = None, *, wait_s: float = WAIT_S) -> AsyncGenerator[None]:
    """Beatline is there while the web app serves. Opening connects to nothing; closing closes what was connected.

    `celery` is your attached app; else the current one if it is a Beatline app, else Beatline's own by the settings of
    the environment. Raises SettingsError or NotRunningError.
    """
    opened = Beatline(celery or _celery_app(), wait_s=wait_s)
    setattr(app.state, _KEPT_AS, opened)
    try:
        yield
    finally:
        delattr(app.state, _KEPT_AS)
        await to_thread.run_sync(opened.close)


def beatline(connection: HTTPConnection) -> Beatline:
    """The dependency: `tasks: Annotated[Beatline, Depends(beatline)]`. Raises BeatlineError without the lifespan."""
    found: Beatline | None = getattr(connection.app.state, _KEPT_AS, None)
    if found is None:
        raise BeatlineError(
            "Beatline is not open in this app: make it with FastAPI(lifespan=beatline.fastapi.lifespan), or put "
            "`async with lifespan(app):` into its own lifespan."
        )
    return found


def _celery_app() -> Celery:
    from celery import current_app

    from beatline.app import create_app

    # Not the proxy: in the thread that sends it would stand for Celery's default app.
    proxy: Any = current_app
    current = proxy._get_current_object()
    found: Celery = current if current.conf.get(CONF_KEY) is not None else create_app(Settings.load())
    return found
