"""The incremental cursor."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beatline_tasks.collect.cursor import (
    OutOfOrderError,
    Position,
    Progress,
    dump,
    is_known,
    load,
    lower_bound,
    request_params,
)
from beatline_tasks.collect.source import Source


def source_with(kind: str, **cursor: Any) -> Source:
    return Source.model_validate(
        {
            "type": "http",
            "url": "http://example.com/",
            "format": "json",
            "key": ["id"],
            "columns": {"id": "integer", "at": kind},
            "cursor": {"field": "at", **cursor},
        }
    )


def spec_of(source: Source) -> Any:
    return source.cursor


def test_without_a_tie_break_the_rows_at_the_position_are_read_again() -> None:
    spec = spec_of(source_with("integer"))
    assert [is_known(spec, Position(5), Position(n)) for n in (4, 5, 6)] == [True, False, False]


def test_with_a_tie_break_only_rows_past_the_position_are_read() -> None:
    spec = spec_of(source_with("integer", tie_break="id"))
    rows = [Position(4, 9), Position(5, 1), Position(5, 2), Position(5, 3), Position(6, 0)]
    assert [is_known(spec, Position(5, 2), row) for row in rows] == [True, True, True, False, False]


def test_the_overlap_is_read_again_even_with_a_tie_break() -> None:
    spec = spec_of(source_with("integer", tie_break="id", overlap=2))
    rows = [Position(2, 9), Position(3, 0), Position(5, 1), Position(6, 0)]
    assert [is_known(spec, Position(5, 2), row) for row in rows] == [True, False, False, False]


def test_nothing_is_known_before_the_first_run() -> None:
    spec = spec_of(source_with("integer"))
    assert not is_known(spec, None, Position(-(2**60)))
    assert request_params(spec, None) == {}


@pytest.mark.parametrize(
    ("kind", "options", "position", "expected"),
    [
        ("date", {"overlap_s": 2 * 86_400}, Position(date(2012, 3, 1)), {"since": "2012-02-28"}),
        (
            "timestamp",
            {"overlap_s": 1.5},
            Position(datetime(2012, 3, 1, tzinfo=UTC)),
            {"since": "2012-02-29T23:59:58.500000Z"},
        ),
        ("timestamp", {}, Position(datetime(2012, 3, 1, tzinfo=UTC)), {"since": "2012-03-01T00:00:00Z"}),
        ("integer", {"overlap": 10}, Position(100), {"since": "90"}),
        ("number", {}, Position(1.5), {"since": "1.5"}),
        ("text", {"tie_break": "id", "tie_param": "after"}, Position("k", 7), {"since": "k", "after": "7"}),
        ("integer", {"tie_break": "id", "tie_param": "after", "overlap": 1}, Position(5, 7), {"since": "4"}),
    ],
)
def test_the_request_asks_from_the_position_less_the_overlap(
    kind: str, options: dict[str, Any], position: Position, expected: dict[str, str]
) -> None:
    assert request_params(spec_of(source_with(kind, param="since", **options)), position) == expected


def test_an_overlap_beyond_the_first_day_ends_there() -> None:
    spec = spec_of(source_with("date", overlap_s=1e9))
    assert lower_bound(spec, Position(date(2, 1, 1))) == date.min


def test_a_kept_position_is_read_back_as_it_was() -> None:
    source = source_with("timestamp", tie_break="id")
    position = Position(datetime(2012, 3, 1, 4, 5, 6, 789, tzinfo=UTC), 17)
    assert load(source, dump(spec_of(source), position)) == position


@pytest.mark.parametrize("kept", [{}, {"field": "other", "value": "1"}, {"field": "at", "value": "soon"}])
def test_a_position_of_other_fields_or_types_is_not_used(kept: dict[str, Any]) -> None:
    assert load(source_with("integer"), kept) is None


def test_progress_keeps_the_highest_whatever_the_order() -> None:
    progress = Progress(spec_of(source_with("integer")), Position(3))
    for value in (2, 9, 4):
        progress.see(Position(value))
    assert progress.highest == Position(9)


def test_an_ordered_source_is_held_to_its_promise() -> None:
    progress = Progress(spec_of(source_with("integer", ordered=True)), Position(7))
    for value in (5, 6, 6, 8):
        progress.see(Position(value))
    with pytest.raises(OutOfOrderError, match="at 7 came after one with 8"):
        progress.see(Position(7))


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 5)), unique=True), st.integers(0, 30))
def test_no_row_is_missed_by_stopping_anywhere(rows: list[tuple[int, int]], cut: int) -> None:
    """Reading an ordered feed up to any point, and then again from the kept position, gives every row."""
    spec = spec_of(source_with("integer", tie_break="id", ordered=True))
    feed = [Position(*row) for row in sorted(rows)]
    first = Progress(spec, None)
    for row in feed[:cut]:
        first.see(row)
    again = [row for row in feed if not is_known(spec, first.highest, row)]
    assert feed[:cut] + again == feed
