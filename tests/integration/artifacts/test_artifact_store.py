"""The artifact store on a real folder and a real S3 server: written, recorded, found, read back."""

from __future__ import annotations

import hashlib
import io
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from sqlalchemy import text

from beatline.artifacts import ArtifactLostError, ArtifactStore, Stored
from beatline.clock import utc_now
from beatline.errors import NotFoundError, TransientError
from support.s3 import S3

if TYPE_CHECKING:
    from beatline.installation import Installation

CONTENT = b"figures of November"
SHA = hashlib.sha256(CONTENT).hexdigest()
PLACE = f"{SHA[:2]}/{SHA}"
ABOUT: dict[str, Any] = {"name": "../figures.csv", "content_type": "text/csv", "family": "report"}


def kept_in(installation: Installation) -> list[Path]:
    root = installation.settings.home / "artifacts"
    return sorted(path.relative_to(root) for path in root.rglob("*") if path.is_file())


def recorded(installation: Installation, stored: Stored, **more: Any) -> Any:
    with installation.engine.begin() as conn:
        return ArtifactStore.of(installation).record(conn, stored, **(ABOUT | more))


def test_a_file_is_written_recorded_and_read_back(installation: Installation) -> None:
    store = ArtifactStore.of(installation)
    stored = store.write(CONTENT)
    assert stored == Stored(SHA, len(CONTENT), "folder")
    artifact_id = recorded(installation, stored, run_id="run-1", keep_s=60)
    with installation.engine.connect() as conn:
        found = store.find(conn, artifact_id)
        assert store.read(conn, artifact_id) == CONTENT
    assert (found.name, found.content_type, found.family) == ("figures.csv", "text/csv", "report")
    assert (found.sha256, found.size_bytes, found.store, found.run_id) == (SHA, len(CONTENT), "folder", "run-1")
    assert found.expires_at is not None
    assert 58 < (found.expires_at - utc_now()).total_seconds() <= 60
    with store.open(installation.engine, artifact_id) as file:
        file.seek(11)
        assert file.read() == b"November"
    assert store.verify(artifact_id)
    assert kept_in(installation) == [Path(PLACE)]
    assert (installation.settings.home / "artifacts" / PLACE).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("source", [CONTENT, io.BytesIO(CONTENT), Path("given")])
def test_a_source_may_be_bytes_a_stream_or_a_file(installation: Installation, source: Any) -> None:
    Path("given").write_bytes(CONTENT)
    assert ArtifactStore.of(installation).write(source).sha256 == SHA


def test_the_same_content_is_one_file_under_many_names(installation: Installation) -> None:
    store = ArtifactStore.of(installation)
    ids = {recorded(installation, store.write(CONTENT), name=name) for name in ("a.csv", "b.csv")}
    assert len(ids) == 2
    assert kept_in(installation) == [Path(PLACE)]


def test_a_source_that_breaks_off_leaves_nothing(installation: Installation) -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            if self.tell():
                raise OSError("the line is cut")
            return super().read(3)

    with pytest.raises(OSError, match="the line is cut"):
        ArtifactStore.of(installation).write(Broken(CONTENT))
    assert kept_in(installation) == []


def test_a_folder_that_cannot_be_written_is_told_and_may_pass(installation: Installation) -> None:
    home = installation.settings.home
    home.mkdir()
    (home / "artifacts").write_text("a file where the folder should be")
    with pytest.raises(
        TransientError, match=r"folder of artifacts .* cannot be written: (Not a directory|File exists)"
    ):
        ArtifactStore.of(installation).write(CONTENT)


def test_a_changed_file_does_not_verify_and_the_next_write_heals_a_lost_one(installation: Installation) -> None:
    store = ArtifactStore.of(installation)
    artifact_id = recorded(installation, store.write(CONTENT))
    path = installation.settings.home / "artifacts" / PLACE
    path.write_bytes(CONTENT.swapcase())
    assert not store.verify(artifact_id)
    path.unlink()
    assert not store.verify(artifact_id)
    with pytest.raises(ArtifactLostError, match=r"figures.csv.* the folder of another machine"):
        store.read(installation.engine, artifact_id)
    store.write(CONTENT)
    assert store.verify(artifact_id)


def test_what_is_not_recorded_or_removed_is_not_found(installation: Installation) -> None:
    store = ArtifactStore.of(installation)
    artifact_id = recorded(installation, store.write(CONTENT))
    with installation.engine.begin() as conn:
        assert store.remove(conn, artifact_id)
        assert not store.remove(conn, artifact_id)
        with pytest.raises(NotFoundError, match="may have expired"):
            store.find(conn, artifact_id)
    with pytest.raises(NotFoundError):
        store.verify(uuid4())


def test_a_file_that_was_swept_cannot_be_recorded(installation: Installation) -> None:
    with pytest.raises(TransientError, match="write it again"):
        recorded(installation, Stored(SHA, len(CONTENT), "folder"))


def test_a_content_type_of_a_stranger_holds_no_line_break(installation: Installation) -> None:
    store = ArtifactStore.of(installation)
    ids = [
        recorded(installation, store.write(CONTENT), content_type=given)
        for given in ("text/html\r\nSet-Cookie: a=b", "\x00", "x" * 999)
    ]
    with installation.engine.connect() as conn:
        types = [store.find(conn, artifact_id).content_type for artifact_id in ids]
    assert types == ["text/htmlSet-Cookie: a=b", "application/octet-stream", "x" * 200]


def test_many_who_write_the_same_at_once_write_one_whole_file(installation: Installation) -> None:
    stored: list[Stored] = []
    content = CONTENT * 100_000
    threads = [
        threading.Thread(target=lambda: stored.append(ArtifactStore.of(installation).write(content))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(stored) == 8
    assert len(set(stored)) == 1
    assert len(kept_in(installation)) == 1
    assert ArtifactStore.of(installation).verify(recorded(installation, stored[0]))


def test_files_go_to_s3_and_come_back(on_s3: Callable[..., Installation], s3: S3) -> None:
    installation = on_s3()
    store = ArtifactStore.of(installation)
    content = b"0123456789" * 2_000_000  # more than one part
    stored = store.write(content)
    assert stored.store == "s3://shelf/files"
    assert s3.keys() == [f"files/{stored.sha256[:2]}/{stored.sha256}"]
    assert kept_in(installation) == []
    artifact_id = recorded(installation, stored)
    with store.open(installation.engine, artifact_id) as file:
        assert file.seek(15_000_003) == 15_000_003
        assert file.read(5) == b"34567"
        assert file.seek(-2, io.SEEK_END) == len(content) - 2
        assert file.read() == b"89"
    assert store.verify(artifact_id)
    asked = len(s3.asked)
    store.write(content)
    assert [method for method, _ in s3.asked[asked:]] == ["HEAD"], "what is there is not uploaded again"


def test_an_empty_file_is_a_file(on_s3: Callable[..., Installation], installation: Installation) -> None:
    for one in (on_s3(), installation):
        store = ArtifactStore.of(one)
        assert store.read(one.engine, recorded(one, store.write(b""))) == b""


def test_an_outage_of_s3_keeps_files_in_the_folder_and_readers_wait(on_s3: Callable[..., Installation], s3: S3) -> None:
    installation = on_s3()
    store = ArtifactStore.of(installation)
    before = recorded(installation, store.write(b"before"))
    s3.stop()
    during = store.write(CONTENT)
    assert during.store == "folder"
    assert store.read(installation.engine, recorded(installation, during)) == CONTENT
    with pytest.raises(TransientError, match="s3://shelf/files: it refuses the connection"):
        store.read(installation.engine, before)
    s3.start()
    assert store.read(installation.engine, before) == b"before"


@pytest.mark.parametrize(
    ("given", "failing"),
    [
        ({"artifacts_secret_access_key": "wrong"}, None),
        ({"artifacts_access_key_id": "wrong"}, None),
        ({"artifacts_url": "s3://attic"}, None),
        ({}, 503),
    ],
)
def test_an_s3_that_refuses_loses_nothing(
    on_s3: Callable[..., Installation], s3: S3, given: dict[str, Any], failing: int | None
) -> None:
    installation = on_s3(**given)
    s3.failing = failing
    stored = ArtifactStore.of(installation).write(CONTENT)
    assert stored.store == "folder"
    assert ArtifactStore.of(installation).verify(recorded(installation, stored))
    assert s3.keys() == []


def test_the_secret_of_the_store_stands_in_no_text(on_s3: Callable[..., Installation]) -> None:
    installation = on_s3()
    remote = ArtifactStore.of(installation).remote
    assert remote is not None
    said = f"{installation.settings!r} {installation.settings.shown()!r} {remote!r} {vars(remote)!r}"
    assert "hush" not in said


def test_a_file_in_a_store_that_is_named_no_more_is_told(on_s3: Callable[..., Installation]) -> None:
    installation = on_s3()
    artifact_id = recorded(installation, ArtifactStore.of(installation).write(CONTENT))
    with installation.engine.begin() as conn:
        conn.execute(text("UPDATE beatline.artifact_files SET store = 's3://elsewhere'"))
    with pytest.raises(ArtifactLostError, match="stored in s3://elsewhere"):
        ArtifactStore.of(installation).read(installation.engine, artifact_id)
