"""Tells whoever waits for a run that it is dead, when no worker is left to do so: the reconciler has buried it.

What Celery's worker does for a task that failed: a kept result becomes a failure, a chord counts the part, and the
errbacks are called. Told after the run is dead, so that nobody is told of a run that ends after all; a recorder that is
killed in between leaves a chord that waits.
"""

from __future__ import annotations

import base64
import json
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from beatline.engine.given_ids import on_behalf_of_a_run
from beatline.engine.successors import ERRBACKS, name_successors
from beatline.errors import RunDeadError
from beatline.families import families
from beatline.logs import get_logger
from beatline.queues.routing import FamilyRoutes

if TYPE_CHECKING:
    from beatline.installation import Installation

PATIENCE: Final[dict[str, Any]] = {"max_retries": 2, "interval_start": 0, "interval_step": 0.5, "interval_max": 1}
"""How long the results' server is waited for, in Celery's words: lost runs wait behind it."""

log = get_logger(__name__)


class Obituary:
    """Of one installation's runs. Nothing is loaded or connected before there is someone to tell."""

    def __init__(self, installation: Installation) -> None:
        self._settings = installation.settings

    def tell(self, payload: bytes, reason: str) -> None:
        """Tell who waits for the run of this message. What goes wrong is logged: the run is dead in any case."""
        message = json.loads(payload)
        head: dict[str, Any] = message["headers"]
        try:
            args, kwargs, embed = json.loads(base64.b64decode(message["body"]))
            embed = name_successors(embed or {}, head["id"])
            kept = head.get("ignore_result") is not True
            if kept or embed.get("chord") or embed.get(ERRBACKS):
                queue = str(message["properties"]["delivery_info"]["routing_key"])
                embed[ERRBACKS] = [_routed(errback, queue) for errback in embed.get(ERRBACKS) or ()]
                self._fail({**head, **embed, "args": args, "kwargs": kwargs}, reason, kept=kept)
        except Exception:
            log.exception("dead_run_not_told", run_id=head.get("id"))

    def _fail(self, request: dict[str, Any], reason: str, *, kept: bool) -> None:
        from celery.app.task import Context

        run_id = request["id"]
        text = f"Run {run_id} is dead: {reason}. `beatline runs show {run_id}` has its attempts; mended, retry it."
        context = Context({**request, "delivery_info": {}, "called_directly": False})
        with on_behalf_of_a_run():
            self._app.backend.mark_as_failure(run_id, RunDeadError(text), request=context, store_result=kept)

    def tell_cancelled(self, payload: bytes, reason: str) -> bool:
        """Tell who waits for a run that was cancelled, and that no worker holds. False: it went wrong, and was logged."""
        try:
            return tell_cancelled(self._app, payload, reason)
        except Exception:
            log.exception("cancelled_run_not_told")
            return False

    @cached_property
    def _app(self) -> Any:
        # Here, because most recorders never bury a run, and an app that knows no task is all that it takes.
        from celery import Celery

        from beatline.app import attach

        app: Any = attach(Celery("beatline", set_as_current=False), self._settings)
        app.conf.result_backend_transport_options |= {"retry_policy": PATIENCE}
        app.conf.result_backend_max_retries = PATIENCE["max_retries"]
        return app


def tell_cancelled(app: Any, payload: bytes | str, reason: str) -> bool:
    """What Celery's worker does for a revoked task: a kept result says so, and a chord counts the part as failed.

    False: it went wrong, and was logged.
    """
    from celery.app.task import Context

    message = json.loads(payload)
    head: dict[str, Any] = message["headers"]
    try:
        given: dict[str, Any] = json.loads(base64.b64decode(message["body"]))[2] or {}
        kept = head.get("ignore_result") is not True
        if kept or given.get("chord"):
            embed = name_successors(given, head["id"])
            context = Context({**head, **embed, "delivery_info": {}, "called_directly": False})
            with on_behalf_of_a_run():
                app.backend.mark_as_revoked(head["id"], reason, request=context, store_result=kept)
    except Exception:
        log.exception("cancelled_run_not_told", run_id=head.get("id"))
        return False
    return True


def _routed(errback: dict[str, Any], queue: str) -> dict[str, Any]:
    """An errback for which nothing here knows a queue goes to the dead run's own, whose workers know its project."""
    options: dict[str, Any] = errback.get("options") or {}
    if "queue" in options or FamilyRoutes(families())(str(errback["task"])) is not None:
        return errback
    return {**errback, "options": {**options, "queue": queue}}
