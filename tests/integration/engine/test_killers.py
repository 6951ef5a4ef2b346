"""Tasks that cost their process: three attempts, then dead with what killed them, and the neighbours do not notice."""

from __future__ import annotations

import re
import signal
from collections import Counter
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from billiard.exceptions import WorkerLostError
from celery import chord
from celery.exceptions import ChordError

from beatline.clock import monotonic_s
from beatline.engine.deaths import death_reason, largest_child_mb
from beatline.errors import RunDeadError
from beatline.ledger.history import attempts_of
from beatline.ledger.states import RunState
from support import ending_tasks as tasks
from support.ledger import run_of
from support.waiting import wait_until

if TYPE_CHECKING:
    from beatline.installation import Installation
    from support.processes import StartProcess, StartWorker
    from support.serving import MakeSettings

ENV = {"PYTHONPATH": str(Path(tasks.__file__).parents[1])}


@pytest.fixture
def settings(make_settings: MakeSettings) -> Any:
    return make_settings(task_modules=("support.ending_tasks",), lease_s=3.0, lease_renew_s=1.0)


def is_dead(installation: Installation, run_id: str) -> bool:
    return run_of(installation, run_id).state is RunState.DEAD


@pytest.mark.proof
def test_what_kills_its_process_is_dead_after_three_and_its_neighbours_end_meanwhile(
    app: Any, installation: Installation, worker: StartWorker, recorder: StartProcess, tmp_path: Path
) -> None:
    recorder()
    worker("default", concurrency=2, env=ENV)
    folder = str(tmp_path)
    errback = app.tasks["ends.note"].si(0, folder, "errback")
    killers = {
        "signal 11 (SIGSEGV)": app.tasks["ends.kill"].delay(folder, int(signal.SIGSEGV)),
        "signal 9 (SIGKILL)": app.tasks["ends.kill"].delay(folder, int(signal.SIGKILL), 200),
        "its hard time limit of 1 s": app.tasks["ends.overrun"].apply_async((folder,), link_error=errback),
    }
    neighbours = [app.tasks["ends.heard"].delay() for _ in range(30)]
    for neighbour in neighbours:
        neighbour.get(timeout=10)
    assert not any(is_dead(installation, run.id) for run in killers.values()), "they ended meanwhile"

    for reason, result in killers.items():
        wait_until(partial(is_dead, installation, result.id), 25)
        run = run_of(installation, result.id)
        assert run.attempt == 3
        assert re.match(rf"its worker died three times \(.*\); the last time: .*{re.escape(reason)}", run.reason or "")
        with pytest.raises(RunDeadError, match=re.escape(reason)):
            result.get(timeout=5)
        with installation.engine.connect() as conn:
            attempts = attempts_of(conn, result.id)
        assert [attempt.outcome for attempt in attempts] == ["lost", "lost", "dead"]
        assert all(reason in (attempt.reason or "") for attempt in attempts)
        if "SIGKILL" in reason:
            peak = re.search(r"(peak memory|at most) ([\d,]+) MB$", attempts[0].reason or "")
            assert peak is not None
            assert int(peak[2].replace(",", "")) >= 200
    assert Counter((tmp_path / "died").read_text().splitlines()) == {
        f"{how} {attempt}": 1 for how in ("11", "9", "limit") for attempt in (1, 2, 3)
    }
    lives = (tmp_path / "lives").read_text().splitlines()
    assert lives == sorted(lives), "no attempt begins before the one before it is gone"
    wait_until(lambda: (tmp_path / "notes").exists())
    assert (tmp_path / "notes").read_text() == "errback 0\n", "once, when the run was dead, and not for each attempt"


def took_s(app: Any, killers: str = "") -> float:
    """How long 100 runs of 20 ms take; where a folder for the `killers` is given, one of them goes before every 20."""
    since = monotonic_s()
    sent: list[Any] = []
    for number in range(100):
        if killers and number % 20 == 0:
            app.tasks["ends.kill"].delay(killers, int(signal.SIGKILL))
        sent.append(app.tasks["ends.takes"].delay(0.02))
    for one in sent:
        one.get(timeout=60)
    return monotonic_s() - since


@pytest.mark.proof
def test_neighbours_of_what_keeps_killing_its_process_keep_their_pace(
    app: Any, worker: StartWorker, recorder: StartProcess, tmp_path: Path
) -> None:
    """Both paces are of one worker. Alone it goes twice, for others may be busy on this machine."""
    recorder()
    worker("default", concurrency=2, env=ENV)
    alone_s = [took_s(app) for _ in range(2)]
    beside_s = took_s(app, str(tmp_path))
    died = len((tmp_path / "died").read_text().splitlines())
    print(f"{alone_s[0]:.2f} and {alone_s[1]:.2f} s alone, {beside_s:.2f} s beside {died} deaths")  # noqa: T201  # for -s
    assert died >= 5, "each of the killers has killed its process"
    assert beside_s <= 2.5 * max(alone_s)


@pytest.mark.proof
def test_a_chord_hears_of_its_dead_member(
    app: Any, installation: Installation, worker: StartWorker, recorder: StartProcess, tmp_path: Path
) -> None:
    recorder()
    worker("default", concurrency=2, env=ENV)
    folder = str(tmp_path)
    note, kill, total = (app.tasks[f"ends.{name}"] for name in ("note", "kill", "total"))
    body = total.s(folder, "total").on_error(note.si(0, folder, "errback"))
    result = chord([note.s(1, folder, "part"), kill.si(folder, int(signal.SIGKILL))], body).apply_async()
    with pytest.raises((ChordError, RunDeadError), match="is dead: its worker died three times"):
        result.get(timeout=25)  # who waits sees the body's failure, or the part's before it
    assert isinstance(wait_until(lambda: app.AsyncResult(result.id).result), ChordError)
    wait_until(lambda: sorted((tmp_path / "notes").read_text().splitlines()) == ["errback 0", "part 1"])


def test_only_a_peak_that_grew_is_called_the_process_s_own() -> None:
    lost = WorkerLostError("Worker exited prematurely: signal 9 (SIGKILL) Job: 3.")
    peak = largest_child_mb()
    assert death_reason(lost, peak) == f"its pool process died: signal 9 (SIGKILL), at most {peak:,} MB"
    assert death_reason(lost, peak - 1) == f"its pool process died: signal 9 (SIGKILL), peak memory {peak:,} MB"
