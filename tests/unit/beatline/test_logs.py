"""One JSON object a line, each line of a run names it, and no line shows a password."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from beatline.logs import RUN_FIELDS, bind_run, clear_run, configure, get_logger
from beatline.settings import Settings


@pytest.fixture(autouse=True)
def own_logging() -> Iterator[None]:
    """Leave the process's logging as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    clear_run()
    for handler in root.handlers:
        if handler not in handlers:
            handler.close()
    root.handlers[:] = handlers
    root.setLevel(level)


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_a_line_is_one_json_object_with_its_fields(capsys: pytest.CaptureFixture[str]) -> None:
    configure(Settings())
    get_logger("beatline.test").info("drained %s", "fully", batch=3, name="a", args=[1], pct="5%", text="two\nlines")
    [line] = lines(capsys)
    assert str(line.pop("timestamp")).endswith("Z")
    assert line == {
        "event": "drained fully",
        "level": "info",
        "logger": "beatline.test",
        "batch": 3,
        "name": "a",
        "args": [1],
        "pct": "5%",
        "text": "two\nlines",
    }


def test_every_line_of_a_run_names_it_libraries_included(capsys: pytest.CaptureFixture[str]) -> None:
    configure(Settings())
    outer = bind_run(run_id="r1", task="collect.execute_task", queue="collect", attempt=1, schedule="nightly")
    inner = bind_run(run_id="r2", task="x.y", queue="etl", attempt=2)
    get_logger("beatline.test").info("inner")
    clear_run(inner)
    logging.getLogger("celery.worker").warning("outer")
    elsewhere = threading.Thread(target=logging.getLogger("kombu").info, args=("another thread",))
    elsewhere.start()
    elsewhere.join()
    clear_run(outer)
    get_logger("beatline.test").info("after")
    found = {str(line["event"]): tuple(line.get(name) for name in RUN_FIELDS) for line in lines(capsys)}
    nobody = (None,) * 5
    assert found == {
        "inner": ("r2", "x.y", None, "etl", 2),
        "outer": ("r1", "collect.execute_task", "nightly", "collect", 1),
        "another thread": nobody,
        "after": nobody,
    }


def test_clearing_without_tokens_ends_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    configure(Settings())
    bind_run(run_id="r1", task="t", queue="q", attempt=1)
    clear_run()
    get_logger("beatline.test").info("after")
    [line] = lines(capsys)
    assert set(RUN_FIELDS).isdisjoint(line)


def test_no_line_shows_a_password(capsys: pytest.CaptureFixture[str]) -> None:
    url = "redis://user:hush@h:1/0"
    for log_format in ("json", "console"):
        configure(Settings(log_format=log_format))
        log = get_logger("beatline.test")
        log.info("connecting", url=url, password="hush", nested={"token": "hush"})
        logging.getLogger("kombu").error("cannot connect to %s", url)
        try:
            secret_local = url
            raise ValueError(f"no route to {secret_local}")
        except ValueError:
            log.exception("failed")
            logging.getLogger("redis").exception("failed")
        text = capsys.readouterr().err
        assert "hush" not in text
        assert text.count("no route to redis://user:***@h:1/0") >= 2
        assert "Traceback" in text


def test_lines_for_people_are_readable(capsys: pytest.CaptureFixture[str]) -> None:
    configure(Settings(log_format="console"))
    get_logger("beatline.test").warning("lease lost", fence=7)
    text = capsys.readouterr().err
    assert "warning" in text
    assert "lease lost" in text
    assert "fence=7" in text
    assert "{" not in text


def test_configuring_again_replaces_only_what_was_configured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Foreign(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            heard.append(record.getMessage())

    heard: list[str] = []
    root = logging.getLogger()
    root.addHandler(Foreign())
    configure(Settings())
    configure(Settings(), level="WARNING", file=str(tmp_path / "worker.log"))
    log = get_logger("beatline.test")
    log.info("too small")
    log.warning("kept", fence=7, token="hush")
    assert capsys.readouterr().err == ""
    [line] = (tmp_path / "worker.log").read_text().splitlines()
    assert json.loads(line)["fence"] == 7
    assert heard == ["kept fence=7 token='***'"]


def test_the_level_of_the_settings_holds(capsys: pytest.CaptureFixture[str]) -> None:
    configure(Settings(log_level="ERROR"))
    get_logger("beatline.test").warning("no")
    get_logger("beatline.test").error("yes")
    assert [line["event"] for line in lines(capsys)] == ["yes"]
