"""What a task does first with the name it was given: find the definition, and open it or park it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from beatline.definitions import store
from beatline.definitions.model import Definition
from beatline.definitions.specs import Model, open_spec
from beatline.errors import BeatlineError, KeyMissingError, SecretError, ServiceError

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from beatline.installation import Installation


def open_definition(
    installation: Installation,
    kind: str,
    name_or_id: object,
    model: type[Model],
    *,
    error: type[BeatlineError],
    begin: Callable[[], AbstractContextManager[Connection]] | None = None,
) -> tuple[Definition, Model]:
    """The definition of this name or id, secrets in place; `begin` opens a transaction, by default the engine's.

    Raises `error` if it is parked, or if a message holds no text for a name; NotFoundError; DefinitionError. One whose
    secrets do not open is parked, so that it fails in words and the others run; a key that this process lacks is a
    ServiceError, for another process may hold it.
    """
    if not isinstance(name_or_id, str):
        raise error(f"A {kind} is named by its name or its id as text, not {name_or_id!r:.80}.")
    begin = begin or installation.engine.begin
    with begin() as conn:
        definition = store.get(conn, kind, name_or_id)
    if definition.parked is not None:
        plural = _plural(kind)
        raise error(
            f"{definition.called} is parked: {definition.parked} Once that is mended, "
            f"`beatline {plural} check {definition.name}` or `beatline {plural} unpark {definition.name}` lets it run."
        )
    try:
        return definition, open_spec(installation, definition, model)
    except KeyMissingError as exc:
        raise ServiceError(str(exc)) from exc
    except SecretError as exc:
        with begin() as conn:
            store.park(conn, definition, str(exc), who=definition.kind)
        raise


def _plural(kind: str) -> str:
    from beatline.families import kinds

    return kinds()[kind].plural
