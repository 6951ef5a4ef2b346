"""Which type fits into which, and what both fit into."""

from __future__ import annotations

import pytest

from beatline_tasks.etl.fieldtypes import NAIVE, TIMESTAMP, fits, misfit, taken, wider


@pytest.mark.parametrize(
    ("came", "stands"),
    [
        ("bigint", "bigint"), ("smallint", "integer"), ("integer", "bigint"), ("bigint", "numeric"),
        ("numeric(10,2)", "numeric"), ("numeric(8,2)", "numeric(10,2)"), ("numeric", "double precision"),
        ("real", "double precision"), ("integer", "double precision"), ("character varying", "text"),
        ("character varying(5)", "character varying(9)"), ("date", TIMESTAMP), (NAIVE, TIMESTAMP), ("json", "jsonb"),
        ("uuid", "uuid"), ("text[]", "text[]"),
    ],
)  # fmt: skip
def test_what_fits(came: str, stands: str) -> None:
    assert fits(came, stands)
    assert misfit("c", came, stands, "valid") is None


@pytest.mark.parametrize(
    ("came", "stands"),
    [
        ("bigint", "integer"), ("numeric", "bigint"), ("numeric", "numeric(10,2)"), ("numeric(10,4)", "numeric(10,2)"),
        ("double precision", "real"), ("double precision", "numeric"), ("bigint", "double precision"),
        ("text", "character varying(5)"), ("text", "bigint"), (TIMESTAMP, "date"), ("jsonb", "json"), ("uuid", "bigint"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_looked_at_row_by_row(came: str, stands: str) -> None:
    assert not fits(came, stands)
    assert misfit("c", came, stands, "valid") is not None


def test_any_value_can_stand_as_text_but_is_not_taken_as_the_same() -> None:
    assert not fits("bigint", "text")
    assert misfit("c", "bigint", "text", "valid") is None
    assert taken("c", "bigint", "text") == "CAST(CAST(c AS text) AS text)"


@pytest.mark.parametrize(
    ("came", "stands", "better"),
    [
        ("bigint", "integer", "bigint"), ("numeric", "bigint", "numeric"), ("numeric(9,4)", "numeric(9,2)", "numeric"),
        ("double precision", "integer", "double precision"), ("text", "character varying(5)", "text"),
        (TIMESTAMP, "date", TIMESTAMP), ("bigint", "double precision", None), ("double precision", "bigint", None),
        ("text", "bigint", None), ("double precision", "numeric", None), ("boolean", "bigint", None),
    ],
)  # fmt: skip
def test_a_column_is_widened_only_where_nothing_is_lost(came: str, stands: str, better: str | None) -> None:
    assert wider(came, stands) == better


def test_empty_text_is_no_value_where_text_is_read() -> None:
    assert taken("c", "text", "bigint") == "CAST(NULLIF(btrim(c), '') AS bigint)"
