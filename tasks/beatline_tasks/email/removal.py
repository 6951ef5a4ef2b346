"""What goes with a mailbox: its schedule, its messages with their files, its quarantine, its state."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import Connection, delete, select

from beatline.artifacts.tables import artifacts
from beatline.ledger.model import definitions
from beatline_tasks.email import scheduling
from beatline_tasks.email.tables import accounts, attachments, messages, quarantine

if TYPE_CHECKING:
    from beatline.definitions import Definition
    from beatline.installation import Installation


def removed(conn: Connection, _installation: Installation, definition: Definition) -> None:
    """Take along all that hangs on a mailbox, in the transaction that removes it."""
    # A poll that is storing messages right now is waited for; one that comes later finds no mailbox.
    conn.execute(select(definitions.c.id).where(definitions.c.id == definition.id).with_for_update())
    scheduling.drop(conn, definition)
    ours = messages.c.mailbox == definition.id
    of_ours = attachments.c.message.in_(select(messages.c.id).where(ours))
    raw = select(messages.c.raw).where(ours, messages.c.raw.is_not(None))
    files = select(attachments.c.artifact).where(of_ours, attachments.c.artifact.is_not(None))
    set_aside = select(quarantine.c.raw).where(quarantine.c.mailbox == definition.id)
    for named in (raw, files, set_aside):  # the files themselves go with the sweep of the artifact store
        conn.execute(delete(artifacts).where(artifacts.c.id.in_(named)))
    conn.execute(delete(attachments).where(of_ours))
    conn.execute(delete(messages).where(ours))
    conn.execute(delete(quarantine).where(quarantine.c.mailbox == definition.id))
    conn.execute(delete(accounts).where(accounts.c.mailbox == definition.id))
