"""Which queues share a worker process."""

from __future__ import annotations

import pytest

from beatline.embedded.plan import SHARED_THREADS, WorkerGroup, worker_groups
from beatline.queues.routing import known_queues
from beatline.queues.topology import TOPOLOGY, Queue


def _of(queue: str, groups: tuple[WorkerGroup, ...]) -> WorkerGroup:
    found = [group for group in groups if queue in [one.name for one in group.queues]]
    assert len(found) == 1, f"{queue} must have exactly one consumer group"
    return found[0]


def test_every_queue_of_ours_and_of_the_project_has_one_group() -> None:
    queues = known_queues(["invoices", "thumbnails"])

    groups = worker_groups(queues.values())

    for name in queues:
        _of(name, groups)


def test_group_names_are_unique() -> None:
    names = [group.name for group in worker_groups(TOPOLOGY)]

    assert len(set(names)) == len(names)


def test_queues_that_wait_share_one_threads_pool_of_bounded_size() -> None:
    group = _of("email", worker_groups(TOPOLOGY))

    assert {queue.name for queue in group.queues} == {"collect", "email", "workflow"}
    command = group.arguments("beatline", "threads")
    assert command[command.index("-P") + 1] == "threads"
    assert command[command.index("-c") + 1] == str(SHARED_THREADS)


def test_long_work_does_not_stand_before_short_work() -> None:
    groups = worker_groups(TOPOLOGY)

    assert _of("default", groups) is not _of("etl", groups)
    assert _of("default", groups) is not _of("heavy", groups)


def test_heavy_runs_one_at_a_time_and_alone() -> None:
    group = _of("heavy", worker_groups(TOPOLOGY))

    assert [queue.name for queue in group.queues] == ["heavy"]
    command = group.arguments("beatline", "heavy")
    assert command[command.index("-c") + 1] == "1"


@pytest.mark.parametrize("queue", [Queue("many", "", processes=3), Queue("one", "", pool="solo")])
def test_a_queue_with_processes_of_its_own_shares_with_nobody(queue: Queue) -> None:
    group = _of(queue.name, worker_groups([*TOPOLOGY, queue]))

    assert group.queues == (queue,)
    assert group.processes == queue.processes
