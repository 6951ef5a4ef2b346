"""maintenance.prune_history: old days go, the others stay, and it is scheduled by itself."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from beatline.app import create_app
from beatline.clock import utc_today
from beatline.families import families
from beatline.ledger import partitions
from beatline.schedules import store
from support.serving import MakeSettings

if TYPE_CHECKING:
    from sqlalchemy import Engine


def days_of_runs(engine: Engine) -> set[str]:
    with engine.connect() as conn:
        return {day.isoformat() for day in partitions.days_of(conn, "runs")}


def test_days_older_than_the_setting_are_removed(make_settings: MakeSettings) -> None:
    from beatline.installation import Installation

    installation = Installation(make_settings(history_days=7))
    old, kept = utc_today() - timedelta(days=9), utc_today() - timedelta(days=7)
    with installation.engine.begin() as conn:
        partitions.ensure(conn, old)
        partitions.ensure(conn, kept)
    app = create_app(installation.settings)
    app.loader.import_default_modules()
    said = app.tasks["maintenance.prune_history"]()
    assert old.isoformat() in said["days"]
    assert old.isoformat() not in days_of_runs(installation.engine)
    assert kept.isoformat() in days_of_runs(installation.engine)
    assert app.tasks["maintenance.prune_history"]()["days"] == []
    app.close()


def test_it_is_scheduled_nightly_on_the_default_queue(make_settings: MakeSettings) -> None:
    from beatline.installation import Installation

    installation = Installation(make_settings())
    with installation.engine.begin() as conn:
        store.ensure_own(conn)
        schedule = store.get(conn, "beatline.prune-history")
    assert (schedule.task, schedule.owner) == ("maintenance.prune_history", "beatline")
    assert schedule.trigger == {"type": "cron", "expr": "17 3 * * *", "tz": "UTC"}
    assert families()["maintenance"].queue == "default"
