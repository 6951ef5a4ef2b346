"""Baseline: the tables of the ledger, of schedules and of definitions."""

from __future__ import annotations

from typing import Final

from alembic import context, op

from beatline.ledger.database import quoted

revision = "0001"
down_revision = None

_PARTITIONED: Final = ("runs", "attempts", "occurrences")

_TABLES: Final = (
    """
    CREATE TABLE {schema}.run_days (
        id text PRIMARY KEY,
        day date NOT NULL,
        idempotency_key text UNIQUE
    )
    """,
    """
    CREATE TABLE {schema}.runs (
        day date NOT NULL,
        id text NOT NULL,
        task text NOT NULL,
        queue text NOT NULL,
        state text NOT NULL,
        progress bigint NOT NULL,
        attempt integer NOT NULL,
        changed_at timestamptz NOT NULL,
        priority smallint,
        schedule text,
        slot timestamptz,
        root_id text,
        parent_id text,
        args_shown text,
        kwargs_shown text,
        message bytea,
        message_attempt integer,
        accepted_at timestamptz,
        queued_at timestamptz,
        started_at timestamptz,
        ended_at timestamptz,
        eta timestamptz,
        expires timestamptz,
        worker text,
        result text,
        error text,
        reason text,
        PRIMARY KEY (day, id),
        CONSTRAINT runs_state CHECK (state IN ('accepted', 'delayed', 'queued', 'running', 'retrying', 'lost',
            'succeeded', 'failed', 'cancelled', 'dead')),
        CONSTRAINT runs_attempt CHECK (attempt >= 1),
        CONSTRAINT runs_ended CHECK
            ((state IN ('succeeded', 'failed', 'cancelled', 'dead')) = (ended_at IS NOT NULL))
    ) PARTITION BY RANGE (day)
    """,
    "CREATE INDEX runs_open ON {schema}.runs (state, accepted_at) WHERE ended_at IS NULL",
    "CREATE INDEX runs_recent ON {schema}.runs (accepted_at DESC, id DESC)",
    "CREATE INDEX runs_schedule ON {schema}.runs (schedule, slot DESC) WHERE schedule IS NOT NULL",
    """
    CREATE TABLE {schema}.attempts (
        day date NOT NULL,
        run_id text NOT NULL,
        attempt integer NOT NULL,
        outcome text,
        fence bigint,
        worker text,
        started_at timestamptz,
        ended_at timestamptz,
        runtime_s double precision,
        result text,
        error text,
        traceback text,
        reason text,
        refused integer NOT NULL DEFAULT 0,
        refused_fences bigint[] NOT NULL DEFAULT '{}',
        PRIMARY KEY (day, run_id, attempt),
        CONSTRAINT attempts_outcome CHECK (outcome IN ('succeeded', 'failed', 'cancelled', 'dead', 'retried',
            'replaced', 'lost', 'returned'))
    ) PARTITION BY RANGE (day)
    """,
    """
    CREATE TABLE {schema}.occurrences (
        day date NOT NULL,
        schedule_id uuid NOT NULL,
        slot timestamptz NOT NULL,
        last_slot timestamptz NOT NULL,
        slots integer NOT NULL DEFAULT 1,
        outcome text NOT NULL,
        reason text,
        run_id text,
        decided_at timestamptz NOT NULL,
        lateness_s double precision NOT NULL,
        decided_by text NOT NULL,
        PRIMARY KEY (day, schedule_id, slot),
        CONSTRAINT occurrences_outcome CHECK
            (outcome IN ('fired', 'coalesced', 'misfired', 'skipped', 'buffered', 'refused')),
        CONSTRAINT occurrences_run CHECK ((outcome = 'fired') = (run_id IS NOT NULL)),
        CONSTRAINT occurrences_slots CHECK (slots >= 1 AND last_slot >= slot)
    ) PARTITION BY RANGE (day)
    """,
    """
    CREATE TABLE {schema}.schedules (
        id uuid PRIMARY KEY,
        name text NOT NULL UNIQUE,
        task text NOT NULL,
        args jsonb NOT NULL,
        kwargs jsonb NOT NULL,
        queue text,
        priority smallint,
        trigger jsonb NOT NULL,
        paused_at timestamptz,
        paused_by text,
        pause_reason text,
        decided_until timestamptz NOT NULL,
        quarantined text,
        owner text NOT NULL,
        version integer NOT NULL,
        revision bigint NOT NULL UNIQUE,
        removed_at timestamptz,
        created_at timestamptz NOT NULL,
        updated_at timestamptz NOT NULL,
        CONSTRAINT schedules_owner CHECK (owner IN ('operator', 'file', 'code', 'beatline', 'redbeat')),
        CONSTRAINT schedules_priority CHECK (priority BETWEEN 0 AND 9)
    )
    """,
    """
    CREATE TABLE {schema}.definitions (
        id uuid PRIMARY KEY,
        kind text NOT NULL,
        name text NOT NULL,
        spec jsonb NOT NULL,
        secrets bytea,
        state jsonb NOT NULL DEFAULT '{}',
        parked text,
        owner text NOT NULL,
        version integer NOT NULL,
        created_at timestamptz NOT NULL,
        updated_at timestamptz NOT NULL,
        CONSTRAINT definitions_name UNIQUE (kind, name),
        CONSTRAINT definitions_owner CHECK (owner IN ('operator', 'file', 'beatline'))
    )
    """,
    """
    CREATE TABLE {schema}.datasets (
        name text PRIMARY KEY,
        key jsonb NOT NULL,
        columns jsonb NOT NULL,
        created_at timestamptz NOT NULL
    )
    """,
    """
    CREATE TABLE {schema}.audit (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        at timestamptz NOT NULL,
        who text NOT NULL,
        action text NOT NULL,
        kind text NOT NULL,
        name text NOT NULL,
        before jsonb,
        after jsonb
    )
    """,
    """
    CREATE TABLE {schema}.epochs (
        epoch bigint PRIMARY KEY,
        redis_run_id text NOT NULL,
        replication_id text NOT NULL,
        since timestamptz NOT NULL
    )
    """,
    """
    CREATE TABLE {schema}.leaders (
        role text PRIMARY KEY,
        number bigint NOT NULL,
        holder text NOT NULL,
        since timestamptz NOT NULL
    )
    """,
    """
    CREATE TABLE {schema}.parked_events (
        stream_id text PRIMARY KEY,
        payload text NOT NULL,
        reason text NOT NULL,
        at timestamptz NOT NULL
    )
    """,
)


_COMMENTS: Final = {
    "TABLE {schema}.run_days": "Which day's partition holds a run; what must be unique over all days stands here.",
    "COLUMN {schema}.runs.progress": "attempt * 10 + stage: the state never goes back",
    "COLUMN {schema}.runs.changed_at": "when it came into its state; of two ends the first stays",
    "COLUMN {schema}.runs.args_shown": "capped, secret keys masked",
    "COLUMN {schema}.runs.kwargs_shown": "capped, secret keys masked",
    "COLUMN {schema}.runs.message": "the whole message, encrypted; of attempt message_attempt",
    "COLUMN {schema}.attempts.outcome": "null while it runs",
    "COLUMN {schema}.attempts.started_at": "null: reserved, never begun",
    "COLUMN {schema}.attempts.refused": "late ends that were refused",
    "COLUMN {schema}.attempts.refused_fences": "whose they were: counted once, however often they are told",
    "COLUMN {schema}.occurrences.last_slot": "of consecutive slots of one outcome; = slot for one",
    "COLUMN {schema}.schedules.decided_until": "every slot up to here has its outcome",
    "COLUMN {schema}.schedules.quarantined": "why it cannot be decided; null: it can",
    "COLUMN {schema}.schedules.owner": "operator, file, code (beat_schedule), beatline, redbeat",
    "COLUMN {schema}.schedules.revision": "grows with each change of any schedule",
    "COLUMN {schema}.schedules.removed_at": "kept as a tombstone, so that Beat takes its entry away",
    "COLUMN {schema}.definitions.spec": "without its secrets",
    "COLUMN {schema}.definitions.secrets": "JSON of the secret fields, encrypted, bound to the row's id",
    "COLUMN {schema}.definitions.state": "cursor and the like, kept by its tasks",
    "COLUMN {schema}.definitions.parked": "why its tasks refuse to run; null: they run",
    "COLUMN {schema}.datasets.key": "names of the natural key's fields",
    "COLUMN {schema}.datasets.columns": "declared columns: name → type; the rest is in doc",
    "COLUMN {schema}.epochs.redis_run_id": "INFO server: run_id",
    "COLUMN {schema}.epochs.replication_id": "INFO replication: master_replid",
    "COLUMN {schema}.leaders.number": "grows with each new leader: an older one writes nothing",
    "TABLE {schema}.parked_events": "Events that could not be applied: kept, with the reason, so that the rest go on.",
}


def upgrade() -> None:
    """Make every table, and the default partition that keeps what no day's partition takes."""
    schema = quoted(str(context.get_context().version_table_schema))
    for statement in _TABLES:
        op.execute(statement.replace("{schema}", schema))
    for what, comment in _COMMENTS.items():
        said = comment.replace("'", "''")
        op.execute(f"COMMENT ON {what.replace('{schema}', schema)} IS '{said}'")
    for table in _PARTITIONED:
        op.execute(f"CREATE TABLE {schema}.{table}_default PARTITION OF {schema}.{table} DEFAULT")
