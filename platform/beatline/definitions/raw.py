"""Specs before they are checked: nested mappings, addressed by dotted paths, laid over one another; secrets by reference."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from beatline.errors import DefinitionError

Variable = Callable[[str], str | None]
"""Reads a variable of the environment."""


def put(target: dict[str, Any], path: Sequence[str], value: object) -> None:
    """Set a value at a path, making the mappings on the way. Raises DefinitionError if a plain value is in the way."""
    here = target
    for number, step in enumerate(path[:-1], start=1):
        inner = here.setdefault(step, {})
        if not isinstance(inner, dict):
            raise DefinitionError(f"{'.'.join(path)}: {'.'.join(path[:number])} is a plain value already.")
        here = cast("dict[str, Any]", inner)
    here[path[-1]] = value


def drop(target: dict[str, Any], path: Sequence[str]) -> None:
    """Remove what stands at a path. Raises DefinitionError if nothing does."""
    here: Any = target
    for step in path[:-1]:
        here = cast("dict[str, Any]", here).get(step) if isinstance(here, dict) else None
    if not isinstance(here, dict) or path[-1] not in here:
        raise DefinitionError(f"{'.'.join(path)}: is not set, so it cannot be unset.")
    del here[path[-1]]


def laid_over(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with what `top` says. A mapping of another `type` replaces the whole one: their fields are others."""
    result = dict(base)
    for name, value in top.items():
        below = result.get(name)
        if isinstance(below, Mapping) and isinstance(value, Mapping):
            under, over = cast("Mapping[str, Any]", below), cast("Mapping[str, Any]", value)
            same = "type" not in over or over["type"] == under.get("type")
            result[name] = laid_over(under, over) if same else dict(over)
        else:
            result[name] = value
    return result


def assignment(text: str) -> tuple[list[str], Any]:
    """`path=value`; the value is read as JSON if it is JSON, else as text. Raises DefinitionError."""
    path, sign, value = text.partition("=")
    if not sign or not path.strip():
        raise DefinitionError(f"--set takes path=value, such as timeouts.read_s=60, not {text[:60]!r}.")
    try:
        read = json.loads(value)
    except ValueError:
        read = value
    return path.strip().split("."), read


def resolve(
    raw: Mapping[str, Any], secret_paths: Iterable[tuple[str, ...]], variable: Variable, folder: Path
) -> dict[str, Any]:
    """The spec with secrets in the place of `{env = "NAME"}` and `{file = "path"}`.

    Only where the model has a secret: elsewhere such a mapping is data. Raises DefinitionError that names the field.
    """
    result: dict[str, Any] = {
        name: dict(cast("Mapping[str, Any]", value)) if isinstance(value, Mapping) else value
        for name, value in raw.items()
    }
    for path in secret_paths:
        reference = _at(raw, path)
        if isinstance(reference, Mapping):
            secret = _referenced(cast("Mapping[str, Any]", reference), ".".join(path), variable, folder)
            result = laid_over(result, _nested(path, secret))
    return result


def secret_of(field: str, source: str, where: str, variable: Variable, folder: Path) -> str:
    """The secret in an environment variable (`env`) or in a file (`file`). Raises DefinitionError."""
    if source == "env":
        value = variable(where)
        if not value:
            raise DefinitionError(f"{field}: the environment variable {where} is not set.")
        return value
    path = folder / Path(where).expanduser()
    try:
        text = path.read_text("utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "it is not UTF-8 text"
        raise DefinitionError(f"{field}: the file {path} cannot be read: {reason}.") from None
    if not text:
        raise DefinitionError(f"{field}: the file {path} is empty.")
    return text


def _referenced(reference: Mapping[str, Any], field: str, variable: Variable, folder: Path) -> str:
    [(source, where)] = reference.items() if len(reference) == 1 else [("", "")]
    if source not in ("env", "file") or not isinstance(where, str) or not where:
        raise DefinitionError(f'{field}: a secret is text, {{env = "NAME"}} or {{file = "path"}}.')
    return secret_of(field, source, where, variable, folder)


def _at(raw: Any, path: Sequence[str]) -> Any:
    for step in path:
        raw = cast("Mapping[str, Any]", raw).get(step) if isinstance(raw, Mapping) else None
    return raw


def _nested(path: Sequence[str], value: Any) -> dict[str, Any]:
    for step in reversed(path):
        value = {step: value}
    return cast("dict[str, Any]", value)
