"""The Alembic environment of our schema. A migration's name says its place: `pre` runs before the new code, `post` after.

The revisions are named here too, so that a process can tell an older schema from a newer one without Alembic.
"""

from __future__ import annotations

from typing import Final

VERSION_TABLE: Final = "alembic_version"

KNOWN: Final = ("0001", "0002", "0003", "0004", "0005", "0006", "0007", "0008")
"""Every revision this code knows, oldest first."""

HEAD: Final = KNOWN[-1]
