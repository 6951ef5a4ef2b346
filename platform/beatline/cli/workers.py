"""`beatline workers`: who works, and on what."""

from __future__ import annotations

from typing import TYPE_CHECKING

from beatline.cli.output import AsJson, emit
from beatline.installation import Installation

if TYPE_CHECKING:
    from beatline.queues.census import Worker


def command(as_json: AsJson = False) -> None:
    """Show the workers that answer within a second, and those that only hold leases: busy, frozen, or just dead."""
    found = ask(Installation.load())
    if as_json:
        emit(found, as_json=True)
        return
    emit(
        found,
        as_json=False,
        columns=("name", "queues", "pool", "slots", "pid", "leases", "ended", "up_s", "answers"),
        empty="No worker answers: start one with `beatline worker -Q default`, or all with `beatline up`.",
    )


def ask(installation: Installation) -> list[Worker]:
    """The workers of an installation. Raises redis.RedisError if Redis does not answer."""
    from beatline.app import create_app
    from beatline.queues.census import workers

    installation.redis.ping()  # before Celery, which would try again for longer than a person waits
    return workers(create_app(installation.settings), installation.redis, installation.keys)
