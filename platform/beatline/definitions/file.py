"""A TOML file of definitions: `[sources.NAME]`, … for each kind, and `[schedules.NAME]`; read and checked as a whole."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from beatline.definitions.fields import secret_paths
from beatline.definitions.raw import Variable, resolve
from beatline.definitions.specs import Checked, check
from beatline.errors import BeatlineError, DefinitionError
from beatline.names import check_name
from beatline.schedules.model import ScheduleSpec, read_spec

if TYPE_CHECKING:
    from beatline.families import Kind

SCHEDULES: Final = "schedules"


@dataclass(frozen=True, slots=True)
class Wanted:
    """A definition that a file asks for."""

    kind: Kind
    name: str
    checked: Checked


@dataclass(frozen=True, slots=True)
class Contents:
    """All that a file asks for, each valid by itself."""

    definitions: tuple[Wanted, ...]
    schedules: tuple[ScheduleSpec, ...]


def read_file(path: Path, kinds: Iterable[Kind], variable: Variable) -> Contents:
    """What the file asks for. Raises DefinitionError with one line for everything that is wrong in it."""
    tables = _parse(path)
    by_table = {kind.plural: kind for kind in kinds}
    problems: list[str] = []
    wanted: list[Wanted] = []
    specs: list[ScheduleSpec] = []
    for table, entries in tables.items():
        if table not in by_table and table != SCHEDULES:
            problems.append(_unknown_table(table, [*by_table, SCHEDULES]))
            continue
        if not isinstance(entries, Mapping):
            problems.append(f"{table}: is a value; write [{table}.NAME] and the fields below it.")
            continue
        for name, raw in cast("Mapping[str, Any]", entries).items():
            try:
                fields = _fields(table, name, raw)
                if table == SCHEDULES:
                    specs.append(read_spec(name, fields))
                else:
                    wanted.append(_definition(by_table[table], name, fields, variable, path.parent))
            except BeatlineError as exc:
                problems.append(str(exc))
    if problems:
        raise DefinitionError("\n".join([f"{path}: nothing was applied.", *problems]))
    return Contents(tuple(wanted), tuple(specs))


def _parse(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except tomllib.TOMLDecodeError as exc:
        raise DefinitionError(f"{path} is not TOML: {exc}.") from None
    except UnicodeDecodeError:
        raise DefinitionError(f"{path} is not TOML: it is not UTF-8 text.") from None
    except OSError as exc:
        raise DefinitionError(f"The file {path} cannot be read: {exc.strerror}.") from None


def _fields(table: str, name: str, raw: object) -> dict[str, Any]:
    if not isinstance(raw, dict):
        raise DefinitionError(f"{table}.{name}: is a value; write [{table}.NAME] and the fields below it.")
    return cast("dict[str, Any]", raw)


def _definition(kind: Kind, name: str, raw: Mapping[str, Any], variable: Variable, folder: Path) -> Wanted:
    check_name(kind.name, name)
    try:
        resolved = resolve(raw, secret_paths(kind.load_model()), variable, folder)
    except DefinitionError as exc:
        raise DefinitionError(f"{kind.name.capitalize()} {name!r}: {exc}") from None
    return Wanted(kind, name, check(kind, name, resolved))


def _unknown_table(table: str, known: list[str]) -> str:
    close = get_close_matches(table, known, n=1)
    hint = f"did you mean [{close[0]}.…]?" if close else f"known are {', '.join(known)}."
    return f"[{table}] is no kind of definition: {hint}"
