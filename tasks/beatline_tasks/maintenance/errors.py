"""What is wrong with a task of maintenance; the text stands in the run's error. What may pass is a TransientError."""

from __future__ import annotations

from beatline.errors import BeatlineError


class MaintenanceError(BeatlineError):
    """The task's arguments, or what it met, are wrong: a person must look, the run fails at once."""
