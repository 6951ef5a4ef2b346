"""Beatline in a FastAPI project: its own app served by uvicorn, with an attached Celery app and with none."""

from __future__ import annotations

import os
import socket
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from fastapi import FastAPI
from starlette.requests import Request

from beatline.api import tokens
from beatline.embedded.ports import free_port
from beatline.errors import BeatlineError
from beatline.fastapi import beatline
from beatline.installation import Installation
from beatline.settings import Settings
from support.beats import BeatView, body_of
from support.problems import said
from support.processes import Spawn, Spawned, StartProcess
from support.serving import MakeSettings

PROJECT: Final = {
    "shop/__init__.py": "",
    "shop/tasks.py": """
        from celery import Celery, shared_task
        import beatline

        @shared_task(name="shop.invoice")
        def invoice(number):
            return number

        celery = Celery("shop", set_as_current=False)
        beatline.attach(celery)
    """,
    "shop/web.py": """
        from contextlib import asynccontextmanager
        from typing import Annotated
        from fastapi import Depends, FastAPI, HTTPException
        from beatline import BeatlineError
        from beatline.api.app import create_api
        from beatline.errors import NotFoundError
        from beatline.fastapi import Beatline, beatline, lifespan
        from shop.tasks import celery, invoice

        Tasks = Annotated[Beatline, Depends(beatline)]

        @asynccontextmanager
        async def ours(app):
            async with lifespan(app, celery, wait_s=2):
                print("opened", flush=True)
                yield
            print("closed", flush=True)

        app = FastAPI(lifespan=ours)
        app.mount("/beatline", create_api(celery.conf["beatline"], celery))

        @app.post("/orders/{number}", status_code=202)
        async def order(number: int, tasks: Tasks):
            return {"run": await tasks.send(invoice, [number], priority=5)}

        @app.post("/plain/{number}", status_code=202)
        def plain(number: int, tasks: Tasks):
            try:
                return {"run": tasks.send_sync("shop.invoice", [number], queue="etl")}
            except BeatlineError as exc:
                raise HTTPException(503, str(exc))

        @app.post("/wrong", status_code=202)
        async def wrong(tasks: Tasks):
            try:
                await tasks.send("shop.invoice", [1], queue="nowhere")
            except BeatlineError as exc:
                raise HTTPException(422, str(exc))

        @app.get("/runs/{run_id}")
        async def state(run_id: str, tasks: Tasks):
            try:
                return {"state": (await tasks.run(run_id, patience_s=5 if len(run_id) > 20 else 0.2)).state}
            except NotFoundError as exc:
                raise HTTPException(404, str(exc))
    """,
    "alone/web.py": """
        from typing import Annotated
        from fastapi import Depends, FastAPI
        from beatline.fastapi import Beatline, beatline, lifespan

        app = FastAPI(lifespan=lifespan)

        @app.post("/go")
        async def go(tasks: Annotated[Beatline, Depends(beatline)]):
            return {"run": await tasks.send("elsewhere.work", kwargs={"a": "ü"}, queue="etl", task_id="mine")}
    """,
}
Serve = Any


@pytest.fixture
def settings(make_settings: MakeSettings) -> Settings:
    return make_settings()


@pytest.fixture
def view(installation: Installation) -> BeatView:
    return BeatView(installation)


@pytest.fixture
def serve(spawn: Spawn, tmp_path: Path) -> Iterator[Serve]:
    """Serve `module:app` of the project above; the process, and a client of it."""
    for name, text in PROJECT.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(textwrap.dedent(text))
    clients: list[httpx.Client] = []

    def start(app: str, settings: Settings | None = None) -> tuple[Spawned, httpx.Client]:
        port = free_port()
        path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
        spawned = spawn("uvicorn", app, "--port", str(port), env={"PYTHONPATH": path}, settings=settings)
        spawned.wait_for("Application startup complete")
        clients.append(httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20))
        return spawned, clients[-1]

    yield start
    for client in clients:
        client.close()


def test_an_attached_project_sends_and_looks_at_its_runs(
    serve: Serve, view: BeatView, recorder: StartProcess, installation: Installation
) -> None:
    recorder()
    spawned, client = serve("shop.web:app")
    first = client.post("/orders/17").json()["run"]
    assert client.get(f"/runs/{first}").json() == {"state": "queued"}
    second = client.post("/plain/18").json()["run"]
    [one], [two] = view.messages(), view.messages("etl")
    assert (one["headers"]["id"], body_of(one)[0], one["properties"]["priority"]) == (first, [17], 5)
    assert (two["headers"]["id"], body_of(two)[0]) == (second, [18])
    assert "no queue 'nowhere'" in client.post("/wrong").json()["detail"]
    assert "There is no run 'nothing'" in client.get("/runs/nothing").json()["detail"]
    assert "There is no run" in client.get(f"/runs/{first[:8]}").json()["detail"]  # an id is whole here

    assert said(client.get("/beatline/admin/celery/tasks"), 401)
    with installation.engine.begin() as conn:
        token = tokens.add(conn, "shop", who="test")[1]
    client.headers["Authorization"] = f"Bearer {token}"
    assert len(client.get("/beatline/admin/celery/tasks").json()["items"]) == 2
    made = client.post(
        "/beatline/admin/celery/schedules", json={"name": "n", "task": "shop.invoice", "every": "5m", "args": [1]}
    )
    assert made.headers["Location"] == "/beatline/admin/celery/schedules/n"
    assert client.get("/beatline/healthz").json() == {"status": "ok"}
    assert client.get("/beatline/readyz").json() == {"status": "ready"}
    assert "openapi.json" in client.get("/beatline/docs").text
    said(client.get("/beatline/nowhere"), 404)
    spawned.stop()
    assert spawned.output().count("opened") == spawned.output().count("closed") == 1


def test_a_project_without_celery_uses_beatlines_own_app(serve: Serve, view: BeatView) -> None:
    _, client = serve("alone.web:app")
    assert client.post("/go").json() == {"run": "mine"}
    [message] = view.messages("etl")
    assert (message["headers"]["task"], body_of(message)[1]) == ("elsewhere.work", {"a": "ü"})


def test_a_redis_that_is_silent_holds_a_request_no_longer_than_said(serve: Serve, make_settings: MakeSettings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections, and never says a word
        url = f"redis://127.0.0.1:{silent.getsockname()[1]}/0"
        spawned, client = serve("shop.web:app", make_settings(redis_url=url, result_url=url))
        began = time.monotonic()
        answer = client.post("/plain/1")
        assert answer.status_code == 503
        assert "within 2 s" in answer.json()["detail"]
        assert "may come to be all the same" in answer.json()["detail"]
        assert time.monotonic() - began < 4
        assert client.get("/beatline/healthz").status_code == 200
        spawned.kill()


def test_a_redis_that_is_away_is_said_at_once(serve: Serve, make_settings: MakeSettings) -> None:
    url = "redis://127.0.0.1:1/0"
    _, client = serve("shop.web:app", make_settings(redis_url=url, result_url=url))
    told = client.post("/plain/1")
    assert told.status_code == 503
    assert "Redis does not answer: the task 'shop.invoice' was not sent." in told.json()["detail"]


def test_without_the_lifespan_the_dependency_says_what_to_do() -> None:
    scope: dict[str, Any] = {"type": "http", "app": FastAPI(), "headers": []}
    with pytest.raises(BeatlineError, match=r"FastAPI\(lifespan="):
        beatline(Request(scope))
