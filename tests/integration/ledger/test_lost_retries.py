"""An attempt that was lost after it had asked for its retry: the retry stands, and no run is buried over it."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from beatline.clock import utc_now, utc_today
from beatline.engine.claim import Dropped, Lease
from beatline.engine.publish import publish_stored
from beatline.installation import Installation
from beatline.ledger.cancel import cancel_run
from beatline.ledger.states import EventKind
from support.ledger import accepted, event, message, rows, tell
from support.slow_recorder import SlowRecorder, in_slow_motion

if TYPE_CHECKING:
    from beatline.settings import Settings
    from support.serving import MakeSettings

pytestmark = pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning")  # of redis-py, by Celery


@pytest.fixture
def settings(make_settings: MakeSettings) -> Settings:
    return make_settings(lease_s=20.0)


@pytest.fixture
def ledger(installation: Installation, monkeypatch: pytest.MonkeyPatch) -> SlowRecorder:
    return in_slow_motion(installation, monkeypatch)


def _ask_again(ledger: SlowRecorder, attempt: int, state: str = "queued") -> None:
    """What an attempt has queued, or delayed, that was lost before it could say that it had ended."""
    again = message("r1", attempt=attempt)
    if state == "queued":
        publish_stored(ledger.installation, [again])
    later = (utc_now() + timedelta(hours=1)).isoformat()
    said: dict[str, Any] = {"queued": True} if state == "queued" else {"queued": False, "delayed": True, "eta": later}
    tell(ledger.installation, [accepted("r1", attempt=attempt, message=again.payload, **said)])


@pytest.mark.parametrize("parks", [False, True], ids=["three-times", "on-lost-dead"])
@pytest.mark.parametrize("state", ["queued", "delayed"])
def test_a_retry_that_waits_stands_although_its_attempt_was_lost(
    ledger: SlowRecorder, app: Any, state: str, parks: bool
) -> None:
    tell(ledger.installation, [accepted("r1")])
    for attempt in (1, 2):
        ledger.lose("r1", attempt)
        ledger.drain()
        ledger.round()
        ledger.drain()
    ledger.queued()
    lease = ledger.lose("r1", 3)
    if parks:
        ledger.claims.park_if_lost(lease)
    _ask_again(ledger, 4, state)
    ledger.round()  # before PostgreSQL knows of it
    assert ledger.leases() == ["r1"]
    ledger.drain()
    ledger.round()
    ledger.drain()
    assert (ledger.state("r1"), ledger.leases()) == ((state, 4), [])
    assert app.AsyncResult("r1").state == "PENDING", "nobody was told of an end"
    assert ledger.queued() == ([("r1", 4)] if state == "queued" else []), "the retry, and no second message beside it"
    with ledger.installation.engine.connect() as conn:
        assert {one["attempt"]: one["outcome"] for one in rows(conn, "attempts")} == dict.fromkeys((1, 2, 3), "lost")
    late = event(EventKind.RETRIED, "r1", attempt=3, fence=lease.fence)
    assert ledger.claims.finish(lease, "closed", late.to_json()) is None
    assert isinstance(ledger.claims.claim("r1", 4, "other@x", utc_today().isoformat()), Lease)


def test_a_retry_that_stands_and_has_lost_its_message_is_sent_again(ledger: SlowRecorder) -> None:
    old = (utc_now() - timedelta(hours=1)).timestamp()
    tell(ledger.installation, [accepted("r1", at=old)])
    ledger.lose("r1", 1)
    tell(ledger.installation, [accepted("r1", attempt=2, at=old + 1)])
    ledger.drain()
    ledger.round()
    ledger.drain()
    assert (ledger.queued(), ledger.state("r1")) == ([("r1", 2)], ("queued", 2))


def test_a_retry_of_a_cancelled_run_is_what_the_order_ends(ledger: SlowRecorder, app: Any) -> None:
    tell(ledger.installation, [accepted("r1")])
    ledger.lose("r1", 1)
    ledger.drain()
    assert cancel_run(ledger.installation, "r1", who="ann@here", app=app).how == "told"
    _ask_again(ledger, 2)
    ledger.drain()
    ledger.round(12)
    ledger.drain()
    assert (ledger.state("r1"), ledger.leases()) == (("cancelled", 2), [])
    with ledger.installation.engine.connect() as conn:
        assert {one["attempt"]: one["outcome"] for one in rows(conn, "attempts")} == {1: "lost", 2: "cancelled"}
    assert app.AsyncResult("r1").state == "REVOKED"
    claimed = ledger.claims.claim("r1", 2, "other@x", utc_today().isoformat())
    assert isinstance(claimed, Dropped)
    assert not claimed.untold


def test_a_burial_waits_for_what_was_sent_before_it_and_for_nothing_later(ledger: SlowRecorder) -> None:
    tell(ledger.installation, [accepted("r1", message=None)])
    ledger.lose("r1", 1)
    ledger.drain()
    tell(ledger.installation, [accepted("before")])
    ledger.round()
    assert ledger.state("r1")[0] == "running"
    ledger.drain()
    tell(ledger.installation, [accepted("after")])
    ledger.round(1)
    ledger.drain()
    assert ledger.state("r1") == ("dead", 1)
