"""`beatline.submit`: a run that is accepted by its row in PostgreSQL, in the caller's transaction if there is one.

def order(session: Session, number: int) -> None:
    session.add(Order(number))
    beatline.submit("shop.invoice", [number], session=session)
    session.commit()  # both stand, or neither; then the invoice is in its queue
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from numbers import Real
from typing import TYPE_CHECKING, Any, Final, Protocol, cast, overload
from uuid import uuid4

from sqlalchemy.orm import Session

from beatline.client.accepting import Submitted, accept, publish_soon, run_of
from beatline.client.apps import app_of
from beatline.client.databases import refuse_other
from beatline.client.sessions import is_checked, note_checked, publish_after_commit
from beatline.clock import utc_now
from beatline.engine import expiry
from beatline.engine.delay import due, moment_of
from beatline.engine.messages import check_priority
from beatline.engine.publish import message_of
from beatline.errors import BeatlineError
from beatline.ledger.database import guarded
from beatline.ledger.states import RunState
from beatline.names import check_run_id
from beatline.task.arguments import check_known

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session
    from sqlalchemy.orm import scoped_session

    from beatline.engine.messages import StoredMessage
    from beatline.installation import Installation
    from beatline.ledger.store import NewRun

KEY_CHARS: Final = 255


class Named(Protocol):
    """A task, as `@shared_task` and `@app.task` make it."""

    @property
    def name(self) -> str: ...


@overload
def submit(
    task: str | Named,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    session: AsyncSession | async_scoped_session[Any],
    queue: str | None = None,
    priority: int | None = None,
    countdown: float | None = None,
    eta: datetime | None = None,
    expires: datetime | float | None = None,
    run_id: str | None = None,
    idempotency_key: str | None = None,
) -> Awaitable[Submitted]: ...
@overload
def submit(
    task: str | Named,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    session: Session | scoped_session[Any] | None = None,
    queue: str | None = None,
    priority: int | None = None,
    countdown: float | None = None,
    eta: datetime | None = None,
    expires: datetime | float | None = None,
    run_id: str | None = None,
    idempotency_key: str | None = None,
) -> Submitted: ...
def submit(
    task: str | Named,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    session: Any = None,
    queue: str | None = None,
    priority: int | None = None,
    countdown: float | None = None,
    eta: datetime | None = None,
    expires: datetime | float | None = None,
    run_id: str | None = None,
    idempotency_key: str | None = None,
) -> Submitted | Awaitable[Submitted]:
    """Accept a run of a task: it is executed, or ends with a reason, whatever happens to Redis.

    With a `session` its row is written in the session's transaction and published after the commit, by a relay if this
    process does not live to do so; a rollback takes it back. An AsyncSession is awaited: `await submit(...)`. Without one
    the run is committed here. An idempotency key that stands already gives the run that was accepted with it.

    Raises, before anything is written: ArgumentsError, MessageTooLargeError, DelayError, UnknownQueueError,
    NameRefusedError; ConflictError for a run id that exists; ServiceError for a session of another database, or if
    PostgreSQL does not answer. Redis is waited for a second at the longest.
    """
    app = app_of(task)
    installation: Installation = app.conf["beatline"]
    now, name = utc_now(), task if isinstance(task, str) else task.name
    check_known(app.tasks, name, args, kwargs)
    message = message_of(
        app,
        name,
        args,
        kwargs or {},
        run_id=str(uuid4()) if run_id is None else check_run_id(run_id),
        day=now.date().isoformat(),
        queue=queue,
        priority=check_priority(priority),
        eta=due(countdown, eta, now),
        expires=_expiry(expires, now),
    )
    run = run_of(message, idempotency_key=_key(idempotency_key))
    if session is None:
        return _committed(installation, run, message)
    if hasattr(session, "registry"):  # a scoped session stands for the one of its thread, or task
        session = session.registry()
    run_sync = getattr(session, "run_sync", None)
    if run_sync is not None:
        return cast("Awaitable[Submitted]", run_sync(partial(_in_session, installation, run, message)))
    if not isinstance(session, Session):
        raise BeatlineError(
            f"session is a {type(session).__name__}: give SQLAlchemy's Session or AsyncSession, or none. Nothing was written."
        )
    return _in_session(installation, run, message, session)


def _committed(installation: Installation, run: NewRun, message: StoredMessage) -> Submitted:
    with guarded(installation.settings), installation.engine.begin() as conn:
        submitted = accept(conn, installation, run)
    if submitted.new and submitted.state is RunState.ACCEPTED and publish_soon(installation, [message]):
        return Submitted(submitted.run_id, RunState.QUEUED)
    return submitted


def _in_session(installation: Installation, run: NewRun, message: StoredMessage, session: Session) -> Submitted:
    conn = session.connection()
    if not is_checked(session, installation):
        refuse_other(conn, installation)
        note_checked(session, installation)
    submitted = accept(conn, installation, run)
    if submitted.new and submitted.state is RunState.ACCEPTED:
        publish_after_commit(session, conn, installation, message)
    return submitted


def _expiry(expires: object, now: datetime) -> datetime | None:
    if expires is None:
        return None
    expiry.check(expires, now)
    return now + timedelta(seconds=float(expires)) if isinstance(expires, Real) else moment_of(expires)


def _key(key: object) -> str | None:
    if key is None:
        return None
    if not isinstance(key, str) or not 1 <= len(key) <= KEY_CHARS or "\x00" in key or not key.isprintable():
        raise BeatlineError(
            f"idempotency_key is none: give 1 to {KEY_CHARS} printable characters. Nothing was written."
        )
    return key
