"""Beatline: a distributed Celery task platform.

The public names; each is imported when first asked for, so that `import beatline` costs nothing and reads no setting.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from beatline.app import attach as attach
    from beatline.app import create_app as create_app
    from beatline.client.accepting import Submitted as Submitted
    from beatline.client.submitting import submit as submit
    from beatline.errors import BeatlineError as BeatlineError
    from beatline.families import Family as Family
    from beatline.families import Kind as Kind
    from beatline.installation import Installation as Installation
    from beatline.settings import Settings as Settings
    from beatline.task.cancelling import Cancelled as Cancelled
    from beatline.task.cancelling import check_cancelled as check_cancelled
    from beatline.task.context import RunContext as RunContext
    from beatline.task.context import current_run as current_run

_HOMES: Final = {
    "BeatlineError": "errors",
    "Cancelled": "task.cancelling",
    "Family": "families",
    "Installation": "installation",
    "Kind": "families",
    "RunContext": "task.context",
    "Settings": "settings",
    "Submitted": "client.accepting",
    "attach": "app",
    "check_cancelled": "task.cancelling",
    "create_app": "app",
    "current_run": "task.context",
    "submit": "client.submitting",
}

__all__ = [  # noqa: RUF022  # in the order in which they are met
    "attach",
    "create_app",
    "Settings",
    "Installation",
    "submit",
    "Submitted",
    "current_run",
    "RunContext",
    "check_cancelled",
    "Cancelled",
    "Family",
    "Kind",
    "BeatlineError",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'beatline' has no attribute {name!r}")
    return getattr(import_module(f"beatline.{_HOMES[name]}"), name)
