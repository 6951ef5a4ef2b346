"""Definitions: what the families' tasks work on (sources, …), kept in PostgreSQL, checked, versioned, audited.

A task reads one with `store.get`, opens it with `open_spec`, which gives the family's own model with its secrets in
place, and keeps its cursor with `store.load_state` and `store.save_state` in the transaction of its data. What a family
lets people ask of a definition (`check`, …) returns a `Finding`.
"""

from beatline.definitions.model import Definition, Finding
from beatline.definitions.specs import open_spec

__all__ = ["Definition", "Finding", "open_spec"]
