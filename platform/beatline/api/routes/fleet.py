"""Workers, queues, and schedules that follow from definitions."""

from __future__ import annotations

import inspect
from typing import Any, Final

from fastapi import APIRouter

from beatline.api.context import In, Who
from beatline.api.models import Synced, SyncReport, WorkerList
from beatline.errors import ConflictError
from beatline.families import kinds
from beatline.queues.overview import Overview, ask_workers, overview

SYNC: Final = "sync"
router: Final = APIRouter()


@router.get("/workers", tags=["workers"], summary="List the workers")
def list_workers(context: In) -> WorkerList:
    """Those that answer within a second, and those that only hold leases: busy, frozen, or just dead."""
    return WorkerList(items=ask_workers(context.installation, context.celery))


@router.get("/queues", tags=["queues"], summary="Show the queues")
def list_queues(context: In) -> Overview:
    """What waits in each, since when, who serves it, and how far history is behind."""
    return overview(context.installation, context.celery)


@router.post("/tasks/sync", tags=["tasks"], summary="Bring schedules in line with the definitions they follow from")
def sync_tasks(context: In, who: Who) -> SyncReport:
    """One schedule for each mailbox, made, changed or removed. 409 if no installed family keeps schedules so."""
    found = [kind for kind in kinds().values() if SYNC in kind.fleet_actions]
    if not found:
        raise ConflictError("No installed family keeps schedules for its definitions: there is nothing to sync.")
    report: list[Synced] = []
    for kind in found:
        action = kind.load_action(SYNC)
        given: dict[str, Any] = {"who": who} if "who" in inspect.signature(action).parameters else {}
        finding: Any = action(context.installation, **given)
        report.append(
            Synced(kind=kind.name, ok=finding.ok, text=finding.text, details=finding.details, rows=list(finding.rows))
        )
    return SyncReport(items=report)
