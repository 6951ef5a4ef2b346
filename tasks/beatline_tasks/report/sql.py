"""What a query's text is: one statement, and the parameters it names. Pure."""

from __future__ import annotations

import re
from typing import Final

from beatline.selects import bare, change_code, one_select

_PARAM: Final = re.compile(r"(?<![:\w\\]):([A-Za-z_]\w*)")


def check_statement(sql: str) -> str:
    """The statement without the semicolon that may end it. Raises ValueError if it is not one that reads."""
    return one_select(sql)


def names_in(sql: str) -> tuple[str, ...]:
    """The parameters that a statement names, `:name`, each once."""
    return tuple(dict.fromkeys(_PARAM.findall(bare(sql))))


def bindable(sql: str) -> str:
    """The statement as SQLAlchemy's text() takes it: a colon that begins no parameter is escaped."""
    return change_code(sql, _escaped_outside, _escape)


def _escaped_outside(text: str) -> str:
    parts: list[str] = []
    end = 0
    for found in _PARAM.finditer(text):
        parts += (_escape(text[end : found.start()]), found[0])
        end = found.end()
    return "".join([*parts, _escape(text[end:])])


def _escape(text: str) -> str:
    return text.replace(":", "\\:")
