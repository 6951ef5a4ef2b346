"""The `celery worker` command line for queues of the topology: a pure function of the table and what was overridden."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from beatline.errors import BeatlineError
from beatline.queues.topology import Pool, Queue


@dataclass(frozen=True, slots=True)
class Overrides:
    """What the caller wants otherwise than the table says; None keeps the table's value."""

    pool: Pool | None = None
    concurrency: int | None = None
    prefetch: int | None = None
    soft_limit_s: int | None = None
    hard_limit_s: int | None = None
    log_file: str | None = None


def worker_command(
    app: str, name: str, queues: Sequence[Queue], overrides: Overrides | None = None, extra: Sequence[str] = ()
) -> list[str]:
    """The arguments after the interpreter of one worker process that serves `queues`.

    Queues served together get the longest limits, the largest concurrency and the smallest prefetch among them. Raises
    BeatlineError if they need different pools and none is given.
    """
    chosen = overrides or Overrides()
    pools = {queue.pool for queue in queues}
    if chosen.pool is None and len(pools) > 1:
        raise BeatlineError(
            f"The queues {', '.join(q.name for q in queues)} run on different pools ({', '.join(sorted(pools))}): "
            "start a worker for each, or choose one with --pool."
        )
    pool = chosen.pool or pools.pop()
    soft_s = chosen.soft_limit_s or max(queue.soft_limit_s for queue in queues)
    hard_s = chosen.hard_limit_s or max(queue.hard_limit_s for queue in queues)
    if soft_s >= hard_s:
        raise BeatlineError(f"The soft time limit ({soft_s} s) must be below the hard one ({hard_s} s).")
    command = [
        "-m", "celery", "-A", app, "worker",
        "-n", f"{name}@%h",
        "-Q", ",".join(queue.name for queue in queues),
        "-P", pool,
        "-c", str(1 if pool == "solo" else chosen.concurrency or max(queue.concurrency for queue in queues)),
        "--prefetch-multiplier", str(chosen.prefetch or min(queue.prefetch for queue in queues)),
        # Neighbours are found by lease, not by gossip, and mingle makes every start wait for every worker.
        "--without-gossip", "--without-mingle",
    ]  # fmt: skip
    if pool == "prefork":
        command += ["--soft-time-limit", str(soft_s), "--time-limit", str(hard_s)]
    if chosen.log_file:
        command += ["--logfile", chosen.log_file]
    return [*command, *extra]
