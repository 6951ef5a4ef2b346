"""SQL that people wrote, read as PostgreSQL reads it: one SELECT and nothing else, and where a parameter stands. Pure.

Text that is put in parentheses must not leave them, and a second statement must not follow: a COMMIT would end the
transaction that forbids writing. So tokens begin and end exactly where the server's do: a remark ends at a carriage
return too, letters past ASCII belong to names, a string goes on after a line break, and `e'` at the end of a name
begins no string with escapes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Final, Literal, cast

_MOST_CHARS: Final = 100_000
_BEGINS: Final = frozenset({"select", "with", "values", "table"})
_WRITES: Final = frozenset({"insert", "update", "delete", "merge"})
_ENDS_BLOCK: Final = re.compile(r"/\*|\*/")
# Between the parts of one string: blanks and remarks, with a line break after the first of them.
_GOES_ON: Final = r"(?:[ \t\f\v]|--[^\n\r]*+)*+[\n\r](?:[ \t\n\r\f\v]++|--[^\n\r]*+[\n\r])*+"
_TOKEN: Final = re.compile(
    rf"""
      (?P<space>[ \t\n\r\f\v]++|--[^\n\r]*+)
    | (?P<block>/\*)
    | (?P<dollar>\$(?:[A-Za-z_\x80-\U0010ffff][A-Za-z0-9_\x80-\U0010ffff]*+)?\$)
    | (?P<escaped>[eE]'(?:[^'\\]|\\.|'')*+'(?:{_GOES_ON}'(?:[^'\\]|\\.|'')*+')*+)
    | (?P<quoted>'(?:[^']|'')*+'|"(?:[^"]|"")*+")
    | (?P<word>[A-Za-z_\x80-\U0010ffff][A-Za-z0-9_$\x80-\U0010ffff]*+|[0-9]++)
    | (?P<broken>['"])
    | (?P<other>.)
    """,
    re.VERBOSE | re.DOTALL,
)

_Kind = Literal["space", "block", "dollar", "escaped", "quoted", "word", "broken", "other"]
_OUTSIDE: Final = frozenset({"space", "word", "other"})


def one_select(sql: str) -> str:
    """The statement without a semicolon at its end. Raises ValueError if it is anything but one SELECT.

    What is returned stays within parentheses whose closing one stands on a line of its own.
    """
    if len(sql) > _MOST_CHARS or "\x00" in sql:
        raise ValueError(f"is no SELECT: at most {_MOST_CHARS:,} characters, and no NUL")
    depth, first, last, ended = 0, "", "", None
    for kind, start, end in _tokens(sql):
        if kind in ("space", "block"):
            continue
        text = sql[start:end]
        if ended is not None:
            raise ValueError("holds a second statement after the semicolon: one SELECT is taken")
        depth += {"(": 1, ")": -1}.get(text, 0)
        if depth < 0:
            raise ValueError("closes a parenthesis that it did not open")
        if text == ";":
            ended = start
        first = first or (text.lower() if text != "(" else "")
        if first == "with" and last == ")" and depth == 0 and text.lower() in _WRITES:
            raise ValueError(f"is no SELECT: after WITH it goes on with {text!r}")
        last = text
    if depth:
        raise ValueError("opens a parenthesis that it does not close")
    if first in ("", ";"):
        raise ValueError("is empty: write a SELECT")
    if first not in _BEGINS:
        raise ValueError(f"is no SELECT: it begins with {first[:20]!r}")
    return sql if ended is None else sql[:ended]


def change_code(sql: str, code: Callable[[str], str], text: Callable[[str], str] = str) -> str:
    """The statement with `code` applied to what is neither string, quoted name nor remark, and `text` to what is.

    Raises ValueError for what is not closed.
    """
    parts: list[str] = []
    begun = 0
    for kind, start, end in _tokens(sql):
        if kind not in _OUTSIDE or sql.startswith("--", start):
            parts += (code(sql[begun:start]), text(sql[start:end]))
            begun = end
    return "".join([*parts, code(sql[begun:])])


def bare(sql: str) -> str:
    """The statement with blanks for its strings, quoted names and remarks: parameters are looked for in what is left."""
    return change_code(sql, str, lambda text: " " * len(text))


def literal(text: str) -> str:
    """The text as it stands in a statement; it means the same whatever `standard_conforming_strings` says."""
    return "E'" + text.replace("\\", "\\\\").replace("'", "''") + "'"


def _tokens(sql: str) -> Iterator[tuple[_Kind, int, int]]:
    """What the text consists of, with nothing left out: kind, begin and end. Raises ValueError for what is not closed."""
    at = 0
    while at < len(sql):
        token = _TOKEN.match(sql, at)
        assert token is not None  # noqa: S101  # the last alternative takes any character
        kind = cast("_Kind", token.lastgroup)
        if kind == "broken":
            raise ValueError(f"has a {token.group()} that is not closed")
        start, at = at, _end(sql, token)
        yield kind, start, at


def _end(sql: str, token: re.Match[str]) -> int:
    """Where what the token begins is over."""
    if token.lastgroup == "dollar":
        closed = sql.find(token.group(), token.end())
        if closed < 0:
            raise ValueError(f"has a {token.group()} that is not closed")
        return closed + len(token.group())
    if token.lastgroup != "block":
        return token.end()
    depth, at = 1, token.end()  # comments nest
    while depth:
        found = _ENDS_BLOCK.search(sql, at)
        if found is None:
            raise ValueError("has a /* that is not closed")
        depth += 1 if found.group() == "/*" else -1
        at = found.end()
    return at
