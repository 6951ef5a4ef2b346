"""Runs, which people who know Celery call tasks: list, show, retry."""

from __future__ import annotations

from dataclasses import fields
from datetime import UTC, datetime
from typing import Annotated, Final

from fastapi import APIRouter, Query, Request, Response

from beatline.api.context import In, Who, run_address
from beatline.api.cursor import LONGEST, cursor_after, place_of
from beatline.api.models import Accepted, Cancel, RunDetail, RunPage
from beatline.clock import utc_now
from beatline.ledger.cancel import Cancelled
from beatline.ledger.history import Run, RunFilter, attempts_of, find_run, list_runs, moment, retries_of
from beatline.ledger.states import RunState

MOST: Final = 500
router: Final = APIRouter(tags=["tasks"])

_Text = Annotated[str | None, Query(max_length=512)]
_When = Annotated[
    str | None, Query(max_length=64, description="15m, 2h, 7d, or a date in ISO 8601; without offset UTC.")
]


@router.get("/tasks", summary="List runs, the newest first")
def list_tasks(
    context: In,
    task: Annotated[str | None, Query(max_length=512, description="`collect.*` is a family.")] = None,
    queue: _Text = None,
    state: Annotated[list[RunState] | None, Query(description="May be repeated.")] = None,
    schedule: _Text = None,
    since: _When = None,
    until: _When = None,
    text: Annotated[
        str | None, Query(max_length=512, description="Somewhere in id, task, arguments, result, error or reason.")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=MOST)] = 50,
    cursor: Annotated[str | None, Query(max_length=LONGEST, description="`next` of the page before.")] = None,
) -> RunPage:
    """Runs that arrive meanwhile do not move a page: give the same filters and the cursor of the page before."""
    wanted = RunFilter(
        states=frozenset(state or ()),
        task=task,
        queue=queue,
        schedule=schedule,
        since=_moment(since, "since"),
        until=_moment(until, "until"),
        text=text,
    )
    before = None if cursor is None else place_of(cursor)
    with context.transaction() as conn:
        found = list_runs(conn, wanted, limit=limit + 1, before=before)
    page = found[:limit]
    return RunPage(items=page, next=cursor_after(page[-1]) if len(found) > limit else None)


@router.get("/tasks/{task_id:path}", summary="Show a run with its attempts")
def show_task(context: In, task_id: str) -> RunDetail:
    """`task_id` is the run's id, or how it begins, where only one does."""
    with context.transaction() as conn:
        run = find_run(conn, task_id)
        attempts, retries = attempts_of(conn, run.id), retries_of(conn, run.id)
    values = {field.name: getattr(run, field.name) for field in fields(Run)}
    return RunDetail(**values, attempts=attempts, retried_as=list(retries))


@router.post("/tasks/{task_id:path}/retry", status_code=202, summary="Run an ended run once more")
def retry_task(context: In, who: Who, request: Request, response: Response, task_id: str) -> Accepted:
    """A new run with exactly the original arguments, which names the old one as its parent.

    409 if the run has not ended, if an earlier retry of it has not, or if its message was not kept.
    """
    from beatline.ledger.retry import retry_run

    retried = retry_run(context.installation, task_id, who=who)
    response.headers["Location"] = run_address(request, retried.retried_as)
    return Accepted(run_id=retried.retried_as, retry_of=retried.run_id, queued=retried.queued)


@router.post("/tasks/{task_id:path}/cancel", status_code=202, summary="Cancel a run that waits or runs")
def cancel_task(context: In, who: Who, task_id: str, body: Cancel | None = None) -> Cancelled:
    """What no worker holds has ended when this answers; what runs is told, and ends within moments where its pool can.

    409 if the run has ended, and if it is being cancelled already.
    """
    from beatline.ledger.cancel import cancel_run

    asked = body or Cancel()
    return cancel_run(
        context.installation, task_id, who=who, app=context.celery, reason=asked.reason, hard=asked.hard
    )  # fmt: skip


def _moment(text: str | None, called: str) -> datetime | None:
    return None if text is None else moment(text, utc_now(), called, UTC)
