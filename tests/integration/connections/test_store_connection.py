"""Connections to a real S3 server and to a folder, and what `check` says of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import obstore
import pytest

from beatline.connections.actions import check
from beatline.connections.stores import object_store
from beatline.errors import AddressRefusedError, BeatlineError
from support.connecting import add_connection
from support.s3 import KEY_ID, S3, SECRET, serve_s3

if TYPE_CHECKING:
    from beatline.installation import Installation


@pytest.fixture
def s3(tmp_path: Path) -> Iterator[S3]:
    """An S3 server on loopback."""
    with serve_s3(tmp_path / "s3") as s3:
        yield s3


def spec(s3: S3, **more: Any) -> dict[str, Any]:
    given = {"url": f"s3://{s3.bucket}/out", "endpoint": s3.endpoint, "access_key_id": KEY_ID}
    return given | {"secret_access_key": SECRET} | more


def test_a_file_goes_into_the_bucket_below_the_prefix(ours: Installation, s3: S3) -> None:
    add_connection(ours, "out", **spec(s3))
    obstore.put(object_store(ours, "out"), "2026/report.html", b"<p>")
    assert s3.keys() == ["out/2026/report.html"]


def test_the_keys_of_the_worker_itself_do_not_go_with_those_of_a_connection(
    ours: Installation, s3: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN"):
        monkeypatch.setenv(f"AWS_{name}", "the-workers-own")
    add_connection(ours, "out", **spec(s3))
    obstore.put(object_store(ours, "out"), "a", b"b")
    assert s3.tokens == {None}


def test_check_writes_reads_and_removes(ours: Installation, s3: S3, tmp_path: Path) -> None:
    finding = check(ours, add_connection(ours, "out", **spec(s3)))
    assert finding.ok
    assert finding.text == "It works: a small file was written to s3://shelf/out, read back and removed."
    assert [method for method, _ in s3.asked] == ["PUT", "GET", "DELETE"]
    assert s3.keys() == []
    (tmp_path / "folder").mkdir()
    assert check(ours, add_connection(ours, "folder", url=f"file://{tmp_path}/folder")).ok
    assert list((tmp_path / "folder").iterdir()) == []


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"access_key_id": "no"}, "it does not know the access_key_id"),
        ({"secret_access_key": "hush-wrong"}, "the secret_access_key is wrong"),
        ({"url": "s3://attic"}, "there is no such bucket"),
        ({"endpoint": "http://127.0.0.1:1"}, "it refuses the connection: no server listens there"),
        ({"endpoint": "http://minio.invalid"}, "The name 'minio.invalid' cannot be resolved"),
    ],
)
def test_what_is_wrong_with_a_bucket_is_told(ours: Installation, s3: S3, wrong: dict[str, Any], words: str) -> None:
    finding = check(ours, add_connection(ours, "out", **spec(s3, **wrong)))
    assert not finding.ok
    assert words in finding.text
    assert finding.text.startswith("Connection 'out': ")
    assert "hush" not in finding.text


def test_an_s3_in_trouble_and_a_folder_that_is_not_there_are_told(ours: Installation, s3: S3) -> None:
    s3.failing = 503
    assert "it answers 503" in check(ours, add_connection(ours, "out", **spec(s3))).text
    finding = check(ours, add_connection(ours, "folder", url="file:///no/such/folder"))
    assert "there is no folder /no/such/folder on this machine" in finding.text


def test_private_and_unencrypted_endpoints_are_refused(installation: Installation, s3: S3) -> None:
    add_connection(installation, "private", **spec(s3))
    with pytest.raises(AddressRefusedError):
        object_store(installation, "private")
    add_connection(installation, "plain", **spec(s3, endpoint="http://8.8.8.8"))
    with pytest.raises(BeatlineError, match="is not encrypted: use https"):
        object_store(installation, "plain")
    assert s3.asked == []
