"""A program that has a solo worker in a thread of its own, as test suites do: `python -m support.worker_in_thread`."""

from __future__ import annotations

import threading
from typing import Any

from celery.contrib.testing.worker import start_worker

import beatline


def main() -> None:
    app: Any = beatline.create_app(beatline.Settings.load())
    app.loader.import_default_modules()
    with start_worker(app, pool="solo", perform_ping_check=False, queues=["default"]):
        print("begun", flush=True)  # noqa: T201  # what the test waits for
        threading.Event().wait()


if __name__ == "__main__":
    main()
