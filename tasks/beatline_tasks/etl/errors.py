"""What is wrong with a job; the text stands in the run's error. What may pass is a TransientError."""

from __future__ import annotations

from collections.abc import Sequence

from beatline.errors import BeatlineError


class JobError(BeatlineError):
    """The job, or what it was given, is wrong: a person must look, the run fails at once."""


class BlockedError(JobError):
    """A check with severity block found rows; the target is as it was."""

    def __init__(self, found: Sequence[str]) -> None:
        self.found = tuple(found)
        super().__init__(f"Nothing was loaded, a check blocks it: {' '.join(self.found)}")
