"""What collect needs does not grow with what it reads."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import pytest

from support.processes import variables_of
from support.web import Asked, Reply, Web

if TYPE_CHECKING:
    from beatline.definitions import Definition
    from beatline.installation import Installation

AddSource = Callable[..., "Definition"]
ROWS: Final = 50_000
PAGE: Final = 1_000
LIMIT_MB: Final = 120

SCRIPT: Final = """
import json, resource, sys
from beatline.installation import Installation
from beatline.task.context import RunContext
from beatline_tasks.collect.collecting import collect
import beatline.app  # what a worker has loaded anyway

run = RunContext("r1", 1, 0, "collect.execute_task", "collect", None, None)
result = collect(Installation.load(), "many", run)
if sys.platform == "linux":  # ru_maxrss would begin with what the parent had
    peak_kb = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
else:
    peak_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps(result | {"peak_mb": peak_kb / 1024}))
"""

pytestmark = pytest.mark.proof


def rows(start: int, count: int) -> list[dict[str, Any]]:
    return [
        {
            "id": n,
            "at": "2026-01-01T00:00:00Z",
            "name": f"name {n}",
            "value": n / 7,
            "note": "x" * 60,
            "tags": ["a", "b"],
        }
        for n in range(start, start + count)
    ]


def in_pages(asked: Asked) -> Reply:
    page = int(asked.query["page"])
    found = rows((page - 1) * PAGE, PAGE) if page <= ROWS // PAGE else []
    return Reply(json.dumps(found).encode(), headers={"Content-Type": "application/json"})


def in_one_file(_: Asked) -> Reply:
    lines = ["id,at,name,value,note", *(f"{n},2026-01-01,name {n},{n / 7},{'x' * 60}" for n in range(ROWS))]
    return Reply("\n".join(lines).encode(), headers={"Content-Type": "text/csv"})


@pytest.mark.parametrize(
    ("answer", "more"),
    [
        (in_pages, {"format": "json", "pagination": {"type": "page"}}),
        (in_one_file, {"format": "csv"}),
    ],
)
def test_fifty_thousand_rows_need_little_memory(
    web: Web, open_installation: Installation, add_source: AddSource, answer: Any, more: dict[str, Any]
) -> None:
    web.answer = answer
    columns = {"id": "integer", "at": "timestamp", "value": "number"}
    add_source("many", type="http", url=f"{web.url}/rows", key=["id"], columns=columns, **more)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env=variables_of(open_installation.settings),
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["new"] == ROWS
    assert said["peak_mb"] < LIMIT_MB
