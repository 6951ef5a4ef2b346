"""The artifact store: write a file, then record names for it; what nobody records is swept away after a day.

A file's row in `artifact_files` is committed before the file comes into its store, and renewed by each write. The sweep
(`tending`) removes a file only if nobody names it and nobody wrote it within a day, with its row locked; an artifact's
row refers to the file's, so PostgreSQL refuses to name a file that was swept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final
from uuid import UUID, uuid4

from sqlalchemy import Connection, Engine, delete, func, insert, select, update
from sqlalchemy.dialects.postgresql import insert as pg_insert
from sqlalchemy.exc import IntegrityError

from beatline.artifacts.errors import ArtifactLostError
from beatline.artifacts.folder import Draft, Folder
from beatline.artifacts.naming import safe_name
from beatline.artifacts.remote import Remote, remote
from beatline.artifacts.tables import artifact_files, artifacts
from beatline.clock import utc_now
from beatline.errors import NotFoundError, TransientError
from beatline.ledger.database import guarded, sqlstate
from beatline.logs import get_logger
from beatline.outbound.objects import Bucket, StoreRefusedError

if TYPE_CHECKING:
    from beatline.installation import Installation
    from beatline.settings import Settings

FOLDER: Final = "folder"
"""How rows name the folder; an S3-style store is named by its address."""
_FOLDER_NAME: Final = "artifacts"
_CHUNK_BYTES: Final = 2**20
_NO_SUCH_FILE: Final = "23503"
_TYPE_CHARS: Final = 200


@dataclass(frozen=True, slots=True)
class Stored:
    """A file that is in a store, to be recorded within a day."""

    sha256: str
    size_bytes: int
    store: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """A recorded file. `name` is safe to show and to save under."""

    id: UUID
    sha256: str
    size_bytes: int
    name: str
    content_type: str
    family: str
    store: str
    created_at: datetime
    expires_at: datetime | None
    run_id: str | None


class ArtifactStore:
    """The store of one installation: the folder, or a bucket with the folder to fall back to."""

    def __init__(self, settings: Settings, engine: Engine) -> None:
        self._settings, self._engine = settings, engine
        self.folder = Folder(folder_of(settings))
        bucket = bucket_of(settings)
        self.remote: Remote | None = None if bucket is None else remote(bucket)

    @classmethod
    def of(cls, installation: Installation) -> ArtifactStore:
        """The store that the settings name; connects to nothing yet."""
        return cls(installation.settings, installation.engine)

    def write(self, source: bytes | BinaryIO | Path) -> Stored:
        """Bring a file into the store, streamed; the same content twice is one file.

        While the S3-style store is out it goes into the folder, and is moved over later. Raises TransientError if the
        folder cannot be written, ServiceError without the database.
        """
        with self.folder.draft(source) as draft:
            store = self._announce(draft)
            if store is None or not self._is_there(store, draft):
                store = self._put(draft)
        return Stored(draft.sha256, draft.size_bytes, store)

    def record(
        self,
        conn: Connection,
        stored: Stored,
        *,
        name: str,
        content_type: str,
        family: str,
        run_id: str | None = None,
        keep_s: float | None = None,
    ) -> UUID:
        """Name a written file, in the caller's transaction; with `keep_s` it expires then. Returns the artifact's id.

        Raises TransientError if the file was swept meanwhile, because it was written more than a day ago.
        """
        now, artifact_id = utc_now(), uuid4()
        values: dict[str, Any] = {
            "id": artifact_id,
            "sha256": stored.sha256,
            "name": safe_name(name),
            "content_type": _plain_type(content_type),
            "family": family,
            "run_id": run_id,
            "created_at": now,
            "expires_at": None if keep_s is None else now + timedelta(seconds=keep_s),
        }
        try:
            conn.execute(insert(artifacts).values(values))
        except IntegrityError as exc:
            if sqlstate(exc) != _NO_SUCH_FILE:
                raise
            raise TransientError(f"The file {stored.sha256[:12]}… was written too long ago: write it again.") from exc
        return artifact_id

    def find(self, conn: Connection, artifact_id: UUID) -> Artifact:
        """The artifact of this id. Raises NotFoundError."""
        query = select(artifacts, artifact_files.c.size_bytes, artifact_files.c.store).join(artifact_files)
        row = conn.execute(query.where(artifacts.c.id == artifact_id)).mappings().one_or_none()
        if row is None:
            raise NotFoundError("artifact", str(artifact_id), "It may have expired.")
        return Artifact(**{field.name: row[field.name] for field in fields(Artifact)})

    @contextmanager
    def open(self, conn_or_engine: Connection | Engine, artifact_id: UUID) -> Generator[BinaryIO]:
        """The file, for reading; it may be sought in.

        Raises NotFoundError, ArtifactLostError if its file is gone, TransientError if its store is out.
        """
        file = self._open(conn_or_engine, artifact_id)
        try:
            yield file
        finally:
            file.close()

    def read(self, conn_or_engine: Connection | Engine, artifact_id: UUID) -> bytes:
        """The whole file; for what is known to be small. Raises as `open` does."""
        with self.open(conn_or_engine, artifact_id) as file:
            return file.read()

    def remove(self, conn: Connection, artifact_id: UUID) -> bool:
        """Take the artifact's row away, in the caller's transaction; False if there is none.

        Its file goes with the sweep, if no other artifact names it.
        """
        return conn.execute(delete(artifacts).where(artifacts.c.id == artifact_id)).rowcount > 0

    def verify(self, artifact_id: UUID) -> bool:
        """Whether the file reads back as it was written. Raises NotFoundError, TransientError if its store is out."""
        with guarded(self._settings), self._engine.connect() as conn:
            expected = self.find(conn, artifact_id).sha256
        digest = hashlib.sha256()
        try:
            with self.open(self._engine, artifact_id) as file:
                while chunk := file.read(_CHUNK_BYTES):
                    digest.update(chunk)
        except ArtifactLostError:
            return False
        return digest.hexdigest() == expected

    def _open(self, where: Connection | Engine, artifact_id: UUID) -> BinaryIO:
        found = self._find(where, artifact_id)
        for _ in range(2):  # it may have been moved over between the look and the opening
            try:
                if found.store == FOLDER:
                    return self.folder.open(found.sha256)
                if self.remote is not None and self.remote.name == found.store:
                    return self.remote.open(found.sha256)
            except FileNotFoundError:
                pass
            found = self._find(where, artifact_id)
        raise ArtifactLostError(found.name, found.sha256, found.store)

    def _find(self, where: Connection | Engine, artifact_id: UUID) -> Artifact:
        if isinstance(where, Connection):
            return self.find(where, artifact_id)
        with guarded(self._settings), where.connect() as conn:
            return self.find(conn, artifact_id)

    def _announce(self, draft: Draft) -> str | None:
        """Let the sweep know that the file is being written; the store it is in already, if it is."""
        table = artifact_files.c
        store = FOLDER if self.remote is None else self.remote.name
        row = {"sha256": draft.sha256, "size_bytes": draft.size_bytes, "store": store, "touched_at": func.now()}
        put = pg_insert(artifact_files).values(row)
        put = put.on_conflict_do_update(index_elements=[table.sha256], set_={"touched_at": func.now()})
        with guarded(self._settings), self._engine.begin() as conn:
            stored = conn.execute(put.returning(table.store, table.stored_at)).one()
        return None if stored.stored_at is None else str(stored.store)

    def _is_there(self, store: str, draft: Draft) -> bool:
        # Looked for, not believed: a file that someone deleted is healed by the next write of it.
        if store == FOLDER:
            return self.folder.has(draft.sha256, draft.size_bytes)
        return self.remote is not None and store == self.remote.name and self.remote.has(draft.sha256, draft.size_bytes)

    def _put(self, draft: Draft) -> str:
        if self.remote is not None:
            try:
                self.remote.put(draft.sha256, draft.path)
            except (TransientError, StoreRefusedError) as exc:
                get_logger(__name__).warning("artifact_kept_in_folder", sha256=draft.sha256, reason=str(exc))
            else:
                with self._settled(draft, self.remote.name):
                    return self.remote.name
        with self._settled(draft, FOLDER):  # in the row's lock: moving over removes what it has moved in it, too
            self.folder.keep(draft)
            return FOLDER

    @contextmanager
    def _settled(self, draft: Draft, store: str) -> Generator[None]:
        """Say in which store the file is, once the block has ended well."""
        values: Mapping[str, Any] = {"store": store, "stored_at": func.now(), "touched_at": func.now()}
        with guarded(self._settings), self._engine.begin() as conn:
            ours = artifact_files.c.sha256 == draft.sha256
            if conn.execute(update(artifact_files).where(ours).values(values)).rowcount == 0:
                raise TransientError(f"Writing the file {draft.sha256[:12]}… took more than a day: write it again.")
            yield


def folder_of(settings: Settings) -> Path:
    """The folder of artifacts: the one named, else the one in the data folder."""
    if settings.artifacts_url.startswith("file://"):
        return Path(settings.artifacts_url.removeprefix("file://"))
    return settings.home / _FOLDER_NAME


def bucket_of(settings: Settings) -> Bucket | None:
    """The S3-style store that the settings name, if they name one."""
    if not settings.artifacts_url.startswith("s3://"):
        return None
    secret = settings.artifacts_secret_access_key
    return Bucket(
        url=settings.artifacts_url,
        endpoint=settings.artifacts_endpoint,
        region=settings.artifacts_region,
        access_key_id=settings.artifacts_access_key_id,
        secret_access_key=None if secret is None else secret.get_secret_value(),
    )


def _plain_type(content_type: str) -> str:
    """A content type that may stand in a header again."""
    kept = "".join(char for char in content_type if " " <= char < "\x7f").strip()
    return kept[:_TYPE_CHARS] or "application/octet-stream"
