"""The rows of `make chaos`: all that are proved are run, and the control has to fail where stock Celery loses."""

from __future__ import annotations

import pytest

from chaos.__main__ import LONGEST_FIRST, ROWS, main


def test_every_row_is_run_when_none_is_named() -> None:
    assert sorted(LONGEST_FIRST) == sorted(ROWS)
    assert {1, 2, 3, 4, 5, 6, 7, 8, 11, 12, 13, 14, 17} <= ROWS.keys()


def test_the_control_must_lose_where_stock_celery_does() -> None:
    assert {number for number, row in ROWS.items() if row.must_lose} == {3, 4, 7}
    assert all(row.control for row in ROWS.values() if row.must_lose)


def test_a_row_that_is_none_is_refused_with_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["99"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "There is no row 99. Rows: 1, 2, 3," in said.err
