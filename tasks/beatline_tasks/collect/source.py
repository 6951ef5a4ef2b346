"""A source as a person declares it: where it is, how it is read, what a row looks like."""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    StringConstraints,
    field_validator,
    model_validator,
)

from beatline.datasets.columns import RESERVED, ColumnType
from beatline.selects import bare, one_select

_COLUMN_BYTES: Final = 63
"""PostgreSQL cuts a longer name silently."""
_QUERY_CHARS: Final = 50_000
CURSOR_PARAMETER: Final = re.compile(r"(?<![:\w]):cursor\b")
"""Where a query takes the position; `x::cursor` would be a type's name."""
_SQL: Final = ("connection", "query", "table")
_READ_WHOLE: Final = (
    "records",
    "pagination",
    "auth",
    "params",
    "headers",
    "csv",
    "expect",
    "max_page_bytes",
    "max_pages",
)
Param = str | int | float | bool


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


def _sendable(text: str) -> str:
    # The HTTP library would refuse it too, with the secret in its message.
    if not text or not text.isascii() or not text.isprintable():
        raise ValueError("cannot be sent in a header: printable ASCII, at least one character")
    return text


def _sendable_secret(secret: SecretStr) -> SecretStr:
    _sendable(secret.get_secret_value())
    return secret


TableName = Annotated[str, StringConstraints(pattern=r'^[^.\x00"]{1,63}(\.[^.\x00"]{1,63})?$')]
HeaderSecret = Annotated[SecretStr, AfterValidator(_sendable_secret)]
HeaderName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}$")]
HeaderValue = Annotated[str, AfterValidator(_sendable)]


class HeaderAuth(_Strict):
    """A key in a header of its own."""

    type: Literal["header"] = "header"
    name: HeaderName = "X-Api-Key"
    value: HeaderSecret


class BearerAuth(_Strict):
    """`Authorization: Bearer …`."""

    type: Literal["bearer"] = "bearer"
    token: HeaderSecret


class BasicAuth(_Strict):
    """User name and password."""

    type: Literal["basic"] = "basic"
    user: str
    password: SecretStr


class NoPages(_Strict):
    """All rows in one answer."""

    type: Literal["none"] = "none"


class _Counted(_Strict):
    size_param: str | None = None
    size: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _size_is_whole(self) -> Self:
        if (self.size_param is None) != (self.size is None):
            raise ValueError("size and size_param go together: the parameter that sets the size, and the size")
        return self


class NumberedPages(_Counted):
    """A page number, counted up until a page is empty."""

    type: Literal["page"] = "page"
    param: str = "page"
    start: int = 1


class OffsetPages(_Counted):
    """An offset, counted up by the rows that came until a page is empty."""

    type: Literal["offset"] = "offset"
    param: str = "offset"


class CursorPages(_Strict):
    """A token in the body (`path`) that is sent back as a parameter."""

    type: Literal["cursor"] = "cursor"
    path: str
    param: str = "cursor"


class LinkPages(_Strict):
    """The header `Link: <…>; rel="next"`."""

    type: Literal["link"] = "link"


class NextInBodyPages(_Strict):
    """The address of the next page in the body (`path`)."""

    type: Literal["next"] = "next"
    path: str = "next"


Auth = Annotated[HeaderAuth | BearerAuth | BasicAuth, Field(discriminator="type")]
Pages = Annotated[
    NoPages | NumberedPages | OffsetPages | CursorPages | LinkPages | NextInBodyPages, Field(discriminator="type")
]


class CursorSpec(_Strict):
    """Which field tells new rows from known ones.

    `param` (and `tie_param`) is the request's parameter that takes it. The overlap is read again each time, for rows
    that arrive late: seconds for date and timestamp, units for numbers. `ordered` promises that rows come in
    ascending order; then each page is committed with its cursor, otherwise all pages in one transaction.
    """

    field: str
    tie_break: str | None = None
    param: str | None = None
    tie_param: str | None = None
    overlap_s: float = Field(default=0, ge=0)
    overlap: float = Field(default=0, ge=0)
    ordered: bool = False


class Timeouts(_Strict):
    """Seconds: to connect, between two reads, for one page, for all pages of a run."""

    connect_s: float = Field(default=10, gt=0, le=120)
    read_s: float = Field(default=30, gt=0, le=600)
    page_s: float = Field(default=120, gt=0, le=840)
    run_s: float = Field(default=800, gt=0, le=840)


class Expect(_Strict):
    """What a right answer looks like; without content types, those of the format."""

    status: tuple[int, ...] = (200,)
    content_types: tuple[str, ...] = ()


class Csv(_Strict):
    """How CSV is written."""

    delimiter: str = Field(default=",", min_length=1, max_length=1)
    encoding: str = "utf-8-sig"

    @field_validator("encoding")
    @classmethod
    def _encoding_exists(cls, name: str) -> str:
        try:
            b"x".decode(name, "replace")
        except LookupError:
            raise ValueError(f"{name!r} is no encoding of text: utf-8, latin-1, gb18030 …") from None
        return name


class Source(_Strict):
    """What collect reads. A row is refused without its key, or with a value that is not its column's type."""

    type: Literal["http", "file", "sql"]
    url: str | None = None
    path: str | None = None
    connection: str | None = Field(default=None, description="sql: the connection to the database, its name or id")
    query: Annotated[str, Field(max_length=_QUERY_CHARS), AfterValidator(one_select)] | None = Field(
        default=None, description="sql: a SELECT; :cursor is bound in it"
    )
    table: TableName | None = Field(default=None, description="sql: a table or view, in place of a query")
    format: Literal["json", "csv", "jsonl"] = Field(default="json", description="http and file: it is required")
    records: str = Field(default="", description="where the list of rows is in a JSON answer: data.items")
    dataset: str | None = Field(default=None, description="the table that is filled; without it, named as the source")
    key: tuple[str, ...] = Field(min_length=1, description="the fields that tell one row from another")
    columns: dict[str, ColumnType] = Field(default_factory=dict, description="fields kept as columns; the rest: doc")
    cursor: CursorSpec | None = None
    pagination: Pages = NoPages()
    auth: Auth | None = None
    params: dict[str, Param] = Field(default_factory=dict)
    headers: dict[HeaderName, HeaderValue] = Field(default_factory=dict)
    csv: Csv = Csv()
    timeouts: Timeouts = Timeouts()
    expect: Expect = Expect()
    max_page_bytes: int = Field(default=32 * 2**20, ge=1, description="size cap of one answer, unpacked")
    max_pages: int = Field(default=10_000, ge=1)
    etag: bool = Field(default=True, description="ask only for what changed: ETag, Last-Modified; a file's time, size")

    @field_validator("url")
    @classmethod
    def _url_can_be_read(cls, url: str | None) -> str | None:
        if url is None:
            return None
        try:
            parts = urlsplit(url)
            host, _ = parts.hostname, parts.port
        except ValueError as exc:
            raise ValueError(f"is no address: {exc}") from None
        if parts.scheme not in ("http", "https") or not host:
            raise ValueError("must be an address such as https://api.example.com/items")
        if parts.username is not None or parts.password is not None:
            raise ValueError('must not carry a password: use auth = {type = "basic", user = …, password = …}')
        return url

    @field_validator("key", "columns")
    @classmethod
    def _names_can_be_columns(cls, names: tuple[str, ...] | dict[str, ColumnType]) -> object:
        for name in names:
            if name in RESERVED:
                raise ValueError(f"{name!r} is a column that Beatline keeps; leave the field in doc")
            if not name or "\x00" in name or len(name.encode("utf-8", "replace")) > _COLUMN_BYTES:
                raise ValueError(f"{name[:80]!r} cannot be a column: 1 to {_COLUMN_BYTES} bytes, no NUL")
        if len(set(names)) != len(names):
            raise ValueError("names a field twice")
        return names

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.type == "http" and (self.url is None or self.path is not None):
            raise ValueError("a source of type http has a url, and no path")
        if self.type == "file":
            self._check_file()
        if self.type == "sql":
            self._check_sql()
        else:
            self._check_read_from_bytes()
        if self.format != "json":
            if self.records:
                raise ValueError(f"records is for JSON; {self.format} has one row a line")
            if isinstance(self.pagination, CursorPages | NextInBodyPages):
                raise ValueError(f"pagination {self.pagination.type!r} reads the body as JSON; {self.format} has none")
        if self.cursor is not None:
            self._check_cursor(self.cursor)
        return self

    def _check_file(self) -> None:
        if self.path is None or self.url is not None:
            raise ValueError("a source of type file has a path, and no url")
        if self.format == "json":
            raise ValueError("a file is csv or jsonl (one JSON object a line)")
        if self.auth or self.params or self.headers or not isinstance(self.pagination, NoPages):
            raise ValueError("auth, params, headers and pagination are for http")
        if self.cursor is not None and (self.cursor.param or self.cursor.tie_param):
            raise ValueError("cursor.param is for http")

    def _check_read_from_bytes(self) -> None:
        given = [name for name in _SQL if getattr(self, name) is not None]
        if given:
            raise ValueError(f"{', '.join(given)}: is for sources of type sql")
        if "format" not in self.model_fields_set:
            raise ValueError("format: is required: json, csv or jsonl")

    def _check_sql(self) -> None:
        if self.connection is None:
            raise ValueError("connection: is required for a source of type sql: `beatline connections list` has them")
        if (self.query is None) == (self.table is None):
            raise ValueError("query or table: a source of type sql has one of them")
        foreign = ("url", "path", "format", *_READ_WHOLE, "etag")
        given = [name for name in foreign if name in self.model_fields_set]
        if given:
            raise ValueError(f"{', '.join(given)}: is not for sources of type sql")
        if self.cursor is not None and (self.cursor.param or self.cursor.tie_param):
            raise ValueError("cursor.param: is for http; a query names its position as :cursor")
        if self.cursor is None and self.query is not None and CURSOR_PARAMETER.search(bare(self.query)):
            raise ValueError("cursor: the query uses :cursor, and no cursor.field says which field that is")

    def _check_cursor(self, cursor: CursorSpec) -> None:
        kind = self.columns.get(cursor.field)
        if kind is None:
            raise ValueError(f"cursor.field {cursor.field!r} must be declared in columns: its type gives the order")
        if cursor.tie_break is not None and cursor.tie_break not in (*self.columns, *self.key):
            raise ValueError(f"cursor.tie_break {cursor.tie_break!r} must be a key field or declared in columns")
        if kind == "boolean" or cursor.field == cursor.tie_break:
            raise ValueError("cursor.field must be a field with an order, other than cursor.tie_break")
        if cursor.overlap_s and kind not in ("date", "timestamp"):
            raise ValueError(f"cursor.overlap_s is for date and timestamp; {cursor.field!r} is {kind}")
        if cursor.overlap and kind not in ("integer", "number"):
            raise ValueError(f"cursor.overlap is for integer and number; {cursor.field!r} is {kind}: overlap_s?")

    def type_of(self, field: str) -> ColumnType:
        """The type of a declared column or key field; a key field that is not declared is text."""
        return self.columns.get(field, "text")

    @property
    def typed(self) -> dict[str, ColumnType]:
        """The columns of a row, the key first."""
        key: dict[str, ColumnType] = {name: self.type_of(name) for name in self.key}
        return key | self.columns

    def secrets(self) -> tuple[str, ...]:
        """Texts that may stand in no message."""
        match self.auth:
            case HeaderAuth(value=secret) | BearerAuth(token=secret) | BasicAuth(password=secret):
                return (secret.get_secret_value(),)
            case None:
                return ()
