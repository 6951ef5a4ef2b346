"""Arguments that no message can hold: told in words, by the name of their task."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from kombu.exceptions import EncodeError

from beatline.errors import ArgumentsError


class UnencodableError(ArgumentsError, EncodeError):
    """An argument is nothing that JSON can hold. Celery raises kombu's EncodeError here."""


@contextmanager
def encodable(task: str) -> Generator[None]:
    """Raises UnencodableError, which repeats no value, where an argument of the task does not go into JSON."""
    try:
        yield
    except UnencodableError:
        raise
    except (EncodeError, RecursionError) as exc:
        why = "they are nested too deeply" if isinstance(exc, RecursionError) else f"JSON cannot hold them: {exc}"
        raise UnencodableError(
            task, [f"its arguments cannot be sent, because {why}; pass text, numbers, lists and dicts"]
        ) from exc
