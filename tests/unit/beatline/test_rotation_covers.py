"""Whatever column holds sealed bytes is known to `beatline secrets rotate`."""

from __future__ import annotations

from importlib import import_module
from pkgutil import walk_packages

from sqlalchemy import LargeBinary

import beatline_tasks
from beatline.families import families
from beatline.ledger.model import metadata
from beatline.rotation import OURS


def test_every_sealed_column_is_rotated() -> None:
    for module in walk_packages(beatline_tasks.__path__, "beatline_tasks."):
        if module.name.endswith(".tables"):
            import_module(module.name)
    sealed = {
        (table.name, column.name)
        for table in metadata.tables.values()
        for column in table.columns
        if isinstance(column.type, LargeBinary) and "encrypted" in (column.comment or "")
    }
    declared = [*OURS, *(one for family in families().values() for one in family.sealed)]
    assert {(one.table, one.column) for one in declared} == sealed
    for one in declared:
        table = metadata.tables[f"beatline.{one.table}"]
        assert {column.name for column in table.primary_key} == set(one.key)
        assert one.called.format_map(dict.fromkeys((*one.key, *one.shown), "x"))
        assert one.bound_to.format_map(dict.fromkeys(one.key, "x"))
