"""How far a folder has been read, and what a poll reads of it. Pure.

A message is known by folder, UIDVALIDITY and UID. A server that changes a folder's UIDVALIDITY has numbered its
messages anew: then what the folder held at that moment is *re-matched*, by Message-ID and by content, before anything
counts as new.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any
from uuid import UUID

from beatline_tasks.email.session import Listed


@dataclass(frozen=True, slots=True)
class Position:
    """A place in a folder: all up to `uid` is stored. Up to `rematch_to`, messages may be known under other UIDs.

    Up to `known_to`, some may be stored although the cursor was reset; beyond it and `uid` none is, since a message and
    the cursor behind it are committed together. What arrived before `since` was not wanted at the first sync, and is
    not wanted later.
    """

    uidvalidity: int
    uid: int = 0
    rematch_to: int = 0
    since: datetime | None = None
    known_to: int = 0

    @property
    def rematching(self) -> bool:
        """Whether what comes next may be known already."""
        return self.uid < self.rematch_to

    def reached(self, uid: int) -> Position:
        """The position once all up to a UID is stored."""
        return replace(self, uid=max(uid, self.uid))

    def renumbered(self, uidvalidity: int, last_uid: int) -> Position:
        """The position in the same folder after its messages were numbered anew."""
        return Position(uidvalidity, 0, last_uid, self.since, known_to=last_uid)

    def to_state(self) -> dict[str, Any]:
        """As it is kept in the definition's state."""
        kept = {name: value for name, value in asdict(self).items() if value}
        return kept | ({"since": self.since.isoformat()} if self.since else {})


def position_of(state: Mapping[str, Any], folder: str) -> Position | None:
    """The position that was kept; None if the folder was never read, or is to be read again."""
    folders: Mapping[str, Any] = state.get("folders") or {}
    kept: Mapping[str, Any] | None = folders.get(folder)
    if not kept:
        return None
    since: str | None = kept.get("since")
    return Position(
        int(kept["uidvalidity"]),
        int(kept.get("uid", 0)),
        int(kept.get("rematch_to", 0)),
        datetime.fromisoformat(since) if since else None,
        int(kept.get("known_to", 0)),
    )


def with_position(state: Mapping[str, Any], folder: str, position: Position) -> dict[str, Any]:
    """The state with another position in a folder."""
    return {**state, "folders": {**(state.get("folders") or {}), folder: position.to_state()}}


def batches(
    listed: Iterable[Listed], *, messages: int, size_bytes: int, max_message_bytes: int
) -> Iterator[list[Listed]]:
    """Messages in order, in groups bounded in count and bytes; a large one is a group of its own.

    An oversize one counts as nothing: its body is not read.
    """
    batch: list[Listed] = []
    weight = 0
    for one in listed:
        own = one.size_bytes if one.size_bytes <= max_message_bytes else 0
        if batch and (len(batch) >= messages or weight + own > size_bytes):
            yield batch
            batch, weight = [], 0
        batch.append(one)
        weight += own
    if batch:
        yield batch


def matched(listed: Sequence[Listed], known: Iterable[tuple[UUID, str | None]]) -> dict[int, UUID]:
    """UID → stored message, where a Message-ID names one of each. What is missing or doubled is told by content."""
    rows = [(row, message_id) for row, message_id in known if message_id]
    stored = Counter(message_id for _, message_id in rows)
    offered = Counter(one.message_id for one in listed)
    by_id = {message_id: row for row, message_id in rows if stored[message_id] == 1}
    return {
        one.uid: by_id[one.message_id]
        for one in listed
        if one.message_id and offered[one.message_id] == 1 and one.message_id in by_id
    }
