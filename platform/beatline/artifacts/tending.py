"""Keeps the artifact store tidy: expired rows and unnamed files go, files that fell back to the folder move over.

Broken off anywhere, it is completed the next time; two at once do not harm one another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Connection, Engine, delete, exists, func, select, update
from sqlalchemy.exc import IntegrityError

from beatline.artifacts.remote import Remote
from beatline.artifacts.store import FOLDER, ArtifactStore
from beatline.artifacts.tables import artifact_files, artifacts
from beatline.clock import monotonic_s, utc_now
from beatline.errors import TransientError
from beatline.logs import get_logger
from beatline.outbound.objects import StoreRefusedError

if TYPE_CHECKING:
    from beatline.installation import Installation

_UNNAMED_FOR: Final = timedelta(days=1)
"""Longer than any task runs: who writes a file records it, or has died."""
_BATCH: Final = 500
_LONGEST_S: Final = 200.0
_OURS: Final = artifact_files.c


@dataclass(slots=True)
class Tended:
    """What was done. `left` files could not be moved or removed now; `more` says that time ran out."""

    expired: int = 0
    removed: int = 0
    moved: int = 0
    drafts: int = 0
    left: int = 0
    more: bool = False
    problem: str | None = None


def tend(installation: Installation, *, longest_s: float = _LONGEST_S) -> Tended:
    """Remove what has expired or was never named, then move what waits in this machine's folder."""
    store, engine = ArtifactStore.of(installation), installation.engine
    ends_s, tended = monotonic_s() + longest_s, Tended()
    _expire(engine, tended, ends_s)
    _sweep(engine, store, tended, ends_s)
    tended.drafts = store.folder.remove_drafts((utc_now() - _UNNAMED_FOR).timestamp())
    if store.remote is not None:
        _move_over(engine, store, store.remote, tended, ends_s)
    return tended


def _expire(engine: Engine, tended: Tended, ends_s: float) -> None:
    batch = select(artifacts.c.id).where(artifacts.c.expires_at < func.now()).limit(_BATCH)
    statement = delete(artifacts).where(artifacts.c.id.in_(batch.with_for_update(skip_locked=True).scalar_subquery()))
    while not _over(tended, ends_s):
        with engine.begin() as conn:
            gone = conn.execute(statement).rowcount
        tended.expired += gone
        if gone < _BATCH:
            return


def _unnamed() -> Any:
    named = exists().where(artifacts.c.sha256 == _OURS.sha256)
    return (_OURS.touched_at < func.now() - _UNNAMED_FOR) & ~named


def _sweep(engine: Engine, store: ArtifactStore, tended: Tended, ends_s: float) -> None:
    tried = ""
    while True:
        query = select(_OURS.sha256).where(_unnamed(), _OURS.sha256 > tried).order_by(_OURS.sha256).limit(_BATCH)
        with engine.connect() as conn:
            found: Sequence[str] = conn.execute(query).scalars().all()
        for sha256 in found:
            if _over(tended, ends_s):
                return
            _sweep_one(engine, store, tended, sha256)
        if len(found) < _BATCH:
            return
        tried = found[-1]


def _sweep_one(engine: Engine, store: ArtifactStore, tended: Tended, sha256: str) -> None:
    """Remove the row, then the file, then commit: who writes the same content meanwhile waits for the row."""
    try:
        with engine.begin() as conn:
            place = _take(conn, sha256)
            if place == FOLDER:
                store.folder.remove(sha256)
            elif place is not None and store.remote is not None and place == store.remote.name:
                store.remote.remove(sha256)
            elif place is not None:
                raise TransientError(f"Files are stored in {place}, which the settings do not name any more.")
        tended.removed += place is not None
    except IntegrityError:
        return  # an artifact names it since a moment ago
    except (TransientError, StoreRefusedError) as exc:
        _leave(tended, exc)


def _take(conn: Connection, sha256: str) -> str | None:
    """The store of a file whose row is removed here; None if it is in use after all."""
    locked = select(_OURS.sha256).where(_unnamed(), _OURS.sha256 == sha256).with_for_update(skip_locked=True)
    gone = delete(artifact_files).where(_OURS.sha256.in_(locked.scalar_subquery())).returning(_OURS.store)
    return conn.execute(gone).scalar_one_or_none()


def _move_over(engine: Engine, store: ArtifactStore, remote: Remote, tended: Tended, ends_s: float) -> None:
    """Every file of this machine's folder into the bucket; the folder of another is tended there."""
    for path in store.folder.files():
        if _over(tended, ends_s):
            return
        try:
            tended.moved += _move_one(engine, store, remote, path)
        except FileNotFoundError:
            continue  # another worker of this machine was quicker
        except (TransientError, StoreRefusedError) as exc:
            _leave(tended, exc)
            return  # the others would meet the same


def _move_one(engine: Engine, store: ArtifactStore, remote: Remote, path: Path) -> bool:
    sha256 = path.name
    with engine.connect() as conn:
        row = conn.execute(select(_OURS.store).where(_OURS.sha256 == sha256)).one_or_none()
    fresh = path.stat().st_mtime > (utc_now() - _UNNAMED_FOR).timestamp()
    if row is None or row.store != FOLDER:
        # A copy that no row points at: its writer died, or another one brought the file to the bucket.
        if not fresh:
            store.folder.remove(sha256)
        return False
    remote.put(sha256, path)
    with engine.begin() as conn:
        ours = (_OURS.sha256 == sha256) & (_OURS.store == FOLDER)
        moved = conn.execute(update(artifact_files).where(ours).values(store=remote.name)).rowcount > 0
        if moved:
            store.folder.remove(sha256)  # in the row's lock: who writes the same into the folder waits
    return moved


def _leave(tended: Tended, exc: Exception) -> None:
    tended.left += 1
    if tended.problem is None:
        tended.problem = str(exc)
        get_logger(__name__).warning("artifacts_left", reason=tended.problem)


def _over(tended: Tended, ends_s: float) -> bool:
    tended.more = monotonic_s() > ends_s
    return tended.more
