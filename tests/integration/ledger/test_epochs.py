"""The epoch grows whenever Redis may have lost data, and never otherwise."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text

from beatline.installation import connect_redis
from beatline.ledger.epochs import Epochs, Server, look
from support.ledger import rows

if TYPE_CHECKING:
    from beatline.installation import Installation
    from support.servers import Server as RedisServer
    from support.serving import MakeSettings


@pytest.fixture
def epochs(installation: Installation) -> Epochs:
    return Epochs(installation.engine, installation.redis, installation.keys)


def _look(installation: Installation) -> Server:
    return look(installation.redis, installation.keys)


def test_a_new_installation_begins_at_one(installation: Installation, epochs: Epochs) -> None:
    assert _look(installation).epoch is None
    assert epochs.keep(_look(installation)) == 1
    assert _look(installation).epoch == 1
    assert epochs.keep(_look(installation)) is None
    with installation.engine.connect() as conn:
        [row] = rows(conn, "epochs")
    assert row["redis_run_id"] == _look(installation).run_id


def test_every_recorder_comes_to_the_same_epoch(installation: Installation, epochs: Epochs) -> None:
    other = Epochs(installation.engine, installation.redis, installation.keys)
    before = _look(installation)
    assert [epochs.keep(before), other.keep(before)] == [1, None]


def test_an_emptied_redis_begins_a_new_epoch(installation: Installation, epochs: Epochs) -> None:
    epochs.keep(_look(installation))
    installation.redis.delete(installation.keys.epoch)
    assert epochs.keep(_look(installation)) == 2
    assert _look(installation).epoch == 2


def test_it_goes_above_what_claims_have_assumed(installation: Installation, epochs: Epochs) -> None:
    epochs.keep(_look(installation))
    installation.redis.set(installation.keys.epoch, 7)
    assert epochs.keep(_look(installation)) == 8


def test_it_goes_above_what_postgresql_knows(installation: Installation, epochs: Epochs) -> None:
    with installation.engine.begin() as conn:
        conn.execute(text("INSERT INTO beatline.epochs VALUES (40, 'another', 'server', now())"))
    assert epochs.keep(_look(installation)) == 41


def test_a_restart_begins_a_new_epoch(make_settings: MakeSettings, own_redis: RedisServer) -> None:
    from beatline.installation import Installation

    installation = Installation(make_settings(redis_url=own_redis.url))
    redis = connect_redis(own_redis.url)
    epochs = Epochs(installation.engine, redis, installation.keys)
    assert epochs.keep(look(redis, installation.keys)) == 1
    own_redis.stop()
    own_redis.start()
    assert epochs.keep(look(redis, installation.keys)) == 2
    redis.close()
