"""The contract: what the fields that come mean for the table that stands. Pure: types in, a plan or problems out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from beatline_tasks.etl.fieldtypes import DECLARED, fits, wider
from beatline_tasks.etl.job import Output

_SHOWN: Final = 12


@dataclass(frozen=True, slots=True)
class Field:
    """A field of the rows that come, and its type."""

    name: str
    kind: str


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table that stands. `needed`: it takes no null and has no default; `fixed`: the server fills it."""

    kind: str
    not_null: bool = False
    needed: bool = False
    fixed: bool = False


@dataclass(frozen=True, slots=True)
class Take:
    """A field on its way into a column."""

    name: str
    came: str
    stands: str
    not_null: bool


@dataclass(slots=True)
class Plan:
    """What a load does to the table and with each field.

    `added` and `widened` are columns with their new types; rows that fill a field of `refused` are rejected.
    """

    takes: list[Take] = field(default_factory=list[Take])
    added: dict[str, str] = field(default_factory=dict[str, str])
    widened: dict[str, str] = field(default_factory=dict[str, str])
    refused: list[str] = field(default_factory=list[str])
    missing: list[str] = field(default_factory=list[str])
    problems: list[str] = field(default_factory=list[str])
    changes: list[str] = field(default_factory=list[str])


def compare(output: Output, came: Sequence[Field], stands: Mapping[str, Column] | None) -> Plan:
    """The plan of a load into a table; `stands` is None where it must be made."""
    plan = Plan()
    _names(plan, came)
    declared = {name: DECLARED[kind] for name, kind in output.columns.items()}
    columns = {name: Column(kind) for name, kind in declared.items()} if stands is None else dict(stands)
    if stands is not None:
        _compare_declared(plan, declared, columns, output)
    for one in came:
        _compare_field(plan, one, columns, declared, output, fresh=stands is None)
    _compare_missing(plan, {one.name for one in came}, columns, output)
    known = {take.name for take in plan.takes}
    lacking = [name for name in output.key if name not in known and name not in plan.missing]
    if lacking:
        fields = ", ".join(one.name for one in came[:_SHOWN])
        plan.problems.append(f"No field {', '.join(lacking)} of the key comes; the fields are: {fields}.")
    return plan


def _names(plan: Plan, came: Sequence[Field]) -> None:
    names = [one.name for one in came]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        plan.problems.append(f"The rows have the field {', '.join(twice)} twice: name each once, with AS.")
    if not names:
        plan.problems.append("The rows have no fields.")


def _compare_declared(plan: Plan, declared: Mapping[str, str], columns: dict[str, Column], output: Output) -> None:
    """What is declared and not in the table: added or widened by evolve, else a problem."""
    for name, kind in declared.items():
        found = columns.get(name)
        if found is None:
            if output.contract == "evolve":
                _add(plan, columns, name, kind)
            else:
                plan.problems.append(f"{name} is declared and no column of the table: {_allow(output)}")
        elif found.kind != kind and not fits(kind, found.kind):
            if output.contract == "evolve" and fits(found.kind, kind) and name not in output.key:
                _widen(plan, columns, name, kind)
            else:
                plan.problems.append(
                    f"{name} is declared as {kind}, and the table has {found.kind}: declare it alike, or set another "
                    "table."
                )


def _compare_field(
    plan: Plan, one: Field, columns: dict[str, Column], declared: Mapping[str, str], output: Output, *, fresh: bool
) -> None:
    known = columns.get(one.name)
    if known is None:
        if output.contract == "evolve" or (fresh and not declared):
            _add(plan, columns, one.name, one.kind, said=not fresh)
        elif output.contract == "freeze":
            plan.problems.append(f"{one.name} ({one.kind}) is new: {_allow(output)}")
            return
        else:
            plan.refused.append(one.name)
            return
        known = columns[one.name]
    if known.fixed:
        plan.problems.append(f"{one.name} is filled by the server (generated): leave it out of the SELECT.")
        return
    if not fits(one.kind, known.kind):
        if output.contract == "freeze":
            plan.problems.append(
                f"{one.name} comes as {one.kind} and the table has {known.kind}: cast it in transform.sql, or set "
                "output.contract to discard_row."
            )
            return
        better = wider(one.kind, known.kind)
        free = one.name not in declared and one.name not in output.key and not fresh
        if output.contract == "evolve" and free and better is not None:
            _widen(plan, columns, one.name, better)
            known = columns[one.name]
    plan.takes.append(Take(one.name, one.kind, known.kind, known.not_null))


def _compare_missing(plan: Plan, came: set[str], columns: Mapping[str, Column], output: Output) -> None:
    for name, column in columns.items():
        if name in came or column.fixed:
            continue
        plan.missing.append(name)
        if name in output.key:
            plan.problems.append(f"{name} of the key does not come.")
        elif column.needed:
            plan.problems.append(f"{name} does not come, and the table's column takes no null.")
        elif output.contract != "evolve":
            plan.problems.append(
                f"{name} does not come: add it to the SELECT, or set output.contract to evolve, which leaves it empty."
            )


def _add(plan: Plan, columns: dict[str, Column], name: str, kind: str, *, said: bool = True) -> None:
    plan.added[name] = kind
    columns[name] = Column(kind)
    if said:
        plan.changes.append(f"adds the column {name} ({kind})")


def _widen(plan: Plan, columns: dict[str, Column], name: str, kind: str) -> None:
    before = columns[name]
    plan.widened[name] = kind
    plan.changes.append(f"widens the column {name} from {before.kind} to {kind}")
    columns[name] = Column(kind, before.not_null, before.needed, before.fixed)


def _allow(output: Output) -> str:
    return f"output.contract is {output.contract}; evolve would add it, or leave it out of the SELECT."
