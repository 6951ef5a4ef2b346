"""What a stored file needs of memory does not grow with it: 200 MB go in and come out, by folder and by S3."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import pytest

from support.processes import variables_of

if TYPE_CHECKING:
    from beatline.installation import Installation

SIZE: Final = 200 * 2**20
LIMIT_MB: Final = 70

SCRIPT: Final = """
import io, json, resource, sys
from beatline.artifacts import ArtifactStore
from beatline.installation import Installation

class Large(io.RawIOBase):
    left = int(sys.argv[1])
    def read(self, size=-1):
        chunk = bytes(min(size, self.left))
        self.left -= len(chunk)
        return chunk

def peak_mb():
    if sys.platform == "linux":  # ru_maxrss would begin with what the parent had
        return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20

ours = Installation.load()
store = ArtifactStore.of(ours)
def once(source):
    stored = store.write(source)
    with ours.engine.begin() as conn:
        artifact = store.record(conn, stored, name="large", content_type="x/y", family="report")
    assert store.verify(artifact)
    return stored
once(b"small")  # what is imported and opened once is no matter of size
before = peak_mb()
stored = once(Large())
print(json.dumps({"size": stored.size_bytes, "store": stored.store, "grown_mb": peak_mb() - before}))
"""


@pytest.mark.proof
@pytest.mark.parametrize("where", ["folder", "s3://shelf/files"])
def test_two_hundred_megabytes_need_little_memory(
    installation: Installation, on_s3: Callable[..., Installation], where: str
) -> None:
    ours = installation if where == "folder" else on_s3()
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(SIZE)],
        env=variables_of(ours.settings),
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert (said["size"], said["store"]) == (SIZE, where)
    assert said["grown_mb"] < LIMIT_MB
