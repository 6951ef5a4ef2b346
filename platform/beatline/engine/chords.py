"""Chords in what a run calls when it ends: each keeps the id of its group, however often the run is executed.

Celery draws a new one whenever a chord is published as part of something larger, a chain or a group. Parts of a header
that two attempts published would be counted in two chords then, of which neither ends.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from beatline.engine.seams import Chord, Group
from beatline.engine.successors import CALLBACKS, CHORD, ERRBACKS, name_successors


class FirmChord(Chord):
    """A chord whose header keeps its id when it is frozen, as it does when the chord is published by itself."""

    def freeze(self, *args: Any, **options: Any) -> Any:
        """As Celery's, which names the header's group only when the chord itself is published."""
        group_id = self.options.get("task_id")
        if group_id and not isinstance(self.tasks, Group):
            self.tasks = Group(self.tasks, app=self.app, task_id=group_id)
        return super().freeze(*args, **options)

    def clone(self, *args: Any, **options: Any) -> Any:
        """As Celery's, which would make one of its own class."""
        return _firm(super().clone(*args, **options))


def keep_groups(request: Any, app: Any) -> None:
    """Let the chords in what a run is about to call keep the ids that its message gives their groups."""
    named = name_successors({kind: request.get(kind) for kind in (CALLBACKS, ERRBACKS, CHORD)}, request.id)
    for kind in (CALLBACKS, ERRBACKS):
        setattr(request, kind, [_firm_if_chords(one, app) for one in named[kind] or ()] or None)
    request.chord = named[CHORD] and _firm_if_chords(named[CHORD], app)
    if request.chain:
        request.chain = [*request.chain[:-1], _firm_if_chords(request.chain[-1], app)]


def _firm_if_chords(signature: Any, app: Any) -> Any:
    return _firm(app.signature(signature)) if _has_chord(signature) else signature


def _has_chord(signature: Any) -> bool:
    return signature.get("subtask_type") == CHORD or any(_has_chord(part) for part in _parts(signature))


def _firm(signature: Any) -> Any:
    for part in _parts(signature):
        _firm(part)
    if isinstance(signature, Chord):
        signature.__class__ = FirmChord
    return signature


def _parts(signature: Any) -> Iterator[Any]:
    kwargs: Mapping[str, Any] = signature.get("kwargs") or {}
    header: Any = kwargs.get("header") if signature.get("subtask_type") == CHORD else None
    yield from kwargs.get("tasks") or () if signature.get("subtask_type") in ("chain", "group") else ()
    yield from (header["kwargs"]["tasks"] if isinstance(header, Mapping) else header) or ()
    if signature.get("subtask_type") == CHORD and kwargs.get("body"):
        yield kwargs["body"]
