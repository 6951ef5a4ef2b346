"""What `make chaos` reads back: the journal on the disk, the history it tells, and the plan that follows from a seed."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from chaos.history import read
from chaos.journal import Journal
from chaos.plan import Mix, delayed, load, pauses


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    journal = Journal(tmp_path / "journal")
    journal.make()
    return journal


def test_a_call_without_an_answer_is_unknown(journal: Journal) -> None:
    for key in ("a", "b"):
        journal.write("intent", key, how="delay", strict=False, after=None, due=None)
    journal.write("outcome", "b", outcome="ok")
    intents = read(journal.lines(), {}).intents
    assert {key: one.outcome for key, one in intents.items()} == {"a": "unknown", "b": "ok"}


def test_an_execution_is_told_by_its_lines(journal: Journal) -> None:
    journal.write("start", "a", execution="x", attempt=1, fence=7, pids=[3, 4])
    journal.write("retry", "a", execution="x")
    journal.write("start", "a", execution="y", attempt=2, fence=8, pids=[5, 6])
    journal.write("effect", "a", execution="y", taken=True)
    done_at = journal.write("done", "a", execution="y")
    journal.write("start", "b", execution="z", attempt=1, fence=9, pids=[5, 6])
    history = read(journal.lines(), journal.effects())
    assert [(one.id, one.retried, one.done_at is None) for one in history.executions] == [
        ("x", True, False), ("y", False, False), ("z", False, True),
    ]  # fmt: skip
    assert history.done == {"a": done_at}


def test_the_effect_table_refuses_an_older_fence_once_a_newer_has_written(journal: Journal) -> None:
    assert journal.effect("a", 5, "x")
    assert journal.effect("a", 9, "y")
    assert not journal.effect("a", 5, "x")
    assert journal.effect("a", 0, "other key") is False
    assert journal.effect("b", 0, "z")
    assert [(row["fence"], row["execution"]) for row in journal.effects()["a"]] == [(5, "x"), (9, "y")]


def test_a_line_that_was_cut_off_is_not_read(journal: Journal) -> None:
    """A process that is killed has written a line or not; a disk that was full may have a part of one."""
    journal.write("outcome", "a", outcome="ok")
    with (journal.folder / "log").open("a") as log:
        log.write('{"at": 1, "ki')
    assert [line["key"] for line in journal.lines()] == ["a"]


def test_a_fault_that_was_never_healed_lasts(journal: Journal) -> None:
    said = {"what": "SIGSTOP", "killed": [], "frozen": [3], "lost_data": False, "behind": None}
    journal.write("fault", "0", **said)
    journal.write("fault", "1", **said)
    healed_at = journal.write("healed", "1")
    first, second = read(journal.lines(), {}).faults
    assert (first.healed_at, second.healed_at) == (float("inf"), healed_at)
    assert second.frozen == {3}


def test_what_the_journal_cannot_mean_is_an_error() -> None:
    with pytest.raises(ValueError, match="strange"):
        read([{"at": 1.0, "kind": "strange", "key": "a"}], {})


def test_everything_asked_for_follows_from_the_seed() -> None:
    mix = Mix(calls=40, kept=True)
    assert load(Random(3), "x", mix) == load(Random(3), "x", mix)
    assert load(Random(3), "x", mix) != load(Random(4), "x", mix)
    assert pauses(Random(3), 5, (1.0, 2.0)) == pauses(Random(3), 5, (1.0, 2.0))
    assert delayed(Random(3), "x", 5, (1.0, 2.0)) == delayed(Random(3), "x", 5, (1.0, 2.0))


def test_a_load_has_every_shape_and_no_key_twice() -> None:
    items = load(Random(1), "x", Mix(calls=60, kept=True))
    assert {item.shape for item in items} == {"single", "chain", "retry"}
    keys = [key for item in items for key in item.keys]
    assert len(keys) == len(set(keys))
    assert {(item.how, item.strict) for item in items} == {("delay", False), ("submit", True)}
    assert all(item.shape != "chain" for item in items if item.strict)
