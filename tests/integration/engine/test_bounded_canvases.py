"""Who sends a chord, a chain or a group is answered within three seconds, too, and told how much of it stands."""

from __future__ import annotations

import gc
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import pytest
from celery import chain, chord, group
from celery.signals import before_task_publish

from beatline.client import accepting
from beatline.clock import monotonic_s
from beatline.embedded.ports import free_port
from beatline.engine.sending import NotSentError
from beatline.installation import Installation
from support.apps import open_app
from support.callers import longest_held_s
from support.ledger import rows, waiting
from support.servers import Server, freezer, frozen

if TYPE_CHECKING:
    from beatline.settings import Settings
    from support.serving import MakeSettings

BOUND_S: Final = 3.0

CANVASES: Final[dict[str, Callable[[Any], Any]]] = {
    "chord": lambda add: chord([add.s(1, 1), add.s(2, 2)], add.s(1)),
    "chord of a generator": lambda add: chord((add.s(n, n) for n in range(2)), add.s(1)),
    "chain": lambda add: chain(add.s(1, 1), add.s(2)),
    "chain of a group and a task": lambda add: group(add.s(1, 1), add.s(2, 2)) | add.s(1),
    "group": lambda add: group(add.s(n, n) for n in range(5)),
    "group with a chord": lambda add: group(add.s(1, 1), chord([add.s(1, 1), add.s(2, 2)], add.s(1))),
    "chord with nested groups": lambda add: chord(
        [group(add.s(1, 1), add.s(2, 2)), chain(add.s(1, 1), group(add.s(1), add.s(2)))], group(add.s(1), add.s(2))
    ),
    "chunks": lambda add: add.chunks([(1, 1), (2, 2), (3, 3)], 1),
}


@pytest.fixture(autouse=True)
def nobody_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accepting, "_away_until", {})


def on(make_settings: MakeSettings, url: str, **more: Any) -> Settings:
    return make_settings(**{"redis_url": url, "result_url": url, "task_modules": ("support.run_tasks",)} | more)


def held(call: Callable[[], Any]) -> tuple[float, str]:
    """How long a caller is held, until all that its call left behind is gone; and what it was told."""
    said = ""
    gc.collect()
    gc.freeze()  # what is there already takes no time
    began = monotonic_s()
    try:
        call()
    except NotSentError as exc:
        said = str(exc)
    gc.collect()
    took_s = monotonic_s() - began
    gc.unfreeze()
    return took_s, said


@contextmanager
def at_part(number: int, act: Callable[[], None]) -> Generator[None]:
    """Acts when that part is about to be given to Redis."""
    seen: list[Any] = []

    def look(**about: Any) -> None:
        seen.append(about)
        if len(seen) == number:
            act()

    before_task_publish.connect(look, weak=False)
    try:
        yield
    finally:
        before_task_publish.disconnect(look)


def standing(installation: Installation) -> list[str]:
    with installation.engine.connect() as conn:
        return sorted(row["id"] for row in rows(conn, "runs"))


@pytest.mark.parametrize("warm", [True, False], ids=["warm", "cold"])
@pytest.mark.parametrize("name", CANVASES)
def test_a_frozen_redis_holds_nobody(make_settings: MakeSettings, own_redis: Server, name: str, warm: bool) -> None:
    with open_app(on(make_settings, own_redis.url)) as app:
        canvas = CANVASES[name](app.tasks["test.add"])
        if warm:  # over connections that are open already
            CANVASES[name](app.tasks["test.add"]).apply_async()
        with frozen(own_redis.url):
            took_s, said = held(canvas.apply_async)
        assert "Redis does not answer" in said
        assert took_s < BOUND_S


@pytest.mark.parametrize("name", CANVASES)
def test_an_absent_redis_holds_nobody(make_settings: MakeSettings, name: str) -> None:
    with open_app(on(make_settings, f"redis://127.0.0.1:{free_port()}/0")) as app:
        took_s, said = held(CANVASES[name](app.tasks["test.add"]).apply_async)
    assert "_URL" in said
    assert took_s < BOUND_S


def test_who_sent_a_part_of_a_group_is_told_which(make_settings: MakeSettings, own_redis: Server) -> None:
    settings = on(make_settings, own_redis.url)
    with open_app(settings) as app:
        parts = group(app.tasks["test.add"].s(n, n).set(task_id=f"part-{n}") for n in range(5))
        with freezer(own_redis.url) as freeze, at_part(3, freeze):
            took_s, said = held(parts.apply_async)
        assert took_s < BOUND_S
        assert "If so, its run is part-2" in said
        assert "Sent before it in the same call, and not taken back: part-0, part-1." in said
        app.tasks["test.add"].apply_async((1, 1), task_id="next")  # of no call but its own
        with frozen(own_redis.url), pytest.raises(NotSentError) as caught:
            app.tasks["test.add"].delay(1, 1)
        assert "before" not in str(caught.value).replace("before you send it again", "")


def test_more_groups_than_producers_are_held_no_longer(make_settings: MakeSettings, own_redis: Server) -> None:
    with open_app(on(make_settings, own_redis.url)) as app:
        parts = CANVASES["group"](app.tasks["test.add"])
        parts.apply_async()
        assert longest_held_s(app, own_redis.url, parts.apply_async) < BOUND_S


def test_results_that_are_frozen_alone_keep_a_chord_from_being_sent(
    make_settings: MakeSettings, installation: Installation, own_redis: Server
) -> None:
    settings = make_settings(result_url=own_redis.url, task_modules=("support.run_tasks",))
    with open_app(settings) as app, frozen(own_redis.url):
        for name in ("chord", "chord with nested groups"):
            took_s, said = held(CANVASES[name](app.tasks["test.add"]).apply_async)
            assert took_s < BOUND_S
            assert "was not sent, none of its parts was. Start the Redis of results" in said
        assert waiting(installation) == []
        took_s, said = held(CANVASES["group"](app.tasks["test.add"]).apply_async)
        assert (took_s < 1.0, said) == (True, "")
        assert len(waiting(installation)) == 5


def test_a_chord_that_cannot_count_what_was_sent_is_named_with_it(
    make_settings: MakeSettings, own_redis: Server
) -> None:
    """The parts of a generator are counted when Redis has all but the last of them."""
    with open_app(make_settings(result_url=own_redis.url, task_modules=("support.run_tasks",))) as app:
        add = app.tasks["test.add"]
        canvas = chord((add.s(n, n).set(task_id=f"part-{n}") for n in range(3)), add.s(1))
        with freezer(own_redis.url) as freeze, at_part(2, freeze):
            took_s, said = held(canvas.apply_async)
    assert took_s < BOUND_S
    assert "was sent without its last part, and will not end" in said
    assert "not taken back: part-0, part-1." in said


@pytest.mark.parametrize("absent", [False, True], ids=["frozen", "absent"])
def test_rows_accept_a_group_and_nothing_of_a_chord_that_cannot_count(
    make_settings: MakeSettings, installation: Installation, own_redis: Server, absent: bool
) -> None:
    url = f"redis://127.0.0.1:{free_port()}/0" if absent else own_redis.url
    with open_app(on(make_settings, url, accept="postgres")) as app, frozen(own_redis.url):
        add = app.tasks["test.add"]
        for name in ("chord", "chord of a generator", "chain of a group and a task", "chord with nested groups"):
            took_s, said = held(CANVASES[name](add).apply_async)
            assert took_s < BOUND_S
            assert "was not sent, none of its parts was." in said
            assert standing(installation) == []
        took_s, said = held(group(add.s(n, n).set(task_id=f"part-{n}") for n in range(5)).apply_async)
        assert (took_s < BOUND_S, said) == (True, "")
        assert standing(installation) == [f"part-{n}" for n in range(5)]
        mixed = group(add.s(1, 1).set(task_id="first"), CANVASES["chord"](add))
        accepting._away_until.clear()  # pyright: ignore[reportPrivateUsage]  # as one who is the first to find out
        took_s, said = held(mixed.apply_async)
        assert took_s < BOUND_S
        assert "Sent before it in the same call, and not taken back: first." in said
        assert standing(installation) == ["first", *(f"part-{n}" for n in range(5))]


@pytest.mark.parametrize("name", ["chord", "chord of a generator", "chord with nested groups"])
def test_rows_accept_a_chord_whole_whatever_comes_after_its_first_part(
    make_settings: MakeSettings, installation: Installation, own_redis: Server, name: str
) -> None:
    with open_app(on(make_settings, own_redis.url, accept="postgres")) as app:
        canvas = CANVASES[name](app.tasks["test.add"])
        with freezer(own_redis.url) as freeze, at_part(1, freeze):
            took_s, said = held(canvas.apply_async)
        assert (took_s < BOUND_S, said) == (True, "")
    assert len(standing(installation)) == (3 if "nested" in name else 2)
