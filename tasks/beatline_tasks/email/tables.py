"""The tables of the family email, as SQLAlchemy Core sees them; migration 0005 makes them."""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY

from beatline.ledger.model import metadata

_time: Final = DateTime(timezone=True)

messages = Table(
    "email_messages",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("mailbox", Uuid, nullable=False, comment="the definition's id"),
    Column("folder", Text, nullable=False),
    Column("uidvalidity", BigInteger, nullable=False),
    Column("uid", BigInteger, nullable=False),
    Column("message_id", Text, comment="of its header, without brackets; null if it has none"),
    Column("subject", Text, nullable=False),
    Column("sender", Text, nullable=False),
    Column("recipients", ARRAY(Text), nullable=False, comment="To and Cc"),
    Column("sent_at", _time, nullable=False, comment="its Date, or received_at if that cannot be believed"),
    Column("received_at", _time, nullable=False, comment="INTERNALDATE"),
    Column("size_bytes", BigInteger, nullable=False, comment="RFC822.SIZE"),
    Column("content_hash", Text, nullable=False, comment="SHA-256 of the message, of an oversize one of its headers"),
    Column("auto_submitted", Boolean, nullable=False, comment="not to be answered"),
    Column("bounce", Boolean, nullable=False),
    Column("oversize", Boolean, nullable=False, comment="over max_message_bytes: only its headers were read"),
    Column("body_text", Text),
    Column("body_html", Text),
    Column("raw", Uuid, comment="the artifact of the whole message, if it is kept"),
    Column("state", Text, nullable=False),
    Column("error", Text),
    Column("stored_at", _time, nullable=False),
    Column("sent_on_at", _time, comment="when email.process_message was sent; null: the next poll sends it"),
    Column("ended_at", _time, comment="when it became processed or failed"),
    UniqueConstraint("mailbox", "folder", "uidvalidity", "uid", name="email_messages_uid"),
    CheckConstraint("state IN ('new','processing','processed','failed')", name="email_messages_state"),
    Index("email_messages_message_id", "mailbox", "message_id"),
    Index("email_messages_unsent", "mailbox", postgresql_where=text("sent_on_at IS NULL AND state = 'new'")),
    Index("email_messages_open", "id", postgresql_where=text("state IN ('new','processing')")),
    comment="Messages that polls have stored. A row stays when its message is deleted on the server.",
)

attachments = Table(
    "email_attachments",
    metadata,
    Column(
        "message",
        Uuid,
        ForeignKey(messages.c.id, name="email_attachments_message", ondelete="CASCADE"),
        primary_key=True,
    ),
    Column("number", Integer, primary_key=True),
    Column("name", Text, nullable=False, comment="made safe"),
    Column("content_type", Text, nullable=False),
    Column("content_id", Text),
    Column("size_bytes", BigInteger, nullable=False),
    Column("sha256", Text, nullable=False),
    Column("artifact", Uuid, comment="null: over max_attachment_bytes, not kept"),
)

quarantine = Table(
    "email_quarantine",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("mailbox", Uuid, nullable=False, comment="the definition's id"),
    Column("folder", Text, nullable=False),
    Column("uidvalidity", BigInteger, nullable=False),
    Column("uid", BigInteger, nullable=False),
    Column("received_at", _time, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("content_hash", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("raw", Uuid, nullable=False, comment="the artifact of the message as it came"),
    Column("at", _time, nullable=False),
    UniqueConstraint("mailbox", "folder", "uidvalidity", "uid", name="email_quarantine_uid"),
    comment="Messages that could not be taken apart or stored: raw, with the reason, so that the rest go in.",
)

accounts = Table(
    "email_accounts",
    metadata,
    Column("mailbox", Uuid, primary_key=True, comment="the definition's id"),
    Column("state", Text, nullable=False, comment="ok, or why it cannot be polled"),
    Column("version", Integer, nullable=False, comment="of the definition that was tried: a change ends the back-off"),
    Column("failures", Integer, nullable=False, comment="in a row"),
    Column("next_try_at", _time, comment="a poll before it ends at once"),
    Column("last_try_at", _time, nullable=False),
    Column("last_ok_at", _time),
    Column("lag", BigInteger, comment="UIDNEXT - 1 - cursor over all folders, after the last poll"),
    Column("error", Text, comment="the last one, in words"),
    Column("token", LargeBinary, comment="tokens of OAuth, encrypted; got anew if they no longer open"),
    comment="How each mailbox fares.",
)
