"""Which request comes after which answer. Pure: addresses and what was seen in, an address out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, cast
from urllib.parse import parse_qsl, urlencode, urljoin, urlsplit, urlunsplit

from beatline_tasks.collect.errors import SourceError
from beatline_tasks.collect.source import (
    CursorPages,
    LinkPages,
    NextInBodyPages,
    NoPages,
    NumberedPages,
    OffsetPages,
    Source,
)

_LINK: Final = re.compile(r'<([^>]*)>((?:\s*;\s*[\w*-]+\s*=\s*(?:"[^"]*"|[^",;\s]+))*)')
_REL: Final = re.compile(r';\s*rel\s*=\s*(?:"([^"]*)"|([^",;\s]+))', re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Seen:
    """What a page was: its number in the run from 0, the address that was asked and the one that answered, its rows and
    those up to its end, its JSON and its Link header.
    """

    number: int
    url: str
    answered: str
    rows: int
    rows_so_far: int
    body: object = None
    link: str | None = None


def with_params(url: str, params: Mapping[str, object]) -> str:
    """The address with these parameters set; others stay as they are."""
    if not params:
        return url
    parts = urlsplit(url)
    kept = [(k, v) for k, v in parse_qsl(parts.query, keep_blank_values=True) if k not in params]
    added = [(k, str(v).lower() if isinstance(v, bool) else str(v)) for k, v in params.items()]
    return urlunsplit(parts._replace(query=urlencode(kept + added), fragment=""))


def without_query(url: str) -> str:
    """The address as it may stand in a message: a query can hold a token."""
    return urlunsplit(urlsplit(url)._replace(query="", fragment=""))


def first_url(source: Source, cursor_params: Mapping[str, str]) -> str:
    """The address of a run's first page."""
    params: dict[str, object] = {**source.params, **cursor_params}
    match source.pagination:
        case NumberedPages(param=param, start=start, size_param=size_param, size=size):
            params |= {param: start} | ({size_param: size} if size_param and size else {})
        case OffsetPages(param=param, size_param=size_param, size=size):
            params |= {param: 0} | ({size_param: size} if size_param and size else {})
        case NoPages() | CursorPages() | LinkPages() | NextInBodyPages():
            pass
    return with_params(source.url or "", params)


def next_url(source: Source, seen: Seen) -> str | None:
    """The address of the page after this one; None after the last.

    Counted pages end with an empty one: a short page may only mean that the server caps its size.
    """
    match source.pagination:
        case NoPages():
            return None
        case NumberedPages(param=param, start=start):
            return with_params(seen.url, {param: start + seen.number + 1}) if seen.rows else None
        case OffsetPages(param=param):
            return with_params(seen.url, {param: seen.rows_so_far}) if seen.rows else None
        case CursorPages(path=path, param=param):
            token = _text_at(seen.body, path)
            return with_params(seen.url, {param: token}) if token else None
        case NextInBodyPages(path=path):
            return _joined(seen.answered, _text_at(seen.body, path))
        case LinkPages():
            return _joined(seen.answered, next_link(seen.link or ""))


def next_link(header: str) -> str | None:
    """The address that a Link header (RFC 8288) gives for rel=next."""
    for found in _LINK.finditer(header):
        for rel in _REL.finditer(found[2]):
            if "next" in (rel[1] or rel[2]).lower().split():
                return found[1]
    return None


def dig(body: object, path: str) -> object:
    """What stands at a dotted path (`data.items`, `results.0.next`); None if nothing does."""
    for step in path.split(".") if path else ():
        if isinstance(body, dict):
            body = cast("dict[str, object]", body).get(step)
        elif isinstance(body, list) and step.isdecimal() and int(step) < len(cast("list[object]", body)):
            body = cast("list[object]", body)[int(step)]
        else:
            return None
    return body


def _text_at(body: object, path: str) -> str | None:
    found = dig(body, path)
    if found is None or found is False or found == "":
        return None
    if isinstance(found, bool) or not isinstance(found, str | int):
        raise SourceError(f"The answer has no text at {path!r}, where the next page is named: correct pagination.path.")
    return str(found)


def _joined(url: str, target: str | None) -> str | None:
    if target is None:
        return None
    try:
        joined = urljoin(url, target)
        parts = urlsplit(joined)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable, joined = False, ""
    if not usable:
        raise SourceError(f"The next page is at {target[:100]!r}, which is no address of http or https.")
    return joined
