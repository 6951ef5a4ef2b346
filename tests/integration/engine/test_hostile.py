"""Whatever a task raises and whatever lies in a queue: the run ends with a reason, and the worker goes on."""

from __future__ import annotations

import base64
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from beatline.engine.claim import Claims, Lease
from beatline.engine.messages import list_key
from beatline.installation import Installation
from beatline.ledger.events import FIELD, MESSAGE_LIMIT_BYTES
from beatline.ledger.states import EventKind
from support import run_tasks
from support.ledger import event, rows
from support.processes import Spawned, StartProcess, StartWorker
from support.serving import MakeSettings
from support.waiting import wait_until

SECRET = "hunter2"
ENV = {"PYTHONPATH": str(Path(run_tasks.__file__).parents[1])}


@pytest.fixture
def settings(make_settings: MakeSettings) -> Any:
    return make_settings(task_modules=("support.run_tasks",), lease_s=3.0, lease_renew_s=1.0)


def ends(installation: Installation) -> dict[str, list[tuple[str, str]]]:
    """Per run its ends in order: (kind, error or reason)."""
    found: dict[str, list[tuple[str, str]]] = defaultdict(list)
    # An event may be told twice, which is once.
    for said in dict.fromkeys(entry[FIELD] for _, entry in installation.redis.xrange(installation.keys.events)):
        one = json.loads(said)
        if one["kind"] not in ("accepted", "queued", "started"):
            found[one["run_id"]].append((one["kind"], one.get("error") or one.get("reason") or ""))
    return found


def settled(app: Any, installation: Installation, worker: Spawned) -> None:
    """The worker takes the next task, holds no other lease, and has nothing left to acknowledge."""
    assert app.tasks["test.add"].delay(1, 2).get(timeout=20) == 3
    assert worker.exit_code is None
    unacked = f"{installation.settings.key_prefix}unacked"
    wait_until(lambda: installation.redis.zcard(installation.keys.leases) == 0, what="no lease is left")
    wait_until(lambda: installation.redis.hlen(unacked) == 0, what="every message is acknowledged")


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_whatever_a_task_raises_ends_its_run(
    app: Any, installation: Installation, worker: StartWorker, pool: str
) -> None:
    running = worker("default", pool=pool, env=ENV)
    raises = app.tasks["test.raises"]
    sent = {what: raises.apply_async((what,), ignore_result=True).id for what in ("memory", "unprintable", "carrying")}
    if pool == "threads":  # in a pool process these end the process, which is another test's matter
        sent |= {what: raises.apply_async((what,), ignore_result=True).id for what in ("exit", "interrupt")}
    early = app.tasks["test.early"].delay().id
    wait_until(lambda: all(ends(installation)[run] for run in sent.values()), 20)
    assert {what: ends(installation)[run][0][0] for what, run in sent.items()} == dict.fromkeys(sent, "failed")
    assert "mine" in ends(installation)[sent["carrying"]][0][1]
    assert "out of it" in ends(installation)[sent["memory"]][0][1]
    wait_until(lambda: [kind for kind, _ in ends(installation)[early]] == ["returned", "succeeded"], 20)
    settled(app, installation, running)


def push(
    installation: Installation,
    run_id: object,
    body: str,
    content_type: str = "application/json",
    priority: object = 0,
    **head: Any,
) -> None:
    """A message as somebody writes it who knows the format, and not what may stand in it."""
    headers = {"id": run_id, "task": "test.add", "lang": "py", "retries": 0, "timelimit": [None, None], **head}
    message = {
        "body": base64.b64encode(body.encode("latin-1")).decode(),
        "content-encoding": "utf-8",
        "content-type": content_type,
        "headers": headers,
        "properties": {"correlation_id": run_id, "delivery_mode": 2, "delivery_tag": f"tag-{run_id!r}",
                       "priority": priority,
                       "delivery_info": {"exchange": "", "routing_key": "default"}, "body_encoding": "base64"},
    }  # fmt: skip
    installation.redis.lpush(list_key(installation.keys, "default", 0), json.dumps(message))


def push_protocol_1(installation: Installation, body: str) -> None:
    """A message that says nothing in its headers, but all in its body."""
    message = {
        "body": base64.b64encode(body.encode("latin-1")).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {"x-token": SECRET},
        "properties": {"delivery_tag": body, "delivery_info": {"exchange": "", "routing_key": "default"},
                       "body_encoding": "base64"},
    }  # fmt: skip
    installation.redis.lpush(list_key(installation.keys, "default", 0), json.dumps(message))


GOOD = '[[1, 2], {}, {"callbacks": null, "errbacks": null, "chain": null, "chord": null}]'
HEADERS: dict[str, Any] = {"bl_v": 1, "bl_attempt": 1, "bl_day": "2026-11-22"}
BAD: dict[str, tuple[str, dict[str, Any]]] = {
    "not-json": ("{", HEADERS),
    "short-body": ("[[], {}]", HEADERS),
    "object-body": ("{}", HEADERS),
    "stock-short": ("[[]]", {}),
    "pickle": (GOOD, {**HEADERS, "content_type": "application/x-python-serialize"}),
    "eta": (GOOD, {**HEADERS, "eta": "tomorrow"}),
    "far-eta": (GOOD, {**HEADERS, "eta": "9999-12-31T23:59:59-14:00"}),
    "expires": (GOOD, {**HEADERS, "expires": "never"}),
    "epoch": (GOOD, {**HEADERS, "bl_epoch": float("inf")}),
    "early-epoch": (GOOD, {**HEADERS, "bl_epoch": -1}),
    "stock-time": (GOOD, {"bl_published": 1e306}),
    "stock-digits": (GOOD, {"bl_published": 10**400}),
    "no-name": (GOOD, {**HEADERS, "task": []}),
}
UNREADABLE: dict[str, tuple[object, dict[str, Any]]] = {
    "attempt": ("bad-attempt", {**HEADERS, "bl_attempt": "x"}),
    "far-attempt": ("far-attempt", {**HEADERS, "bl_attempt": 1e30}),
    "no-attempt": ("no-attempt", {**HEADERS, "bl_attempt": float("inf")}),
    "digits": ("digits", {**HEADERS, "bl_attempt": 10**400}),
    "retries": ("retries", {"retries": float("inf")}),
    "nameless": ([], {**HEADERS, "task": "nowhere.at_all"}),
    "day": ("bad-day", {**HEADERS, "bl_day": "someday"}),
    "number": (17, HEADERS),
    "control": ("a\nb", HEADERS),
    "long": ("x" * 300, HEADERS),
}


def test_a_message_that_cannot_be_run_is_dead_and_its_neighbours_run(
    app: Any, installation: Installation, worker: StartWorker
) -> None:
    running = worker("default", env=ENV)
    for run_id, (body, head) in BAD.items():
        options = dict(head)
        push(installation, run_id, body, options.pop("content_type", "application/json"), **options)
    for unreadable, head in UNREADABLE.values():
        push(installation, unreadable, GOOD, **head)
    wait_until(lambda: all(ends(installation)[run_id] for run_id in BAD), 20)
    assert {run_id: [kind for kind, _ in ends(installation)[run_id]] for run_id in BAD} == {
        key: ["dead"] for key in BAD
    }
    assert all(reason for run_id in BAD for _, reason in ends(installation)[run_id])
    settled(app, installation, running)


def test_a_task_that_a_worker_does_not_know_ends_only_what_nobody_else_holds(
    app: Any, installation: Installation, worker: StartWorker
) -> None:
    """As one that is not replaced yet, while its queue is served by newer ones: it may meet what they execute."""
    claims = Claims(installation.redis, installation.keys, 60.0)
    held, older, ended = (claims.claim(run_id, 1, "new@x", "2026-11-22") for run_id in ("held", "older", "ended"))
    assert isinstance(held, Lease)
    assert isinstance(older, Lease)
    assert isinstance(ended, Lease)
    succeeded = event(EventKind.SUCCEEDED, "ended", worker="new@x", fence=ended.fence)
    assert claims.finish(ended, "ended", succeeded.to_json())
    for run_id, attempt in (("held", 1), ("older", 2), ("ended", 1), ("free", 1)):
        head: dict[str, Any] = {**HEADERS, "task": "test.newer", "bl_attempt": attempt}
        push(installation, run_id, GOOD, **head)
    running = worker("default", env=ENV)
    wait_until(lambda: ends(installation)["free"], 20)
    client: Any = installation.redis
    assert client.hmget(installation.keys.run("free"), "state", "attempt") == ["ended", "1"]
    assert sorted(client.zrange(installation.keys.leases, 0, -1)) == ["held", "older"]
    for lease in (held, older):
        said = event(EventKind.SUCCEEDED, lease.run_id, worker="new@x", fence=lease.fence)
        assert claims.finish(lease, "ended", said.to_json())
    settled(app, installation, running)
    told = {run_id: [kind for kind, _ in its] for run_id, its in ends(installation).items()}
    assert {run_id: told[run_id] for run_id in ("held", "older", "ended", "free")} == {
        "held": ["succeeded"], "older": ["succeeded"], "ended": ["succeeded"], "free": ["dead"],
    }  # fmt: skip


@pytest.mark.parametrize("priority", ["high", float("inf")])
def test_a_message_with_no_priority_waits_for_its_time_like_any_other(
    app: Any, installation: Installation, worker: StartWorker, priority: object
) -> None:
    running = worker("default", env=ENV)
    push(installation, "far", GOOD, **HEADERS, eta="2999-12-31T00:00:00+00:00", priority=priority)
    wait_until(lambda: [kind for kind, _ in ends(installation)["far"]] == ["returned"], 20)
    settled(app, installation, running)


@pytest.mark.parametrize("published", [1e306, 10**400, float("inf")], ids=["late", "digits", "infinite"])
def test_a_message_that_says_an_impossible_time_runs(
    app: Any, installation: Installation, worker: StartWorker, published: float
) -> None:
    running = worker("default", env=ENV)
    push(installation, "timeless", GOOD, **HEADERS, bl_published=published)
    wait_until(lambda: [kind for kind, _ in ends(installation)["timeless"]] == ["succeeded"], 20)
    settled(app, installation, running)


NO_MESSAGES: dict[str, bytes] = {
    "cut-off": b'{"headers": {"password": "hunter2"',
    "no-text": b"\xff\xfe hunter2",
    "deep": b"[" * 100_000,
    "list": b'["hunter2"]',
    "number": b"17",
    "no-properties": b'{"headers": {"id": "r"}, "body": "hunter2"}',
    "no-tag": b'{"body": "", "properties": {"hunter2": 1}}',
    "list-as-tag": b'{"body": "", "properties": {"delivery_tag": ["hunter2"]}}',
    "list-as-headers": b'{"body": "", "properties": {"delivery_tag": "t1"}, "headers": ["hunter2"]}',
    "text-as-delivery": b'{"body": "", "properties": {"delivery_tag": "t1", "delivery_info": "hunter2"}}',
    "not-base64": b'{"properties": {"delivery_tag": "t2", "body_encoding": "base64"}, "body": "hunter2"}',
    "strange-encoding": b'{"properties": {"delivery_tag": "t3", "body_encoding": ["hunter2"]}, "body": "x"}',
    "no-body": b'{"properties": {"delivery_tag": "t4"}, "headers": {"id": "r", "task": "hunter2"}}',
    "number-as-body": b'{"properties": {"delivery_tag": "t5"}, "headers": {"id": "r", "task": "hunter2"}, "body": 5}',
    "strange-type": b'{"__type__": "hunter2", "__value__": 1}',
}  # fmt: skip


def test_what_is_no_message_is_kept_sealed_with_a_reason_and_the_worker_goes_on(
    app: Any, installation: Installation, worker: StartWorker, recorder: StartProcess
) -> None:
    running = worker("default", env=ENV)
    redis: Any = installation.redis
    for item in NO_MESSAGES.values():
        redis.lpush(installation.keys.queue("default"), item)
    redis.lpush(installation.keys.queue("default"), b"x" * (MESSAGE_LIMIT_BYTES + 5))
    settled(app, installation, running)
    recorder()

    def kept() -> list[dict[str, Any]]:
        with installation.engine.connect() as conn:
            return rows(conn, "parked_events")

    wait_until(lambda: len(kept()) == len(NO_MESSAGES) + 1, 20)
    for row in kept():
        assert row["reason"].startswith("what lay in the queue default is no message (")
        assert SECRET not in row["payload"] + row["reason"]
    sealed = {row["stream_id"]: json.loads(row["payload"])["message"] for row in kept()}
    opened = {
        json.loads(installation.keyring.decrypt(base64.b64decode(text), bound_to=f"event:{stream_id}"))
        for stream_id, text in sealed.items()
    }
    assert opened == {item.decode("utf-8", "backslashreplace") for item in NO_MESSAGES.values()} | {
        "x" * MESSAGE_LIMIT_BYTES
    }
    assert running.output().count("message_unreadable") == len(NO_MESSAGES) + 1
    assert SECRET not in running.output()


def test_what_is_no_message_and_cannot_be_kept_is_spoken_of(
    app: Any, installation: Installation, worker: StartWorker
) -> None:
    running = worker("default", env=ENV)
    redis: Any = installation.redis
    redis.delete(installation.keys.events)
    redis.set(installation.keys.events, "no stream")
    redis.lpush(installation.keys.queue("default"), "{")
    running.wait_for("unreadable_message_not_kept.*WRONGTYPE")
    redis.delete(installation.keys.events)
    settled(app, installation, running)


def test_no_argument_of_a_message_that_cannot_be_run_is_logged_or_recorded(
    app: Any, installation: Installation, worker: StartWorker
) -> None:
    running = worker("default", env=ENV)
    secret = f'[[], {{"password": "{SECRET}"}}, {{}}]'
    shown = {"kwargsrepr": f"{{'password': '{SECRET}'}}", "x-token": SECRET}
    app.send_task("shop.typo", kwargs={"password": SECRET}, task_id="typo", queue="default")
    push(installation, "stock-typo", secret, task="shop.typo", **shown)
    push(installation, "invalid", secret, **HEADERS, **shown, eta="tomorrow")
    push(installation, "not-text", f"\xff{SECRET}", **HEADERS, **shown)
    push(installation, "stock-not-text", f"\xff{SECRET}", **shown)
    push(installation, "no-task", secret, task=None, **shown)
    push(installation, "day", secret, **{**HEADERS, "bl_day": "someday"}, **shown)
    push_protocol_1(installation, f'{{"password": "{SECRET}"}}')
    push_protocol_1(installation, f"\xff{SECRET}")
    runs = ("typo", "stock-typo", "invalid", "not-text", "stock-not-text", "no-task")
    wait_until(lambda: all(ends(installation)[run_id] for run_id in runs), 20)
    settled(app, installation, running)
    assert SECRET not in running.output()
    assert SECRET not in json.dumps(ends(installation))
    for told in ("Received unregistered task", "Received invalid task message", "message_dropped",
                 "message_not_decoded", "unknown message"):  # fmt: skip
        assert told in running.output()


@pytest.mark.proof
def test_a_lost_connection_leaves_no_run_behind(
    app: Any, installation: Installation, worker: StartWorker, recorder: StartProcess, tmp_path: Path
) -> None:
    recorder()
    loser = worker("default", concurrency=2, arguments=("--prefetch-multiplier", "4"), env=ENV)
    held = [app.tasks["test.hold"].delay(str(tmp_path)).id for _ in range(2)]
    waiting = [app.tasks["test.add"].delay(n, n) for n in range(6)]
    wait_until(lambda: (tmp_path / "begun").exists() and len((tmp_path / "begun").read_text().splitlines()) == 2)
    assert loser.lose_connections(installation.redis, "brpop")
    (tmp_path / "go").touch()
    assert [result.get(timeout=40) for result in waiting] == [n + n for n in range(6)]
    wait_until(lambda: (tmp_path / "done").exists() and len((tmp_path / "done").read_text().splitlines()) == 2)
    done = (tmp_path / "done").read_text().splitlines()
    assert sorted(done) == sorted(f"{run_id} 1" for run_id in held), "what ran went on, once"
