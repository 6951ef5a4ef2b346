"""The process: health, servers that go away, an ordered end, and where it may listen."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from sqlalchemy import text

from beatline.embedded.ports import free_port
from beatline.installation import Installation
from beatline.ledger.database import open_engine, upgrade
from beatline.settings import Settings
from support.ledger import accepted, tell
from support.problems import said
from support.processes import Spawn, Spawned, StartWorker
from support.servers import Server
from support.waiting import wait_until

PATH: Final = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])


def test_workers_and_queues_are_shown(client: httpx.Client, installation: Installation, worker: StartWorker) -> None:
    worker("collect", pool="threads", concurrency=2, env={"PYTHONPATH": PATH})
    tell(installation, [accepted("one")])
    [shown] = client.get("workers").json()["items"]
    assert (shown["queues"], shown["pool"], shown["slots"], shown["answers"]) == (["collect"], "threads", 2, True)
    told: dict[str, Any] = client.get("queues").json()
    queues = {line["queue"]: line for line in told["queues"]}
    assert (queues["collect"]["workers"], queues["collect"]["slots"], queues["etl"]["workers"]) == (1, 2, 0)
    assert told["ledger"]["events"] >= 1
    assert told["unacknowledged"] == 0


def test_it_ends_in_order_and_at_once(api: Spawned, anyone: httpx.Client) -> None:
    assert anyone.get("/healthz").json() == {"status": "ok"}
    assert api.stop(5) == 0
    assert "Traceback" not in api.output()


def test_a_request_that_has_begun_comes_to_its_end(api: Spawned, client: httpx.Client) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as one:
        asked = one.submit(client.get, "workers")  # takes a second: it listens for answers
        wait_until(lambda: not asked.done() and _established(api), what="the request is on its way")
        api.send(signal.SIGTERM)
        assert asked.result(10).status_code == 200
    assert api.wait(5) == 0


def _established(api: Spawned) -> bool:
    import psutil

    return any(one.status == psutil.CONN_ESTABLISHED for one in psutil.Process(api.pid).net_connections())


@pytest.mark.proof
def test_connections_that_ask_for_nothing_keep_nobody_out_for_long(
    settings: Settings, api: Spawned, anyone: httpx.Client
) -> None:
    silent = [socket.create_connection(("127.0.0.1", settings.api_port)) for _ in range(200)]
    wait_until(lambda: anyone.get("/healthz").status_code == 503, what="the server takes no more")
    wait_until(lambda: anyone.get("/healthz").status_code == 200, 20, what="those who are silent are sent away")
    for one in silent:
        one.close()
    assert "Traceback" not in api.output()


def test_a_taken_port_is_one_sentence(settings: Settings, spawn: Spawn) -> None:
    with socket.create_server(("127.0.0.1", settings.api_port)):
        spawned = spawn("beatline.cli", "api")
        assert spawned.wait(20) == 1
    [line] = spawned.output().splitlines()
    assert f"cannot listen on 127.0.0.1:{settings.api_port}" in line
    assert "BEATLINE_API_PORT" in line


def test_it_does_not_listen_beyond_loopback_unless_told(spawn: Spawn) -> None:
    spawned = spawn("beatline.cli", "api", "--host", "0.0.0.0")  # noqa: S104  # refused
    assert spawned.wait(20) == 1
    [line] = spawned.output().splitlines()
    assert "0.0.0.0 can be reached from other machines" in line
    assert "BEATLINE_API_EXPOSED=true" in line


def test_told_so_it_listens_everywhere(settings: Settings, spawn: Spawn) -> None:
    spawned = spawn("beatline.cli", "api", env={"BEATLINE_API_HOST": "0.0.0.0", "BEATLINE_API_EXPOSED": "true"})  # noqa: S104  # asked for
    spawned.wait_for("Started server process")
    assert httpx.get(f"http://127.0.0.1:{settings.api_port}/healthz").status_code == 200


def test_readiness_names_the_server_that_is_away(
    own_redis: Server, own_postgres: Server, make_settings: Any, spawn: Spawn
) -> None:
    settings = make_settings(redis_url=own_redis.url, result_url=own_redis.url, database_url=own_postgres.url,
                             api_port=free_port())  # fmt: skip
    spawn("beatline.cli", "api", settings=settings).wait_for("Started server process")
    token = {"Authorization": "Bearer beatline_00000000_x"}
    with httpx.Client(base_url=f"http://127.0.0.1:{settings.api_port}", timeout=20) as client:
        told = said(client.get("/readyz"), 503)
        assert told["checks"]["redis"] == "ok"
        assert "run `beatline db upgrade`" in told["checks"]["postgres"]
        assert "`beatline db upgrade`" in said(client.get("/admin/celery/tasks", headers=token), 503)["detail"]
        upgrade(settings)
        assert client.get("/readyz").json() == {"status": "ready"}
        with open_engine(settings).begin() as conn:
            conn.execute(text("UPDATE beatline.alembic_version SET version_num = '9999'"))
        assert "newer" in said(client.get("/readyz"), 503)["checks"]["postgres"]
        open_engine(settings).dispose()

        own_redis.kill()
        assert said(client.get("/readyz"), 503)["checks"]["redis"] == "Redis does not answer."
        own_postgres.kill()
        told = said(client.get("/readyz"), 503)
        assert told["detail"] == "Redis does not answer. PostgreSQL does not answer."
        refused = client.get("/admin/celery/tasks", headers=token)
        assert "PostgreSQL does not answer" in said(refused, 503)["detail"]
        assert refused.headers["Retry-After"] == "5"
        assert "127.0.0.1" not in refused.text + str(told)
        assert client.get("/healthz").status_code == 200
