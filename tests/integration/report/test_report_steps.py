"""The steps of a report, one after another in this process, against a real data base and a real mail server."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from beatline.clock import utc_now
from beatline.errors import BeatlineError, TransientError
from beatline_tasks.report.cleaning import clean_up
from beatline_tasks.report.errors import ReportError
from beatline_tasks.report.fetching import fetch
from beatline_tasks.report.sending import send
from support.reporting import attachments, begin, states, step, through
from support.smtp import SmtpServer

if TYPE_CHECKING:
    from beatline.definitions import Definition
    from beatline.installation import Installation

AddDefinition = Callable[..., "Definition"]


def test_a_report_reaches_each_recipient_with_its_files(
    installation: Installation, add: AddDefinition, report_spec: dict[str, Any], mail: SmtpServer
) -> None:
    issue = through(installation, add("report", "weather", **report_spec))
    assert issue.state == "rendered"
    assert step(installation, issue, "rendered", send)["deliveries"] == 2
    assert states(installation, issue) == {"ann@example.com": "sent", "bob@example.com": "sent"}
    assert clean_up(installation, str(issue.id)) == {"issue": str(issue.id), "state": "sent"}

    [ann], [bob] = mail.of("ann@example.com"), mail.of("bob@example.com")
    assert ann.recipients == ("ann@example.com",)
    message = ann.message
    assert message["Subject"] == "Weather: November 2026"
    assert message["Message-ID"] != bob.message["Message-ID"]
    assert message["Auto-Submitted"] == "auto-generated"
    files = attachments(message)
    assert list(files) == ["weather-2026-11-01.html", "weather-2026-11-01.xlsx", "weather-2026-11-01.csv"]
    csv = files["weather-2026-11-01.csv"]
    assert csv.startswith(
        b"\xef\xbb\xbfday,temp,rain,sky\r\n2026-11-01,-3.5,1.25,rain\r\n2026-11-02,-2.5,2.5,'=1+1\r\n"
    )
    assert b"<svg" in files["weather-2026-11-01.html"]
    body = message.get_body(("html",))
    assert body is not None
    assert "\N{MINUS SIGN}3.5" in body.get_content()
    assert "<svg" not in body.get_content()
    assert "cid:chart-1" in body.get_content()


def test_each_step_is_done_once_however_often_it_runs(
    installation: Installation, add: AddDefinition, report_spec: dict[str, Any], mail: SmtpServer
) -> None:
    issue = through(installation, add("report", "weather", **report_spec))
    again = step(installation, issue, "begun", fetch)
    assert again == {"issue": str(issue.id), "already": "rendered"}
    step(installation, issue, "rendered", send)
    step(installation, issue, "rendered", send)
    clean_up(installation, str(issue.id))
    clean_up(installation, str(issue.id))
    assert len(mail.got) == 2


def test_one_run_of_a_period_gets_the_issue(
    installation: Installation, add: AddDefinition, report_spec: dict[str, Any]
) -> None:
    definition = add("report", "weather", **report_spec)
    first = begin(installation, definition)
    again, other = begin(installation, definition), begin(installation, definition, "run-2")
    assert (first.ours, again.ours, other.ours, other.why) == (True, True, False, "busy")
    assert first.issue.run_ids == again.issue.run_ids


def test_a_refused_recipient_does_not_hold_up_the_others_and_only_the_owner_is_told(
    installation: Installation, add: AddDefinition, report_spec: dict[str, Any], mail: SmtpServer
) -> None:
    mail.answers["ann@example.com"] = "550 5.1.1 no such user"
    issue = through(installation, add("report", "weather", **report_spec))
    with pytest.raises(
        ReportError, match=r"1 of 2 deliveries were not made; ann@example\.com: refused: .*no such user"
    ):
        step(installation, issue, "rendered", send)
    assert states(installation, issue) == {"ann@example.com": "refused", "bob@example.com": "sent"}
    said = clean_up(installation, str(issue.id))
    assert said == {"issue": str(issue.id), "state": "failed", "owner": "sent: owner@example.com"}
    [notice] = mail.of("owner@example.com")
    assert "email to ann@example.com: refused: the mail server says: 550 5.1.1 no such user" in str(
        notice.message.get_content()
    )
    assert [one.recipients for one in mail.got] == [("bob@example.com",), ("owner@example.com",)]


def test_a_recipient_that_is_refused_for_now_is_tried_again_and_no_other(
    installation: Installation, add: AddDefinition, report_spec: dict[str, Any], mail: SmtpServer
) -> None:
    mail.answers["ann@example.com"] = "451 4.7.1 greylisted"
    issue = through(installation, add("report", "weather", **report_spec))
    with pytest.raises(TransientError, match=r"1 of 2 deliveries wait; ann@example\.com: .*greylisted"):
        step(installation, issue, "rendered", send)
    del mail.answers["ann@example.com"]
    step(installation, issue, "rendered", send)
    assert [one.recipients for one in mail.got] == [("bob@example.com",), ("ann@example.com",)]


def test_a_server_that_hangs_up_at_one_recipient_gets_the_others(
    installation: Installation, add: AddDefinition, report_spec: dict[str, Any], mail: SmtpServer
) -> None:
    mail.answers["ann@example.com"] = "drop"
    issue = through(installation, add("report", "weather", **report_spec))
    with pytest.raises(TransientError):
        step(installation, issue, "rendered", send)
    assert states(installation, issue) == {"ann@example.com": "pending", "bob@example.com": "sent"}


def test_a_mail_that_may_have_arrived_is_not_sent_again(
    installation: Installation, add: AddDefinition, report_spec: dict[str, Any], mail: SmtpServer
) -> None:
    mail.lost_after_accepting = True
    definition = add("report", "weather", **{**report_spec, "email": {"connection": "post", "to": ["ann@example.com"]}})
    issue = through(installation, definition)
    for _ in range(2):
        with pytest.raises(ReportError, match="unknown: it was handed over"):
            step(installation, issue, "rendered", send)
    mail.lost_after_accepting = False
    clean_up(installation, str(issue.id))
    again = begin(installation, definition, "run-2").issue
    assert (again.round, again.state) == (2, "rendered")
    with pytest.raises(ReportError, match="unknown"):
        step(installation, again, "rendered", send)
    assert len(mail.of("ann@example.com")) == 1


def test_a_failed_issue_is_sent_to_those_who_did_not_get_it_with_the_same_figures(
    installation: Installation, add: AddDefinition, report_spec: dict[str, Any], mail: SmtpServer
) -> None:
    mail.answers["ann@example.com"] = "550 no"
    definition = add("report", "weather", **report_spec)
    issue = through(installation, definition)
    with pytest.raises(ReportError):
        step(installation, issue, "rendered", send)
    clean_up(installation, str(issue.id))
    mail.answers.clear()
    again = begin(installation, definition, "run-2").issue
    assert again.run_ids != issue.run_ids
    step(installation, again, "rendered", send)
    assert clean_up(installation, str(issue.id))["state"] == "sent"
    assert len(mail.of("ann@example.com")) == len(mail.of("bob@example.com")) == 1
    assert begin(installation, definition, "run-3").why == "sent"


@pytest.mark.parametrize(("policy", "mails"), [("send", 2), ("skip", 0), ("say", 2)])
def test_without_any_row_the_report_does_as_it_says(
    installation: Installation,
    add: AddDefinition,
    report_spec: dict[str, Any],
    mail: SmtpServer,
    policy: str,
    mails: int,
) -> None:
    spec = {**report_spec, "no_rows": policy, "parameters": {"least": 1000}}
    issue = through(installation, add("report", "weather", **spec))
    step(installation, issue, "rendered", send)
    assert clean_up(installation, str(issue.id))["state"] == ("skipped" if policy == "skip" else "sent")
    assert len(mail.got) == mails
    for got in mail.got:
        assert bool(attachments(got.message)) == (policy == "send")
        body = got.message.get_body(("plain",))
        assert body is not None
        assert "No rows" in body.get_content()


def test_what_fails_before_the_sending_goes_to_the_owner(
    installation: Installation, add: AddDefinition, report_spec: dict[str, Any], mail: SmtpServer
) -> None:
    spec = {**report_spec, "queries": {"days": {"sql": "SELECT * FROM nowhere"}}}
    issue = begin(installation, add("report", "weather", **spec)).issue
    with pytest.raises(ReportError, match=r'queries\.days: the datasets refused it: relation "nowhere" does not exist'):
        step(installation, issue, "begun", fetch)
    assert clean_up(installation, str(issue.id))["state"] == "failed"
    [got] = mail.got
    assert got.recipients == ("owner@example.com",)
    assert 'relation "nowhere" does not exist' in str(got.message.get_content())


def test_a_query_cannot_write(installation: Installation, add: AddDefinition, report_spec: dict[str, Any]) -> None:
    writing = "WITH gone AS (DELETE FROM weather RETURNING day) SELECT * FROM gone"
    issue = begin(
        installation, add("report", "weather", **{**report_spec, "queries": {"days": {"sql": writing}}})
    ).issue
    with pytest.raises(BeatlineError, match=r"queries\.days"):
        step(installation, issue, "begun", fetch)
    from sqlalchemy import text

    with installation.engine.connect() as conn:
        assert conn.execute(text("SELECT count(*) FROM beatline_data.weather")).scalar_one() == 10


def test_nothing_of_the_rows_stays_after_the_clean_up(
    installation: Installation, add: AddDefinition, report_spec: dict[str, Any], mail: SmtpServer
) -> None:
    from beatline.artifacts.tables import artifacts

    issue = through(installation, add("report", "weather", **report_spec))
    step(installation, issue, "rendered", send)
    clean_up(installation, str(issue.id))
    with installation.engine.connect() as conn:
        rows = conn.execute(artifacts.select()).mappings().all()
    assert sorted(row["name"] for row in rows) == [
        "chart-1.png", "mail.json", "weather-2026-11-01.csv", "weather-2026-11-01.html", "weather-2026-11-01.xlsx",
    ]  # fmt: skip
    assert all(row["expires_at"] > utc_now() for row in rows)
