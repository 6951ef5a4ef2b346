"""Deliveries in PostgreSQL: one row for each recipient of an issue, whose state says what may still be done.

A mail goes out at most once. `sending` is committed before the mail is handed over; whoever finds that state later
cannot know whether the server took the mail, so it becomes `unknown`, which a person sees and nobody sends again.
A webhook and a store can tell a repetition, so theirs is tried again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime
from typing import Any, Final, Literal
from uuid import UUID, uuid5

from sqlalchemy import Connection, Engine, func, select, update
from sqlalchemy.dialects.postgresql import insert as pg_insert

from beatline.clock import utc_now
from beatline_tasks.report.tables import CHANNELS, report_deliveries, report_issues

Channel = Literal["store", "webhook", "email", "owner"]
DeliveryState = Literal["pending", "sending", "sent", "refused", "failed", "unknown"]
UNKNOWN: Final = (
    "it was handed over, and the worker or the connection ended before the server's answer came: it may have arrived. "
    "It is not sent again by itself, because that could make two."
)
_ERROR_CHARS: Final = 1000
_MAILS: Final = ("email", "owner")


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One issue to one recipient."""

    id: UUID
    issue_id: UUID
    channel: Channel
    recipient: str
    state: DeliveryState
    message_id: str | None
    provider_id: str | None
    attempts: int
    error: str | None
    created_at: datetime
    changed_at: datetime


_COLUMNS: Final = tuple(field.name for field in fields(Delivery))


def prepare(engine: Engine, issue_id: UUID, wanted: Sequence[tuple[Channel, str]]) -> list[Delivery]:
    """The rows of these recipients, made where they are missing; what an earlier execution left in between is settled."""
    with engine.begin() as conn:
        for channel, recipient in wanted:
            row = _new(issue_id, channel, recipient)
            conn.execute(pg_insert(report_deliveries).values(row).on_conflict_do_nothing())
        _settle_left(conn, issue_id)
        known = {_identity(issue_id, channel, recipient) for channel, recipient in wanted}
        return [one for one in of_issue(conn, issue_id) if one.id in known]


def with_message_ids(engine: Engine, rows: Sequence[Delivery], domain: str) -> list[Delivery]:
    """The rows of mails, each with its Message-ID, which it keeps."""
    made = {row.id: f"<{row.id}@{domain}>" for row in rows if row.message_id is None}
    with engine.begin() as conn:
        for row_id, message_id in made.items():
            ours = (report_deliveries.c.id == row_id) & report_deliveries.c.message_id.is_(None)
            conn.execute(update(report_deliveries).where(ours).values(message_id=message_id))
    return [replace(row, message_id=made.get(row.id, row.message_id)) for row in rows]


def settle(engine: Engine, issue_id: UUID, error: str) -> list[Delivery]:
    """The rows of an issue whose steps are over: what still waits has failed."""
    table = report_deliveries.c
    with engine.begin() as conn:
        _settle_left(conn, issue_id)
        waiting = (table.issue_id == issue_id) & (table.state == "pending") & (table.channel != "owner")
        why = func.coalesce(table.error, error[:_ERROR_CHARS])
        conn.execute(update(report_deliveries).where(waiting).values(state="failed", error=why, changed_at=utc_now()))
        return of_issue(conn, issue_id)


def _settle_left(conn: Connection, issue_id: UUID) -> None:
    table = report_deliveries.c
    left = (table.issue_id == issue_id) & (table.state == "sending")
    mails, now = left & table.channel.in_(_MAILS), utc_now()
    conn.execute(update(report_deliveries).where(mails).values(state="unknown", error=UNKNOWN, changed_at=now))
    conn.execute(update(report_deliveries).where(left).values(state="pending", changed_at=now))


def of_issue(conn: Connection, issue_id: UUID) -> list[Delivery]:
    """Every delivery of an issue, by channel and recipient."""
    rows = conn.execute(select(report_deliveries).where(report_deliveries.c.issue_id == issue_id)).mappings()
    found = [Delivery(**{name: row[name] for name in _COLUMNS}) for row in rows]
    return sorted(found, key=lambda one: (CHANNELS.index(one.channel), one.recipient))


def of_report(conn: Connection, report_id: UUID, limit: int) -> list[dict[str, Any]]:
    """The latest deliveries of a report with their periods, the newest first."""
    query = (
        select(report_issues.c.period_start, report_issues.c.period_end, report_deliveries)
        .join(report_deliveries, report_deliveries.c.issue_id == report_issues.c.id)
        .where(report_issues.c.report_id == report_id)
        .order_by(report_issues.c.period_start.desc(), report_deliveries.c.channel, report_deliveries.c.recipient)
        .limit(limit)
    )
    return [dict(row) for row in conn.execute(query).mappings()]


def claim(engine: Engine, delivery: Delivery) -> bool:
    """Mark it as being sent, committed; False if another execution was quicker, or it was sent already."""
    return _change(engine, delivery, ("pending",), state="sending", attempts=delivery.attempts + 1, error=None)


def sent(engine: Engine, delivery: Delivery, provider_id: str) -> None:
    """It was accepted. That holds also where it was thought lost meanwhile."""
    said = provider_id[:_ERROR_CHARS]
    _change(engine, delivery, ("sending", "unknown"), state="sent", provider_id=said, error=None)


def refused(engine: Engine, delivery: Delivery, error: str) -> None:
    """The other side will not have it; trying again would not help."""
    _change(engine, delivery, ("pending", "sending"), state="refused", error=error[:_ERROR_CHARS])


def later(engine: Engine, delivery: Delivery, error: str) -> None:
    """It was not taken, for certain, and may be next time."""
    _change(engine, delivery, ("pending", "sending"), state="pending", error=error[:_ERROR_CHARS])


def lost(engine: Engine, delivery: Delivery) -> None:
    """Whether it was taken cannot be known."""
    _change(engine, delivery, ("sending",), state="unknown", error=UNKNOWN)


def _change(engine: Engine, delivery: Delivery, states: tuple[str, ...], **values: Any) -> bool:
    table = report_deliveries.c
    ours = (table.id == delivery.id) & table.state.in_(states)
    with engine.begin() as conn:
        return conn.execute(update(report_deliveries).where(ours).values(changed_at=utc_now(), **values)).rowcount == 1


def _new(issue_id: UUID, channel: Channel, recipient: str) -> dict[str, Any]:
    now = utc_now()
    new_id = _identity(issue_id, channel, recipient)
    values: dict[str, Any] = {"id": new_id, "issue_id": issue_id, "channel": channel, "recipient": recipient}
    return values | {"state": "pending", "created_at": now, "changed_at": now}


def _identity(issue_id: UUID, channel: Channel, recipient: str) -> UUID:
    return uuid5(issue_id, f"{channel}|{recipient.casefold()}")
