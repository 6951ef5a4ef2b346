"""A task class as a project has its own, which knows nothing of Beatline."""

from __future__ import annotations

from celery import Task


class ForeignTask(Task):  # type: ignore[type-arg]  # as users write it
    """A base class that knows nothing of Beatline."""

    abstract = True
