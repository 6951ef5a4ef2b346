"""Texts with `{field}` in them, such as a subject or a path: filled from a list of fields, and nothing else. Pure."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from beatline.artifacts import safe_name

_FIELD: Final = re.compile(r"\{([^{}]*)\}")


def check_template(fields: Sequence[str]) -> Callable[[str], str]:
    """A check that a text names only these fields."""

    def check(text: str) -> str:
        for name in _FIELD.findall(text):
            if name not in fields:
                raise ValueError(f"{{{name[:40]}}} means nothing here; known are {{{'}, {'.join(fields)}}}")
        if set("{}") & set(_FIELD.sub("", text)):
            raise ValueError("has a brace without its other half")
        return text

    return check


def fill(text: str, values: Mapping[str, str]) -> str:
    """The text with each field's value; control characters of values become spaces."""
    filled = _FIELD.sub(lambda found: values[found[1]], text)
    return "".join(" " if unicodedata.category(char) in ("Cc", "Zl", "Zp") else char for char in filled).strip()


def fill_path(text: str, values: Mapping[str, str]) -> str:
    """The path with each field's value, as a way downwards only: no value adds a folder, none leads up."""
    safe = {name: safe_name(re.sub(r"[/\\]", "_", value)) for name, value in values.items()}
    filled = _FIELD.sub(lambda found: safe[found[1]], text)
    return "/".join(safe_name(part) for part in filled.split("/") if part.strip(". "))
