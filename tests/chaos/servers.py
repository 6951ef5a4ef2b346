"""Rows 4, 6, 7, 8 and 11: what is done to Redis, to PostgreSQL, and to the way there."""

from __future__ import annotations

import os
import shutil
import signal
from contextlib import closing
from typing import Final

import psycopg2
from redis.exceptions import RedisError

from chaos.checker import Limits
from chaos.plan import LATER_S, Mix, pauses
from chaos.row import Row
from chaos.stage import Stage

PILE: Final = 45
SILENT_LEASE_S: Final = 12.0
"""Who speaks to a Redis that does not answer learns it after five seconds. A lease that is shorter than two of these may
expire while the end of its run is on its way, and then the run is executed again: no lease in use is that short."""
CALL_S: Final = 3.0
"""What is promised to a sender."""
AGAIN_S: Final = 50.0
"""What lost its attempt in the first silence, because that was longer than a run is patient, has to go on before the second
begins; with a lease of full length."""
COUNT_MS: Final = 10_000
"""Nothing is written for so long, while it is counted what a Redis that is killed takes along."""


def lose_replies(stage: Stage) -> None:
    """Row 4: what Redis answers to a worker that fetches does not arrive, and the connection breaks off."""
    proxy = stage.proxy
    assert proxy is not None
    for number in range(3):
        worker = stage.hire(*(("prefork", 1) if number % 2 else ("threads", 1)))
        stage.wait_for_done({stage.ask()}, 30)
        stage.pause(stage.rng.uniform(1.2, 1.8))
        with stage.fault("replies are dropped, then the connection is reset"):
            proxy.drop_replies()
            stage.ask(past_proxy=True)
            stage.pause(0.6)
            proxy.resume(reset=True)
        stage.pause(0.5)
        worker.process.kill()
        stage.workers.remove(worker)
    stage.staff()
    stage.drain()


def restart_redis(stage: Stage) -> None:
    """Row 6: Redis is killed and started again, its append-only file whole."""
    stage.staff()
    stage.load(Mix(calls=90, over_s=12.0, kept=True, later_s=LATER_S))
    for pause_s in pauses(stage.rng, 2, (1.5, 3.0)):
        stage.pause(pause_s)
        with stage.fault("Redis is killed and started again with its data", lost_data=False):
            stage.redis.kill()
            stage.pause(stage.rng.uniform(0.5, 2.0))
            stage.redis.start()
        stage.client.connection_pool.disconnect()
        stage.pause(2.0)
    stage.drain()


def empty_redis(stage: Stage) -> None:
    """Row 7: Redis loses everything, once by FLUSHALL and once by a restart without its file."""
    stage.staff()
    stage.load(Mix(calls=60, over_s=10.0, kept=True, later_s=LATER_S))
    stage.pause(stage.rng.uniform(1.0, 2.0))
    _pile_up(stage)
    behind = _flush(stage)
    with stage.fault("FLUSHALL", lost_data=True, behind=behind):
        pass
    stage.pause(stage.rng.uniform(3.0, 4.0))
    _pile_up(stage)
    stage.client.client_pause(COUNT_MS, all=False)
    with stage.fault("Redis is killed and started again empty", lost_data=True, behind=_undrained(stage)):
        stage.redis.kill()
        shutil.rmtree(stage.redis_folder / "data")
        stage.redis.start()
    stage.client.connection_pool.disconnect()
    stage.drain()


def _pile_up(stage: Stage) -> None:
    """More messages than workers have reserved, so that queues are not empty when they are lost."""
    for _ in range(PILE):
        stage.ask(takes_s=stage.rng.uniform(0.4, 0.6))
    stage.pause(stage.rng.uniform(0.8, 1.4))


def _undrained(stage: Stage) -> int | None:
    if stage.ours is None:
        return None
    with stage.client.pipeline(transaction=True) as pipe:
        stage.ours.undrained(pipe)
        return int(pipe.execute()[0])


def _flush(stage: Stage) -> int | None:
    with stage.client.pipeline(transaction=True) as pipe:
        if stage.ours is not None:
            stage.ours.undrained(pipe)
        pipe.flushall()
        answers = pipe.execute()
    return int(answers[0]) if stage.ours is not None else None


def silence_redis(stage: Stage) -> None:
    """Row 8: Redis stands still; then its connections are half-open. Senders ask all the while."""
    proxy = stage.proxy
    assert proxy is not None
    frozen_s, open_s = (90.0, 120.0) if stage.full else (7.0, 8.0)
    stage.staff()
    stage.load(Mix(calls=40, over_s=6.0))
    stage.pause(3.0)
    server = _pid_of(stage)
    with stage.fault(f"Redis stands still for {frozen_s:g} s"):
        os.kill(server, signal.SIGSTOP)
        try:
            stage.pause(frozen_s)
        finally:
            os.kill(server, signal.SIGCONT)
    stage.await_senders()
    stage.pause(AGAIN_S if stage.full else 0.0)
    stage.load(Mix(calls=40, over_s=6.0))
    stage.pause(3.0)
    with stage.fault(f"connections are half-open for {open_s:g} s"):
        proxy.stall()
        stage.pause(open_s)
        proxy.resume()
    stage.drain(120.0 if stage.ours is not None else None)


def _pid_of(stage: Stage) -> int:
    try:
        return int(stage.client.info("server")["process_id"])
    except RedisError as exc:
        raise AssertionError(f"Redis does not say who it is: {exc}") from exc


def restart_postgres(stage: Stage) -> None:
    """Row 11: PostgreSQL is killed and started again, and ends everybody's sessions at random."""
    stage.staff()
    stage.load(Mix(calls=90, over_s=12.0, kept=True, later_s=LATER_S))
    for pause_s in pauses(stage.rng, 4, (0.4, 1.2)):
        stage.pause(pause_s)
        with stage.fault("every session of PostgreSQL is ended"):
            _end_sessions(stage)
    with stage.fault("PostgreSQL is killed and started again"):
        stage.postgres.kill()
        stage.pause(stage.rng.uniform(0.5, 3.0))
        stage.postgres.start()
    stage.pause(1.0)
    with stage.fault("every session of PostgreSQL is ended"):
        _end_sessions(stage)
    stage.drain()


def _end_sessions(stage: Stage) -> None:
    with closing(psycopg2.connect(stage.postgres.url)) as connection, connection.cursor() as cursor:
        connection.autocommit = True
        cursor.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
        )


ROWS: Final = (
    Row(4, "Redis's replies lost, then the connection reset", lose_replies, Limits(), must_lose=True, proxied=True),
    Row(6, "Redis killed and restarted with its append-only file", restart_redis, Limits(recover_s=30.0)),
    Row(7, "Redis emptied, and restarted empty", empty_redis, Limits(recover_s=30.0), must_lose=True),
    Row(8, "Redis frozen, then half-open connections", silence_redis, Limits(recover_s=60.0, call_s=CALL_S),
        proxied=True, full=True, lease_s=SILENT_LEASE_S),
    Row(11, "PostgreSQL killed and restarted, its sessions ended", restart_postgres, Limits(), control=False),
)  # fmt: skip
