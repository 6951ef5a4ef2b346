"""What a query's text is: one statement, and the parameters it names. Pure; the session's rights are the guard."""

from __future__ import annotations

import re
from typing import Final

# Text, names and remarks, in which a semicolon or a colon means nothing.
_QUOTED: Final = re.compile(
    r"""[eE]'(?:[^'\\]|''|\\.)*'|'(?:[^']|'')*'|"(?:[^"]|"")*"|--[^\n]*|/\*.*?\*/|\$(\w*)\$.*?\$\1\$""", re.DOTALL
)
_PARAM: Final = re.compile(r"(?<![:\w\\]):([A-Za-z_]\w*)")
_READS: Final = re.compile(r"\s*(?:\(\s*)*(select|with|values|table)\b", re.IGNORECASE)


def check_statement(sql: str) -> str:
    """The statement without the semicolon that may end it. Raises ValueError if it is not one that reads."""
    bare = _QUOTED.sub(lambda found: " " * len(found[0]), sql)
    end = bare.rstrip()
    if end.endswith(";"):
        end = end[:-1]
        sql, bare = sql[: len(end)], end
    if ";" in bare:
        raise ValueError("holds several statements; a query is one SELECT")
    if not _READS.match(bare):
        raise ValueError("must begin with SELECT, WITH, VALUES or TABLE")
    if "\x00" in sql:
        raise ValueError("holds a NUL character")
    return sql


def names_in(sql: str) -> tuple[str, ...]:
    """The parameters that a statement names, `:name`, each once."""
    return tuple(dict.fromkeys(_PARAM.findall(_QUOTED.sub(" ", sql))))


def bindable(sql: str) -> str:
    """The statement as SQLAlchemy's text() takes it: a colon that begins no parameter is escaped."""
    parts: list[str] = []
    end = 0
    for found in _QUOTED.finditer(sql):
        parts += (_escaped_outside(sql[end : found.start()]), _escape(found[0]))
        end = found.end()
    return "".join([*parts, _escaped_outside(sql[end:])])


def _escaped_outside(text: str) -> str:
    parts: list[str] = []
    end = 0
    for found in _PARAM.finditer(text):
        parts += (_escape(text[end : found.start()]), found[0])
        end = found.end()
    return "".join([*parts, _escape(text[end:])])


def _escape(text: str) -> str:
    return text.replace(":", "\\:")
