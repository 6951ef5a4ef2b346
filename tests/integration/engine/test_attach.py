"""An existing Celery project becomes a Beatline one with one call, and no task of it is moved."""

from __future__ import annotations

import json
import sys
import textwrap
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from beatline.app import attach
from beatline.errors import AttachError
from beatline.installation import Installation
from beatline.ledger.events import FIELD
from support.processes import Spawn
from support.serving import MakeSettings
from support.waiting import wait_until

PROJECT = {
    "shop/__init__.py": "",
    "shop/app.py": """
        from celery import Celery
        import beatline

        app = Celery("shop", include=["shop.orders"])
        app.conf.update(
            task_routes={"shop.orders.invoice": {"queue": "invoices"}},
            beat_schedule={"tidy-up": {"task": "shop.tidy", "schedule": 1.0}},
            worker_prefetch_multiplier=3,
        )

        @app.task(name="shop.tidy")
        def tidy():
            return "tidied"

        beatline.attach(app)
    """,
    "shop/orders.py": """
        from celery import shared_task
        from shop.app import app

        @shared_task
        def invoice(number):
            return f"invoice {number}"

        @app.task(autoretry_for=(ValueError,), max_retries=2, retry_backoff=False, default_retry_delay=0)
        def charge(number):
            raise ValueError("declined")
    """,
}


@pytest.fixture
def settings(make_settings: MakeSettings) -> Any:
    return make_settings(queues=("invoices",))


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    for name, text in PROJECT.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(textwrap.dedent(text))
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] == "shop"]:
        del sys.modules[name]


def ends(installation: Installation) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    # An event may be told twice, which is once.
    for said in dict.fromkeys(entry[FIELD] for _, entry in installation.redis.xrange(installation.keys.events)):
        event = json.loads(said)
        if "began" in event and found[event["task"]][-1:] != ["started"]:  # a short attempt's start comes with its end
            found[event["task"]].append("started")
        found[event["task"]].append(event["kind"])
    return found


def test_a_foreign_project_runs_with_its_own_commands(project: Path, installation: Installation, spawn: Spawn) -> None:
    worker = spawn("celery", "-A", "shop.app", "worker", "-Q", "default,invoices", "-c", "1", "-n", "w@%h",
                   "--loglevel", "INFO", cwd=project)  # fmt: skip
    worker.wait_for(r"\bready\b")
    send = """
        from shop.orders import invoice, charge
        charge.delay(7)
        print(invoice.delay(7).get(timeout=20))
    """
    (project / "send.py").write_text(textwrap.dedent(send))
    sender = spawn("send", cwd=project)
    assert sender.wait(30) == 0
    assert "invoice 7" in sender.output()

    wait_until(lambda: "dead" in ends(installation)["shop.orders.charge"], 20)
    assert ends(installation)["shop.orders.charge"].count("retried") == 2
    assert ends(installation)["shop.orders.invoice"] == ["accepted", "started", "succeeded"]


def test_what_the_project_configured_is_kept(settings: Any) -> None:
    app = Celery("kept", set_as_current=False)
    app.conf.worker_prefetch_multiplier = 3
    app.conf.task_routes = {"x.*": {"queue": "invoices"}}
    conf: Any = attach(app, settings).conf
    assert conf.worker_prefetch_multiplier == 3
    assert conf.task_routes[0] == {"x.*": {"queue": "invoices"}}
    assert conf.broker_url == settings.redis_url
    assert conf.task_acks_late is True


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("task_serializer", "pickle", "task_serializer = 'pickle'.*need 'json'"),
        ("accept_content", ["json", "pickle"], "accept_content"),
        ("task_acks_late", False, "task_acks_late = False"),
        ("timezone", "Asia/Shanghai", "timezone = 'Asia/Shanghai'"),
        ("broker_url", "amqp://elsewhere", "broker_url.*BEATLINE_REDIS_URL"),
        ("task_default_queue", "mine", "task_default_queue"),
    ],
)
def test_what_contradicts_a_guarantee_is_refused_by_name(settings: Any, name: str, value: object, says: str) -> None:
    app = Celery("refused", set_as_current=False)
    app.conf[name] = value
    with pytest.raises(AttachError, match=says):
        attach(app, settings)


def test_everything_refused_is_named_at_once(settings: Any) -> None:
    app = Celery("refused", set_as_current=False)
    app.conf.update(task_serializer="pickle", enable_utc=False)
    with pytest.raises(AttachError, match=r"(?s)task_serializer.*enable_utc"):
        attach(app, settings)
