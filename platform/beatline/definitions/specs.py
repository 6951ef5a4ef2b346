"""A definition's spec: checked by its kind's pydantic model, its secrets split off and put back. No SQL here."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from pydantic import BaseModel, SecretStr, ValidationError

from beatline.definitions.model import Definition
from beatline.errors import DefinitionError, SecretError
from beatline.secrets import MASK, Keyring

if TYPE_CHECKING:
    from beatline.families import Kind
    from beatline.installation import Installation

Path = tuple[str | int, ...]
Secrets = Mapping[Path, str]
KeyringOf = Callable[[], Keyring]
"""Asked for only where there is a secret, so that a missing key stops nothing else."""

Model = TypeVar("Model", bound=BaseModel)

_DEEPEST: Final = 64


@dataclass(frozen=True, slots=True)
class Checked:
    """A valid spec: `plain` as JSON with *** where a secret belongs, and the secrets by their path."""

    plain: dict[str, Any]
    secrets: Secrets

    def __repr__(self) -> str:
        return f"Checked({self.plain!r})"


def check(kind: Kind, name: str, raw: Mapping[str, Any]) -> Checked:
    """The spec of what a person wrote. Raises DefinitionError that names kind, name, and every wrong field."""
    called = f"{kind.name.capitalize()} {name!r}"
    unstorable = _unstorable(raw, (), 0)
    if unstorable:
        raise DefinitionError(f"{called}: {unstorable}.")
    try:
        spec = kind.load_model().model_validate(dict(raw))
    except ValidationError as exc:
        raise DefinitionError(f"{called}: {explain(exc, raw)}.") from None
    secrets = dict(_secrets(spec.model_dump(exclude_unset=True), ()))
    for path, value in secrets.items():
        if value == MASK:
            raise DefinitionError(
                f"{called}: {dotted(path)}: is the mask {MASK}, not a secret; give the secret itself."
            )
    plain: dict[str, Any] = spec.model_dump(mode="json", exclude_unset=True)
    for path in secrets:
        _put(plain, path, MASK)
    return Checked(plain, secrets)


def open_spec(installation: Installation, definition: Definition, model: type[Model]) -> Model:
    """The definition's spec as its family's model, secrets in place.

    Raises KeyMissingError if this process lacks its key, SecretError if that is wrong, DefinitionError if this version's
    model refuses what is stored.
    """
    raw = raw_spec(definition, lambda: installation.keyring)
    try:
        return model.model_validate(raw)
    except ValidationError as exc:
        raise DefinitionError(f"{definition.called}: {explain(exc, raw)}.") from None


def raw_spec(definition: Definition, keyring: KeyringOf) -> dict[str, Any]:
    """What a person would have to write to define it, secrets included. Raises SecretError."""
    raw: dict[str, Any] = json.loads(json.dumps(dict(definition.spec)))
    for path, value in unseal(definition, keyring).items():
        _put(raw, path, value)
    return raw


def spec_to_edit(
    definition: Definition, keyring: KeyringOf
) -> tuple[dict[str, Any], Callable[[dict[str, Any]], dict[str, Any]]]:
    """The spec as it is shown, to be edited, and a function that puts the untouched secrets back into the result.

    That function raises SecretError only if a secret that was not given anew does not open: setting a secret again is
    how one whose key is lost is mended.
    """
    shown: dict[str, Any] = json.loads(json.dumps(dict(definition.spec)))

    def complete(edited: dict[str, Any]) -> dict[str, Any]:
        untouched = [path for path in _masks(edited, ()) if _at(definition.spec, path) == MASK]
        if untouched:
            known = unseal(definition, keyring)
            for path in untouched:
                if path in known:
                    _put(edited, path, known[path])
        return edited

    return shown, complete


def seal(secrets: Secrets, keyring: KeyringOf, *, bound_to: str) -> bytes | None:
    """The secrets as they are stored; None if there are none."""
    if not secrets:
        return None
    return keyring().encrypt(json.dumps([[list(p), v] for p, v in secrets.items()]).encode(), bound_to=bound_to)


def unseal(definition: Definition, keyring: KeyringOf) -> dict[Path, str]:
    """The definition's secrets. Raises SecretError or KeyMissingError, naming the definition."""
    if definition.secrets is None:
        return {}
    try:
        plain = keyring().decrypt(definition.secrets, bound_to=definition.bound_to)
    except SecretError as exc:
        raise type(exc)(f"{definition.called}: {exc}") from None
    return {tuple(path): value for path, value in json.loads(plain)}


def explain(error: ValidationError, raw: object) -> str:
    """Every problem in one sentence, each after its field as people write it."""
    said: list[str] = []
    for problem in error.errors(include_url=False, include_input=False):
        path = _as_written(problem["loc"], raw)
        context = problem.get("ctx", {})
        if "discriminator" in context:
            path.append(context["discriminator"].strip("'"))
        match problem["type"]:
            case "missing" | "union_tag_not_found":
                text = "is required"
            case "extra_forbidden":
                text = "is no field of it"
            case "union_tag_invalid":
                text = f"must be one of {context['expected_tags']}"
            case _:
                text = problem["msg"].removeprefix("Value error, ").rstrip(".").replace("Input should", "must", 1)
        said.append(f"{dotted(path)}: {text}" if path else text)
    return "; ".join(said)


def dotted(path: Sequence[str | int]) -> str:
    """A path as people write it: `auth.token`."""
    return ".".join(str(step) for step in path)


def _as_written(loc: Sequence[str | int], raw: object) -> list[str | int]:
    """The location without the tags of unions, which pydantic puts in and nobody wrote."""
    path: list[str | int] = []
    here = raw
    for number, step in enumerate(loc):
        last = number == len(loc) - 1
        if isinstance(here, Mapping):
            known = cast("Mapping[str | int, object]", here)
            if step not in known and not last:
                continue
            here = known.get(step)
        elif isinstance(here, list | tuple) and isinstance(step, int):
            items = cast("Sequence[object]", here)
            here = items[step] if step < len(items) else None
        elif not last:
            continue
        path.append(step)
    return path


def _secrets(value: object, path: Path) -> list[tuple[Path, str]]:
    if isinstance(value, SecretStr):
        return [(path, value.get_secret_value())]
    return [found for step, item in _items(value) for found in _secrets(item, (*path, step))]


def _masks(value: object, path: Path) -> list[Path]:
    return [path] if value == MASK else [found for step, item in _items(value) for found in _masks(item, (*path, step))]


def _at(value: object, path: Path) -> object:
    for step in path:
        value = dict(_items(value)).get(step)
    return value


def _items(value: object) -> list[tuple[str | int, object]]:
    if isinstance(value, Mapping):
        return list(cast("Mapping[str | int, object]", value).items())
    if isinstance(value, list | tuple):
        return list(enumerate(cast("Sequence[object]", value)))
    return []


def _put(target: Any, path: Path, value: str) -> None:
    for step in path[:-1]:
        target = target[step]
    target[path[-1]] = value


def _unstorable(value: object, path: Path, depth: int) -> str | None:
    """What PostgreSQL's JSON cannot hold, in words."""
    if depth > _DEEPEST:
        return f"{dotted(path[:3])}…: is nested deeper than {_DEEPEST} levels"
    if isinstance(value, str):
        if "\x00" in value or any(0xD800 <= ord(char) < 0xE000 for char in value):
            return f"{dotted(path)}: holds a NUL character or half a surrogate pair, which cannot be stored"
        return None
    for step, item in _items(value):
        wrong = _unstorable(step, path, depth) or _unstorable(item, (*path, step), depth + 1)
        if wrong:
            return wrong
    return None
