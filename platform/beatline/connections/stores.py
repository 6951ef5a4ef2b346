"""Stores of files that a connection names: an S3-style bucket, or a folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from beatline.connections.errors import ConnectionFaultError
from beatline.connections.open import OpenConnection, get_of_type
from beatline.errors import TransientError
from beatline.outbound.objects import Bucket, check_endpoint

if TYPE_CHECKING:
    from obstore.store import LocalStore, S3Store

    from beatline.installation import Installation


def object_store(installation: Installation, name_or_id: str) -> S3Store | LocalStore:
    """An obstore store, to be used with `obstore.put`, `get`, … inside `beatline.outbound.objects.in_words(place)`.

    Raises ConnectionFaultError, AddressRefusedError, or TransientError if the endpoint's name cannot be resolved.
    """
    found = get_of_type(installation, name_or_id, "store")
    return open_store(found, allow_private=installation.settings.allow_private_addresses)


def open_store(found: OpenConnection, *, allow_private: bool) -> S3Store | LocalStore:
    """As `object_store`, of a connection that was read already."""
    spec = found.spec
    if spec.scheme == "file":
        return _folder(found, Path(unquote(spec.parts.path)))
    if spec.endpoint is not None:
        try:
            check_endpoint(spec.endpoint, allow_private=allow_private)
        except TransientError as exc:
            raise TransientError(f"{found.definition.called}: {exc}") from exc
    secret = spec.secret_access_key
    return Bucket(
        url=spec.url,
        endpoint=spec.endpoint,
        region=spec.region,
        access_key_id=spec.access_key_id,
        secret_access_key=None if secret is None else secret.get_secret_value(),
    ).open()


def _folder(found: OpenConnection, path: Path) -> LocalStore:
    from obstore.store import LocalStore

    if not path.is_dir():
        raise ConnectionFaultError(
            f"{found.definition.called}: there is no folder {path} on this machine: make it, or mount it on every worker."
        )
    return LocalStore(path)
