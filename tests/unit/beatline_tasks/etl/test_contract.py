"""What fields that differ from the table mean under each contract."""

from __future__ import annotations

from typing import Any

import pytest

from beatline_tasks.etl.contract import Column, Field, Plan, compare
from beatline_tasks.etl.job import Output

STANDS = {"id": Column("bigint", not_null=True, needed=True), "amount": Column("bigint"), "note": Column("text")}


def plan(came: dict[str, str], stands: dict[str, Column] | None = STANDS, **output: Any) -> Plan:
    spec = Output.model_validate({"table": "t", "mode": "upsert", "key": ["id"]} | output)
    return compare(spec, [Field(name, kind) for name, kind in came.items()], stands)


def test_the_same_fields_need_nothing() -> None:
    found = plan({"id": "integer", "amount": "bigint", "note": "text"}, contract="freeze")
    assert (found.problems, found.changes, found.added, found.widened, found.refused) == ([], [], {}, {}, [])
    assert [(take.name, take.came, take.stands) for take in found.takes] == [
        ("id", "integer", "bigint"), ("amount", "bigint", "bigint"), ("note", "text", "text"),
    ]  # fmt: skip


def test_a_new_field() -> None:
    came = {"id": "bigint", "amount": "bigint", "note": "text", "extra": "date"}
    evolved = plan(came)
    assert evolved.added == {"extra": "date"}
    assert evolved.changes == ["adds the column extra (date)"]
    frozen = plan(came, contract="freeze")
    assert "extra (date) is new: output.contract is freeze" in frozen.problems[0]
    discarding = plan(came, contract="discard_row")
    assert (discarding.refused, discarding.problems) == (["extra"], [])
    assert "extra" not in {take.name for take in discarding.takes}


def test_a_missing_field() -> None:
    came = {"id": "bigint", "amount": "bigint"}
    assert (plan(came).problems, plan(came).missing) == ([], ["note"])
    for contract in ("freeze", "discard_row"):
        assert "note does not come" in plan(came, contract=contract).problems[0]
    assert "id of the key does not come" in plan({"amount": "bigint"}).problems[0]
    needed = {**STANDS, "at": Column("date", not_null=True, needed=True)}
    assert "at does not come, and the table's column takes no null" in plan(came, needed).problems[0]


def test_a_field_of_another_type() -> None:
    came = {"id": "bigint", "amount": "numeric", "note": "text"}
    evolved = plan(came)
    assert evolved.widened == {"amount": "numeric"}
    assert evolved.changes == ["widens the column amount from bigint to numeric"]
    assert "amount comes as numeric and the table has bigint" in plan(came, contract="freeze").problems[0]
    discarding = plan(came, contract="discard_row")
    assert (discarding.widened, discarding.problems) == ({}, [])
    assert discarding.takes[1].stands == "bigint"


def test_a_declared_column_is_not_widened_and_the_key_neither() -> None:
    declared = plan({"id": "numeric", "amount": "numeric", "note": "text"}, columns={"amount": "integer"})
    assert declared.widened == {}
    assert [take.stands for take in declared.takes] == ["bigint", "bigint", "text"]


def test_what_is_declared_and_the_table_disagree() -> None:
    came = {"id": "bigint", "amount": "bigint", "note": "text"}
    assert plan(came, columns={"amount": "decimal"}).widened == {"amount": "numeric"}
    frozen = plan(came, columns={"amount": "decimal"}, contract="freeze")
    assert "amount is declared as numeric, and the table has bigint" in frozen.problems[0]
    contradiction = plan(came, columns={"note": "date"})
    assert "note is declared as date, and the table has text" in contradiction.problems[0]


def test_a_table_that_is_made_has_the_declared_types() -> None:
    found = plan({"id": "text", "amount": "text", "more": "uuid"}, None, columns={"id": "integer", "at": "timestamp"})
    assert [(take.name, take.came, take.stands) for take in found.takes] == [
        ("id", "text", "bigint"), ("amount", "text", "text"), ("more", "uuid", "uuid"),
    ]  # fmt: skip
    assert (found.missing, found.problems, found.changes) == (["at"], [], [])


def test_names_that_cannot_be() -> None:
    assert "No field id of the key comes; the fields are: x" in plan({"x": "text"}, None).problems[0]
    generated = {**STANDS, "sum": Column("bigint", fixed=True)}
    came = {"id": "bigint", "amount": "bigint", "note": "text", "sum": "bigint"}
    assert "sum is filled by the server" in plan(came, generated).problems[0]
    spec = Output.model_validate({"table": "t", "mode": "append"})
    twice = compare(spec, [Field("a", "text"), Field("a", "text")], None)
    assert "the field a twice" in twice.problems[0]


@pytest.mark.parametrize("contract", ["evolve", "freeze", "discard_row"])
def test_nothing_at_all_comes(contract: str) -> None:
    spec = Output.model_validate({"table": "t", "mode": "append", "contract": contract})
    assert compare(spec, [], None).problems == ["The rows have no fields."]
