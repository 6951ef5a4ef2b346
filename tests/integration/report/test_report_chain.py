"""A report through a real worker: the chain, its retries, and a worker that is killed at each place."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from beatline.ledger.history import Run
from beatline.ledger.states import RunState
from beatline_tasks.report import deliveries, issues
from beatline_tasks.report.issues import Issue
from beatline_tasks.report.sweeping import sweep
from support.ledger import known_run
from support.smtp import SmtpServer
from support.waiting import wait_until

if TYPE_CHECKING:
    from beatline.definitions import Definition
    from beatline.installation import Installation
    from support.processes import StartProcess, StartWorker

AddDefinition = Callable[..., "Definition"]
AT = datetime(2026, 12, 1, 5, tzinfo=UTC).isoformat()

pytestmark = pytest.mark.proof


def the_issue(installation: Installation, report: Definition) -> Issue | None:
    with installation.engine.connect() as conn:
        found = issues.of_report(conn, report.id, 2)
    assert len(found) <= 1
    return found[0] if found else None


def over(installation: Installation, report: Definition, timeout_s: float = 40) -> Issue:
    def look() -> Issue | None:
        issue = the_issue(installation, report)
        return issue if issue is not None and issue.cleaned_at is not None else None

    issue = wait_until(look, timeout_s, what="the issue is over")
    assert issue is not None
    return issue


def states(installation: Installation, issue: Issue) -> dict[str, str]:
    with installation.engine.connect() as conn:
        return {row.recipient: row.state for row in deliveries.of_issue(conn, issue.id)}


def test_a_report_runs_as_a_chain_of_its_steps(
    installation: Installation, app: Any, worker: StartWorker, recorder: StartProcess, add: AddDefinition,
    report_spec: dict[str, Any], mail: SmtpServer,
) -> None:  # fmt: skip
    report = add("report", "weather", **report_spec)
    recorder()
    worker("report", pool="solo")
    sent = app.send_task("report.generate_scheduled", ("weather",), {"at": AT}).id
    issue = over(installation, report)
    assert issue.state == "sent"
    assert (issue.run_id, issue.period_end) == (sent, datetime(2026, 11, 30, 23, tzinfo=UTC))
    assert sorted(got.recipients[0] for got in mail.got) == ["ann@example.com", "bob@example.com"]

    def succeeded() -> bool:
        runs = [known_run(installation, run_id) for run_id in issue.run_ids]
        return all(run is not None and run.state is RunState.SUCCEEDED for run in runs)

    wait_until(succeeded, 20)
    tasks = [run.task for run_id in issue.run_ids if (run := known_run(installation, run_id)) is not None]
    assert tasks == ["report.generate_scheduled", "report.fetch_data", "report.render", "report.send",
                     "report.clean_up"]  # fmt: skip


@pytest.mark.parametrize(
    "place",
    ["report.begun", "report.fetched", "report.fetch_committed", "report.rendered", "report.sent", "report.cleaned"],
)  # fmt: skip
def test_a_killed_worker_at_any_step_costs_no_mail_and_makes_no_second(
    installation: Installation, app: Any, worker: StartWorker, recorder: StartProcess, add: AddDefinition,
    report_spec: dict[str, Any], mail: SmtpServer, place: str,
) -> None:  # fmt: skip
    report = add("report", "weather", **report_spec)
    recorder()
    doomed = worker("report", pool="solo", env={"BEATLINE_TEST_FAILPOINT": place})
    app.send_task("report.generate_scheduled", ("weather",), {"at": AT})
    assert doomed.wait(30) == -9
    worker("report", pool="solo")
    issue = over(installation, report)
    assert issue.state == "sent"
    assert states(installation, issue) == {"ann@example.com": "sent", "bob@example.com": "sent"}
    assert sorted(got.recipients[0] for got in mail.got) == ["ann@example.com", "bob@example.com"]


@pytest.mark.parametrize(("place", "arrived"), [("report.mail_claimed", 0), ("report.mail_accepted", 1)])
def test_a_worker_killed_while_a_mail_is_handed_over_leaves_it_unknown_and_tells_the_owner(
    installation: Installation, app: Any, worker: StartWorker, recorder: StartProcess, add: AddDefinition,
    report_spec: dict[str, Any], mail: SmtpServer, place: str, arrived: int,
) -> None:  # fmt: skip
    report = add("report", "weather", **report_spec)
    recorder()
    doomed = worker("report", pool="solo", env={"BEATLINE_TEST_FAILPOINT": place})
    app.send_task("report.generate_scheduled", ("weather",), {"at": AT})
    assert doomed.wait(30) == -9
    worker("report", pool="solo")
    issue = over(installation, report)
    assert issue.state == "failed"
    assert states(installation, issue) == {
        "ann@example.com": "unknown", "bob@example.com": "sent", "owner@example.com": "sent",
    }  # fmt: skip
    assert len(mail.of("ann@example.com")) == arrived
    assert len(mail.of("bob@example.com")) == 1
    [notice] = mail.of("owner@example.com")
    assert "ann@example.com: unknown: it was handed over" in str(notice.message.get_content())


def test_a_step_is_tried_three_times_again_and_then_cleaned_up(
    installation: Installation, app: Any, worker: StartWorker, recorder: StartProcess, add: AddDefinition,
    report_spec: dict[str, Any], mail: SmtpServer,
) -> None:  # fmt: skip
    mail.answers["ann@example.com"] = "451 4.7.1 not now"
    report = add("report", "weather", **report_spec)
    recorder()
    worker("report", pool="solo")
    app.send_task("report.generate_scheduled", ("weather",), {"at": AT})
    issue = over(installation, report)
    assert states(installation, issue) == {
        "ann@example.com": "failed", "bob@example.com": "sent", "owner@example.com": "sent",
    }  # fmt: skip
    assert mail.asked.count("ann@example.com") == 4
    send = wait_until(lambda: _ended(installation, issue.step_run_id("send")), 20)
    assert send is not None
    assert (send.state, send.attempt, send.reason) == (RunState.DEAD, 4, "its 3 retries are used up")


def _ended(installation: Installation, run_id: str) -> Run | None:
    run = known_run(installation, run_id)
    return run if run is not None and run.ended_at is not None else None


def test_a_step_that_kills_its_workers_is_cleaned_up_and_the_owner_told(
    installation: Installation, app: Any, worker: StartWorker, recorder: StartProcess, add: AddDefinition,
    report_spec: dict[str, Any], mail: SmtpServer,
) -> None:  # fmt: skip
    report = add("report", "weather", **report_spec)
    recorder()
    worker("report", pool="prefork", env={"BEATLINE_TEST_FAILPOINT": "report.rendered"})
    app.send_task("report.generate_scheduled", ("weather",), {"at": AT})
    issue = wait_until(lambda: the_issue(installation, report), 20)
    assert issue is not None
    assert sweep(installation, quiet_s=0)["ended"] == 0
    dead = wait_until(lambda: _ended(installation, issue.step_run_id("render")), 40)
    assert dead is not None
    assert dead.state is RunState.DEAD
    assert over(installation, report).state == "failed"
    assert sweep(installation, quiet_s=0) == {"open": 0, "ended": 0, "left": 0}
    [notice] = mail.got
    assert notice.recipients == ("owner@example.com",)
    assert "It was not rendered: its worker died three times" in str(notice.message.get_content())
