"""A connection as a person declares it: the address of a server of theirs, and how to log in there."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, Self
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, StringConstraints, field_validator, model_validator

ConnectionType = Literal["sql", "smtp", "store"]
Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]
Address = Annotated[str, StringConstraints(pattern=r"^[^\s@<>,;\x00-\x1f]+@[^\s@<>,;\x00-\x1f]+$", max_length=320)]

_TYPES: Final[dict[str, ConnectionType]] = {
    "postgresql": "sql",
    "postgres": "sql",
    "smtp": "smtp",
    "smtps": "smtp",
    "s3": "store",
    "file": "store",
}
_KNOWN: Final = "postgresql://, smtp://, smtps://, s3:// or file:///"
_OTHER_DATABASES: Final = {
    "mysql": "MySQL",
    "mariadb": "MariaDB",
    "mssql": "SQL Server",
    "oracle": "Oracle",
    "sqlite": "SQLite",
    "clickhouse": "ClickHouse",
    "snowflake": "Snowflake",
    "bigquery": "BigQuery",
    "redshift": "Redshift",
    "mongodb": "MongoDB",
    "duckdb": "DuckDB",
}
_QUERY: Final = frozenset({"sslmode", "sslrootcert", "channel_binding", "application_name"})
"""What a PostgreSQL address may ask for; other parameters of libpq would lead past the checked address or the login."""
_FIELDS: Final[dict[str, tuple[str, ...]]] = {
    "postgresql": ("user", "password", "statement_timeout_s", "read_only"),
    "smtp": ("user", "password", "security", "sender"),
    "smtps": ("user", "password", "security", "sender"),
    "s3": ("endpoint", "region", "access_key_id", "secret_access_key"),
    "file": (),
}


class Connection(BaseModel):
    """A server or folder of the user's own. The address says which: a database, a mail server, a store of files."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    url: str = Field(description=f"the address, without a password: {_KNOWN}")
    user: str | None = Field(default=None, min_length=1)
    password: SecretStr | None = None
    statement_timeout_s: Seconds = Field(default=300, description="sql: the longest that one statement may take")
    read_only: bool = Field(default=True, description="sql: nothing can be changed over it")
    security: Literal["starttls", "tls", "plain"] = Field(
        default="starttls", description="smtp: smtps:// is tls by itself; plain is not encrypted"
    )
    sender: Address | None = Field(default=None, description="smtp: the address that mail comes from")
    endpoint: str | None = Field(default=None, description="s3: the address of a store that is not AWS's own")
    region: str | None = Field(default=None, description="s3; without it us-east-1")
    access_key_id: str | None = Field(default=None, min_length=1, description="s3: the id of the key")
    secret_access_key: SecretStr | None = Field(default=None, description="s3: the secret of the key")

    @field_validator("url")
    @classmethod
    def _url_can_be_read(cls, url: str) -> str:
        scheme = url.partition("://")[0].lower()
        database = _OTHER_DATABASES.get(scheme.partition("+")[0])
        if database is not None:
            raise ValueError(f"is {database}: Beatline connects to PostgreSQL for now, postgresql://host/database")
        if scheme.startswith("postgresql+"):
            raise ValueError("names a driver: write postgresql://host/database")
        if "://" not in url or scheme not in _TYPES:
            raise ValueError(f"must begin with {_KNOWN}")
        parts = _split(url)
        if parts.password is not None:
            field = "secret_access_key" if scheme == "s3" else "password"
            raise ValueError(f"must not carry a password, it would be shown: give it in the field {field}")
        if parts.username is not None and _TYPES[scheme] == "store":
            raise ValueError("must not carry a user: a store on S3 takes access_key_id and secret_access_key")
        _check_place(scheme, parts)
        return url

    @field_validator("endpoint")
    @classmethod
    def _endpoint_can_be_read(cls, endpoint: str | None) -> str | None:
        if endpoint is None:
            return None
        parts = _split(endpoint)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/") or parts.query:
            raise ValueError("must be an address such as https://minio.example.com:9000")
        if parts.username is not None or parts.password is not None:
            raise ValueError("must not carry a key: use access_key_id and secret_access_key")
        return endpoint

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        taken = _FIELDS["postgresql" if self.type == "sql" else self.scheme]
        strange = [name for name in type(self).model_fields if name in self.model_fields_set - {"url", *taken}]
        if strange:
            fields = f"; it has {', '.join(taken)}" if taken else ""
            raise ValueError(f"{', '.join(strange)}: is no field of a connection to {self.scheme}://{fields}")
        if self.user is not None and self.parts.username is not None:
            raise ValueError("user: stands in the url, too: give it once")
        if self.type == "smtp":
            self._check_smtp()
        if self.scheme == "s3" and (self.access_key_id is None or self.secret_access_key is None):
            # Without them the library would take the worker's own rights.
            raise ValueError("access_key_id and secret_access_key: are required for s3://")
        return self

    def _check_smtp(self) -> None:
        if (self.login is None) != (self.password is None):
            raise ValueError("user and password: go together; give both, or neither for a server without login")
        if self.scheme == "smtps" and self.security != "tls" and "security" in self.model_fields_set:
            raise ValueError(f"security: smtps:// is tls from the first byte on, not {self.security}: write smtp://")

    @property
    def parts(self) -> SplitResult:
        """The address, taken apart."""
        return _split(self.url)

    @property
    def scheme(self) -> str:
        """What the address begins with, in lower case."""
        return self.parts.scheme

    @property
    def type(self) -> ConnectionType:
        """What is behind the address."""
        return _TYPES[self.scheme]

    @property
    def host(self) -> str:
        """The server's name or address; empty for a store."""
        return self.parts.hostname or ""

    @property
    def port(self) -> int:
        """The server's port: the one named, else the usual one."""
        usual = {"sql": 5432, "smtp": 465 if self.encrypted == "tls" else 587, "store": 443}
        return self.parts.port or usual[self.type]

    @property
    def encrypted(self) -> Literal["starttls", "tls", "plain"]:
        """How the way to a mail server is encrypted."""
        return "tls" if self.scheme == "smtps" else self.security

    @property
    def login(self) -> str | None:
        """Who logs in: the field `user`, else the one in the address."""
        name = self.parts.username
        return self.user if name is None else unquote(name)

    @property
    def database(self) -> str:
        """The database that the address names."""
        return unquote(self.parts.path.lstrip("/"))

    @property
    def query(self) -> dict[str, str]:
        """The parameters of the address."""
        return dict(parse_qsl(self.parts.query))

    @property
    def place(self) -> str:
        """The server, as messages name it: no user, no parameters."""
        if self.type == "store":
            return self.url
        return f"{self.host}:{self.port}" + (f"/{self.database}" if self.type == "sql" else "")


def _split(url: str) -> SplitResult:
    if any(char.isspace() or not char.isprintable() for char in url):
        raise ValueError("holds white space or a control character")
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise ValueError("has no valid host and port; special characters of a user are percent-encoded") from None
    return parts._replace(scheme=parts.scheme.lower())


def _check_place(scheme: str, parts: SplitResult) -> None:
    match _TYPES[scheme]:
        case "sql":
            strange: list[Any] = sorted({name for name, _ in parse_qsl(parts.query)} - _QUERY)
            if strange:
                raise ValueError(f"may not set {', '.join(strange)}; it may: {', '.join(sorted(_QUERY))}")
            if not parts.hostname or len(parts.path) < 2 or "/" in parts.path[1:]:
                raise ValueError("must name a host and a database, as in postgresql://db.example.com:5432/shop")
        case "smtp":
            if not parts.hostname or parts.path.strip("/") or parts.query:
                raise ValueError("must be a host and a port, as in smtp://mail.example.com:587")
        case "store":
            if parts.query or parts.fragment:
                raise ValueError("takes no parameters")
            if scheme == "s3" and not parts.netloc:
                raise ValueError("names no bucket, as in s3://bucket/prefix")
            if scheme == "file" and (parts.netloc or len(parts.path) < 2 or ".." in parts.path.split("/")):
                raise ValueError("must name a folder from the root on, as in file:///srv/reports")
