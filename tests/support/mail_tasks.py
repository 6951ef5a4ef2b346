"""What a user's own code does with new messages: the tasks of `on_message`."""

from __future__ import annotations

import os
from pathlib import Path

from celery import shared_task


@shared_task(name="test.read_mail", ignore_result=True)
def read_mail(message_id: str) -> None:
    """Writes down which message it got."""
    with Path(os.environ["TEST_MAIL_LOG"]).open("a") as log:
        log.write(f"{message_id}\n")


@shared_task(name="test.refuse_mail", ignore_result=True)
def refuse_mail(message_id: str) -> None:
    """Fails."""
    raise RuntimeError(f"no use for {message_id}")
