"""What a report may be, and what is said of one that may not."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from beatline.definitions.specs import check
from beatline.errors import DefinitionError
from beatline.families import kinds
from beatline_tasks.report.errors import ReportError
from beatline_tasks.report.figures import Figures
from beatline_tasks.report.period import period_before, read_moment
from beatline_tasks.report.sql import bindable, check_statement, names_in
from beatline_tasks.report.template import fill, fill_path

GOOD: dict[str, Any] = {"title": "T", "queries": {"q": {"sql": "SELECT 1"}}}
EMAIL = {"connection": "c", "to": ["a@example.com"]}


def test_little_is_enough_and_secrets_are_split_off() -> None:
    hook = {"url": "https://hooks.example.com/x", "secret": "hush"}
    checked = check(kinds()["report"], "r", GOOD | {"webhook": hook})
    assert checked.plain["webhook"]["secret"] == "***"
    assert "hush" not in repr(checked)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"queries": {}}, "queries: "),
        ({"queries": {"q": {"sql": "DELETE FROM t"}}}, "queries.q.sql: is no SELECT: it begins with 'delete'"),
        ({"queries": {"q": {"sql": "SELECT 1; DROP TABLE t"}}}, "queries.q.sql: holds a second statement"),
        ({"queries": {"q": {"sql": "SELECT :nope"}}}, "queries.q: :nope is no parameter; known are period_end"),
        ({"parameters": {"period_start": 1}}, "parameters.period_start: is given by Beatline"),
        ({"time_zone": "Europe/Berln"}, "did you mean Europe/Berlin"),
        ({"locale": "xx_YY"}, "locale: 'xx_YY' is no language"),
        ({"formats": ["docx"]}, "formats.0: "),
        ({"charts": {"c": {"query": "z", "x": "a", "y": ["b"]}}}, "charts.c.query: 'z' is none of queries: q"),
        ({"email": {"connection": "c", "to": []}}, "email.to: "),
        ({"email": {"connection": "c", "to": ["a@b.c\nBcc: x@y.z"]}}, "is no mail address such as"),
        ({"email": {"connection": "c", "to": ["a@b.cc", "b..b@example.com"]}}, "email.to.1: "),
        ({"email": {"connection": "c", "to": [".a@x"]}}, "'.a@x' is no mail address such as"),
        ({"email": {"connection": "c", "to": ["a.@x.com"]}}, "is no mail address such as"),
        ({"email": {"connection": "c", "to": ["a@x..com"]}}, "is no mail address such as"),
        ({"email": {"connection": "c", "to": ["a@x.com."]}}, "is no mail address such as"),
        ({"email": {"connection": "c", "to": ["\u00e4..n@b\u00fccher.example"]}}, "is no mail address such as"),
        ({"owner": {"address": "own..er@example.com", "connection": "c"}}, "owner.address: "),
        ({"email": {"connection": "c", "to": ["a@b.cc", "A@B.cc"]}}, "email.to: names an address twice"),
        ({"email": EMAIL | {"subject": "{titel}"}}, "{titel} means nothing here; known are {report}, {title}"),
        ({"email": EMAIL | {"subject": "a\nb"}}, "email.subject: "),
        ({"email": EMAIL | {"attach": ["pdf"]}}, "email.attach: pdf is not among formats"),
        ({"store": {"connection": "s", "path": "x/{date}"}}, "store.path: must contain {file}"),
        ({"owner": {"address": "o@example.com"}}, "owner.connection: is required"),
        ({"webhook": {"url": "https://u:p@x.example"}}, "webhook.url: must not carry a password"),
    ],
)
def test_what_is_wrong_is_said_with_its_field(change: dict[str, Any], says: str) -> None:
    with pytest.raises(DefinitionError) as caught:
        check(kinds()["report"], "r", GOOD | change)
    assert says in str(caught.value)


@pytest.mark.parametrize("good", ["o'b+x=1@example.com", "a@x", "j\u00fcrgen.m@b\u00fccher.example", "a/b@x_y.com"])
def test_an_address_that_mail_can_go_to_is_taken(good: str) -> None:
    check(kinds()["report"], "r", GOOD | {"email": {"connection": "c", "to": [good]}})


def test_a_colon_is_a_parameter_only_where_it_is_one() -> None:
    sql = "SELECT to_char(at, 'HH24:MI') AS \"a:b\", x::int, a[1:2], $$:no$$ -- :no\nFROM t WHERE d >= :day /* :no */"
    assert names_in(sql) == ("day",)
    bound = bindable(sql)
    assert bound.replace("\\:", ":") == sql
    assert bound.count(":") - bound.count("\\:") == 1


def test_one_semicolon_may_end_a_statement_and_one_in_text_is_none() -> None:
    assert check_statement("SELECT ';' -- ;\n;  ") == "SELECT ';' -- ;\n"
    for several in ("SELECT 1;;", "SELECT E'\\''; DROP TABLE t --'", "SELECT 1; -- x\nSELECT 2"):
        with pytest.raises(ValueError, match="second statement"):
            check_statement(several)


@pytest.mark.parametrize(
    ("kind", "zone", "start", "end"),
    [
        ("hour", "Asia/Kolkata", "2026-03-29T00:30", "2026-03-29T01:30"),
        ("day", "Europe/Berlin", "2026-03-27T23:00", "2026-03-28T23:00"),
        ("week", "Europe/Berlin", "2026-03-15T23:00", "2026-03-22T23:00"),
        ("month", "America/New_York", "2026-02-01T05:00", "2026-03-01T05:00"),
    ],
)
def test_the_period_is_the_one_before_in_the_reports_zone(kind: Any, zone: str, start: str, end: str) -> None:
    period = period_before(datetime(2026, 3, 29, 2, 15, tzinfo=UTC), kind, ZoneInfo(zone))
    assert (period.start, period.end) == (
        datetime.fromisoformat(f"{start}+00:00"), datetime.fromisoformat(f"{end}+00:00"),
    )  # fmt: skip


def test_the_day_of_a_clock_change_has_23_hours_and_an_hour_is_repeated() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    short = period_before(datetime(2026, 3, 30, 12, tzinfo=UTC), "day", berlin)
    assert (short.end - short.start).total_seconds() == 23 * 3600
    hours = [period_before(datetime(2026, 10, 25, hour, 5, tzinfo=UTC), "hour", berlin) for hour in (0, 1, 2)]
    assert [(one.start.hour, one.end.hour) for one in hours] == [(23, 0), (0, 1), (1, 2)]


def test_periods_are_named_as_people_name_them() -> None:
    figures = Figures("en", ZoneInfo("Europe/Berlin"))
    moment = datetime(2026, 11, 24, 9, 30, tzinfo=UTC)
    named = {kind: figures.period(period_before(moment, kind, figures.zone), kind)
             for kind in ("day", "week", "month")}  # fmt: skip
    assert named == {
        "day": "Nov 23, 2026", "week": "Nov 16, 2026 \N{EN DASH} Nov 22, 2026", "month": "October 2026",
    }  # fmt: skip


@pytest.mark.parametrize("text", ["yesterday", "2026-12-01", "2026-12-01T06:00:00"])
def test_a_moment_needs_its_offset(text: str) -> None:
    with pytest.raises(ReportError, match="at: is a time with its offset"):
        read_moment(text)


def test_a_value_adds_no_folder_and_no_header() -> None:
    values = {"title": "../../etc/x\r\nBcc: y", "file": "a.csv"}
    assert fill("{title}", values) == "../../etc/x  Bcc: y"
    path = fill_path("../{title}//./{file}", values)
    assert path.count("/") == 1
    assert ".." not in path.split("/")
    assert path.endswith("/a.csv")
