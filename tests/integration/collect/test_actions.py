"""What `beatline sources check` and `preview` say of a source."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import func, select

from beatline.definitions import store
from beatline.families import kinds
from beatline.ledger.model import datasets
from support.web import Reply, Web

if TYPE_CHECKING:
    from beatline.definitions import Definition, Finding
    from beatline.installation import Installation

AddSource = Callable[..., "Definition"]
JSON = {"Content-Type": "application/json"}
ROWS = b'[{"day": 1, "temp": 1.5, "note": "x"}, {"day": 2, "temp": null}]'


def asked(installation: Installation, definition: Definition, action: str = "check") -> Finding:
    finding: Finding = kinds()["source"].load_action(action)(installation, definition)
    return finding


@pytest.fixture
def define(web: Web, add_source: AddSource) -> Callable[..., Definition]:
    def add(**more: Any) -> Definition:
        spec: dict[str, Any] = {"type": "http", "url": f"{web.url}/days", "format": "json", "key": ["day"]}
        return add_source("days", **(spec | {"columns": {"day": "integer", "temp": "number"}} | more))

    return add


def test_a_source_that_works_is_told_so_and_nothing_is_stored(
    web: Web, open_installation: Installation, define: Any
) -> None:
    web.answer = lambda _: Reply(ROWS, headers=JSON)
    finding = asked(open_installation, define())
    assert finding.ok
    assert finding.text == f"It works: page 1 of {web.url}/days has 2 rows."
    assert finding.details["fields"] == ["day", "temp", "note"]
    with open_installation.engine.connect() as conn:
        assert conn.execute(select(func.count()).select_from(datasets)).scalar_one() == 0


@pytest.mark.parametrize(
    ("reply", "more", "words"),
    [
        (Reply(status=404), {}, "answered 404 Not Found"),
        (Reply(status=503, headers={"Retry-After": "99"}), {}, "asks to be called later"),
        (Reply(b"{}", headers=JSON), {}, "no list of rows at 'its top'"),
        (Reply(ROWS, headers=JSON), {"key": ["date"]}, "No row has the field date of key; the fields are: day, temp"),
        (
            Reply(ROWS, headers=JSON),
            {"columns": {"day": "integer", "wind": "number"}, "cursor": {"field": "wind"}},
            "No row has the field wind of columns",
        ),
        (Reply(ROWS, headers=JSON), {"columns": {"note": "date"}}, "Of 2 rows, 1 refused (row 1: note: 'x' is no date"),
        (
            Reply(b'[{"day": 2}, {"day": 1}]', headers=JSON),
            {"columns": {"day": "integer"}, "cursor": {"field": "day", "ordered": True}},
            "set cursor.ordered = false",
        ),
        (Reply(ROWS, headers=JSON), {"dataset": "Days!"}, "cannot be a table's"),
    ],
)
def test_what_is_wrong_is_told_in_words(
    web: Web, open_installation: Installation, define: Any, reply: Reply, more: dict[str, Any], words: str
) -> None:
    web.answer = lambda _: reply
    finding = asked(open_installation, define(**more))
    assert not finding.ok
    assert words in finding.text


def test_an_empty_source_works_but_proves_little(web: Web, open_installation: Installation, define: Any) -> None:
    web.answer = lambda _: Reply(b"[]", headers=JSON)
    finding = asked(open_installation, define())
    assert finding.ok
    assert "whether key and columns fit cannot be told" in finding.text


def test_a_parked_source_that_works_again_runs_again(web: Web, open_installation: Installation, define: Any) -> None:
    web.answer = lambda _: Reply(ROWS, headers=JSON)
    definition = define()
    with open_installation.engine.begin() as conn:
        store.park(conn, definition, "because", who="test")
        parked = store.get(conn, "source", "days")
    assert asked(open_installation, parked).text.endswith("It was parked, and runs again.")
    with open_installation.engine.connect() as conn:
        assert store.get(conn, "source", "days").parked is None


def test_a_preview_shows_the_first_rows_of_a_file(
    open_installation: Installation, add_source: AddSource, tmp_path: Path
) -> None:
    path = tmp_path / "days.jsonl"
    path.write_text("".join(f'{{"day": {n}}}\n' for n in range(4)) + "no json\n" * 5)
    definition = add_source("days", type="file", path=str(path), format="jsonl", key=["day"])
    finding = asked(open_installation, definition, "preview")
    assert finding.text == f"{path} has 9 rows."
    shown = list(finding.details.values())
    assert shown[:4] == [{"day": n} for n in range(4)]
    assert str(shown[4]).startswith("(no JSON")
