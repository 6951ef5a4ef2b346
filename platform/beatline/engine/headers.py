"""The wire contract: the headers that Beatline adds to a Celery message (protocol 2).

| header         | value                                            | who writes it, and what for                               |
|----------------|--------------------------------------------------|-----------------------------------------------------------|
| `id`           | Celery's task id                                 | the run id: stable over retries, replacement and recovery |
| `bl_v`         | 1                                                | version of this contract                                  |
| `bl_attempt`   | int ≥ 1                                          | which execution of the run this message asks for          |
| `bl_day`       | `2026-11-22`                                     | the run's partition day: part of its identity             |
| `bl_epoch`     | int ≥ 0                                          | the epoch the sender knew, 0 if none                      |
| `bl_published` | seconds since 1970, float                        | when it was sent, by the sender's clock                   |
| `bl_schedule`  | a schedule's name                                | which schedule fired it                                   |
| `bl_slot`      | ISO 8601, UTC                                    | the due time it was fired for                             |
| `bl_stored`    | 1                                                | the run's row with this message is in PostgreSQL already  |
| `bl_on_lost`   | `dead`                                           | park the run, if it is lost after it began                |
| `bl_commit`    | 1                                                | from the sender to our transport, never on the wire       |
| `bl_fence`     | int                                              | added by the worker for its pool child, never on the wire |

Celery copies unknown headers on a retry; the sender overwrites all of them but `bl_day`, `bl_schedule` and `bl_slot`.
A message without them (a stock producer's) is attempt 1 + its retry count and gets its day from its first claim.
"""

from __future__ import annotations

from typing import Final

VERSION: Final = 1

RUN_ID: Final = "id"
TASK: Final = "task"
V: Final = "bl_v"
ATTEMPT: Final = "bl_attempt"
DAY: Final = "bl_day"
EPOCH: Final = "bl_epoch"
PUBLISHED: Final = "bl_published"
SCHEDULE: Final = "bl_schedule"
SLOT: Final = "bl_slot"
STORED: Final = "bl_stored"
ON_LOST: Final = "bl_on_lost"
COMMIT: Final = "bl_commit"
FENCE: Final = "bl_fence"
