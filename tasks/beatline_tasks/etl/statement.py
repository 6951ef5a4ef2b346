"""One SELECT and nothing else: what may be put in parentheses without meaning more than it says. Pure.

The server refuses whatever writes; this refuses a second statement, and text that would leave its parentheses.
"""

from __future__ import annotations

import re
from typing import Final

_MOST_CHARS: Final = 100_000
_TOKEN: Final = re.compile(
    r"""
      (?P<space>\s+|--[^\n]*)
    | (?P<block>/\*)
    | (?P<dollar>\$(?:[^\W\d]\w*)?\$)
    | (?P<escaped>[eE]'(?:[^'\\]|\\.|'')*')
    | (?P<quoted>'(?:[^']|'')*'|"(?:[^"]|"")*")
    | (?P<word>\w[\w$]*)
    | (?P<broken>['"])
    | (?P<other>.)
    """,
    re.VERBOSE | re.DOTALL,
)
_BEGINS: Final = frozenset({"select", "with", "values", "table"})
_ENDS_BLOCK: Final = re.compile(r"/\*|\*/")


def one_select(sql: str) -> str:
    """The statement without a semicolon at its end. Raises ValueError if it is anything but one SELECT."""
    if len(sql) > _MOST_CHARS or "\x00" in sql:
        raise ValueError(f"is no SELECT: at most {_MOST_CHARS:,} characters, and no NUL")
    at, depth, first, ended = 0, 0, "", None
    while at < len(sql):
        token = _TOKEN.match(sql, at)
        assert token is not None  # noqa: S101  # the last alternative takes any character
        kind, text = token.lastgroup, token.group()
        start, at = at, _end(sql, token)
        if kind in ("space", "block"):
            continue
        if ended is not None:
            raise ValueError("holds a second statement after the semicolon: one SELECT is taken")
        if kind == "broken":
            raise ValueError(f"has a {text} that is not closed")
        depth += {"(": 1, ")": -1}.get(text, 0)
        if depth < 0:
            raise ValueError("closes a parenthesis that it did not open")
        if text == ";":
            ended = start
        first = first or (text.lower() if text != "(" else "")
    if depth:
        raise ValueError("opens a parenthesis that it does not close")
    if first not in _BEGINS:
        raise ValueError(f"is no SELECT: it begins with {first[:20]!r}" if first else "is empty: write a SELECT")
    return sql if ended is None else sql[:ended]


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
