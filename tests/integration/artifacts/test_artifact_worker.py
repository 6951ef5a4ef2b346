"""maintenance.tend_artifacts in a real prefork worker: what one process left in the folder, another moves over."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from beatline.app import create_app
from beatline.artifacts import ArtifactStore
from support.apps import close
from support.processes import StartWorker
from support.s3 import S3
from support.waiting import wait_until

if TYPE_CHECKING:
    from beatline.installation import Installation


def test_a_worker_moves_over_what_waits(on_s3: Callable[..., Installation], s3: S3, worker: StartWorker) -> None:
    installation = on_s3()
    store = ArtifactStore.of(installation)
    s3.stop()
    stored = [store.write(f"file {number}".encode()) for number in range(3)]
    assert {one.store for one in stored} == {"folder"}
    s3.start()
    worker("default", concurrency=2, settings=installation.settings)
    app = create_app(installation.settings)
    for _ in range(2):  # at once, in two processes of the pool
        app.send_task("maintenance.tend_artifacts")
    wait_until(lambda: len(s3.keys()) == 3 and not list(store.folder.files()), 20, what="all files have moved")
    close(app)
