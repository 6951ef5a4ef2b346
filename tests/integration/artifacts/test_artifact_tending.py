"""What `maintenance.tend_artifacts` removes, moves and leaves alone."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from sqlalchemy import text

from beatline.app import create_app
from beatline.artifacts import ArtifactStore
from beatline.artifacts.tending import tend
from beatline.clock import utc_now
from beatline.families import families
from support.apps import close
from support.s3 import S3
from support.waiting import wait_until

if TYPE_CHECKING:
    from beatline.installation import Installation

ABOUT: dict[str, Any] = {"name": "a.txt", "content_type": "text/plain", "family": "email"}
MakeInstallation = Callable[..., "Installation"]
GrowOld = Callable[..., None]


def files(installation: Installation) -> list[Path]:
    return [path for path in (installation.settings.home / "artifacts").rglob("*") if path.is_file()]


def record(installation: Installation, content: bytes, **more: Any) -> tuple[UUID, str]:
    store = ArtifactStore.of(installation)
    stored = store.write(content)
    with installation.engine.begin() as conn:
        return store.record(conn, stored, **(ABOUT | more)), stored.sha256


def remove(installation: Installation, artifact_id: UUID) -> None:
    with installation.engine.begin() as conn:
        ArtifactStore.of(installation).remove(conn, artifact_id)


def test_a_file_goes_when_nobody_names_it_and_a_day_has_passed(installation: Installation, grow_old: GrowOld) -> None:
    one, sha256 = record(installation, b"same")
    other, _ = record(installation, b"same", name="b.txt")
    remove(installation, one)
    grow_old(installation, sha256)
    assert tend(installation).removed == 0, "another name is left"
    remove(installation, other)
    grow_old(installation, sha256, hours=23)
    assert tend(installation).removed == 0, "it was written within a day: its writer may be about to record it"
    grow_old(installation, sha256)
    assert tend(installation).removed == 1
    assert files(installation) == []


def test_what_has_expired_goes(installation: Installation, grow_old: GrowOld) -> None:
    gone, sha256 = record(installation, b"short-lived", keep_s=-1)
    stays, _ = record(installation, b"long-lived", keep_s=3600)
    tended = tend(installation)
    assert (tended.expired, tended.removed) == (1, 0)
    grow_old(installation, sha256)
    assert tend(installation).removed == 1
    store = ArtifactStore.of(installation)
    assert store.verify(stays)
    with installation.engine.connect() as conn:
        assert conn.execute(text("SELECT count(*) FROM beatline.artifacts WHERE id = :id"), {"id": gone}).scalar() == 0


def test_a_file_that_is_being_recorded_is_not_swept(installation: Installation, grow_old: GrowOld) -> None:
    store = ArtifactStore.of(installation)
    stored = store.write(b"slow")
    grow_old(installation, stored.sha256)
    with installation.engine.begin() as conn:
        artifact_id = store.record(conn, stored, **ABOUT)
        assert tend(installation).removed == 0, "its row is locked by who names it"
    assert tend(installation).removed == 0
    assert store.verify(artifact_id)


def test_who_writes_again_while_the_sweep_removes_gets_a_file(installation: Installation, grow_old: GrowOld) -> None:
    store = ArtifactStore.of(installation)
    sha256 = store.write(b"again").sha256
    grow_old(installation, sha256)
    sweep = installation.engine.connect()
    with sweep.begin():  # the sweep, stopped between its look and its end
        sweep.execute(text("DELETE FROM beatline.artifact_files WHERE sha256 = :s"), {"s": sha256})
        store.folder.remove(sha256)
        made: list[UUID] = []
        writer = threading.Thread(target=lambda: made.append(record(installation, b"again")[0]))
        writer.start()
        waiting = text(
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        )

        def waits() -> bool:
            with installation.engine.connect() as conn:
                return bool(conn.execute(waiting).scalar())

        wait_until(waits, what="the writer waits for the sweep")
    sweep.close()
    writer.join()
    assert store.verify(made[0])


def test_what_a_dead_writer_left_goes_after_a_day(installation: Installation) -> None:
    incoming = installation.settings.home / "artifacts" / "incoming"
    incoming.mkdir(parents=True)
    for name, hours in (("old", 25), ("fresh", 23)):
        (incoming / name).write_bytes(b"half")
        then = utc_now().timestamp() - hours * 3600
        os.utime(incoming / name, (then, then))
    assert tend(installation).drafts == 1
    assert [path.name for path in incoming.iterdir()] == ["fresh"]


def test_files_that_fell_back_are_moved_over(on_s3: MakeInstallation, s3: S3) -> None:
    installation = on_s3()
    store = ArtifactStore.of(installation)
    s3.stop()
    ids = [record(installation, content)[0] for content in (b"one", b"two")]
    tended = tend(installation)
    assert (tended.moved, tended.left) == (0, 1)
    assert "it refuses the connection" in str(tended.problem)
    s3.start()
    assert tend(installation).moved == 2
    assert files(installation) == []
    assert len(s3.keys()) == 2
    assert all(store.verify(artifact_id) for artifact_id in ids)
    with installation.engine.connect() as conn:
        assert {store.find(conn, artifact_id).store for artifact_id in ids} == {"s3://shelf/files"}
    assert tend(installation).moved == 0


def test_a_reader_keeps_its_file_while_it_is_moved(on_s3: MakeInstallation, s3: S3) -> None:
    installation = on_s3()
    store = ArtifactStore.of(installation)
    s3.stop()
    artifact_id, _ = record(installation, b"moving")
    s3.start()
    with store.open(installation.engine, artifact_id) as file:
        assert tend(installation).moved == 1
        assert file.read() == b"moving"
    assert store.read(installation.engine, artifact_id) == b"moving"


def test_unnamed_files_go_from_s3_too_and_wait_while_it_is_out(
    on_s3: MakeInstallation, s3: S3, grow_old: GrowOld
) -> None:
    installation = on_s3()
    sha256 = ArtifactStore.of(installation).write(b"unnamed").sha256
    grow_old(installation, sha256)
    s3.stop()
    tended = tend(installation)
    assert (tended.removed, tended.left) == (0, 1)
    s3.start()
    assert tend(installation).removed == 1
    assert s3.keys() == []


def test_a_copy_that_no_row_points_at_goes_after_a_day(on_s3: MakeInstallation, s3: S3) -> None:
    installation = on_s3()
    artifact_id, sha256 = record(installation, b"in the bucket")
    copy = installation.settings.home / "artifacts" / sha256[:2] / sha256
    copy.parent.mkdir(parents=True)
    copy.write_bytes(b"in the bucket")
    tend(installation)
    assert copy.exists(), "its writer may be at work"
    os.utime(copy, (0, 0))
    tend(installation)
    assert not copy.exists()
    assert ArtifactStore.of(installation).verify(artifact_id)


def test_one_run_ends_in_time_and_the_next_goes_on(installation: Installation) -> None:
    record(installation, b"x", keep_s=-1)
    broken_off = tend(installation, longest_s=-1)
    assert (broken_off.more, broken_off.expired) == (True, 0)
    assert tend(installation).expired == 1


@pytest.mark.parametrize("name", ["maintenance.tend_artifacts"])
def test_it_is_a_task_with_a_schedule_of_its_own(installation: Installation, name: str) -> None:
    record(installation, b"x", keep_s=-1)
    app = create_app(installation.settings)
    app.loader.import_default_modules()
    assert app.tasks[name]()["expired"] == 1
    close(app)
    assert [own.cron for own in families()["maintenance"].schedules if own.task == name] == ["*/10 * * * *"]
