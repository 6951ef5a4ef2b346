"""Where a page of runs ends, as an opaque word that a client gives back."""

from __future__ import annotations

import base64
import binascii
import json
from datetime import UTC, datetime
from typing import Any, Final

from beatline.errors import BeatlineError
from beatline.ledger.history import Run

LONGEST: Final = 4400
"""Of an id of 512 characters, which is the longest that history takes."""
Place = tuple[datetime | None, str]


def cursor_after(run: Run) -> str:
    """The cursor of the page behind this run."""
    at = None if run.accepted_at is None else run.accepted_at.isoformat()
    return (
        base64.urlsafe_b64encode(json.dumps([at, run.id], ensure_ascii=False, separators=(",", ":")).encode())
        .decode("ascii")
        .rstrip("=")
    )


def place_of(cursor: str) -> Place:
    """The place that a cursor names. Raises BeatlineError for anything that no page gave."""
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        at, run_id = _pair(json.loads(base64.b64decode(padded, altchars=b"-_", validate=True)))
        moment = None if at is None else datetime.fromisoformat(at).astimezone(UTC)
    except (ValueError, TypeError, OverflowError, RecursionError, binascii.Error):
        raise BeatlineError("cursor: this is none; take it from `next` of the page before, as it is.") from None
    return moment, run_id


def _pair(said: Any) -> tuple[str | None, str]:
    at, run_id = said
    if not isinstance(run_id, str) or not run_id or "\x00" in run_id:
        raise ValueError("no run id")
    run_id.encode()  # UnicodeEncodeError is a ValueError: half a surrogate pair is in no id
    if at is not None and not isinstance(at, str):
        raise TypeError("no time")
    return at, run_id
