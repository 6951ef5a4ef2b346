"""What the tests of the artifact store share: an S3 server, and stores in this test's own installation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text

from beatline.artifacts import remote
from support import s3 as s3_server
from support.s3 import S3, serve_s3
from support.serving import MakeSettings

if TYPE_CHECKING:
    from beatline.installation import Installation

MakeInstallation = Callable[..., "Installation"]


@pytest.fixture
def s3(tmp_path: Path) -> Iterator[S3]:
    """An S3 server on loopback."""
    with serve_s3(tmp_path / "s3") as s3:
        yield s3


@pytest.fixture
def on_s3(make_settings: MakeSettings, s3: S3, monkeypatch: pytest.MonkeyPatch) -> MakeInstallation:
    """An installation whose artifacts are on the S3 server. One that was out is tried again at once."""
    from beatline.installation import Installation

    monkeypatch.setattr(remote, "_LEFT_ALONE_S", 0.0)

    def make(**overrides: Any) -> Installation:
        given: dict[str, Any] = {
            "artifacts_url": f"s3://{s3.bucket}/files",
            "artifacts_endpoint": s3.endpoint,
            "artifacts_access_key_id": s3_server.KEY_ID,
            "artifacts_secret_access_key": s3_server.SECRET,
        }
        return Installation(make_settings(**(given | overrides)))

    return make


def age(installation: Installation, sha256: str, hours: float = 25) -> None:
    """As if the file had been written so long ago."""
    with installation.engine.begin() as conn:
        statement = text(
            "UPDATE beatline.artifact_files SET touched_at = now() - make_interval(secs => :s) WHERE sha256 = :sha256"
        )
        conn.execute(statement, {"s": hours * 3600, "sha256": sha256})


@pytest.fixture
def grow_old() -> Callable[..., None]:
    """Lets a file grow old."""
    return age
