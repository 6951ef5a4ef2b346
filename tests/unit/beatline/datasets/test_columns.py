"""Values of declared columns."""

from __future__ import annotations

from datetime import UTC, date, datetime

import pytest

from beatline.datasets.columns import ColumnType, clean, clean_text, convert, copy_text


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        ("a", "text", "a"),
        ("", "text", ""),
        (12, "text", "12"),
        (1.5, "text", "1.5"),
        ("  7 ", "integer", 7),
        (7.0, "integer", 7),
        (-(2**63), "integer", -(2**63)),
        ("1e3", "number", 1000.0),
        (3, "number", 3.0),
        (False, "boolean", False),
        ("Yes", "boolean", True),
        ("0", "boolean", False),
        ("2012-01-31", "date", date(2012, 1, 31)),
        ("2012/01/31", "date", date(2012, 1, 31)),
        ("2012-01-31T08:00:00+08:00", "timestamp", datetime(2012, 1, 31, tzinfo=UTC)),
        ("2012-01-31T00:00:00Z", "timestamp", datetime(2012, 1, 31, tzinfo=UTC)),
        ("2012-01-31", "timestamp", datetime(2012, 1, 31, tzinfo=UTC)),
        (None, "integer", None),
        ("", "number", None),
    ],
)
def test_a_value_takes_its_columns_type(value: object, kind: ColumnType, expected: object) -> None:
    converted = convert(value, kind)
    assert converted == expected
    assert type(converted) is type(expected)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (True, "text"),
        ({}, "text"),
        ("7.5", "integer"),
        (7.5, "integer"),
        (True, "integer"),
        (2**63, "integer"),
        ("9" * 5000, "integer"),
        (float("inf"), "integer"),
        (float("nan"), "number"),
        ("inf", "number"),
        (10**400, "number"),
        (True, "number"),
        ("maybe", "boolean"),
        (1, "boolean"),
        (20120131, "date"),
        ("31.01.2012", "date"),
        ("2012-02-30", "date"),
        ("2012-01-31T00:00:00", "date"),
        (1327968000, "timestamp"),
        ("0001-01-01T00:00:00+23:00", "timestamp"),
        (["2012-01-31"], "timestamp"),
    ],
)
def test_a_wrong_value_is_refused_in_words(value: object, kind: ColumnType) -> None:
    with pytest.raises(ValueError, match=r" is no (text|integer|number|boolean|date|time stamp)") as refused:
        convert(value, kind)
    assert len(str(refused.value)) < 100


def test_text_loses_what_postgresql_cannot_store() -> None:
    assert clean_text("a\x00b\ud800c😀") == "ab\ufffdc😀"
    assert clean({"a\x00": ["\udfff", {"b": "\x00"}], "n": 1}) == {"a": ["\ufffd", {"b": ""}], "n": 1}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "\\N"),
        ("\\N", "\\\\N"),
        ("a\tb\nc\rd", "a\\tb\\nc\\rd"),
        (True, "t"),
        (0.1, "0.1"),
        (date(2012, 1, 2), "2012-01-02"),
        (datetime(2012, 1, 2, tzinfo=UTC), "2012-01-02T00:00:00+00:00"),
    ],
)
def test_fields_are_written_as_copy_reads_them(value: str | bool | float | date | None, text: str) -> None:
    assert copy_text(value) == text
