"""A kind's model as a flat list of fields: what becomes an option of the command line, and which of them are secret."""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, SecretStr

Path = tuple[str, ...]


class Shape(StrEnum):
    """How the value of a field is written on a command line."""

    TEXT = "text"
    LIST = "list"
    MAP = "map"
    SECRET = "secret"  # noqa: S105  # the name of a shape


@dataclass(frozen=True, slots=True)
class Field:
    """A field that holds no further fields; `path` leads to it: `("cursor", "field")`."""

    path: Path
    shape: Shape
    metavar: str
    help: str

    @property
    def dotted(self) -> str:
        """The path as people write it."""
        return ".".join(self.path)


def fields_of(model: type[BaseModel]) -> list[Field]:
    """The fields of a model and of the models in it, in order; of the members of a union, all.

    A list of models has no flat form and is left out.
    """
    found: dict[Path, Field] = {}
    for field in _walk(model, ()):
        known = found.get(field.path)
        found[field.path] = field if known is None else _merged(known, field)
    return list(found.values())


def secret_paths(model: type[BaseModel]) -> frozenset[Path]:
    """Where in a spec a secret may stand."""
    return frozenset(field.path for field in fields_of(model) if field.shape is Shape.SECRET)


def _walk(model: type[BaseModel], path: Path) -> Iterator[Field]:
    for name, info in model.model_fields.items():
        here = (*path, name)
        members = list(_members(info.annotation))
        models = [member for member in members if isinstance(member, type) and issubclass(member, BaseModel)]
        if models:
            for inner in models:
                yield from _walk(inner, here)
            continue
        shape = _shape(members)
        if shape is not None:
            yield Field(here, shape, _metavar(members), info.description or "")


def _members(annotation: Any) -> Iterator[Any]:
    """The types that an annotation allows, without None."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _members(get_args(annotation)[0])
    elif origin is Union or origin is types.UnionType:
        for member in get_args(annotation):
            yield from _members(member)
    elif annotation is not types.NoneType:
        yield annotation


def _shape(members: list[Any]) -> Shape | None:
    first = members[0] if members else str
    origin = get_origin(first) or first
    if SecretStr in members:
        return Shape.SECRET
    if origin in (list, tuple, set, frozenset):
        items = [inner for arg in get_args(first) if arg is not Ellipsis for inner in _members(arg)]
        return None if any(isinstance(item, type) and issubclass(item, BaseModel) for item in items) else Shape.LIST
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return Shape.MAP
    return Shape.TEXT


def _metavar(members: list[Any]) -> str:
    choices: list[str] = []
    for member in members:
        if get_origin(member) is Literal:
            choices += [str(choice) for choice in get_args(member)]
        elif isinstance(member, type) and issubclass(member, Enum):
            choices += [str(choice.value) for choice in member]
    if choices:
        return "|".join(choices)
    if members == [bool]:
        return "yes|no"
    return "N" if members and members[0] in (int, float) else "TEXT"


def _merged(known: Field, other: Field) -> Field:
    """One field for two members of a union: the choices of both (of a discriminator, mostly)."""
    shape = known.shape if known.shape is other.shape else Shape.TEXT
    if known.metavar != other.metavar:
        choices = dict.fromkeys([*known.metavar.split("|"), *other.metavar.split("|")])
        return Field(known.path, shape, "|".join(choices), known.help or other.help)
    return Field(known.path, shape, known.metavar, known.help or other.help)
