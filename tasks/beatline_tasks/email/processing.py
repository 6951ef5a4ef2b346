"""What becomes of a stored message: the mailbox's task gets its id, and its end is the message's end.

new → processing (handed to the task of `on_message`) → processed or failed; without such a task, processed at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias
from uuid import UUID

from sqlalchemy import Connection, RowMapping, select, update

from beatline.artifacts import ArtifactStore
from beatline.clock import utc_now
from beatline.datasets.columns import clean_text
from beatline.definitions import store
from beatline.errors import NotFoundError
from beatline.ledger.database import guarded
from beatline.ledger.model import definitions, run_days
from beatline_tasks.email.database import transaction
from beatline_tasks.email.dispatch import run_id_of, send
from beatline_tasks.email.errors import MailboxError
from beatline_tasks.email.polling import KIND
from beatline_tasks.email.tables import messages

if TYPE_CHECKING:
    from celery import Celery

    from beatline.installation import Installation

End: TypeAlias = Literal["processed", "failed"]
FINISH: Final = "email.finish_message"
_ERROR_CHARS: Final = 1000


def process(installation: Installation, app: Celery, message_id: str) -> str:
    """Hand a message to the task of its mailbox, or say that it is processed. Twice is once. Raises NotFoundError.

    One that failed before it was handed over is handed over now: a person has its dead run tried again.
    """
    key = _key(message_id)
    with guarded(installation.settings):
        with transaction(installation) as conn:
            row = _get(conn.execute(select(messages).where(messages.c.id == key)).mappings().one_or_none(), message_id)
            definition = store.get(conn, KIND, str(row["mailbox"]))
            task: str | None = definition.spec.get("on_message")
            done = row["state"] == "processed" or (row["state"] == "failed" and task and _was_handed(conn, key, task))
        if done:
            return f"{row['state']} already"
        if task is None:
            return finish(installation, message_id, "processed", None)
        with transaction(installation) as conn:
            ours = (messages.c.id == key, messages.c.state == row["state"])
            values: dict[str, Any] = {"state": "processing"}
            if row["state"] == "failed":  # as if it were sent on now
                values |= {"sent_on_at": utc_now(), "ended_at": None, "error": None}
            conn.execute(update(messages).where(*ours).values(values))
    _hand_over(app, task, key, row)
    return f"handed to {task}"


def _was_handed(conn: Connection, key: UUID, task: str) -> bool:
    return conn.execute(select(run_days.c.id).where(run_days.c.id == run_id_of(key, task))).scalar() is not None


def _hand_over(app: Celery, task: str, key: UUID, row: RowMapping) -> None:
    well: Any = app.signature(FINISH, args=(str(key), "processed"), immutable=True)
    ill: Any = app.signature(FINISH, args=(str(key), "failed", f"{task} failed"), immutable=True)
    send(app, task, key, row["stored_at"].date().isoformat(), link=well, link_error=ill)


def finish(
    installation: Installation, message_id: str, state: End, error: str | None, *, only_if: str | None = None
) -> str:
    """The message's end, unless it is in another state than `only_if`; a success comes after a failure, not before it.

    A raw copy that was kept for the case of failure goes when it is processed.
    """
    key = _key(message_id)
    with guarded(installation.settings), transaction(installation) as conn:
        row = _get(_locked(conn, key), message_id)
        over = row["state"] == "processed" or row["state"] == state
        if over or only_if not in (None, row["state"]):
            return f"{row['state']} already"
        said = None if error is None else clean_text(error)[:_ERROR_CHARS]
        values: dict[str, Any] = {"state": state, "error": said, "ended_at": utc_now()}
        definition = store.get(conn, KIND, str(row["mailbox"]))
        if state == "processed" and row["raw"] is not None and definition.spec.get("keep_raw") == "failed":
            values["raw"] = None
            ArtifactStore.of(installation).remove(conn, row["raw"])
        conn.execute(update(messages).where(messages.c.id == key).values(values))
    return state


def _locked(conn: Connection, key: UUID) -> RowMapping | None:
    # The mailbox first, as its removal does: who locks in another order can be waited for while he waits.
    of_it = select(messages.c.mailbox).where(messages.c.id == key).scalar_subquery()
    conn.execute(select(definitions.c.id).where(definitions.c.id == of_it).with_for_update(key_share=True, read=True))
    query = select(messages.c.mailbox, messages.c.raw, messages.c.state).where(messages.c.id == key)
    return conn.execute(query.with_for_update()).mappings().one_or_none()


def _key(message_id: str) -> UUID:
    try:
        return UUID(message_id)
    except (ValueError, AttributeError, TypeError):
        raise MailboxError(f"A message is known by its id in email_messages, not by {message_id!r:.80}.") from None


def _get(row: RowMapping | None, message_id: str) -> RowMapping:
    if row is None:
        raise NotFoundError("message", message_id, "It was removed with its mailbox.")
    return row
