"""Email: messages, attachments, quarantine and the state of each mailbox."""

from __future__ import annotations

from typing import Final

from alembic import context, op

from beatline.ledger.database import quoted

revision = "0005"
down_revision = "0004"

_TABLES: Final = (
    """
    CREATE TABLE {schema}.email_messages (
        id uuid NOT NULL,
        mailbox uuid NOT NULL,
        folder text NOT NULL,
        uidvalidity bigint NOT NULL,
        uid bigint NOT NULL,
        message_id text,
        subject text NOT NULL,
        sender text NOT NULL,
        recipients text[] NOT NULL,
        sent_at timestamptz NOT NULL,
        received_at timestamptz NOT NULL,
        size_bytes bigint NOT NULL,
        content_hash text NOT NULL,
        auto_submitted boolean NOT NULL,
        bounce boolean NOT NULL,
        oversize boolean NOT NULL,
        body_text text,
        body_html text,
        raw uuid,
        state text NOT NULL,
        error text,
        stored_at timestamptz NOT NULL,
        sent_on_at timestamptz,
        ended_at timestamptz,
        PRIMARY KEY (id),
        CONSTRAINT email_messages_uid UNIQUE (mailbox, folder, uidvalidity, uid),
        CONSTRAINT email_messages_state CHECK (state IN ('new','processing','processed','failed'))
    )
    """,
    "CREATE INDEX email_messages_message_id ON {schema}.email_messages (mailbox, message_id)",
    "CREATE INDEX email_messages_unsent ON {schema}.email_messages (mailbox) WHERE sent_on_at IS NULL AND state = 'new'",
    "CREATE INDEX email_messages_open ON {schema}.email_messages (id) WHERE state IN ('new','processing')",
    """
    CREATE TABLE {schema}.email_attachments (
        message uuid NOT NULL,
        number integer NOT NULL,
        name text NOT NULL,
        content_type text NOT NULL,
        content_id text,
        size_bytes bigint NOT NULL,
        sha256 text NOT NULL,
        artifact uuid,
        PRIMARY KEY (message, number),
        CONSTRAINT email_attachments_message FOREIGN KEY(message) REFERENCES {schema}.email_messages (id) ON DELETE CASCADE
    )
    """,
    """
    CREATE TABLE {schema}.email_quarantine (
        id uuid NOT NULL,
        mailbox uuid NOT NULL,
        folder text NOT NULL,
        uidvalidity bigint NOT NULL,
        uid bigint NOT NULL,
        received_at timestamptz NOT NULL,
        size_bytes bigint NOT NULL,
        content_hash text NOT NULL,
        reason text NOT NULL,
        raw uuid NOT NULL,
        at timestamptz NOT NULL,
        PRIMARY KEY (id),
        CONSTRAINT email_quarantine_uid UNIQUE (mailbox, folder, uidvalidity, uid)
    )
    """,
    """
    CREATE TABLE {schema}.email_accounts (
        mailbox uuid NOT NULL,
        state text NOT NULL,
        version integer NOT NULL,
        failures integer NOT NULL,
        next_try_at timestamptz,
        last_try_at timestamptz NOT NULL,
        last_ok_at timestamptz,
        lag bigint,
        error text,
        token bytea,
        PRIMARY KEY (mailbox)
    )
    """,
)

_COMMENTS: Final = {
    "TABLE {schema}.email_messages": "Messages that polls have stored. A row stays when its message is deleted on the server.",
    "COLUMN {schema}.email_messages.mailbox": "the definition's id",
    "COLUMN {schema}.email_messages.message_id": "of its header, without brackets; null if it has none",
    "COLUMN {schema}.email_messages.recipients": "To and Cc",
    "COLUMN {schema}.email_messages.sent_at": "its Date, or received_at if that cannot be believed",
    "COLUMN {schema}.email_messages.received_at": "INTERNALDATE",
    "COLUMN {schema}.email_messages.size_bytes": "RFC822.SIZE",
    "COLUMN {schema}.email_messages.content_hash": "SHA-256 of the message, of an oversize one of its headers",
    "COLUMN {schema}.email_messages.auto_submitted": "not to be answered",
    "COLUMN {schema}.email_messages.oversize": "over max_message_bytes: only its headers were read",
    "COLUMN {schema}.email_messages.raw": "the artifact of the whole message, if it is kept",
    "COLUMN {schema}.email_messages.sent_on_at": "when email.process_message was sent; null: the next poll sends it",
    "COLUMN {schema}.email_messages.ended_at": "when it became processed or failed",
    "COLUMN {schema}.email_attachments.name": "made safe",
    "COLUMN {schema}.email_attachments.artifact": "null: over max_attachment_bytes, not kept",
    "TABLE {schema}.email_quarantine": "Messages that could not be taken apart or stored: raw, with the reason, so that the rest go in.",
    "COLUMN {schema}.email_quarantine.mailbox": "the definition's id",
    "COLUMN {schema}.email_quarantine.raw": "the artifact of the message as it came",
    "TABLE {schema}.email_accounts": "How each mailbox fares.",
    "COLUMN {schema}.email_accounts.mailbox": "the definition's id",
    "COLUMN {schema}.email_accounts.state": "ok, or why it cannot be polled",
    "COLUMN {schema}.email_accounts.version": "of the definition that was tried: a change ends the back-off",
    "COLUMN {schema}.email_accounts.failures": "in a row",
    "COLUMN {schema}.email_accounts.next_try_at": "a poll before it ends at once",
    "COLUMN {schema}.email_accounts.lag": "UIDNEXT - 1 - cursor over all folders, after the last poll",
    "COLUMN {schema}.email_accounts.error": "the last one, in words",
    "COLUMN {schema}.email_accounts.token": "tokens of OAuth, encrypted; got anew if they no longer open",
}


def upgrade() -> None:
    """Make the tables."""
    schema = quoted(str(context.get_context().version_table_schema))
    for statement in _TABLES:
        op.execute(statement.replace("{schema}", schema))
    for what, comment in _COMMENTS.items():
        op.execute(f"COMMENT ON {what.replace('{schema}', schema)} IS '{comment.replace(chr(39), chr(39) * 2)}'")
