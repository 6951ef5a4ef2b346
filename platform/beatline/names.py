"""The grammar of every name, and the only place that builds a Redis key."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from uuid import UUID, uuid5

from beatline.errors import NameRefusedError

DEFAULT_PREFIX: Final = "{beatline}:"
"""The hash tag keeps all keys of an installation in one slot, so that scripts may touch several of them."""

_RUN_IDS: Final = UUID("6f1d3f0e-6c1b-5c0a-9a0e-0a4be0a7b1e5")

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_NAME_RULE: Final = "letters, digits, dot, dash and underscore, a letter or digit first, at most 100"
_QUEUE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_QUEUE_RULE: Final = "letters, digits, dot, dash and underscore, a letter or digit first, at most 63"
_TASK: Final = re.compile(r"[^\s\x00-\x1f]{1,255}")
_TASK_RULE: Final = "1 to 255 characters without white space"
_RUN_ID: Final = re.compile(r"[^\x00-\x1f\ud800-\udfff]{1,255}")
_RUN_ID_RULE: Final = "1 to 255 characters, without control characters"


def check_name(kind: str, name: str) -> str:
    """The name of a schedule or definition, unchanged. Raises NameRefusedError."""
    if not _NAME.fullmatch(name):
        raise NameRefusedError(kind, name, _NAME_RULE)
    return name


def check_queue(name: str) -> str:
    """The name of a queue, unchanged. Raises NameRefusedError."""
    if not _QUEUE.fullmatch(name):
        raise NameRefusedError("queue", name, _QUEUE_RULE)
    return name


def check_task(name: str) -> str:
    """The name of a task, unchanged. Raises NameRefusedError."""
    if not _TASK.fullmatch(name):
        raise NameRefusedError("task", name, _TASK_RULE)
    return name


def check_run_id(run_id: object) -> str:
    """The id of a run, unchanged; Celery lets callers choose it. Raises NameRefusedError."""
    if not isinstance(run_id, str) or not _RUN_ID.fullmatch(run_id):
        raise NameRefusedError("run id", str(run_id), _RUN_ID_RULE)
    return run_id


def slot_run_id(schedule_id: UUID, slot_iso: str) -> str:
    """The id of the run that a slot of a schedule fires: the same whichever Beat decides it, however often.

    `slot_iso` is the slot in UTC, in ISO 8601.
    """
    return str(uuid5(_RUN_IDS, f"{schedule_id}|{slot_iso}"))


def successor_run_id(run_id: str, place: str) -> str:
    """The id of a run that another one calls when it ends, or of a group in there: the same however often it is called.

    `place` is where it stands in the other one's message, such as `link.0.body`.
    """
    return str(uuid5(_RUN_IDS, f"{run_id}|{place}"))


def index_name(queue: str) -> str:
    """The name of a queue's index, without the installation's prefix: kombu's own client puts that before it."""
    return f"queued:{queue}"


@dataclass(frozen=True, slots=True)
class Keys:
    """Every Redis key of one installation. What has no time to live is named in `permanent`."""

    prefix: str = DEFAULT_PREFIX

    def queue(self, name: str) -> str:
        """The list of a queue, as kombu's global_keyprefix writes it (priority steps are appended by kombu)."""
        return f"{self.prefix}{name}"

    def index(self, queue: str) -> str:
        """Sorted set: run id → when its message was put into this queue, or was last seen there, in ms. From its publishing
        to its claim, so that it lives as long as messages wait. `engine/index.py` keeps it, with what publishes."""
        return f"{self.prefix}{index_name(queue)}"

    def run(self, run_id: str) -> str:
        """Hash of a claimed run: attempt, state, fence, worker, begun. Lives 24 h past its last change."""
        return f"{self.prefix}run:{run_id}"

    def cache(self, name: str) -> str:
        """String that `maintenance.warm_cache` filled, for an application to read. Lives for the TTL of its entry."""
        return f"{self.prefix}cache:{name}"

    @property
    def leases(self) -> str:
        """Sorted set: run id → when its lease ends, in ms of the Redis server's clock."""
        return f"{self.prefix}leases"

    @property
    def events(self) -> str:
        """Stream of ledger events, drained by the recorder."""
        return f"{self.prefix}events"

    @property
    def epoch(self) -> str:
        """String: the epoch of this Redis data set, set from PostgreSQL by the recorder."""
        return f"{self.prefix}epoch"

    @property
    def since(self) -> str:
        """String: the epoch it is about, when that began in ms of the server's clock, 1 if data of an earlier epoch were
        there, run id of the server. `ledger/epochs.py` reads and writes it, and `claim.lua`."""
        return f"{self.prefix}epoch:since"

    @property
    def settled(self) -> str:
        """String: the data set that every live worker has met, as `epochs.Server.data_set` names it."""
        return f"{self.prefix}epoch:settled"

    @property
    def paused(self) -> str:
        """Hash: a queue from which no worker takes anything → since when, by whom and why. PostgreSQL's, copied here."""
        return f"{self.prefix}queues:paused"

    @property
    def fence(self) -> str:
        """String: the counter below the epoch in a fence."""
        return f"{self.prefix}fence"

    @property
    def redbeat(self) -> str:
        """Prefix of RedBeat's own keys."""
        return f"{self.prefix}redbeat:"

    def email_connections(self, host: str) -> str:
        """Sorted set: open connections to a mail host → when they count as gone, in ms of the server's clock."""
        return f"{self.prefix}email:connections:{host.lower()}"

    def email_down(self, place: str) -> str:
        """Hash: why a mail server, host:port, did not answer, and when it is tried next. Lives minutes."""
        return f"{self.prefix}email:down:{place.lower()}"

    @property
    def permanent(self) -> tuple[str, ...]:
        """Keys that live as long as the installation."""
        return (self.leases, self.events, self.epoch, self.since, self.settled, self.fence, self.paused)
