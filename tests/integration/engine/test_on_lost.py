"""`on_lost="dead"`: a run that lost its worker after it began is parked, whoever sent it and whoever decides."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from beatline.engine import headers as h
from beatline.engine.claim import PARKS
from beatline.engine.messages import list_key
from beatline.engine.publish import message_of
from beatline.installation import Installation
from beatline.ledger.history import find_run
from beatline.ledger.states import RunState
from support import policy_tasks
from support.apps import close, open_app
from support.ledger import state_of
from support.pools import only_with_gevent
from support.processes import StartProcess, StartWorker
from support.serving import MakeSettings
from support.waiting import wait_until

pytestmark = pytest.mark.proof

ENV = {"PYTHONPATH": str(Path(policy_tasks.__file__).parents[1])}


@pytest.fixture
def settings(make_settings: MakeSettings) -> Any:
    return make_settings(task_modules=("support.policy_tasks",), lease_s=3.0, lease_renew_s=1.0)


def headers_in_queue(installation: Installation) -> dict[str, Any]:
    payload = installation.redis.lindex(list_key(installation.keys, "default", 0), 0)
    headers: dict[str, Any] = json.loads(payload)["headers"]
    return headers


@pytest.mark.parametrize("task", ["test.parked", "test.parked_foreign"])
def test_the_policy_travels_in_the_message(app: Any, installation: Installation, task: str) -> None:
    app.tasks[task].delay("x")
    assert headers_in_queue(installation)[h.ON_LOST] == "dead"
    built = json.loads(message_of(app, task, ["x"], {}, run_id="r1", day="2026-11-22").payload)
    assert built["headers"][h.ON_LOST] == "dead"
    assert h.ON_LOST not in json.loads(message_of(app, "test.usual", ["x"], {}, run_id="r2", day="2026-11-22").payload)


@pytest.mark.proof
@pytest.mark.parametrize(
    ("sender", "pool"),
    [("ours", "prefork"), ("stranger", "prefork"), ("stock", "prefork"), ("ours", "threads"),
     pytest.param("ours", "gevent", marks=only_with_gevent)],
)  # fmt: skip
def test_a_lost_run_is_parked_and_not_repeated(
    installation: Installation, app: Any, worker: StartWorker, recorder: StartProcess, tmp_path: Path, sender: str,
    pool: str,
) -> None:  # fmt: skip
    recorder()
    victim = worker("default", pool=pool, env=ENV)
    if sender == "ours":
        sent = app.tasks["test.parked"].delay(str(tmp_path)).id
    elif sender == "stranger":
        with open_app(installation.settings.replaced(task_modules=())) as stranger:
            stranger.tasks.pop("test.parked")  # this process has imported it
            sent = stranger.send_task("test.parked", [str(tmp_path)], queue="default").id
    else:
        sent = _stock(installation, str(tmp_path))
    wait_until(lambda: state_of(installation, sent) is RunState.RUNNING)
    assert installation.redis.hexists(installation.keys.run(sent), PARKS) is (sender == "stranger")
    victim.kill()
    worker("default", env=ENV)
    wait_until(lambda: state_of(installation, sent) is RunState.DEAD, timeout_s=20)
    with installation.engine.connect() as conn:
        run = find_run(conn, sent)
    assert run.attempt == 1
    assert run.reason is not None
    assert "its worker stopped renewing its lease" in run.reason
    assert 'on_lost="dead"' in run.reason
    assert (tmp_path / "begun").read_text() == f"{sent} 1\n"
    assert installation.redis.zcard(installation.keys.leases) == 0


def _stock(installation: Installation, folder: str) -> str:
    from celery import Celery

    stock = Celery("stock", broker=installation.settings.redis_url, set_as_current=False)
    stock.conf.broker_transport_options = {"global_keyprefix": installation.settings.key_prefix}
    sent = stock.send_task("test.parked", [folder], queue="default", routing_key="default", exchange="").id
    close(stock)
    return str(sent)


@pytest.mark.parametrize("pool", ["threads", "prefork"])
def test_a_run_that_takes_its_process_along_at_once_has_begun(
    installation: Installation, app: Any, worker: StartWorker, recorder: StartProcess, tmp_path: Path, pool: str
) -> None:
    recorder()
    worker("default", pool=pool, env=ENV)
    sent = app.tasks["test.parked_dies"].delay(str(tmp_path)).id
    wait_until(lambda: state_of(installation, sent) is RunState.DEAD, timeout_s=20)
    assert (tmp_path / "begun").read_text() == f"{sent} 1\n"


@pytest.mark.proof
def test_a_run_that_is_stopped_while_it_runs_is_parked_and_one_that_waits_goes_back(
    installation: Installation, app: Any, worker: StartWorker, recorder: StartProcess, tmp_path: Path
) -> None:
    recorder()
    stopping = worker("default", arguments=("--prefetch-multiplier", "2"), env=ENV)
    begun = app.tasks["test.parked"].delay(str(tmp_path)).id
    wait_until(lambda: state_of(installation, begun) is RunState.RUNNING)
    waits = app.tasks["test.parked"].delay(str(tmp_path)).id
    wait_until(lambda: installation.redis.zcard(installation.keys.leases) == 2)
    stopping.send(signal.SIGQUIT)
    stopping.wait(20)
    wait_until(lambda: state_of(installation, begun) is RunState.DEAD, timeout_s=20)

    (tmp_path / "go").touch()
    worker("default", env=ENV)
    wait_until(lambda: state_of(installation, waits) is RunState.SUCCEEDED, timeout_s=20)
    assert (tmp_path / "begun").read_text().count(waits) == 1
