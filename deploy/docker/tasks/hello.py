"""An example of a task of your own: nothing of Beatline's is in it."""

from __future__ import annotations

from celery import shared_task


@shared_task(name="hello.greet")
def greet(name: str) -> str:
    """Greet somebody."""
    return f"Hello, {name}!"
