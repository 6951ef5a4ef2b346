"""What people ask of a report at the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from beatline_tasks.report import actions
from beatline_tasks.report.sending import send
from support.reporting import AT, step, through
from support.smtp import SmtpServer

if TYPE_CHECKING:
    from beatline.definitions import Definition
    from beatline.installation import Installation
    from support.processes import Spawn

AddDefinition = Callable[..., "Definition"]


def test_a_preview_makes_the_files_and_sends_nothing(
    installation: Installation, add: AddDefinition, report_spec: dict[str, Any], mail: SmtpServer, tmp_path: Path,
    spawn: Spawn,
) -> None:  # fmt: skip
    add("report", "weather", **report_spec)
    out = tmp_path / "out" / "here"
    shown = spawn("beatline.cli", "reports", "preview", "weather", "-o", str(out), "--at", AT.isoformat())
    assert shown.wait(30) == 0
    assert "Weather, November 2026. Rows: days: 10." in shown.output()
    assert sorted(path.name for path in out.iterdir()) == [
        f"weather-2026-11-01.{kind}" for kind in ("csv", "html", "xlsx")
    ]
    assert mail.got == []


def test_a_report_that_works_says_so(
    installation: Installation, add: AddDefinition, report_spec: dict[str, Any]
) -> None:
    finding = actions.check(installation, add("report", "weather", **report_spec))
    assert finding.ok
    assert finding.text == "It works: query days, mail server post."


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"queries": {"days": {"sql": "SELECT 1 AS a FROM weather WHERE nope = 1"}}, "charts": {}},
         'queries.days: the datasets refused it: column "nope" does not exist.'),
        ({"charts": {"temp": {"x": "date", "y": ["temp"]}}},
         "charts.temp: there is no column 'date'; the query gives day, temp, rain, sky."),
        ({"charts": {"sky": {"x": "day", "y": ["sky"]}}}, "charts.sky.y: 'sky' is text, and only numbers can be drawn."),
        ({"email": {"connection": "none", "to": ["a@example.com"]}}, "There is no connection 'none'."),
        ({"webhook": {"url": "http://127.0.0.1:1/x"}}, "webhook: 127.0.0.1 cannot be reached: "),
        ({"store": {"connection": "post"}}, "is a mail server (smtp://), and a store of files is needed here."),
        ({"queries": {"days": {"sql": "SELECT 1 AS a, 2 AS a"}}, "charts": {}}, "gives two columns 'a'"),
    ],
)  # fmt: skip
def test_a_check_says_what_is_wrong(
    installation: Installation, add: AddDefinition, report_spec: dict[str, Any], change: dict[str, Any], says: str
) -> None:
    finding = actions.check(installation, add("report", "weather", **{**report_spec, **change}))
    assert not finding.ok
    assert says in finding.text


def test_deliveries_and_files_are_shown(
    installation: Installation, add: AddDefinition, report_spec: dict[str, Any], mail: SmtpServer, tmp_path: Path,
    spawn: Spawn,
) -> None:  # fmt: skip
    definition = add("report", "weather", **report_spec)
    assert actions.deliveries_of(installation, definition).text == "Report 'weather' has not run yet."
    issue = through(installation, definition)
    step(installation, issue, "rendered", send)
    shown = spawn("beatline.cli", "reports", "deliveries", "weather", "--json")
    assert shown.wait(30) == 0
    rows = json.loads(shown.output())["rows"]
    assert [(row["recipient"], row["state"], row["attempts"]) for row in rows] == [
        ("ann@example.com", "sent", 1), ("bob@example.com", "sent", 1),
    ]  # fmt: skip
    assert rows[0]["provider_id"].startswith("250")
    finding = actions.files(installation, definition, out=tmp_path / "files")
    assert finding.ok
    assert (tmp_path / "files" / "weather-2026-11-01.csv").read_bytes().startswith(b"\xef\xbb\xbfday")


def test_a_removed_report_takes_its_issues_along(
    installation: Installation, add: AddDefinition, report_spec: dict[str, Any]
) -> None:
    from beatline_tasks.report import issues

    definition = add("report", "weather", **report_spec)
    through(installation, definition)
    with installation.engine.begin() as conn:
        actions.removed(conn, installation, definition)
        assert issues.of_report(conn, definition.id, 5) == []
