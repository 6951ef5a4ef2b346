"""Who sends a task is answered within three seconds, whatever Redis does: frozen, full, absent, or new at the old place."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from kombu.exceptions import OperationalError

from beatline.clock import monotonic_s
from beatline.embedded.ports import free_port
from beatline.engine.hurry import NoAnswerError, hurried, left_s
from beatline.engine.sending import NotSentError
from beatline.errors import ServiceError
from beatline.installation import connect_redis
from support.apps import open_app
from support.callers import longest_held_s
from support.servers import Server, frozen

if TYPE_CHECKING:
    from beatline.settings import Settings
    from support.serving import MakeSettings

BOUND_S = 3.0


@pytest.fixture
def settings(make_settings: MakeSettings, own_redis: Server) -> Settings:
    return make_settings(redis_url=own_redis.url, result_url=own_redis.url, task_modules=("support.run_tasks",))


@contextmanager
def within(seconds: float) -> Generator[None]:
    began = monotonic_s()
    yield
    assert monotonic_s() - began < seconds


def test_a_frozen_redis_holds_a_caller_for_three_seconds_at_the_longest(app: Any, own_redis: Server) -> None:
    app.tasks["test.raises"].delay(1)  # over connections that are open already, and with a result that is kept
    with frozen(own_redis.url), within(BOUND_S), pytest.raises(NotSentError, match="nobody can tell") as caught:
        app.tasks["test.raises"].apply_async((2,), task_id="asked-for")
    assert "asked-for" in str(caught.value)
    assert isinstance(caught.value, ServiceError)
    assert isinstance(caught.value, OperationalError), "what code that was written for Celery catches"
    assert app.tasks["test.raises"].delay(3).id, "the app goes on once Redis does"


def test_more_callers_than_connections_are_held_no_longer(app: Any, own_redis: Server) -> None:
    app.tasks["test.raises"].delay(1)
    assert longest_held_s(app, own_redis.url, lambda: app.tasks["test.raises"].delay(1)) < BOUND_S


def test_a_full_redis_takes_nothing_and_says_so(app: Any, settings: Settings, own_redis: Server) -> None:
    with connect_redis(own_redis.url) as client:
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", "1")
        with within(BOUND_S), pytest.raises(NotSentError, match=r"no memory left.*'test.raises'"):
            app.tasks["test.raises"].delay(1)
        client.config_set("maxmemory", "0")
        assert not client.exists(settings.keys.events, settings.keys.queue("default"))
    assert app.tasks["test.raises"].delay(1).id


def test_a_redis_that_is_not_there_is_told_as_such(make_settings: MakeSettings) -> None:
    nobody = f"redis://127.0.0.1:{free_port()}/0"
    with open_app(make_settings(redis_url=nobody, result_url=nobody, task_modules=("support.run_tasks",))) as app:
        for name in ("test.raises", "test.known_only_by_name"):
            with within(BOUND_S), pytest.raises(NotSentError, match="BEATLINE_REDIS_URL"):
                app.send_task(name, (1,))


def test_a_restarted_redis_costs_a_caller_nothing(app: Any, own_redis: Server) -> None:
    first = app.tasks["test.raises"].delay(1)
    own_redis.stop()
    own_redis.start()
    second = app.tasks["test.raises"].delay(2)
    assert first.id != second.id


def test_the_deadline_holds_only_for_who_is_in_a_hurry(own_redis: Server) -> None:
    with connect_redis(own_redis.url) as client:
        with hurried(0.3), hurried(60):
            assert client.ping()
            assert (left_s() or 0) <= 0.3
        [connection] = client.connection_pool._available_connections
        assert left_s() is None
        assert client.ping()
        assert connection._sock.gettimeout() == 5.0, "the same connection is patient again"
        with frozen(own_redis.url), within(1.0), hurried(0.3), pytest.raises(NoAnswerError):
            client.ping()
        assert client.ping()
