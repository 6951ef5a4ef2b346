"""The line that `make chaos` prints, and the file that lets it go on where it was broken off."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from chaos.record import RowRecord, Trial
from chaos.results import Place, Results, code_of


def trial(seed: int = 1, *, lost: int = 0, violations: tuple[str, ...] = (), full: bool = False) -> Trial:
    return Trial(seed, full, 10, lost, 0, 1, 2, 3, 4, 1.5 * seed, 0.2, 0.0, list(violations))


def row(*ours: Trial, control: tuple[Trial, ...] = (), must_lose: bool = False) -> RowRecord:
    return RowRecord(7, "Redis emptied", must_lose, ours, control)


def test_a_row_is_one_line_with_the_fields_that_are_promised() -> None:
    text = row(trial(1), trial(2), control=(trial(1, lost=4),)).to_json()
    record = json.loads(text)
    assert "\n" not in text
    assert list(record)[:11] == [
        "row", "fault", "seeds", "accepted", "lost", "doubled_effects", "repeated", "undrained", "recovered_s",
        "control_lost", "ok",
    ]  # fmt: skip
    assert list(record.values())[:11] == [7, "Redis emptied", [1, 2], 20, 0, 0, 2, 4, 3.0, 4, True]


def test_one_violation_of_one_seed_fails_the_row() -> None:
    record = row(trial(1), trial(2, violations=("I1 lost: a",)))
    assert not record.ok
    assert json.loads(record.to_json())["details"]["violations"] == {"seed 2": ["I1 lost: a"]}


def test_a_trial_that_broke_off_proves_nothing() -> None:
    assert not row(Trial.broken(1, "no worker", full=False)).ok
    assert not row().ok


@pytest.mark.parametrize(("lost", "ok"), [((3, 1), True), ((3, 0), False), ((), False)])
def test_where_the_control_must_lose_every_seed_of_it_has_to(lost: tuple[int, ...], ok: bool) -> None:
    control = tuple(trial(seed, lost=count) for seed, count in enumerate(lost, 1))
    assert row(trial(), control=control, must_lose=True).ok is ok


def test_where_it_need_not_lose_it_does_not_matter() -> None:
    assert row(trial(), control=(trial(lost=0),)).ok
    assert json.loads(row(trial()).to_json())["control_lost"] is None


def test_what_was_tried_is_there_for_the_next_start_with_the_same_code(tmp_path: Path) -> None:
    path, place = tmp_path / "home" / "chaos.jsonl", Place(7, 2, "ours", full=True)
    Results(path, "code").keep(place, trial(2, full=True, violations=("I1 lost: a",)))
    assert Results(path, "code").get(place) == trial(2, full=True, violations=("I1 lost: a",))
    assert Results(path, "other").get(place) is None
    assert Results(path, "code").get(Place(7, 2, "control", full=True)) is None
    assert Results(path, "code", fresh=True).get(place) is None


def test_a_row_that_was_told_is_tried_anew(tmp_path: Path) -> None:
    path = tmp_path / "chaos.jsonl"
    results = Results(path, "code")
    for number in (1, 2):
        results.keep(Place(number, 1, "ours", full=False), trial())
    results.forget([1])
    assert Results(path, "code").get(Place(1, 1, "ours", full=False)) is None
    assert Results(path, "code").get(Place(2, 1, "ours", full=False)) is not None
    results.forget([2])
    assert not path.exists()


def test_another_line_of_code_is_another_fingerprint(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x = 1\n")
    before = code_of([tmp_path])
    assert code_of([tmp_path]) == before
    (tmp_path / "a.py").write_text("x = 2\n")
    assert code_of([tmp_path]) != before
