"""What every route works with: the installation, its Celery app, transactions, and who asks."""

from __future__ import annotations

import threading
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, Final
from urllib.parse import quote

from fastapi import Depends, Request
from fastapi.security import HTTPBearer
from sqlalchemy import Connection, text

from beatline.api.gate import token_of

if TYPE_CHECKING:
    from celery import Celery

    from beatline.installation import Installation

STATEMENT_S: Final = 10
PREFIX: Final = "/admin/celery"


class Context:
    """One installation, for routes that run in several threads."""

    def __init__(self, installation: Installation, app: Celery | None = None) -> None:
        self.installation = installation
        self._app = app
        self._making = threading.Lock()

    @property
    def celery(self) -> Celery:
        """The app with every task module imported; made when first asked for, because it is a third of the memory."""
        with self._making:
            if self._app is None:
                from beatline.schedules.run_now import task_app

                self._app = task_app(self.installation)
            return self._app

    @property
    def tasks(self) -> Mapping[str, Any]:
        """The tasks that are known here, by name."""
        app: Any = self.celery
        app.loader.import_default_modules()
        app.finalize()
        known: Mapping[str, Any] = app.tasks
        return known

    @contextmanager
    def transaction(self) -> Generator[Connection]:
        """A transaction in which no statement lasts longer than a caller waits."""
        with self.installation.engine.begin() as conn:
            conn.execute(text(f"SET LOCAL statement_timeout TO '{STATEMENT_S}s'"))
            yield conn


def context_of(request: Request) -> Context:
    """The context of the app that serves this request."""
    found: Context = request.app.state.beatline
    return found


def who_asks(request: Request) -> str:
    """Who asks, for the audit: the name of the token."""
    token = token_of(request.scope)
    return f"token:{token.name}" if token else "nobody"


def run_address(request: Request, run_id: str) -> str:
    """Where a run is found, wherever this app is mounted."""
    return f"{request.scope.get('root_path', '')}{PREFIX}/tasks/{quote(run_id, safe='')}"


bearer: Final = HTTPBearer(
    auto_error=False, scheme_name="token", description="A token of `beatline tokens add NAME`, which is shown once."
)
"""Says in the OpenAPI document what the gate asks for."""

In = Annotated[Context, Depends(context_of)]
Who = Annotated[str, Depends(who_asks)]
