"""The Celery app by which a task is sent: its own, the current one, or the only Beatline app there is."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Final

from celery import _state, current_app

from beatline.app import create_app
from beatline.engine.worker import CONF_KEY
from beatline.errors import BeatlineError
from beatline.settings import Settings

if TYPE_CHECKING:
    from celery import Celery

_making: Final = threading.Lock()


def app_of(task: Any) -> Celery:
    """A Beatline app for a task, or a task's name; made from the environment's settings if there is none yet.

    Celery's current app is one of the thread, so in another thread it is looked for among all. Raises BeatlineError if the
    task belongs to an app that is not attached, or if there are several to choose from; SettingsError; NotRunningError.
    """
    proxy: Any = current_app
    state: Any = _state
    current = proxy._get_current_object()
    own = None if isinstance(task, str) else getattr(task, "app", None)
    for app in (own, current):
        if app is not None and _is_ours(app):
            chosen: Celery = app
            return chosen
    with _making:
        found: list[Any] = [app for app in state._get_active_apps() if _is_ours(app)]
        if not found:
            return create_app(Settings.load())
    if len({app.conf[CONF_KEY].settings for app in found}) > 1:
        raise BeatlineError(
            "There are several Beatline apps in this process, and the task does not say which: give the task itself "
            "instead of its name, or call app.set_default() on the one that is meant."
        )
    only: Celery = found[0]
    return only


def _is_ours(app: Any) -> bool:
    return app.conf.get(CONF_KEY) is not None
