"""The demo's own task: what a mailbox calls for each message that it finds."""

from __future__ import annotations

from uuid import UUID

from celery import shared_task

from beatline.task.context import installation


@shared_task(name="demo.check_report", ignore_result=True)
def check_report(message_id: str) -> str:
    """Read what is attached to a message out of the artifact store: `SHA-256=rows` of each workbook."""
    from sqlalchemy import select

    from beatline.artifacts import ArtifactStore
    from beatline_tasks.demo.workbook import data_rows
    from beatline_tasks.email.tables import attachments

    ours = installation()
    with ours.engine.connect() as conn:
        found = conn.execute(select(attachments).where(attachments.c.message == UUID(message_id))).all()
    store = ArtifactStore.of(ours)
    rows: list[str] = []
    for one in found:
        if one.artifact is not None and one.name.endswith(".xlsx"):
            with store.open(ours.engine, one.artifact) as file:
                rows.append(f"{one.sha256}={data_rows(file)}")
    return " ".join(rows)
