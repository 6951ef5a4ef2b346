"""Applying events is commutative and idempotent, in PostgreSQL as in the fold."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st
from sqlalchemy import Engine, text

from beatline.clock import utc_today
from beatline.ledger.apply import apply, message_binding
from beatline.ledger.events import Event
from beatline.ledger.intake import Entry, Known, read
from beatline.ledger.states import EventKind
from support.histories import histories
from support.ledger import accepted, event, rows, run_row

if TYPE_CHECKING:
    from beatline.installation import Installation

_SHUFFLES = st.randoms(use_true_random=False)


def _known(*events: Event) -> list[Known]:
    found = [read(Entry(f"{number}-0", one.to_json())) for number, one in enumerate(events)]
    return [one for one in found if isinstance(one, Known)]


@pytest.fixture
def engine(installation: Installation) -> Engine:
    return installation.engine


def _apply(installation: Installation, *batches: Sequence[Known]) -> None:
    for batch in batches:
        with installation.engine.begin() as conn:
            apply(conn, batch, installation.keyring)


def _clear(engine: Engine) -> None:
    with engine.begin() as conn:
        conn.execute(text("DELETE FROM beatline.runs; DELETE FROM beatline.attempts; DELETE FROM beatline.run_days"))


def _tables(installation: Installation) -> tuple[object, ...]:
    with installation.engine.connect() as conn:
        runs = rows(conn, "runs")
        for row in runs:
            sealed = row["message"]
            if sealed is not None:  # each sealing has its own nonce: what counts is what is in it
                row["message"] = installation.keyring.decrypt(bytes(sealed), bound_to=message_binding(row["id"]))
        return runs, rows(conn, "attempts"), rows(conn, "run_days")


@examples(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(history=histories(), chance=_SHUFFLES)
def test_any_order_repetition_and_batching_gives_the_same_rows(
    installation: Installation, history: list[Known], chance: Any
) -> None:
    _clear(installation.engine)
    _apply(installation, history)
    at_once = _tables(installation)

    again = history + chance.choices(history, k=len(history) // 2)
    chance.shuffle(again)
    cuts = sorted(chance.choices(range(len(again) + 1), k=chance.randint(0, 6)))
    batches = [again[a:b] for a, b in zip([0, *cuts], [*cuts, len(again)], strict=True)]
    _clear(installation.engine)
    _apply(installation, *batches)
    assert _tables(installation) == at_once


def test_the_life_of_a_run_that_lost_a_worker(installation: Installation, engine: Engine) -> None:
    _apply(
        installation,
        _known(
            accepted("r1", priority=3, schedule="nightly", slot="2026-11-22T02:00:00+00:00"),
            event(EventKind.STARTED, "r1", worker="a@x", fence=5),
            event(EventKind.LOST, "r1", worker="a@x", reason="its worker stopped renewing its lease"),
            event(EventKind.QUEUED, "r1", attempt=2),
            event(EventKind.STARTED, "r1", attempt=2, worker="b@x", fence=6),
            event(EventKind.REFUSED, "r1", worker="a@x", fence=5),
            event(EventKind.SUCCEEDED, "r1", attempt=2, worker="b@x", fence=6, runtime_s=0.5, result="'ok'"),
        ),
    )
    with engine.connect() as conn:
        run = run_row(conn, "r1")
        first, second = rows(conn, "attempts")
    assert (run["state"], run["attempt"], run["worker"], run["result"]) == ("succeeded", 2, "b@x", "'ok'")
    assert (run["priority"], run["schedule"], run["message_attempt"]) == (3, "nightly", 1)
    assert run["ended_at"] is not None
    assert (first["outcome"], first["refused"], first["refused_fences"]) == ("lost", 1, [5])
    assert (second["outcome"], second["runtime_s"], second["refused"]) == ("succeeded", 0.5, 0)


def test_a_refused_end_is_counted_once_however_often_it_is_delivered(
    installation: Installation, engine: Engine
) -> None:
    late = _known(event(EventKind.REFUSED, "r1", fence=5, worker="a@x"))
    later = _known(event(EventKind.REFUSED, "r1", fence=6, worker="b@x"))
    _apply(installation, late, late, later, late + later)
    with engine.connect() as conn:
        [attempt] = rows(conn, "attempts")
        assert rows(conn, "runs") == []
    assert (attempt["refused"], attempt["refused_fences"], attempt["outcome"]) == (2, [5, 6], None)


def test_a_run_stays_on_the_day_it_was_first_known_on(installation: Installation, engine: Engine) -> None:
    today = utc_today()
    _apply(
        installation,
        _known(accepted("r1")),
        _known(event(EventKind.STARTED, "r1", day=today + timedelta(days=1), worker="a@x", fence=1)),
    )
    with engine.connect() as conn:
        assert [row["day"] for row in rows(conn, "run_days")] == [today]
        assert run_row(conn, "r1")["day"] == today
        assert [row["day"] for row in rows(conn, "attempts")] == [today]


def test_the_message_is_encrypted_for_its_run(installation: Installation, engine: Engine) -> None:
    one = accepted("r1")
    _apply(installation, _known(one))
    with engine.connect() as conn:
        sealed = bytes(run_row(conn, "r1")["message"])
    assert one.message is not None
    assert b"tests.work" not in sealed
    assert installation.keyring.decrypt(sealed, bound_to=message_binding("r1")) == one.message.encode()
