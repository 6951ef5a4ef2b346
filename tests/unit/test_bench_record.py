"""The line that `make bench` prints: nothing discarded, and `ok` is what it says."""

from __future__ import annotations

import json

import pytest

from bench.record import Record, Round, Sample


def _record(
    *pairs: tuple[float, float], must: float = 0.6, at_most: bool = False, limits: dict[str, float] | None = None
) -> Record:
    rounds = [
        Round(Sample(ours, {"cpu_ms": ours / 1000}), Sample(baseline, {"cpu_ms": 1}), others_cpu=0.123456)
        for ours, baseline in pairs
    ]
    return Record(
        case="x", unit="tasks/s", must=must, command="make bench CASE=x", guarantees={}, rounds=rounds,
        at_most=at_most, limits=limits or {},
    )  # fmt: skip


def test_a_record_is_one_line_with_the_fields_that_are_promised() -> None:
    text = _record((600, 1000), (500, 1000), (900, 1000)).to_json()
    record = json.loads(text)
    assert "\n" not in text
    assert [record[name] for name in ("case", "ours", "baseline", "ratio", "must", "ok", "unit", "command")] == [
        "x", 600, 1000, 0.6, 0.6, True, "tasks/s", "make bench CASE=x",
    ]  # fmt: skip
    assert record["spread"] == {"ours": [500, 600, 900], "baseline": [1000, 1000, 1000], "ratio": [0.5, 0.6, 0.9]}
    assert record["others_cpu"] == [0.123, 0.123, 0.123]
    assert record["details"]["ours"] == {"cpu_ms": 0.6}


@pytest.mark.parametrize(("ours", "ok"), [(599.0, False), (600.0, True)])
def test_the_median_of_the_ratios_decides_not_the_ratio_of_the_medians(ours: float, ok: bool) -> None:
    assert _record((ours, 1000), (1, 1000), (10_000, 1000)).ok is ok


@pytest.mark.parametrize(("ours", "ok"), [(1300.0, True), (1301.0, False)])
def test_a_case_may_ask_for_no_more_than(ours: float, ok: bool) -> None:
    record = _record((ours, 1000), (1, 1000), (10_000, 1000), must=1.3, at_most=True)
    assert record.ok is ok
    assert json.loads(record.to_json())["at_most"] is True


@pytest.mark.parametrize(("limit", "ok"), [(0.9, True), (0.8, False)])
def test_a_limit_holds_in_every_round(limit: float, ok: bool) -> None:
    record = _record((600, 1000), (600, 1000), (900, 1000), limits={"cpu_ms": limit})
    assert record.ok is ok
    assert json.loads(record.to_json())["limits"] == {"cpu_ms": limit}
