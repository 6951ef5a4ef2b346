"""What a definition is, and what an action on one finds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

Owner = Literal["operator", "file", "beatline"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """A row of the table `definitions`. `spec` holds *** where a secret belongs; `open_spec` puts it there.

    `state` is what its tasks keep (a cursor), `parked` why they refuse to run.
    """

    id: UUID
    kind: str
    name: str
    spec: Mapping[str, Any]
    secrets: bytes | None = field(repr=False)
    state: Mapping[str, Any]
    parked: str | None
    owner: Owner
    version: int
    created_at: datetime
    updated_at: datetime

    @property
    def bound_to(self) -> str:
        """What its sealed secrets are bound to."""
        return f"definition:{self.id}"

    @property
    def called(self) -> str:
        """Its kind and name, as messages begin."""
        return f"{self.kind.capitalize()} {self.name!r}"


@dataclass(frozen=True, slots=True)
class Finding:
    """What an action found, in words: `ok` decides the exit code, `details` and the table of `rows` are shown below."""

    ok: bool
    text: str
    details: Mapping[str, Any] = field(default_factory=dict[str, Any])
    rows: tuple[Mapping[str, Any], ...] = ()
