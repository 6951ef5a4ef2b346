"""What people ask of a mailbox: does it work, what was set aside, try that again, read it again, schedule them all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final
from uuid import UUID

from sqlalchemy import select

from beatline.artifacts import ArtifactLostError, ArtifactStore
from beatline.definitions import Definition, Finding, open_spec, store
from beatline.errors import AddressRefusedError, BeatlineError, ServiceError
from beatline.ledger.database import guarded
from beatline.schedules.run_now import task_app
from beatline_tasks.email import accounts, scheduling
from beatline_tasks.email.careful import UNREAD
from beatline_tasks.email.database import transaction
from beatline_tasks.email.dispatch import send_unsent
from beatline_tasks.email.errors import MailError
from beatline_tasks.email.lock import mailbox_lock
from beatline_tasks.email.login import TokenKeeper, open_session
from beatline_tasks.email.mailbox import Mailbox
from beatline_tasks.email.reading import Mail, read_batch, read_message
from beatline_tasks.email.session import Listed, Session
from beatline_tasks.email.storing import Storer
from beatline_tasks.email.tables import quarantine

if TYPE_CHECKING:
    from sqlalchemy import RowMapping

    from beatline.installation import Installation

_BUSY: Final = "It is being polled right now: try again in a moment."
_SHOWN_FOLDERS: Final = 100


def check(installation: Installation, definition: Definition) -> Finding:
    """Connect and log in for real, and say in words what is wrong.

    A mailbox that was parked, or left alone after failures, and works is polled again.
    """
    try:
        mailbox = open_spec(installation, definition, Mailbox)
        details, wrong = _look(installation, definition, mailbox)
    except ServiceError:
        raise
    except BeatlineError as exc:
        return Finding(ok=False, text=str(exc))
    if wrong:
        return Finding(ok=False, text=" ".join(wrong), details=details)
    text = f"It works: {mailbox.user} can read {_count(len(mailbox.folders), 'folder')} on {mailbox.place}."
    if mailbox.security == "plain":
        text += " Password and mail go over the network in the open."
    if mailbox.on_message is not None and mailbox.on_message not in task_app(installation).tasks:
        text += f" No task {mailbox.on_message!r} is known here: name its module in BEATLINE_TASK_MODULES, or its messages fail."
    with guarded(installation.settings), transaction(installation) as conn:
        if definition.parked is not None and store.unpark(conn, definition, who="check"):
            text += " It was parked, and is polled again."
        accounts.succeeded(conn, definition, None)
    return Finding(ok=True, text=text, details=details)


def _look(installation: Installation, definition: Definition, mailbox: Mailbox) -> tuple[dict[str, Any], list[str]]:
    session = _open_session(installation, definition, mailbox)
    try:
        return _describe(session, mailbox)
    finally:
        session.close()


def _open_session(installation: Installation, definition: Definition, mailbox: Mailbox) -> Session:
    with guarded(installation.settings), transaction(installation) as conn:
        account = accounts.find(conn, definition.id)
    kept = accounts.open_token(installation, definition, account)

    def keep(tokens: Any) -> None:
        with guarded(installation.settings), transaction(installation) as conn:
            accounts.keep_token(conn, installation, definition, tokens)

    allow_private = installation.settings.allow_private_addresses
    return open_session(mailbox, TokenKeeper(kept, keep), allow_private=allow_private)


def _describe(session: Session, mailbox: Mailbox) -> tuple[dict[str, Any], list[str]]:
    folders = session.folders()
    details: dict[str, Any] = {"server": mailbox.place, "capabilities": " ".join(session.capabilities)}
    details["folders"] = folders[:_SHOWN_FOLDERS]
    wrong: list[str] = []
    for name in mailbox.folders:
        if name not in folders and name != "INBOX":
            wrong.append(f"There is no folder {name!r}; there are {', '.join(map(repr, folders[:20]))}.")
            continue
        try:
            selected = session.select(name, writable=mailbox.mark_seen)
            details[f"in {name}"] = f"{_count(selected.messages, 'message')}, UIDVALIDITY {selected.uidvalidity}"
        except MailError as exc:
            wrong.append(str(exc))
    return details, wrong


def list_quarantine(installation: Installation, definition: Definition) -> Finding:
    """Show the messages that could not be taken apart, with the reason."""
    rows = _set_aside(installation, definition, None)
    shown = [
        {
            "id": row["id"],
            "folder": row["folder"],
            "uid": row["uid"],
            "received_at": row["received_at"],
            "size": row["size_bytes"],
            "reason": row["reason"],
            "artifact": row["raw"],
        }
        for row in rows
    ]
    hint = f" `beatline mailboxes reprocess {definition.name}` tries them again." if rows else ""
    return Finding(ok=True, text=f"{_count(len(rows), 'message')} in quarantine.{hint}", rows=tuple(shown))


def reprocess(
    installation: Installation, definition: Definition, *, id: Annotated[str | None, "only this one"] = None
) -> Finding:
    """Try again what is in quarantine; what can be read now becomes a message like others."""
    mailbox = open_spec(installation, definition, Mailbox)
    rows = _set_aside(installation, definition, id)
    if id is not None and not rows:
        return Finding(ok=False, text=f"There is no message {id!r} in its quarantine.")
    still: list[dict[str, Any]] = []
    with guarded(installation.settings), mailbox_lock(installation.engine, definition.id) as lock:
        if lock is None:
            return Finding(ok=False, text=_BUSY)
        for row, mail in _read_again(installation, definition, mailbox, rows):
            storer = Storer(installation, definition, mailbox, row["folder"], lock)
            reason = _again(storer, row, mail)
            if reason is not None:
                still.append({"id": row["id"], "folder": row["folder"], "uid": row["uid"], "reason": reason})
    good = len(rows) - len(still)
    if good:
        from beatline.schedules.run_now import task_app

        send_unsent(task_app(installation), installation, definition.id)
    text = f"{_count(good, 'message')} went in, {len(still)} cannot be read still."
    return Finding(ok=not still, text=text, rows=tuple(still))


def _again(storer: Storer, row: RowMapping, mail: Mail | str) -> str | None:
    """Store one message of the quarantine; why not, if it cannot be."""
    if isinstance(mail, str):
        return mail
    if mail.parsed is None:
        return mail.reason
    return storer.release(mail, row["uidvalidity"], row["id"], row["raw"])


def _read_again(
    installation: Installation, definition: Definition, mailbox: Mailbox, rows: Sequence[RowMapping]
) -> Iterator[tuple[RowMapping, Mail | str]]:
    """Messages of the quarantine, read again: as they are kept, else from the server. Why not, if they cannot be."""
    yield from ((row, _kept(installation, row)) for row in rows if not row["content_hash"].startswith(UNREAD))
    never_read = [row for row in rows if row["content_hash"].startswith(UNREAD)]
    if not never_read:
        return
    try:
        session = _open_session(installation, definition, mailbox)
    except (MailError, AddressRefusedError) as exc:
        yield from ((row, str(exc)) for row in never_read)
        return
    try:
        yield from ((row, _fetched(session, mailbox, row)) for row in never_read)
    finally:
        session.close()


def _kept(installation: Installation, row: RowMapping) -> Mail | str:
    try:
        raw = ArtifactStore.of(installation).read(installation.engine, row["raw"])
    except ArtifactLostError as exc:
        return str(exc)
    return read_message(Listed(row["uid"], row["size_bytes"], row["received_at"]), raw)


def _fetched(session: Session, mailbox: Mailbox, row: RowMapping) -> Mail | str:
    try:
        if session.select(row["folder"], writable=False).uidvalidity != row["uidvalidity"]:
            return "the server has numbered its messages anew"
        mails = list(read_batch(session, session.listed(str(row["uid"])), mailbox))
    except MailError as exc:
        return str(exc)
    return mails[0] if mails else "it is no longer on the server"


def _set_aside(installation: Installation, definition: Definition, only: str | None) -> list[RowMapping]:
    query = select(quarantine).where(quarantine.c.mailbox == definition.id).order_by(quarantine.c.at)
    if only is not None:
        try:
            query = query.where(quarantine.c.id == UUID(only))
        except ValueError:
            return []
    with guarded(installation.settings), transaction(installation) as conn:
        return list(conn.execute(query).mappings())


def reset_cursor(
    installation: Installation,
    definition: Definition,
    *,
    folder: Annotated[str | None, "only this folder; without it, all of them"] = None,
) -> Finding:
    """Read the mailbox again from the start, as at its first poll; what is stored already stays as it is."""
    with guarded(installation.settings), mailbox_lock(installation.engine, definition.id) as lock:
        if lock is None:
            return Finding(ok=False, text=_BUSY)
        with transaction(installation) as conn:
            state = store.load_state(conn, definition, lock=True)
            folders: dict[str, Any] = dict(state.get("folders") or {})
            if folder is not None and folder not in folders:
                known = ", ".join(map(repr, folders)) or "none"
                return Finding(ok=False, text=f"No folder {folder!r} was read yet; read were: {known}.")
            left = {} if folder is None else {name: kept for name, kept in folders.items() if name != folder}
            store.save_state(conn, definition, {**state, "folders": left})
    return Finding(ok=True, text=f"{_count(len(folders) - len(left), 'folder')} will be read from the start.")


def sync(
    installation: Installation, *, interval: Annotated[float, "seconds, for mailboxes that name no interval"] = 60
) -> Finding:
    """Bring the schedules in line with the mailboxes: one each, spread over its period."""
    synced = scheduling.sync(installation, interval)
    text = f"Schedules: {synced.added} added, {synced.changed} changed, {synced.removed} removed, "
    text += f"{synced.unchanged} as they were."
    return Finding(ok=True, text=text, details=synced.counts)


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
