"""Schedules over HTTP: the whole life of one, and what is refused."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final, cast

import httpx
import pytest
from sqlalchemy import select

from beatline.api.routes import fleet
from beatline.cli import root
from beatline.definitions import specs
from beatline.definitions import store as definitions
from beatline.errors import ConflictError
from beatline.families import kinds
from beatline.installation import Installation
from beatline.ledger.model import audit
from beatline.schedules import store
from support.beats import BeatView, body_of
from support.problems import said
from support.processes import variables_of

NIGHTLY: Final = {
    "name": "nightly", "task": "test.anything", "cron": "0 2 * * *", "tz": "Asia/Shanghai", "args": [1, 2],
    "kwargs": {"api_key": "hunter2"},
}  # fmt: skip
EVERY: Final = {"name": "job", "task": "test.anything", "every": "5m"}
REFUSED: Final[tuple[tuple[dict[str, Any], str], ...]] = (
    ({}, "name: is needed; task: is needed"),
    (EVERY | {"task": "test.ad"}, "did you mean test.add"),
    (EVERY | {"task": "test.add", "args": [1]}, "Task 'test.add' was not accepted: argument 'y' is missing"),
    (EVERY | {"at": "2099-01-01T00:00"}, "not every and at"),
    ({"name": "job", "task": "test.anything"}, "give one of cron, every and at"),
    ({"name": "job", "task": "test.anything", "cron": "0 99 * * *"}, "cron: bad hour '99'"),
    (EVERY | {"tz": "shanghai"}, "did you mean Asia/Shanghai?"),
    (EVERY | {"every": True}, "every: true and false are no duration"),
    (EVERY | {"every": {"x": 1}}, "every: a duration is a number"),
    (EVERY | {"every": "-5m"}, "every: "),
    (EVERY | {"queue": "nowhere"}, "no queue 'nowhere'"),
    (EVERY | {"priority": 10}, "priority: must be less than or equal to 9"),
    (EVERY | {"priority": "high"}, "priority: must be a valid integer"),
    (EVERY | {"name": "a:b"}, "'a:b' is not allowed"),
    (EVERY | {"name": 7}, "name: must be a valid string"),
    (EVERY | {"args": "weather"}, "args: must be a valid list"),
    (EVERY | {"args": ["\x00"]}, "args[0] holds a NUL character"),
    (EVERY | {"kwargs": {"\x00": 1}}, "holds a NUL character"),
    (EVERY | {"kwargs": [1]}, "kwargs: must be a valid dictionary"),
    (EVERY | {"args": ["x" * 70_000]}, "65,536 are accepted"),
    (EVERY | {"owner": "beatline"}, "owner: is no field of it"),
    (EVERY | {"name": "'; DROP TABLE schedules; --"}, "is not allowed"),
)


def test_the_life_of_a_schedule(client: httpx.Client, view: BeatView, installation: Installation) -> None:
    made = client.post("schedules", json=NIGHTLY)
    assert made.status_code == 201, made.text
    assert made.headers["Location"] == "/admin/celery/schedules/nightly"
    body = made.json()
    assert (body["kwargs"], body["when"], body["owner"], body["warnings"]) == (
        {"api_key": "***"}, "at 02:00 every day", "operator", [],
    )  # fmt: skip
    assert "'nightly' already" in said(client.post("schedules", json=NIGHTLY), 409)["detail"]

    changed = client.patch("schedules/nightly", json={"cron": "30 3 * * *", "priority": 9}).json()
    assert (changed["trigger"]["expr"], changed["zone"]) == ("30 3 * * *", "Asia/Shanghai")
    assert (changed["priority"], changed["args"], changed["version"]) == (9, [1, 2], 2)
    assert client.patch("schedules/nightly", json={"priority": None}).json()["priority"] is None
    assert client.patch("schedules/nightly", json={}).json()["version"] == 3
    assert view.get("nightly").kwargs == {"api_key": "hunter2"}

    paused = client.post("schedules/nightly/pause", json={"reason": "büro zu"}).json()
    assert (paused["state"], paused["reason"], paused["paused_by"], paused["next"]) == (
        "paused", "büro zu", "token:ann", None,
    )  # fmt: skip
    said(client.post("schedules/nightly/pause"), 409)
    assert client.post("schedules/nightly/resume").json()["state"] == "active"
    said(client.post("schedules/nightly/resume"), 409)

    ran = client.post("schedules/nightly/run-now")
    assert ran.status_code == 202
    [message] = view.messages()
    assert (message["headers"]["id"], body_of(message)[:2]) == (
        ran.json()["run_id"], [[1, 2], {"api_key": "hunter2"}],
    )  # fmt: skip

    detail = client.get(f"schedules/{body['id']}").json()
    assert (detail["name"], len(detail["coming"]), detail["occurrences"]) == ("nightly", 5, [])
    ahead = client.get("schedules/nightly/next", params={"count": 3}).json()
    assert [local[11:] for local in ahead["local"]] == ["03:30:00+08:00"] * 3
    assert [datetime.fromisoformat(utc) for utc in ahead["utc"]] == list(map(datetime.fromisoformat, ahead["local"]))

    assert [one["name"] for one in client.get("schedules").json()["items"]] == ["nightly"]
    assert client.delete("schedules/nightly").json()["state"] == "removed"
    assert client.get("schedules").json() == {"items": []}
    said(client.get("schedules/nightly"), 404)
    with installation.engine.connect() as conn:
        told = conn.execute(
            select(audit.c.who, audit.c.action).where(audit.c.kind == "schedule").order_by(audit.c.id)
        ).all()  # fmt: skip
    assert [who for who, _ in told] == ["token:ann"] * len(told)
    assert [action for _, action in told] == [
        "add", "change", "change", "pause", "resume", "run-now", "remove",
    ]  # fmt: skip


def test_what_makes_no_sense_names_the_field_and_changes_nothing(client: httpx.Client, view: BeatView) -> None:
    for body, words in REFUSED:
        assert words in said(client.post("schedules", json=body), 422)["detail"], body
    assert view.change(store.list_schedules) == []
    view.add("job", every="5m")
    before = view.get("job")
    for body, words in REFUSED[1:]:
        fields = {name: value for name, value in body.items() if name != "name"}
        if fields == {"task": "test.anything"} or "name" in words or "not allowed" in words:
            continue
        assert words in said(client.patch("schedules/job", json=fields), 422)["detail"], fields
    assert view.get("job") == before


def test_a_wrong_field_is_named_for_programs_too(client: httpx.Client) -> None:
    told = said(client.post("schedules", json={"name": "x", "task": "t", "priority": 99}), 422)
    assert told["errors"] == [{"field": "priority", "where": "body", "said": "must be less than or equal to 9"}]


def test_a_task_that_only_workers_know_is_forced(client: httpx.Client) -> None:
    body = EVERY | {"task": "elsewhere.work"}
    said(client.post("schedules", json=body), 422)
    assert client.post("schedules?force=true", json=body).status_code == 201
    assert client.patch("schedules/job", json={"every": "6m"}).status_code == 200  # the task stays: nobody asks again
    said(client.patch("schedules/job", json={"task": "elsewhere.other"}), 422)


def test_what_its_arguments_name_and_does_not_exist_is_a_warning(client: httpx.Client) -> None:
    body = {"name": "job", "task": "collect.execute_task", "every": "5m", "args": ["weather"]}
    [warning] = client.post("schedules", json=body).json()["warnings"]
    assert "There is no source 'weather' yet" in warning


def test_every_verb_on_an_unknown_name_is_not_found(client: httpx.Client) -> None:
    client.post("schedules", json=NIGHTLY)
    asked = (
        ("GET", ""), ("PATCH", ""), ("DELETE", ""), ("POST", "/pause"), ("POST", "/resume"), ("POST", "/run-now"),
        ("GET", "/next"),
    )  # fmt: skip
    for method, verb in asked:
        body = {"queue": "etl"} if method == "PATCH" else None
        told = said(client.request(method, f"schedules/nightl{verb}", json=body), 404)
        assert "Did you mean nightly?" in told["detail"]


def test_the_command_line_changes_one_too(
    installation: Installation, view: BeatView, monkeypatch: Any, capsys: Any
) -> None:
    for name, value in variables_of(installation.settings).items():
        monkeypatch.setenv(name, value)
    view.add("job", cron="0 2 * * *", tz="Asia/Shanghai")
    for words, code in ((("--cron", "0 4 * * *"), 0), (("--queue", "nowhere"), 1), (("--task", "test.ad"), 1)):
        with pytest.raises(SystemExit) as ended:
            root.run(["schedules", "set", "job", *words])
        assert ended.value.code == code
    assert "Changed 'job': at 04:00 every day." in capsys.readouterr().err
    assert view.get("job").trigger == {"type": "cron", "expr": "0 4 * * *", "tz": "Asia/Shanghai"}


def test_mailboxes_get_their_schedules(client: httpx.Client, view: BeatView, installation: Installation) -> None:
    box = {"host": "127.0.0.1", "security": "plain", "user": "ann", "password": "hunter2"}
    checked = specs.check(kinds()["mailbox"], "ann", box)
    with installation.engine.begin() as conn:
        definitions.add(conn, "mailbox", "ann", checked, lambda: installation.keyring, who="test")
    for added, unchanged in ((1, 0), (0, 1)):
        [told] = client.post("tasks/sync").json()["items"]
        assert (told["kind"], told["ok"]) == ("mailbox", True)
        assert (told["details"]["added"], told["details"]["unchanged"]) == (added, unchanged)
    [schedule] = view.change(store.list_schedules)
    assert schedule.task == "email.poll_account"
    assert [one["name"] for one in client.get("schedules").json()["items"]] == [schedule.name]


def test_without_a_family_that_syncs_it_is_a_conflict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet, "kinds", dict)
    with pytest.raises(ConflictError, match="there is nothing to sync"):
        fleet.sync_tasks(cast("Any", None), "ann")
