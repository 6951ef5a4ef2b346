"""`celery -A beatline beat` as real processes: killed, frozen, and two of them."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

import pytest

from beatline.schedules import occurrences
from support import run_tasks
from support.beats import BeatView
from support.processes import Spawned, StartProcess, StartWorker
from support.serving import MakeSettings
from support.waiting import wait_until

ENV = {"PYTHONPATH": str(Path(run_tasks.__file__).parents[1])}
LOCK_S = 5.0

pytestmark = pytest.mark.proof


@pytest.fixture
def settings(make_settings: MakeSettings) -> Any:
    return make_settings(task_modules=("support.run_tasks",), beat_lock_s=LOCK_S)


@pytest.fixture
def start(beat: StartProcess) -> Any:
    """Starts a Beat, and waits until it leads if `leads`."""

    def started(*, leads: bool = True, **env: str) -> Spawned:
        process = beat(env=ENV | env)
        if leads:
            process.wait_for("beat: leading")
        return process

    return started


def assert_all_fired_once(view: BeatView, name: str) -> list[str]:
    """Every slot has one outcome and every fired run one row and at least one message; the runs."""
    view.assert_accounted(name)
    fired = view.fired(name)
    assert len(set(fired)) == len(fired)
    assert set(fired) == {run["id"] for run in view.runs() if run["schedule"] == name}
    return fired


def test_what_is_added_is_in_force_within_a_second_and_a_stop_hands_over(view: BeatView, start: Any) -> None:
    first = start()
    added = view.add("often", every="200ms")
    wait_until(lambda: view.fired("often"))
    assert (view.outcomes("often")[0]["decided_at"] - added.created_at).total_seconds() < 2

    first.stop()
    assert view.leader() is None
    assert "Traceback" not in first.output()
    second = start()
    seen = len(view.fired("often"))
    wait_until(lambda: len(view.fired("often")) > seen)
    second.stop()
    assert set(view.sent()) == set(assert_all_fired_once(view, "often"))


def test_a_standby_takes_over_from_a_killed_leader_within_the_lock(view: BeatView, start: Any) -> None:
    leader = start()
    standby = start(leads=False)
    view.add("often", every="200ms")
    wait_until(lambda: len(view.fired("often")) > 3)
    leader.kill()
    killed = time.monotonic()
    standby.wait_for("beat: leading")
    assert time.monotonic() - killed < LOCK_S + 3

    seen = len(view.fired("often"))
    wait_until(lambda: len(view.fired("often")) > seen + 2)
    standby.stop()
    assert_all_fired_once(view, "often")
    assert any(outcome == "coalesced" for outcome, _ in view.kinds("often"))


def test_a_leader_frozen_longer_than_its_lock_steps_down_and_doubles_nothing(view: BeatView, start: Any) -> None:
    frozen = start()
    standby = start(leads=False)
    view.add("often", every="200ms")
    wait_until(lambda: len(view.fired("often")) > 3)
    frozen.send(signal.SIGSTOP)
    standby.wait_for("beat: leading")
    seen = len(view.fired("often"))
    wait_until(lambda: len(view.fired("often")) > seen + 2)
    frozen.send(signal.SIGCONT)
    frozen.wait_for("beat: stepped down")

    seen = len(view.fired("often"))
    wait_until(lambda: len(view.fired("often")) > seen + 2)
    assert frozen.exit_code is None
    frozen.stop()
    standby.stop()
    fired = assert_all_fired_once(view, "often")
    assert len(view.sent()) == len(set(view.sent()))
    assert set(view.sent()) == set(fired)


def test_beats_that_die_between_two_steps_lose_and_double_nothing(
    view: BeatView, start: Any, recorder: StartProcess
) -> None:
    # Given Beats that die at their second page, each between two other steps, and one that comes after them
    view.add("often", every="300ms")
    unsent: dict[str, set[str]] = {}
    for place in ("beat.before_rows", "beat.after_rows", "beat.after_publish"):
        dying = start(leads=False, BEATLINE_TEST_FAILPOINT=f"{place}:2")
        assert dying.wait(20) == -signal.SIGKILL
        unsent[place] = set(view.fired("often")) - set(view.sent())
        view.redis.delete(f"{view.prefix}:lock")  # instead of waiting for its end
    last = start()
    seen = len(view.fired("often"))
    wait_until(lambda: len(view.fired("often")) > seen + 1)
    last.stop()

    # Then every slot has one outcome, and what was fired and not queued is queued by the recorder
    fired = set(assert_all_fired_once(view, "often"))
    assert [len(runs) for runs in unsent.values()] == [0, 1, 1]
    assert fired - set(view.sent()) == unsent["beat.after_rows"]
    recorder(env=ENV | {"BEATLINE_LEASE_S": "3", "BEATLINE_LEASE_RENEW_S": "1"})  # it looks on for a lease first
    wait_until(lambda: set(view.sent()) == fired, 20)
    assert len(view.sent()) == len(fired)


def test_what_beat_fires_is_run_by_a_worker_and_stands_in_the_history(
    view: BeatView, start: Any, worker: StartWorker, recorder: StartProcess
) -> None:
    worker("default", pool="solo", env=ENV)
    recorder(env=ENV)
    start()
    view.add("often", "test.whoami", every="1s", priority=9)
    ended = wait_until(lambda: [run for run in view.runs() if run["state"] == "succeeded"], 20)
    assert ended[0]["id"] in view.fired("often")
    assert (ended[0]["schedule"], ended[0]["attempt"], ended[0]["queue"]) == ("often", 1, "default")
    assert ended[0]["accepted_at"] <= ended[0]["started_at"] <= ended[0]["ended_at"]
    with view.installation.engine.connect() as conn:
        newest = occurrences.latest(conn, view.get("often").id, 50)
    assert "succeeded" in [row["run_state"] for row in newest]
