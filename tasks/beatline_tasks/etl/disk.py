"""A disk that is full, in words: the run is tried again, when there may be room."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from beatline.errors import TransientError


@contextmanager
def disk_in_words(what: str) -> Generator[None]:
    """Raises TransientError for what the disk of the temporary files refuses inside."""
    try:
        yield
    except OSError as exc:
        raise TransientError(f"{what}: the disk for temporary files refuses it: {exc.strerror or exc}.") from exc
