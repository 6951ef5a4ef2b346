"""Sends `email.process_message` for each new message.

The run's id comes from the message's: sent twice, it is one run. Its row is committed with the message, marked as sent,
and published after that; what a crash leaves unpublished is published by a recorder, from the run's row.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID, uuid5

from redis import RedisError
from sqlalchemy import Connection, select, update

from beatline.clock import utc_now
from beatline.engine import headers as h
from beatline.engine.given_ids import on_behalf_of_a_run
from beatline.engine.messages import StoredMessage, accepted_event
from beatline.engine.publish import Wanted, messages_of, publish_stored
from beatline.ledger.store import NewRun, insert_runs
from beatline.logs import get_logger
from beatline_tasks.email.database import transaction
from beatline_tasks.email.tables import messages

if TYPE_CHECKING:
    from celery import Celery

    from beatline.installation import Installation

PROCESS: Final = "email.process_message"
_RUNS: Final = UUID("0d8a4a55-6d8a-5a0c-8f5c-0f4f6f6a5f11")
_AT_ONCE: Final = 500


def run_id_of(message_id: UUID, task: str) -> str:
    """The id of the run of a task on a message: the same, however often it is sent."""
    return str(uuid5(_RUNS, f"{message_id}|{task}"))


def send(app: Celery, task: str, message_id: UUID, day: str, **options: Any) -> None:
    """Send a task that takes a message's id; sent again, it is the same run."""
    # The day is part of a run's identity, and must not be another one the second time.
    options |= {"task_id": run_id_of(message_id, task), "headers": {h.DAY: day}}
    known: Any = app.tasks.get(task)
    with on_behalf_of_a_run():
        if known is not None:  # with the options of its decorator, such as its queue
            known.apply_async((str(message_id),), **options)
        else:
            app.send_task(task, (str(message_id),), **options)


def runs_of(app: Celery, stored: Mapping[UUID, datetime]) -> list[StoredMessage]:
    """What is to be sent for messages (their ids, and when they were stored), in that order. Sends nothing."""
    wanted = [
        Wanted([str(message_id)], run_id_of(message_id, PROCESS), stored_at.date().isoformat())
        for message_id, stored_at in stored.items()
    ]
    return messages_of(app, PROCESS, wanted)


def accept(conn: Connection, installation: Installation, made: Sequence[StoredMessage]) -> None:
    """The rows of runs; once they are committed, the runs will take place."""
    insert_runs(conn, [_run(message) for message in made], installation.keyring)


def publish(installation: Installation, made: Sequence[StoredMessage]) -> None:
    """Queue accepted runs; if Redis does not answer, a recorder does it later."""
    try:
        publish_stored(installation, made)
    except RedisError as exc:
        get_logger(__name__).warning("messages stand but are not queued yet; a recorder queues them",
                                     messages=len(made), error=type(exc).__name__)  # fmt: skip


def send_unsent(app: Celery, installation: Installation, mailbox: UUID, chosen: Sequence[UUID] | None = None) -> int:
    """Send what is new and unsent of a mailbox (of these messages, if they are given); how many.

    For what was not sent with the commit that stored it: out of quarantine, or because no run could be made of it.
    """
    t = messages.c
    wanted = [t.mailbox == mailbox, t.sent_on_at.is_(None), t.state == "new"]
    if chosen is not None:
        wanted.append(t.id.in_(chosen))
    query = select(t.id, t.stored_at).where(*wanted).order_by(t.stored_at).limit(_AT_ONCE)
    sent = 0
    while True:
        with transaction(installation) as conn:
            rows = conn.execute(query).all()
            made = runs_of(app, {row.id: row.stored_at for row in rows})
            accept(conn, installation, made)
            conn.execute(update(messages).where(t.id.in_([row[0] for row in rows])).values(sent_on_at=utc_now()))
        publish(installation, made)
        sent += len(made)
        if len(rows) < _AT_ONCE:
            return sent


def _run(message: StoredMessage) -> NewRun:
    event = accepted_event(json.loads(message.payload), message.queue, message.payload)
    return NewRun(
        run_id=message.run_id,
        day=datetime.fromisoformat(message.day).date(),
        task=message.task,
        queue=message.queue,
        message=message.payload,
        accepted_at=utc_now(),
        priority=message.priority,
        root_id=event.root_id,
        args_shown=event.args_shown,
        kwargs_shown=event.kwargs_shown,
    )
