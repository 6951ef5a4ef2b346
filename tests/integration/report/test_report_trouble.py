"""What one recipient, one connection or one owner has wrong is theirs alone: the others get their report, and it ends."""

from __future__ import annotations

import smtplib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text, update

from beatline.artifacts.tables import artifacts
from beatline.clock import utc_now
from beatline.connections import get_connection
from beatline.errors import ServiceError, TransientError
from beatline.ledger.store import NewRun, insert_runs
from beatline.task.context import RunContext
from beatline_tasks.report import deliveries, sweeping
from beatline_tasks.report.cleaning import clean_up
from beatline_tasks.report.deliveries import Delivery
from beatline_tasks.report.errors import ReportError
from beatline_tasks.report.fetching import fetch
from beatline_tasks.report.generating import generate
from beatline_tasks.report.issues import Issue
from beatline_tasks.report.mail import Letter, build
from beatline_tasks.report.post import post
from beatline_tasks.report.rendering import render
from beatline_tasks.report.sending import send
from beatline_tasks.report.sweeping import sweep
from beatline_tasks.report.tables import report_issues
from support.apps import open_app
from support.reporting import attachments, begin, current, states, step, through
from support.smtp import SmtpServer
from support.smtp_talk import Talk, talking
from support.waiting import wait_until
from support.web import Reply, serve

if TYPE_CHECKING:
    from beatline.definitions import Definition
    from beatline.installation import Installation

AddDefinition = Callable[..., "Definition"]
PEOPLE = ("ann@example.com", "bob@example.com", "carl@example.com")


def errors(installation: Installation, issue: Issue) -> dict[str, str | None]:
    with installation.engine.connect() as conn:
        return {row.recipient: row.error for row in deliveries.of_issue(conn, issue.id)}


def failed(installation: Installation, definition: Definition) -> Issue:
    """An issue whose query failed: only its clean-up is left."""
    issue = begin(installation, definition).issue
    with pytest.raises(ReportError):
        step(installation, issue, "begun", fetch)
    return issue


def broken(report_spec: dict[str, Any], **change: Any) -> dict[str, Any]:
    return report_spec | {"queries": {"days": {"sql": "SELECT day, temp / 0 AS temp FROM weather"}}} | change


# The owner.


def test_an_owner_who_cannot_be_written_to_holds_up_no_end(
    installation: Installation, add: AddDefinition, report_spec: dict[str, Any], mail: SmtpServer
) -> None:
    add("connection", "odd", url=mail.url, security="plain", sender="reports@b\u00fcro..example.com")
    owner = {"address": "owner@example.com", "connection": "odd"}
    issue = failed(installation, add("report", "weather", **broken(report_spec, owner=owner)))
    said = clean_up(installation, str(issue.id))
    assert said["state"] == "failed"
    assert said["owner"].startswith("not told: The sender 'reports@b\u00fcro..example.com' is no mail address")
    assert current(installation, issue).cleaned_at is not None


def test_whatever_a_notice_raises_the_issue_ends(
    installation: Installation, add: AddDefinition, report_spec: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def burst(*_: object) -> None:
        raise RuntimeError("the library burst")

    monkeypatch.setattr(smtplib.SMTP, "mail", burst)
    issue = failed(installation, add("report", "weather", **broken(report_spec)))
    assert clean_up(installation, str(issue.id))["owner"] == "not told: the library burst"
    assert current(installation, issue).cleaned_at is not None


def test_issues_that_cannot_be_ended_yet_starve_none(
    installation: Installation, add: AddDefinition, report_spec: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeping, "_AT_ONCE", 2)
    add("connection", "gone", url="smtp://127.0.0.1:9", security="plain")
    silent = {"address": "owner@example.com", "connection": "gone"}
    waiting = [failed(installation, add("report", f"w{n}", **broken(report_spec, owner=silent))) for n in range(3)]
    good = failed(installation, add("report", "good", **broken(report_spec)))
    long_ago = utc_now() - timedelta(days=3)
    with installation.engine.begin() as conn:
        for number, issue in enumerate([*waiting, good]):
            ours = report_issues.c.id == issue.id
            at = long_ago + timedelta(seconds=number)
            conn.execute(update(report_issues).where(ours).values(changed_at=at))
    assert sweep(installation) == {"open": 4, "ended": 1, "left": 3}
    assert current(installation, good).state == "failed"
    assert sweep(installation) == {"open": 0, "ended": 0, "left": 0}  # they were touched, and come last
    assert current(installation, waiting[0]).cleaned_at is None


# The recipients.


def rows_for(installation: Installation, issue: Issue, recipients: tuple[str, ...]) -> list[Delivery]:
    rows = deliveries.prepare(installation.engine, issue.id, [("email", one) for one in recipients])
    return deliveries.with_message_ids(installation.engine, rows, "example.com")


def compose(sender: str) -> Callable[[Delivery], bytes]:
    letter = Letter("Hello", "text", None, {}, [])
    return lambda row: build(
        letter, sender=sender, to=row.recipient, message_id=row.message_id or "", at=utc_now(), headers={}
    )


def test_an_address_that_no_mail_can_be_written_to_stops_no_other(
    installation: Installation, add: AddDefinition, report_spec: dict[str, Any], mail: SmtpServer
) -> None:
    issue = begin(installation, add("report", "weather", **report_spec)).issue
    rows = rows_for(installation, issue, ("ann@example.com", "b..b@example.com", "c@x..com", "dan@example.com"))
    post(installation, "post", "reports@example.com", rows, compose("reports@example.com"))
    assert states(installation, issue) == {
        "ann@example.com": "sent", "b..b@example.com": "refused", "c@x..com": "refused", "dan@example.com": "sent",
    }  # fmt: skip
    assert "no mail can be written" in (errors(installation, issue)["b..b@example.com"] or "")
    assert [got.recipients[0] for got in mail.got] == ["ann@example.com", "dan@example.com"]


def test_an_address_beyond_ascii_goes_to_a_server_that_takes_it(
    installation: Installation, add: AddDefinition, report_spec: dict[str, Any]
) -> None:
    asked = report_spec | {"email": {"connection": "talk", "to": ["j\u00fcrgen@example.com", "ann@example.com"]}}
    with talking("250-x\r\n250 SMTPUTF8") as talk:
        add("connection", "talk", url=talk.url, security="plain", sender="reports@example.com")
        issue = through(installation, add("report", "weather", **asked))
        step(installation, issue, "rendered", send)
    plain, beyond = talk.mails
    assert b"To: ann@example.com\r\n" in plain
    assert "To: j\u00fcrgen@example.com\r\n".encode() in beyond
    options = [line.partition(">")[2].strip() for line in talk.lines if line.lower().startswith("mail")]
    assert options == ["", "SMTPUTF8"]


def test_an_address_beyond_ascii_is_refused_in_words_by_a_server_that_does_not(
    installation: Installation, add: AddDefinition, report_spec: dict[str, Any]
) -> None:
    asked = report_spec | {"email": {"connection": "talk", "to": ["j\u00fcrgen@example.com", "ann@example.com"]}}
    with talking("250 x") as talk:
        add("connection", "talk", url=talk.url, security="plain", sender="reports@example.com")
        issue = through(installation, add("report", "weather", **asked))
        with pytest.raises(ReportError, match="takes no addresses with other than ASCII letters"):
            step(installation, issue, "rendered", send)
    assert states(installation, issue) == {"j\u00fcrgen@example.com": "refused", "ann@example.com": "sent"}


# The server.


@pytest.fixture
def talk(add: AddDefinition, report_spec: dict[str, Any]) -> Iterator[Talk]:
    """The server that the report's mails go through."""
    with talking() as talk:
        add("connection", "talk", url=talk.url, security="plain", sender="reports@example.com")
        report_spec["email"] = {"connection": "talk", "to": list(PEOPLE)}
        yield talk


def test_a_server_that_hangs_up_after_a_refusal_gets_the_others(
    installation: Installation, add: AddDefinition, report_spec: dict[str, Any], talk: Talk
) -> None:
    talk.refuses = frozenset({"ann@example.com"})
    issue = through(installation, add("report", "weather", **report_spec))
    with pytest.raises(ReportError, match=r"1 of 3 deliveries were not made; ann@example\.com: refused"):
        step(installation, issue, "rendered", send)
    assert states(installation, issue) == dict(zip(PEOPLE, ("refused", "sent", "sent"), strict=True))


def test_a_server_that_takes_one_mail_a_session_gets_all(
    installation: Installation, add: AddDefinition, report_spec: dict[str, Any], talk: Talk
) -> None:
    talk.one_each = True
    issue = through(installation, add("report", "weather", **report_spec))
    assert step(installation, issue, "rendered", send)["deliveries"] == 3
    assert len(talk.mails) == 3


def test_recipients_that_break_every_session_hold_up_the_others_once_at_most_and_fail_in_words(
    installation: Installation, add: AddDefinition, report_spec: dict[str, Any], talk: Talk
) -> None:
    bad = [f"a{number}@example.com" for number in range(6)]
    report_spec["email"]["to"] = [*bad, "zoe@example.com"]
    talk.drops = frozenset(bad)
    issue = through(installation, add("report", "weather", **report_spec))
    for _ in range(4):
        with pytest.raises(TransientError):
            step(installation, issue, "rendered", send)
    assert len(talk.mails) == 1
    clean_up(installation, str(issue.id))
    assert states(installation, issue) == dict.fromkeys(bad, "failed") | {
        "zoe@example.com": "sent", "owner@example.com": "sent",
    }  # fmt: skip
    assert (errors(installation, issue)[bad[0]] or "").startswith(
        "the connection broke before the mail was handed over"
    )


def test_a_missing_mail_connection_stops_neither_webhook_nor_store(
    installation: Installation, add: AddDefinition, report_spec: dict[str, Any], mail: SmtpServer, tmp_path: Any
) -> None:
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    add("connection", "shelf", url=f"file://{shelf}")
    with serve() as web:
        web.answer = lambda _: Reply(b"thanks")
        asked = report_spec | {
            "email": {"connection": "later", "to": ["ann@example.com"]},
            "owner": {"address": "owner@example.com", "connection": "post"},
            "webhook": {"url": web.url},
            "store": {"connection": "shelf"},
        }
        definition = add("report", "weather", **asked)
        issue = through(installation, definition)
        with pytest.raises(ReportError, match=r"1 of 3 deliveries were not made; ann@example\.com: refused: .*'later'"):
            step(installation, issue, "rendered", send)
    assert states(installation, issue) == {"shelf": "sent", "127.0.0.1": "sent", "ann@example.com": "refused"}
    clean_up(installation, str(issue.id))
    # Once there is one, the mail has the Message-ID of its sender.
    add("connection", "later", url=mail.url, security="plain", sender="reports@later.example")
    again = begin(installation, definition, "run-2").issue
    step(installation, again, "rendered", send)
    [got] = mail.of("ann@example.com")
    assert got.message["Message-ID"].endswith("@later.example>")
    assert get_connection(installation, "later").spec.sender == "reports@later.example"


def test_a_channel_that_breaks_in_a_new_way_holds_up_no_other(
    installation: Installation, add: AddDefinition, report_spec: dict[str, Any], mail: SmtpServer, tmp_path: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def burst(*_: object) -> None:
        raise RuntimeError("the library burst")

    add("connection", "shelf", url=f"file://{tmp_path}")
    issue = through(installation, add("report", "weather", **(report_spec | {"store": {"connection": "shelf"}})))
    monkeypatch.setattr("obstore.put", burst)
    with pytest.raises(RuntimeError, match="the library burst"):
        step(installation, issue, "rendered", send)
    assert len(mail.got) == 2


# The round, the period and the rows.


def test_nothing_of_a_query_stays_in_a_session(
    installation: Installation, add: AddDefinition, report_spec: dict[str, Any]
) -> None:
    locking = "SELECT day, temp, pg_try_advisory_lock(4711) AS locked FROM weather"
    issue = begin(
        installation, add("report", "weather", **(report_spec | {"queries": {"days": {"sql": locking}}}))
    ).issue
    assert step(installation, issue, "begun", fetch)["rows"] == {"days": 10}

    def free() -> bool:
        held = text(
            "SELECT count(*) FROM pg_locks JOIN pg_database d ON d.oid = database "
            "WHERE locktype = 'advisory' AND objid = 4711 AND datname = current_database()"
        )
        with installation.engine.connect() as conn:
            return bool(conn.execute(held).scalar_one() == 0)

    wait_until(free, 5)


def test_a_failed_issue_whose_files_expire_is_fetched_again(
    installation: Installation, add: AddDefinition, report_spec: dict[str, Any], mail: SmtpServer
) -> None:
    mail.answers["ann@example.com"] = "550 no"
    definition = add("report", "weather", **report_spec)
    issue = through(installation, definition)
    with pytest.raises(ReportError):
        step(installation, issue, "rendered", send)
    clean_up(installation, str(issue.id))
    mail.answers.clear()
    with installation.engine.begin() as conn:
        one = artifacts.c.name == "weather-2026-11-01.csv"
        conn.execute(update(artifacts).where(one).values(expires_at=utc_now() + timedelta(minutes=5)))
    again = begin(installation, definition, "run-2").issue
    assert (again.state, again.files) == ("begun", None)
    step(installation, again, "begun", fetch)
    step(installation, again, "fetched", render)
    step(installation, again, "rendered", send)
    assert clean_up(installation, str(again.id))["state"] == "sent"
    [ann], [_] = mail.of("ann@example.com"), mail.of("bob@example.com")
    assert "weather-2026-11-01.csv" in attachments(ann.message)


def test_a_run_without_a_slot_keeps_its_period_over_midnight(
    installation: Installation, add: AddDefinition, report_spec: dict[str, Any]
) -> None:
    definition = add("report", "weather", **(report_spec | {"period": "day"}))
    accepted = datetime(2026, 3, 3, 22, 59, 59, tzinfo=UTC)  # a second before midnight in Berlin
    new = NewRun(
        run_id="late", day=utc_now().date(), task="report.generate_scheduled", queue="report", message="{}",
        accepted_at=accepted,
    )  # fmt: skip
    with installation.engine.begin() as conn:
        insert_runs(conn, [new], installation.keyring)
    resumed = begin(installation, definition, "resumed").issue
    with open_app(installation.settings):
        late, known = (
            generate(installation, "weather", RunContext(run, 2, 1, "t", "report", None, None), None)
            for run in ("late", "resumed")
        )
    assert (late["period_start"], late["period_end"]) == ("2026-03-01T23:00:00+00:00", "2026-03-02T23:00:00+00:00")
    assert known["issue"] == str(resumed.id)
    assert "already" not in known


def test_infinity_is_shown(installation: Installation, add: AddDefinition, report_spec: dict[str, Any]) -> None:
    endless = "SELECT 1 AS day, CAST(:v AS timestamptz) AS until, CAST(:v AS date) AS last, 1 AS temp"
    for number, value in enumerate(("infinity", "-infinity")):
        asked = report_spec | {
            "queries": {"days": {"sql": endless}},
            "parameters": {"v": value},
            "charts": {"temp": {"x": "until", "y": ["temp"]}},
        }
        issue = through(installation, add("report", f"endless{number}", **asked))
        assert issue.state == "rendered"


def test_a_data_base_that_is_out_ends_no_issue_without_its_notice(
    installation: Installation, add: AddDefinition, report_spec: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def out(*_: object) -> None:
        raise ServiceError("PostgreSQL does not answer")

    issue = failed(installation, add("report", "weather", **broken(report_spec)))
    monkeypatch.setattr(smtplib.SMTP, "mail", out)
    with pytest.raises(ServiceError):
        clean_up(installation, str(issue.id))
    assert current(installation, issue).cleaned_at is None
