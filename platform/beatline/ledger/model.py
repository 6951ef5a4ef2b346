"""The tables, as SQLAlchemy Core sees them. ledger/migrations makes them; a test compares the two.

One schema of our own, `beatline` unless BEATLINE_DATABASE_SCHEMA says otherwise: statements are written against the
name SCHEMA and translated by the engine (`schema_translate_map`), plain SQL by `ledger.database`.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Date,
    DateTime,
    Double,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from beatline.ledger.states import RunState

SCHEMA: Final = "beatline"
DATA_SCHEMA: Final = "beatline_data"

metadata = MetaData(schema=SCHEMA)
_time = DateTime(timezone=True)
_states = ", ".join(f"'{s}'" for s in RunState)

PARTITIONED: Final = ("occurrences", "runs", "attempts")
"""Tables in daily partitions, by their column `day` (UTC)."""

run_days = Table(
    "run_days",
    metadata,
    Column("id", Text, primary_key=True),
    Column("day", Date, nullable=False),
    Column("idempotency_key", Text, unique=True),
    comment="Which day's partition holds a run; what must be unique over all days stands here.",
)

runs = Table(
    "runs",
    metadata,
    Column("day", Date, primary_key=True),
    Column("id", Text, primary_key=True),
    Column("task", Text, nullable=False),
    Column("queue", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("progress", BigInteger, nullable=False, comment="attempt * 10 + stage: the state never goes back"),
    Column("attempt", Integer, nullable=False),
    Column("changed_at", _time, nullable=False, comment="when it came into its state; of two ends the first stays"),
    Column("priority", SmallInteger),
    Column("schedule", Text),
    Column("slot", _time),
    Column("root_id", Text),
    Column("parent_id", Text),
    Column("args_shown", Text, comment="capped, secret keys masked"),
    Column("kwargs_shown", Text, comment="capped, secret keys masked"),
    Column("message", LargeBinary, comment="the whole message, encrypted; of attempt message_attempt"),
    Column("message_attempt", Integer),
    Column("accepted_at", _time),
    Column("queued_at", _time),
    Column("started_at", _time),
    Column("ended_at", _time),
    Column("eta", _time),
    Column("expires", _time),
    Column("worker", Text),
    Column("result", Text),
    Column("error", Text),
    Column("reason", Text),
    CheckConstraint(f"state IN ({_states})", name="runs_state"),
    CheckConstraint("attempt >= 1", name="runs_attempt"),
    CheckConstraint("(state IN ('succeeded','failed','cancelled','dead')) = (ended_at IS NOT NULL)", name="runs_ended"),
    Index("runs_open", "state", "accepted_at", postgresql_where=text("ended_at IS NULL")),
    Index("runs_due", "eta", postgresql_where=text("state = 'delayed'")),
    Index("runs_expiring", "expires", postgresql_where=text("ended_at IS NULL AND expires IS NOT NULL")),
    Index("runs_recent", text("accepted_at DESC"), text("id DESC")),
    Index("runs_schedule", "schedule", text("slot DESC"), postgresql_where=text("schedule IS NOT NULL")),
    postgresql_partition_by="RANGE (day)",
)

attempts = Table(
    "attempts",
    metadata,
    Column("day", Date, primary_key=True),
    Column("run_id", Text, primary_key=True),
    Column("attempt", Integer, primary_key=True),
    Column("outcome", Text, comment="null while it runs"),
    Column("fence", BigInteger),
    Column("worker", Text),
    Column("started_at", _time, comment="null: reserved, never begun"),
    Column("ended_at", _time),
    Column("runtime_s", Double),
    Column("result", Text),
    Column("error", Text),
    Column("traceback", Text),
    Column("reason", Text),
    Column("refused", Integer, nullable=False, server_default=text("0"), comment="late ends that were refused"),
    Column(
        "refused_fences",
        ARRAY(BigInteger),
        nullable=False,
        server_default=text("'{}'"),
        comment="whose they were: counted once, however often they are told",
    ),
    CheckConstraint(
        "outcome IN ('succeeded','failed','cancelled','dead','retried','replaced','lost','returned')",
        name="attempts_outcome",
    ),
    postgresql_partition_by="RANGE (day)",
)

occurrences = Table(
    "occurrences",
    metadata,
    Column("day", Date, primary_key=True),
    Column("schedule_id", Uuid, primary_key=True),
    Column("slot", _time, primary_key=True),
    Column("last_slot", _time, nullable=False, comment="of consecutive slots of one outcome; = slot for one"),
    Column("slots", Integer, nullable=False, server_default=text("1")),
    Column("outcome", Text, nullable=False),
    Column("reason", Text),
    Column("run_id", Text),
    Column("decided_at", _time, nullable=False),
    Column("lateness_s", Double, nullable=False),
    Column("decided_by", Text, nullable=False),
    CheckConstraint(
        "outcome IN ('fired','coalesced','misfired','skipped','buffered','refused')", name="occurrences_outcome"
    ),
    CheckConstraint("(outcome = 'fired') = (run_id IS NOT NULL)", name="occurrences_run"),
    CheckConstraint("slots >= 1 AND last_slot >= slot", name="occurrences_slots"),
    postgresql_partition_by="RANGE (day)",
)

schedules = Table(
    "schedules",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("task", Text, nullable=False),
    Column("args", JSONB, nullable=False),
    Column("kwargs", JSONB, nullable=False),
    Column("queue", Text),
    Column("priority", SmallInteger),
    Column("trigger", JSONB, nullable=False),
    Column("paused_at", _time),
    Column("paused_by", Text),
    Column("pause_reason", Text),
    Column("decided_until", _time, nullable=False, comment="every slot up to here has its outcome"),
    Column("quarantined", Text, comment="why it cannot be decided; null: it can"),
    Column("owner", Text, nullable=False, comment="operator, file, code (beat_schedule), beatline, redbeat"),
    Column("version", Integer, nullable=False),
    Column("revision", BigInteger, nullable=False, unique=True, comment="grows with each change of any schedule"),
    Column("removed_at", _time, comment="kept as a tombstone, so that Beat takes its entry away"),
    Column("created_at", _time, nullable=False),
    Column("updated_at", _time, nullable=False),
    CheckConstraint("owner IN ('operator','file','code','beatline','redbeat')", name="schedules_owner"),
    CheckConstraint("priority BETWEEN 0 AND 9", name="schedules_priority"),
)

definitions = Table(
    "definitions",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("spec", JSONB, nullable=False, comment="without its secrets"),
    Column("secrets", LargeBinary, comment="JSON of the secret fields, encrypted, bound to the row's id"),
    Column(
        "state", JSONB, nullable=False, server_default=text("'{}'"), comment="cursor and the like, kept by its tasks"
    ),
    Column("parked", Text, comment="why its tasks refuse to run; null: they run"),
    Column("owner", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("created_at", _time, nullable=False),
    Column("updated_at", _time, nullable=False),
    UniqueConstraint("kind", "name", name="definitions_name"),
    CheckConstraint("owner IN ('operator','file','beatline')", name="definitions_owner"),
)

datasets = Table(
    "datasets",
    metadata,
    Column("name", Text, primary_key=True),
    Column("key", JSONB, nullable=False, comment="names of the natural key's fields"),
    Column("columns", JSONB, nullable=False, comment="declared columns: name → type; the rest is in doc"),
    Column("created_at", _time, nullable=False),
)

audit = Table(
    "audit",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("at", _time, nullable=False),
    Column("who", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("before", JSONB),
    Column("after", JSONB),
    Index("audit_about", "kind", "name"),
)

epochs = Table(
    "epochs",
    metadata,
    Column("epoch", BigInteger, primary_key=True, autoincrement=False),
    Column("redis_run_id", Text, nullable=False, comment="INFO server: run_id"),
    Column("replication_id", Text, nullable=False, comment="INFO replication: master_replid"),
    Column("since", _time, nullable=False),
)

leaders = Table(
    "leaders",
    metadata,
    Column("role", Text, primary_key=True),
    Column("number", BigInteger, nullable=False, comment="grows with each new leader: an older one writes nothing"),
    Column("holder", Text, nullable=False),
    Column("since", _time, nullable=False),
)

cancellations = Table(
    "cancellations",
    metadata,
    Column("run_id", Text, primary_key=True),
    Column("at", _time, nullable=False),
    Column("who", Text, nullable=False),
    Column("reason", Text, nullable=False, comment="what the end of the run says"),
    Column("hard", Boolean, nullable=False, comment="its body is given no time"),
    comment="Runs that are to end as cancelled. Forgotten two days after the order, once the run has ended.",
)

queue_pauses = Table(
    "queue_pauses",
    metadata,
    Column("queue", Text, primary_key=True),
    Column("since", _time, nullable=False),
    Column("who", Text, nullable=False),
    Column("reason", Text),
    comment="Queues from which no worker takes anything.",
)

parked_events = Table(
    "parked_events",
    metadata,
    Column("stream_id", Text, primary_key=True),
    Column("payload", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("at", _time, nullable=False),
    comment="Events that could not be applied: kept, with the reason, so that the rest go on.",
)
