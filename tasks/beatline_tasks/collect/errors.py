"""What is wrong with a source; the text stands in the run's error. What may pass is a TransientError."""

from __future__ import annotations

from beatline.errors import BeatlineError


class SourceError(BeatlineError):
    """The source, or what it answered, is wrong: a person must look, the run fails at once."""
