"""A report as a person declares it: what it asks, how it looks, where it goes, and who hears of failures."""

from __future__ import annotations

import re
from datetime import date
from email.errors import MessageError
from email.headerregistry import Address as MailAddress
from typing import Annotated, Final, Literal, Self
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

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

from beatline.schedules.zones import check_zone, zone
from beatline_tasks.report.period import PeriodKind
from beatline_tasks.report.sql import check_statement, names_in
from beatline_tasks.report.template import check_template

Format = Literal["html", "xlsx", "csv", "pdf"]
Param = str | int | float | bool | date
PERIOD_PARAMS: Final = ("period_start", "period_end", "time_zone")
"""What every query is given beside its parameters."""
TEMPLATE_FIELDS: Final = ("report", "title", "period", "period_start", "period_end", "date")
"""What a subject or a path may name."""

_ADDRESS: Final = re.compile(r"[^@\s<>,;:\"\\()\[\]\x00-\x20\x7f]{1,64}@[^@\s<>,;:\"\\()\[\]\x00-\x20\x7f]{1,255}")
_NAME: Final = r"^[A-Za-z][A-Za-z0-9_-]{0,40}$"
Name = Annotated[str, StringConstraints(pattern=_NAME)]
Line = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]*$", max_length=200)]
"""Text of one line: it may stand in a header."""


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


def _address(text: str) -> str:
    try:
        # No part between dots may be empty; what else is wrong, the library that writes the header knows.
        if not _ADDRESS.fullmatch(text) or "" in re.split(r"[.@]", text):
            raise ValueError
        if text.isascii():
            MailAddress(addr_spec=text)
    except (ValueError, MessageError):
        raise ValueError(f"{text[:80]!r} is no mail address such as ann@example.com") from None
    return text


def _header_secret(secret: SecretStr) -> SecretStr:
    text = secret.get_secret_value()
    if not text or not text.isascii() or not text.isprintable():
        raise ValueError("cannot be sent in a header: printable ASCII, at least one character")
    return secret


Address = Annotated[str, AfterValidator(_address)]
HeaderSecret = Annotated[SecretStr, AfterValidator(_header_secret)]


class ColumnStyle(_Strict):
    """How a column is shown: its heading, its unit, how many decimals its numbers have, whether thousands are apart."""

    title: Line | None = None
    unit: Line | None = None
    decimals: int | None = Field(default=None, ge=0, le=10)
    grouping: bool = True


class Query(_Strict):
    """One SELECT. Without a connection it reads the datasets, else the data base of that connection; it cannot write."""

    sql: str
    connection: str | None = None
    title: Line | None = None
    columns: dict[str, ColumnStyle] = Field(default_factory=dict)

    @field_validator("sql")
    @classmethod
    def _one_statement(cls, sql: str) -> str:
        return check_statement(sql)


class Chart(_Strict):
    """A line or bar chart of a query: `x` along the bottom, one series for each of `y`."""

    query: str | None = None
    type: Literal["line", "bar"] = "line"
    x: str
    y: tuple[str, ...] = Field(min_length=1, max_length=8)
    title: Line | None = None
    unit: Line | None = None


class Email(_Strict):
    """A mail of its own to each recipient, through a connection of type smtp. `attach` names what goes with it."""

    connection: str
    to: tuple[Address, ...] = Field(min_length=1, max_length=500)
    subject: Annotated[Line, AfterValidator(check_template(TEMPLATE_FIELDS))] = "{title}: {period}"
    attach: tuple[Format, ...] | None = Field(default=None, description="which formats are attached; without it, all")
    max_attachment_bytes: int = Field(default=10 * 2**20, ge=0, description="past this, files are named, not attached")

    @field_validator("to")
    @classmethod
    def _once(cls, to: tuple[str, ...]) -> tuple[str, ...]:
        seen = {address.casefold() for address in to}
        if len(seen) != len(to):
            raise ValueError("names an address twice")
        return to


class Webhook(_Strict):
    """A POST of what the report says, as JSON; the secret goes into a header."""

    url: str
    header: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}$")] = "X-Beatline-Secret"
    secret: HeaderSecret | None = None

    @field_validator("url")
    @classmethod
    def _url_can_be_read(cls, url: str) -> str:
        try:
            parts = urlsplit(url)
            host, _ = parts.hostname, parts.port
        except ValueError as exc:
            raise ValueError(f"is no address: {exc}") from None
        if parts.scheme not in ("http", "https") or not host:
            raise ValueError("must be an address such as https://hooks.example.com/report")
        if parts.username is not None or parts.password is not None:
            raise ValueError("must not carry a password: use header and secret")
        return url


class Shelf(_Strict):
    """A folder or bucket that gets the files: a connection of type store, and a path in it for each file."""

    connection: str
    path: Annotated[Line, AfterValidator(check_template((*TEMPLATE_FIELDS, "file")))] = "{report}/{date}/{file}"
    link_days: int = Field(default=7, ge=1, le=7, description="how long a link to a file in a bucket works")

    @field_validator("path")
    @classmethod
    def _names_the_file(cls, path: str) -> str:
        if "{file}" not in path:
            raise ValueError("must contain {file}, or every file would lie in the same place")
        return path


class Owner(_Strict):
    """Who hears of failures, by mail; without a connection, through the one of email."""

    address: Address
    connection: str | None = None


class Report(_Strict):
    """What is asked, shown and sent. The period is the one before the run, in the report's time zone."""

    title: Line
    queries: dict[Name, Query] = Field(min_length=1, max_length=20)
    parameters: dict[str, Param] = Field(default_factory=dict, description="bound to :name in every query")
    time_zone: Annotated[str, AfterValidator(check_zone)] = "UTC"
    locale: str = Field(default="en", description="of numbers and dates: en, de, zh_CN …")
    period: PeriodKind = "day"
    formats: tuple[Format, ...] = Field(default=("html",), min_length=1)
    charts: dict[Name, Chart] = Field(default_factory=dict)
    row_limit: int = Field(default=1000, ge=1, le=10_000, description="rows shown in HTML and PDF; files have all")
    max_rows: int = Field(default=1_000_000, ge=1, le=1_000_000, description="rows that are fetched at most, a query")
    no_rows: Literal["send", "skip", "say"] = Field(default="send", description="what is done without any row")
    email: Email | None = None
    webhook: Webhook | None = None
    store: Shelf | None = None
    owner: Owner | None = None
    statement_timeout_s: float = Field(default=300, gt=0, le=800)
    retry_wait_s: float = Field(default=60, ge=0, le=3600, description="before a step is tried again; then doubled")
    keep_days: int = Field(default=30, ge=1, le=3650, description="how long the files are kept")

    @property
    def zone(self) -> ZoneInfo:
        """The report's time zone."""
        return zone(self.time_zone)

    @field_validator("locale")
    @classmethod
    def _locale_is_known(cls, name: str) -> str:
        from babel import Locale, UnknownLocaleError

        try:
            return str(Locale.parse(name.replace("-", "_")))
        except (UnknownLocaleError, ValueError, TypeError):
            raise ValueError(
                f"{name[:40]!r} is no language that numbers and dates can be written in: en, de_AT, zh_CN"
            ) from None

    @field_validator("formats")
    @classmethod
    def _formats_once(cls, formats: tuple[Format, ...]) -> tuple[Format, ...]:
        return tuple(dict.fromkeys(formats))

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        for name in self.parameters:
            if name in PERIOD_PARAMS:
                raise ValueError(f"parameters.{name}: is given by Beatline; choose another name")
        known = {*self.parameters, *PERIOD_PARAMS}
        for name, query in self.queries.items():
            unknown = [found for found in names_in(query.sql) if found not in known]
            if unknown:
                raise ValueError(f"queries.{name}: :{unknown[0]} is no parameter; known are {', '.join(sorted(known))}")
        for name, chart in self.charts.items():
            self._check_chart(name, chart)
        if self.owner is not None and self.owner.connection is None and self.email is None:
            raise ValueError("owner.connection: is required where there is no email to take it from")
        if self.email is not None and self.email.attach is not None:
            absent = [kind for kind in self.email.attach if kind not in self.formats]
            if absent:
                raise ValueError(f"email.attach: {absent[0]} is not among formats")
        return self

    def _check_chart(self, name: str, chart: Chart) -> None:
        if chart.query is None and len(self.queries) > 1:
            raise ValueError(f"charts.{name}.query: is required where there are several queries")
        if chart.query is not None and chart.query not in self.queries:
            raise ValueError(f"charts.{name}.query: {chart.query!r} is none of queries: {', '.join(self.queries)}")

    def query_of(self, chart: Chart) -> str:
        """The name of the query that a chart shows."""
        return chart.query or next(iter(self.queries))

    def secrets(self) -> tuple[str, ...]:
        """Texts that may stand in no message."""
        if self.webhook is None or self.webhook.secret is None:
            return ()
        return (self.webhook.secret.get_secret_value(),)
