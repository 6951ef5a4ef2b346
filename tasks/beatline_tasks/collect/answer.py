"""What a source answered: unpacked within its size, checked in status and content type, told in words."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from tempfile import SpooledTemporaryFile
from types import TracebackType
from typing import IO, Final, Self, cast

import httpx

from beatline.datasets.columns import clean_text
from beatline.errors import TransientError
from beatline_tasks.collect.errors import SourceError
from beatline_tasks.collect.headers import mask_secrets
from beatline_tasks.collect.pagination import without_query
from beatline_tasks.collect.source import Source

_CHUNK_BYTES: Final = 64 * 1024
_IN_MEMORY_BYTES: Final = 2**20
_SAMPLE_CHARS: Final = 200
_NO_CONTENT: Final = 204
_PASSING: Final = frozenset({408, 425, 500, 502, 504})
_BINARY: Final = ("text/plain", "application/octet-stream", "binary/octet-stream")
_CONTENT_TYPES: Final[Mapping[str, tuple[str, ...]]] = {
    "json": ("application/json", "text/json", "+json"),
    "csv": ("text/csv", "application/csv", *_BINARY),
    "jsonl": ("application/x-ndjson", "application/jsonl", "application/x-jsonlines", "application/json", *_BINARY),
}


def _spool() -> IO[bytes]:
    return cast("IO[bytes]", SpooledTemporaryFile(max_size=_IN_MEMORY_BYTES))


@dataclass(slots=True)
class Answer:
    """A page as it came, unpacked; `body` is closed by leaving the context."""

    url: str
    headers: Mapping[str, str]
    not_modified: bool = False
    without_content: bool = False
    body: IO[bytes] = field(default_factory=_spool)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.body.close()


def read(response: httpx.Response, source: Source) -> Answer:
    """The answer, whole. Raises SourceError or TransientError if it is not what the source promises."""
    check_status(response, source)
    check_content_type(response, source)
    url = str(response.url)
    headers = {name.lower(): value for name, value in response.headers.items()}
    answer = Answer(url, headers, without_content=response.status_code == _NO_CONTENT)
    try:
        size = 0
        for chunk in unpacked(response):
            size += len(chunk)
            if size > source.max_page_bytes:
                raise SourceError(
                    f"The answer of {without_query(url)} has more than {source.max_page_bytes:,} bytes: "
                    "ask for smaller pages, or raise max_page_bytes."
                )
            answer.body.write(chunk)
    except BaseException:
        answer.body.close()
        raise
    answer.body.seek(0)
    return answer


def check_status(response: httpx.Response, source: Source) -> None:
    """Return only for a status that the source expects."""
    status = response.status_code
    if status in source.expect.status:
        return
    if status in _PASSING:
        raise TransientError(in_words(response, source, "it is in trouble"))
    if status in (401, 403):
        what = "refused" if source.auth else "missing"
        raise SourceError(in_words(response, source, f"the source's auth is {what}"))
    wanted = " or ".join(map(str, source.expect.status))
    raise SourceError(in_words(response, source, f"{wanted} was expected"))


def check_content_type(response: httpx.Response, source: Source) -> None:
    """Return only for a content type of the source's format, or none at all."""
    found = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    accepted = source.expect.content_types or _CONTENT_TYPES[source.format]
    if found and not any(found.endswith(a) if a.startswith("+") else found == a for a in map(str.lower, accepted)):
        meaning = f"its content type is {found}, and {source.format} was expected"
        raise SourceError(in_words(response, source, meaning) + " If it is right, name it in expect.content_types.")


def in_words(response: httpx.Response, source: Source, meaning: str) -> str:
    """What was answered and what it means, with the beginning of the body; no query, no secret."""
    name = f"{response.status_code} {response.reason_phrase}".strip()
    said = _sample(response, source)
    return f"{without_query(str(response.url))} answered {name}: {meaning}.{f' It says: {said}' if said else ''}"


def _sample(response: httpx.Response, source: Source) -> str:
    try:
        start = next((chunk for chunk in unpacked(response) if chunk), b"")
    except (httpx.HTTPError, SourceError, TransientError):
        return ""
    # Masked before it is cut: half a secret would not be found.
    text = mask_secrets(clean_text(start.decode("utf-8", "replace")), source)
    return " ".join(text.split())[:_SAMPLE_CHARS]


def unpacked(response: httpx.Response) -> Iterator[bytes]:
    """The body in chunks, gunzipped in small steps: a packed answer cannot fill the memory in one."""
    where = without_query(str(response.url))
    encoding = response.headers.get("content-encoding", "").strip().lower()
    if encoding in ("", "identity"):
        return response.iter_raw()
    if encoding not in ("gzip", "x-gzip"):
        raise SourceError(f"{where} packs its answer as {encoding!r}, which was not asked for.")
    return _gunzip(response.iter_raw(), where)


def _gunzip(chunks: Iterable[bytes], where: str) -> Iterator[bytes]:
    unpack = zlib.decompressobj(zlib.MAX_WBITS | 16)
    try:
        for chunk in chunks:
            rest = chunk
            while rest:
                if unpack.eof:  # a further member of the same stream
                    unpack = zlib.decompressobj(zlib.MAX_WBITS | 16)
                yield unpack.decompress(rest, _CHUNK_BYTES)
                rest = unpack.unused_data if unpack.eof else unpack.unconsumed_tail
    except zlib.error as exc:
        raise SourceError(f"{where} sent gzip that cannot be unpacked: {exc}.") from exc
    if not unpack.eof:
        raise TransientError(f"{where} ended its answer before it was complete.")
