"""Run a schedule's task at once, beside its slots: the row first, then the message, as Beat does it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from beatline.client.accepting import publish_soon
from beatline.clock import utc_now
from beatline.engine.messages import accepted_event
from beatline.engine.publish import message_of
from beatline.ledger.store import NewRun, insert_runs
from beatline.schedules import store
from beatline.task.arguments import check_known

if TYPE_CHECKING:
    from celery import Celery

    from beatline.installation import Installation


def run_now(installation: Installation, name_or_id: str, *, app: Celery | None = None, who: str = "api") -> str:
    """The id of a run of the schedule's task, accepted and in its queue; paused or not, no slot is touched.

    If Redis does not answer, the run stands all the same, and a recorder puts it into its queue. Raises NotFoundError,
    and DefinitionError, ArgumentsError or UnknownQueueError for a schedule that makes no sense. `app` is the current Beatline app
    unless it is given.
    """
    with installation.engine.connect() as conn:
        schedule = store.get(conn, name_or_id)
    spec, now, run_id = schedule.spec(), utc_now(), str(uuid4())
    app = app or task_app(installation)
    check_known(app.tasks, spec.task, spec.args, spec.kwargs)
    message = message_of(
        app, spec.task, spec.args, spec.kwargs, run_id=run_id, day=now.date().isoformat(),
        queue=spec.queue, priority=spec.priority, schedule=schedule.name,
    )  # fmt: skip
    event = accepted_event(json.loads(message.payload), message.queue, message.payload)
    run = NewRun(
        run_id=run_id,
        day=now.date(),
        task=message.task,
        queue=message.queue,
        message=message.payload,
        accepted_at=now,
        priority=message.priority,
        schedule=schedule.name,
        root_id=event.root_id,
        args_shown=event.args_shown,
        kwargs_shown=event.kwargs_shown,
    )
    with installation.engine.begin() as conn:
        insert_runs(conn, [run], installation.keyring)
        store.audit_run_now(conn, schedule, run_id, who=who)
    publish_soon(installation, [message])
    return run_id


def task_app(installation: Installation) -> Celery:
    """The current Celery app if it is this installation's, else a new one, every task module imported."""
    from celery import current_app

    from beatline.app import create_app

    app: Any = current_app
    current = app.conf.get("beatline")
    if current is None or current.settings != installation.settings:
        app = create_app(installation.settings)
    app.loader.import_default_modules()
    app.finalize()
    return app  # type: ignore[no-any-return]  # celery's stubs lack loader.import_default_modules
