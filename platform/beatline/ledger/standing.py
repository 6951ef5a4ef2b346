"""How runs stand in PostgreSQL, for a worker that cannot tell from Redis whether it may execute them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sqlalchemy import Connection

from beatline.engine.doubt import Standing
from beatline.ledger.database import sql

_STANDINGS: Final = """
    SELECT r.id, r.state, r.attempt
    FROM {schema}.run_days d JOIN {schema}.runs r ON r.day = d.day AND r.id = d.id WHERE d.id = ANY(:ids)
"""


def standings(conn: Connection, ids: Sequence[str]) -> dict[str, Standing]:
    """How these runs stand, one query for all; those that PostgreSQL does not know are left out."""
    rows = conn.execute(sql(conn, _STANDINGS), {"ids": list(ids)})
    return {row.id: Standing(row.state, row.attempt) for row in rows}
