"""What is said about settings: problems, the effective values, and the example file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any, Final, cast

from pydantic import SecretStr, ValidationError
from pydantic.fields import FieldInfo

from beatline import settings_checks as checks
from beatline.secrets import MASK, mask_urls
from beatline.settings_sources import REDIS_PARTS, USUAL_NAMES, Given, variable_of

if TYPE_CHECKING:
    from beatline.settings import Settings

_NEVER_SHOWN: Final = ("redis_url", "result_url", "database_url", "secret_keys", "artifacts_secret_access_key")
_SHOWN_CHARS: Final = 60
_WORDS: Final = {
    "string_pattern_mismatch": "must be lower-case letters, digits and underscores, a letter first, at most 63",
    "float_parsing": "must be a number",
    "int_parsing": "must be a whole number",
    "bool_parsing": "must be true or false",
}

SERVERS: Final = ("redis_url", "database_url")
"""The settings without which nothing runs: configured, or found through the running `beatline up`."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A setting as people may see it."""

    name: str
    variable: str
    value: str
    origin: str


def show(settings: Settings, given: Mapping[str, Given]) -> list[Shown]:
    """Every setting, secrets masked, with where it comes from."""
    return [
        Shown(name, variable_of(name), _text(getattr(settings, name)), _origin(settings, name, given.get(name)))
        for name in type(settings).model_fields
    ]


def describe(fields: Mapping[str, FieldInfo], error: ValidationError, found: Mapping[str, Given]) -> list[str]:
    """One sentence for each problem that pydantic found, with the variable to set and a right example."""
    return [_problem(fields, problem, found) for problem in error.errors(include_url=False)]


def missing_server(fields: Mapping[str, FieldInfo], name: str, home: Path) -> str:
    """The sentence for a server that nothing names."""
    others = [*USUAL_NAMES[name], *(REDIS_PARTS[:1] if name == "redis_url" else ())]
    return (
        f"{variable_of(name)}: is not set (nor is {' or '.join(others)}), and no `beatline up` runs on {home}. "
        f"Example: {_example(fields, name)}"
    )


def mixed_servers(settings: Settings, found: Mapping[str, Given], running: Mapping[str, Given]) -> list[str]:
    """The sentence for one server that is configured beside another that only the running `up` knows.

    What is sent to the one would never be worked on by those who use both of the running `up`.
    """
    taken = [name for name in SERVERS if name in running and found[name] is running[name]]
    others = [name for name in SERVERS if name in running and name not in taken]
    return [
        f"{found[name].origin}: names another server than the one of the {running[name].place}, whose other server "
        f"would be used with it. Set {' and '.join(variable_of(one) for one in taken)} too, or unset it."
        for name in others
        if taken and getattr(settings, name) != _normalised(name, str(running[name].value))
    ]


def _normalised(name: str, url: str) -> str:
    return checks.database_url(url) if name == "database_url" else url


def example_file(fields: Mapping[str, FieldInfo]) -> Iterator[str]:
    """The lines of deploy/env/.env.example."""
    yield "# Every setting of Beatline. Copy to .env, or to .env.<BEATLINE_ENV> for one environment, and uncomment."
    yield "# The environment goes before these files. Written by: beatline settings --example"
    for name, field in fields.items():
        yield ""
        yield from (f"# {line}" for line in wrap(field.description or "", 110))
        if name in USUAL_NAMES:
            usual = [
                *USUAL_NAMES[name],
                *(["REDIS_HOST with REDIS_PORT, REDIS_DB, REDIS_PASSWORD"] if name == "redis_url" else []),
            ]
            yield (
                f"# Where it is unset, the first of these: {', '.join(usual)}."
                if usual[1:]
                else f"# Where it is unset: {usual[0]}."
            )
        yield f"#{_example(fields, name)}"


def _problem(fields: Mapping[str, FieldInfo], problem: Any, found: Mapping[str, Given]) -> str:
    name = str(problem["loc"][0])
    if name not in fields:
        return f"{name}: is no setting of Beatline."
    given = found.get(name)
    variable = given.variable if given and given.place != "caller" else variable_of(name)
    place = f" in {given.place}" if given and given.place.startswith(".env") else ""
    wrong = problem.get("ctx", {}).get("error")
    sentence = str(wrong) if wrong is not None else _WORDS.get(problem["type"]) or _reworded(str(problem["msg"]))
    if given is not None and wrong is None and name not in _NEVER_SHOWN:
        sentence += f", not {str(given.value)[:_SHOWN_CHARS]!r}"
    return f"{variable}{place}: {sentence}. Example: {_example(fields, name)}"


def _reworded(message: str) -> str:
    return message.replace("Input should", "must", 1)


def _example(fields: Mapping[str, FieldInfo], name: str) -> str:
    field = fields[name]
    example = field.examples[0] if field.examples else _plain(field.default)
    return f"{variable_of(name)}={example}"


def _origin(settings: Settings, name: str, given: Given | None) -> str:
    if given is not None:
        return given.origin if given.variable != name else given.place
    if name in settings.model_fields_set:
        return "caller"
    if name in SERVERS:
        return "not set"
    return "redis_url" if name == "result_url" else "default"


def _text(value: object) -> str:
    return MASK if isinstance(value, SecretStr) else mask_urls(_plain(value))


def _plain(value: object) -> str:
    match value:
        case None:
            return ""
        case bool():
            return json.dumps(value)
        case float():
            return f"{value:g}"
        case tuple():
            return ",".join(str(item) for item in cast("tuple[object, ...]", value))
        case _:
            return str(value)
