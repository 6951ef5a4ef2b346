"""The command line of a worker is the queue table's row, with what the caller wants otherwise."""

from __future__ import annotations

import pytest

from beatline.errors import BeatlineError, NameRefusedError
from beatline.families import Family
from beatline.queues.command import Overrides, worker_command
from beatline.queues.routing import FamilyRoutes, known_queues
from beatline.queues.topology import TOPOLOGY

QUEUES = known_queues(())


def option(command: list[str], name: str) -> str:
    return command[command.index(name) + 1]


@pytest.mark.parametrize("queue", TOPOLOGY, ids=lambda queue: queue.name)
def test_a_queue_s_worker_has_the_table_s_values(queue: object) -> None:
    row = next(entry for entry in TOPOLOGY if entry == queue)
    command = worker_command("beatline", "w", [row])
    assert option(command, "-Q") == row.name
    assert option(command, "-P") == row.pool
    assert option(command, "-c") == str(row.concurrency)
    assert option(command, "--prefetch-multiplier") == str(row.prefetch)
    assert ("--time-limit" in command) == (row.pool == "prefork")


def test_what_is_given_wins_and_the_rest_goes_to_celery() -> None:
    overrides = Overrides(pool="solo", concurrency=9, prefetch=2, log_file="w.log")
    command = worker_command("proj", "w", [QUEUES["email"]], overrides, ["--loglevel", "DEBUG"])
    assert option(command, "-A") == "proj"
    assert option(command, "-P") == "solo"
    assert option(command, "-c") == "1"
    assert option(command, "--prefetch-multiplier") == "2"
    assert option(command, "--logfile") == "w.log"
    assert command[-2:] == ["--loglevel", "DEBUG"]


def test_queues_of_different_pools_are_not_served_together_unless_a_pool_is_chosen() -> None:
    with pytest.raises(BeatlineError, match=r"different pools \(prefork, threads\).*--pool"):
        worker_command("beatline", "w", [QUEUES["etl"], QUEUES["email"]])
    command = worker_command("beatline", "w", [QUEUES["etl"], QUEUES["email"]], Overrides(pool="prefork"))
    assert option(command, "--time-limit") == "3600"


def test_a_soft_limit_above_the_hard_one_is_refused() -> None:
    with pytest.raises(BeatlineError, match=r"soft time limit \(400 s\).*\(300 s\)"):
        worker_command("beatline", "w", [QUEUES["default"]], Overrides(soft_limit_s=400))


def test_a_queue_of_one_s_own_is_known_and_a_bad_name_is_refused() -> None:
    assert known_queues(["invoices"])["invoices"].pool == "prefork"
    with pytest.raises(NameRefusedError, match="in:voices"):
        known_queues(["in:voices"])


def test_a_family_s_tasks_go_to_its_queue_and_others_are_left_to_celery() -> None:
    route = FamilyRoutes(
        {"collect": Family("collect", "collect", ()), "maintenance": Family("maintenance", "default", ())}
    )
    assert route("collect.execute_task") == {"queue": "collect"}
    assert route("maintenance.prune_history") == {"queue": "default"}
    assert route("collector.execute_task") is None
    assert route("collect") is None
