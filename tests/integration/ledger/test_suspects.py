"""What is shown as lost: nothing while runs wait, run, end or are delayed; each run that is nowhere, until it is back."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import text

from beatline.clock import utc_now, utc_today
from beatline.engine.claim import Claims, Lease
from beatline.engine.messages import list_key
from beatline.engine.publish import publish_stored
from beatline.ledger import missing, suspects
from beatline.ledger.epochs import look
from beatline.ledger.missing import MissingMessages
from beatline.ledger.store import insert_runs, mark_queued
from beatline.ledger.suspects import lost_suspects
from beatline.queues.overview import overview
from support.apps import open_app
from support.ledger import message, new_run, waiting

if TYPE_CHECKING:
    import pytest

    from beatline.installation import Installation
    from beatline.ledger.suspects import Suspects
    from beatline.settings import Settings
    from support.processes import Spawn


def submit(installation: Installation, *run_ids: str, publish: bool = True) -> None:
    """Accept runs by their rows ten minutes ago, and publish them, or only say so."""
    at = utc_now() - timedelta(minutes=10)
    with installation.engine.begin() as conn:
        insert_runs(conn, [new_run(one, accepted_at=at) for one in run_ids], installation.keyring)
        mark_queued(conn, [(utc_today(), one) for one in run_ids], at)
    if publish:
        publish_stored(installation, [message(one) for one in run_ids])


def lost(installation: Installation) -> Suspects:
    with installation.engine.connect() as conn:
        return lost_suspects(installation, conn)


def test_what_waits_runs_has_ended_or_is_delayed_is_no_suspect(installation: Installation) -> None:
    submit(installation, "waits", "runs", "ended", "delayed", "young")
    client: Any = installation.redis
    claims = Claims(client, installation.keys, 20.0)
    for run_id in ("runs", "ended"):
        lease = claims.claim(run_id, 1, "w@x", utc_today().isoformat(), queue="default")
        assert isinstance(lease, Lease)
        if run_id == "ended":
            assert claims.finish(lease, "ended", "{}"), "its event is not drained"
    client.zrem(installation.keys.index("default"), "delayed", "young")
    with installation.engine.begin() as conn:
        conn.execute(
            text("UPDATE beatline.runs SET state = 'delayed', eta = now() + interval '1 h' WHERE id = 'delayed'")
        )
        conn.execute(text("UPDATE beatline.runs SET changed_at = now(), queued_at = now() WHERE id = 'young'"))
    client.delete(installation.keys.events)
    assert lost(installation) == suspects.Suspects(0, (), 3, complete=True)


def test_messages_that_an_older_beatline_published_are_no_suspects(installation: Installation) -> None:
    """They are in the list and not in the index; of as many of them as the list holds, nobody can tell."""
    submit(installation, "a", "b")
    client: Any = installation.redis
    key = list_key(installation.keys, "default", 0)
    aged = json.loads(message("old").payload)
    aged["headers"]["bl_published"] -= 3600
    client.rpush(key, json.dumps(aged))
    client.delete(installation.keys.index("default"))
    assert lost(installation).count == 0


def test_a_lost_run_is_shown_until_the_reconciler_has_put_it_back(
    installation: Installation, settings: Settings, spawn: Spawn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(missing, "EVERY_S", 0.0)
    monkeypatch.setattr(suspects, "PAGE", 5)
    ids = [f"lost-{n:02}" for n in range(12)]
    submit(installation, *ids, publish=False)
    submit(installation, "waits")
    installation.redis.delete(installation.keys.events)
    with open_app(settings) as app:
        found = overview(installation, app).lost_suspects
    assert (found.count, found.looked_at, found.complete) == (12, 13, True)
    assert len(set(found.examples)) == suspects.EXAMPLES
    assert set(found.examples) < set(ids)

    shown = spawn("beatline.cli", "queues", "--json")
    assert shown.wait() == 0
    told = json.loads(shown.output())["lost_suspects"]
    assert (told["count"], len(told["examples"])) == (12, 10)

    MissingMessages(installation, installation.redis).put_back(look(installation.redis, installation.keys))
    assert len(waiting(installation)) == 13
    installation.redis.delete(installation.keys.events)
    assert lost(installation).count == 0
