"""Files of a report in a store of the user's own: a bucket, with links that expire, or a folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

from beatline.artifacts import ArtifactStore
from beatline.connections.open import get_of_type
from beatline.connections.stores import open_store
from beatline.outbound.objects import in_words
from beatline_tasks.report.spec import Shelf
from beatline_tasks.report.template import fill_path

if TYPE_CHECKING:
    from beatline.installation import Installation


def put_files(
    installation: Installation,
    shelf: Shelf,
    files: Sequence[Mapping[str, Any]],
    values: Mapping[str, str],
    artifacts: ArtifactStore,
    *,
    write: bool,
) -> dict[str, str]:
    """Put each file in its place, unless it is there (`write=False`), and give where each is found.

    Raises BeatlineError of the store; what was written before stays, and writing it again is no harm.
    """
    import obstore
    from obstore.store import S3Store

    found = get_of_type(installation, shelf.connection, "store")
    store = open_store(found, allow_private=installation.settings.allow_private_addresses)
    links: dict[str, str] = {}
    for file in files:
        place = fill_path(shelf.path, {**values, "file": str(file["name"])})
        with in_words(found.spec.place):
            if write:
                with artifacts.open(installation.engine, UUID(file["artifact"])) as content:
                    obstore.put(store, place, content)
            if isinstance(store, S3Store):
                links[file["name"]] = obstore.sign(store, "GET", place, timedelta(days=shelf.link_days))
            else:
                links[file["name"]] = f"{found.spec.url.rstrip('/')}/{place}"
    return links
