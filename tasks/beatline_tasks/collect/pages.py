"""A source as a sequence of pages: over HTTP one request a page, a file as one page."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from beatline_tasks.collect.answer import Answer
from beatline_tasks.collect.cursor import Position, request_params
from beatline_tasks.collect.errors import SourceError
from beatline_tasks.collect.http import Fetcher
from beatline_tasks.collect.pagination import Seen, first_url, next_url, without_query
from beatline_tasks.collect.parse import parse_json, parse_lines
from beatline_tasks.collect.source import NumberedPages, OffsetPages, Source

Validators = Mapping[str, Any]
"""What tells an unchanged source from a changed one; kept with the cursor."""

_ASK: Final = {"etag": "if-none-match", "last_modified": "if-modified-since"}


@dataclass(slots=True)
class Page:
    """A page's rows, to be read to their end before the next page is asked for."""

    where: str
    rows: Iterator[object]
    not_modified: bool = False


class Pages(Protocol):
    """What is read in one run; `validators` stand when it was read to its end, if it can be told apart then."""

    validators: Validators

    def __iter__(self) -> Generator[Page]: ...


@dataclass(slots=True)
class HttpPages:
    """The pages of an http source from a position on.

    Validators are kept only where the run was a single page: that the first page has not changed says nothing about
    those behind it.
    """

    source: Source
    fetcher: Fetcher
    start: Position | None
    known: Validators
    validators: Validators = field(default_factory=dict[str, Any])

    def __iter__(self) -> Generator[Page]:
        url = first_url(self.source, self._cursor_params())
        asked: set[str] = set()
        digest, total = b"", 0
        for number in range(self.source.max_pages):
            if url in asked:
                raise SourceError(f"Page {number + 1} of {without_query(url)} was read before in this run: a circle.")
            asked.add(url)
            with self.fetcher.get(url, {} if number else self._conditional(url)) as answer:
                where = f"page {number + 1} of {without_query(url)}"
                if answer.not_modified:
                    self.validators = self.known
                    yield Page(where, iter(()), not_modified=True)
                    return
                digest = self._check_moves_on(answer, digest, where)
                page, counted, body = self._page(answer, where)
                yield page
            total += counted.count
            link = answer.headers.get("link")
            seen = Seen(number, url, answer.url, counted.count, total, body, link)
            following = next_url(self.source, seen)
            if following is None:
                self.validators = self._validators(url, answer) if number == 0 else {}
                return
            url = following
        raise TooManyPagesError(self.source.max_pages)

    def _page(self, answer: Answer, where: str) -> tuple[Page, _Counted, object]:
        body: object = None
        if answer.without_content:
            counted = _Counted(())
        elif self.source.format == "json":
            body, rows = parse_json(self.source, answer.body, where)
            counted = _Counted(rows)
        else:
            counted = _Counted(parse_lines(self.source, answer.body, where))
        return Page(where, iter(counted)), counted, body

    def _cursor_params(self) -> Mapping[str, str]:
        return {} if self.source.cursor is None else request_params(self.source.cursor, self.start)

    def _check_moves_on(self, answer: Answer, digest: bytes, where: str) -> bytes:
        """The digest of a counted page. Raises SourceError if it is that of the page before."""
        pages = self.source.pagination
        if not isinstance(pages, NumberedPages | OffsetPages):
            return b""
        found = hashlib.file_digest(answer.body, "sha256").digest()  # type: ignore[arg-type]  # typeshed asks for readinto
        answer.body.seek(0)
        if found == digest:
            raise SourceError(
                f"{where[0].upper()}{where[1:]} is the one before, byte for byte: the server does not take the "
                f"parameter {pages.param!r}. Correct pagination.param, or the type of pagination."
            )
        return found

    def _conditional(self, url: str) -> dict[str, str]:
        if not self.source.etag or self.known.get("url") != _digest(url):
            return {}
        return {header: str(self.known[name]) for name, header in _ASK.items() if self.known.get(name)}

    def _validators(self, url: str, answer: Answer) -> Validators:
        found = {"etag": answer.headers.get("etag"), "last_modified": answer.headers.get("last-modified")}
        return {"url": _digest(url)} | found if self.source.etag and any(found.values()) else {}


class TooManyPagesError(SourceError):
    """A run reached the source's limit of pages."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        super().__init__(f"There are more than {limit:,} pages (max_pages): raise it, or ask for larger pages.")


@dataclass(slots=True)
class _Counted:
    rows: Iterable[object]
    count: int = 0

    def __iter__(self) -> Iterator[object]:
        for row in self.rows:
            self.count += 1
            yield row


def _digest(url: str) -> str:
    return hashlib.sha256(url.encode()).hexdigest()
