"""Datasets in PostgreSQL: made once, filled by key, guarded against contradictions."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text

from beatline.datasets.table import Counts, Dataset, open_dataset
from beatline.errors import DatasetError
from beatline.ledger.database import sql
from beatline_tasks.collect.batch import Batch
from beatline_tasks.collect.rows import RowReader
from beatline_tasks.collect.source import Source

if TYPE_CHECKING:
    from beatline.installation import Installation

ODD = 'a "b" %s :c\\d é'


def source(**more: Any) -> Source:
    spec: dict[str, Any] = {"type": "file", "path": "/x", "format": "jsonl", "key": ["id"], "columns": {"n": "integer"}}
    return Source.model_validate(spec | more)


def opened(installation: Installation, source: Source, name: str = "things") -> Dataset:
    with installation.engine.begin() as conn:
        return open_dataset(conn, source.dataset or name, source.key, source.typed)


def merged(installation: Installation, dataset: Dataset, source: Source, *rows: Mapping[str, Any], run: str) -> Counts:
    reader = RowReader(source, dataset.columns)
    with Batch() as batch, installation.engine.begin() as conn:
        for row in rows:
            batch.add(reader.read(row))
        return dataset.merge(conn, batch.read(), run)


def stored(installation: Installation, table: str = "things") -> list[Any]:
    with installation.engine.connect() as conn:
        return list(conn.execute(sql(conn, f"SELECT * FROM {{data}}.{table} ORDER BY 1")))  # noqa: S608


def test_rows_are_new_changed_or_left_alone(installation: Installation) -> None:
    dataset = opened(installation, source())
    first: list[dict[str, Any]] = [{"id": "a", "n": 1, "x": [1]}, {"id": "b", "n": None}]
    assert merged(installation, dataset, source(), *first, run="r1") == Counts(new=2)
    assert merged(installation, dataset, source(), *first, run="r2") == Counts()
    changed = {"id": "b", "n": None, "x": "y"}
    assert merged(installation, dataset, source(), first[0], changed, {"id": "c"}, run="r3") == Counts(new=1, changed=1)
    assert [(row.id, row.n, row.doc, row.run_id) for row in stored(installation)] == [
        ("a", 1, {"x": [1]}, "r1"),
        ("b", None, {"x": "y"}, "r3"),
        ("c", None, {}, "r3"),
    ]


def test_of_rows_with_one_key_the_last_counts(installation: Installation) -> None:
    dataset = opened(installation, source())
    rows = [{"id": "a", "n": n} for n in range(12)]
    assert merged(installation, dataset, source(), *rows, run="r1") == Counts(new=1)
    assert [row.n for row in stored(installation)] == [11]


def test_every_type_and_every_text_comes_back_as_it_was(installation: Installation) -> None:
    odd = source(
        key=["id", ODD],
        columns={"t": "text", "f": "number", "b": "boolean", "d": "date", "at": "timestamp", "seq": "integer"},
    )
    dataset = opened(installation, odd)
    row = {
        "id": "\\N",
        ODD: "\t\n\\",
        "t": "\\.",
        "f": 0.1,
        "b": False,
        "d": "2012-02-29",
        "at": "2012-01-01T08:00:00+08:00",
    }
    assert merged(installation, dataset, odd, row | {"seq": 5, "doc2": "\\\u2028"}, run="r1") == Counts(new=1)
    (found,) = stored(installation)
    values = dict(found._mapping)
    assert (values["id"], values[ODD], values["t"]) == ("\\N", "\t\n\\", "\\.")
    assert (values["f"], values["b"], values["d"].isoformat()) == (0.1, False, "2012-02-29")
    assert (values["at"].isoformat(), values["seq"]) == ("2012-01-01T00:00:00+00:00", 5)
    assert values["doc"] == {"doc2": "\\\u2028"}
    assert merged(installation, dataset, odd, row | {"seq": 5, "doc2": "\\\u2028"}, run="r2") == Counts()


def test_a_column_may_be_added_later_and_stays(installation: Installation) -> None:
    opened(installation, source())
    wider = source(columns={ODD: "date"})
    dataset = opened(installation, wider)
    assert set(dataset.columns) == {"id", "n", ODD}
    assert merged(installation, dataset, wider, {"id": "a", "n": "3", ODD: "2012-01-01"}, run="r1") == Counts(new=1)
    assert opened(installation, source()).columns == dataset.columns


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (source(columns={"n": "text"}), "has 'n' as integer, and text"),
        (source(key=["id", "day"]), "has the key id, and id, day is declared"),
    ],
)
def test_a_source_that_contradicts_its_dataset_is_refused(
    installation: Installation, other: Source, words: str
) -> None:
    opened(installation, source())
    with pytest.raises(DatasetError, match=words):
        opened(installation, other)


def test_a_table_of_someone_else_is_left_alone(installation: Installation) -> None:
    with installation.engine.begin() as conn:
        conn.execute(sql(conn, "CREATE SCHEMA IF NOT EXISTS {data}"))
        conn.execute(sql(conn, "CREATE TABLE {data}.things (id int)"))
    with pytest.raises(DatasetError, match=r"\.things is a table that Beatline did not make"):
        opened(installation, source())


def test_a_dropped_table_is_made_anew_and_says_so(installation: Installation) -> None:
    before = opened(installation, source())
    with installation.engine.begin() as conn:
        conn.execute(sql(conn, "DROP TABLE {data}.things"))
    after = opened(installation, source())
    assert after.made != before.made
    assert merged(installation, after, source(), {"id": "a"}, run="r1") == Counts(new=1)


@pytest.mark.parametrize("name", ["Days", "my-days", "1st", "d" * 64, "días"])
def test_a_name_that_can_be_no_table_is_refused(installation: Installation, name: str) -> None:
    with pytest.raises(DatasetError, match="Set dataset"):
        opened(installation, source(), name)
    assert opened(installation, source(dataset="days"), name).name == "days"


def test_two_that_make_the_same_dataset_wait_for_one_another(installation: Installation) -> None:
    made: list[Dataset] = []
    with installation.engine.begin() as conn:
        open_dataset(conn, "things", source().key, source().typed)
        second = threading.Thread(target=lambda: made.append(opened(installation, source())))
        second.start()
        conn.execute(text("SELECT pg_sleep(0.1)"))
        assert not made, "the second waits for the transaction of the first"
    second.join()
    assert made[0].made == opened(installation, source()).made
