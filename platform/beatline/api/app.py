"""The admin API as an ASGI app: to be served by `beatline api`, or mounted in an app of your own."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final

from fastapi import APIRouter, Depends, FastAPI
from fastapi.responses import HTMLResponse
from starlette.middleware import Middleware

from beatline.api import problems
from beatline.api.context import PREFIX, Context, bearer
from beatline.api.document import answers, describe, page
from beatline.api.edge import Edge
from beatline.api.gate import Gate
from beatline.api.intake import Intake
from beatline.api.routes import fleet, health, runs, schedules

if TYPE_CHECKING:
    from celery import Celery

    from beatline.installation import Installation

_DESCRIPTION: Final = (
    "Runs, schedules, workers and queues of one Beatline installation. Every error is a problem (RFC 9457). "
    "Times are ISO 8601 in UTC."
)


def create_api(installation: Installation, app: Celery | None = None) -> FastAPI:
    """The admin API of an installation. It connects when first asked, and needs no lifespan: mount it where you like.

    `app` is the Celery app whose tasks are known, such as your attached one; else Beatline's own, made when it is
    needed.
    """
    api = FastAPI(
        title="Beatline admin API",
        version=version("beatline"),
        description=_DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        swagger_ui_oauth2_redirect_url=None,
        middleware=[Middleware(Edge), Middleware(Gate, installation=installation), Middleware(Intake)],
    )
    api.state.beatline = Context(installation, app)
    problems.install(api)
    admin = APIRouter(
        prefix=PREFIX, dependencies=[Depends(bearer)], responses=answers(400, 401, 404, 408, 409, 413, 415, 422, 503)
    )
    admin.include_router(fleet.router)  # first: /tasks/sync is no run's id
    admin.include_router(runs.router)
    admin.include_router(schedules.router)
    api.include_router(admin)
    api.include_router(health.router, responses=answers(503))

    def document() -> dict[str, Any]:
        return describe(api)

    async def docs() -> HTMLResponse:
        return page(api)

    api.openapi = document  # type: ignore[method-assign]  # FastAPI's own way to change the document
    api.add_api_route("/docs", docs, include_in_schema=False)
    return api
