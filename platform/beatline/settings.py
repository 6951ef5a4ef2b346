"""The settings of an installation: read once, checked whole, frozen, passed down. Nothing else reads the environment.

Each setting comes from the first of these that has it: the caller, `BEATLINE_<NAME>`, then its usual names
(CELERY_BROKER_URL, REDIS_URL, or REDIS_HOST|PORT|DB|PASSWORD; CELERY_RESULT_BACKEND; DATABASE_URL), each looked for in
the environment, in `.env.<BEATLINE_ENV>` and in `.env` of the working directory; then, for the two servers, the
`beatline up` that runs on the data folder; then the default.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PrivateAttr,
    SecretStr,
    StringConstraints,
    ValidationError,
    field_serializer,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from beatline import names
from beatline import settings_checks as checks
from beatline.errors import NotRunningError, SettingsError
from beatline.secrets import mask_urls
from beatline.settings_report import SERVERS, Shown, describe, missing_server, mixed_servers, show
from beatline.settings_sources import PREFIX, Given, find, read_layers, strangers

Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]
LockSeconds = Annotated[float, Field(ge=5, le=3600, allow_inf_nan=False)]
Port = Annotated[int, Field(ge=1, le=65_535)]
Names = Annotated[tuple[str, ...], BeforeValidator(checks.listed)]
SchemaName = Annotated[str, StringConstraints(pattern=r"^[a-z_][a-z0-9_]{0,62}$")]


class Settings(BaseSettings):
    """One installation's settings, valid as a whole; no print or dump of them shows a secret.

    `load` reads the environment, the constructor only its arguments. `redis_url` and `database_url` are empty only
    where `load(services=False)` was asked for and nothing names them.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, extra="forbid", validate_default=True, hide_input_in_errors=True
    )

    redis_url: Annotated[str, AfterValidator(checks.redis_url)] = Field(
        default="",
        description="Redis 6.2 or newer, or Valkey: broker, leases, events. rediss:// for TLS.",
        examples=["redis://:password@127.0.0.1:6379/0"],
    )
    result_url: Annotated[str, AfterValidator(checks.result_url)] = Field(
        default="",
        description="Where Celery keeps the results of tasks that do not ignore them. Unset: with redis_url.",
        examples=["redis://:password@127.0.0.1:6379/1"],
    )
    database_url: Annotated[str, AfterValidator(checks.database_url)] = Field(
        default="",
        description="PostgreSQL 14 or newer: definitions, history, datasets.",
        examples=["postgresql://beatline:password@127.0.0.1:5432/beatline"],
    )
    database_schema: SchemaName = Field(default="beatline", description="The schema of Beatline's own tables.")
    data_schema: Annotated[SchemaName, AfterValidator(checks.data_schema)] = Field(
        default="beatline_data", description="The schema of the datasets that collect fills."
    )
    key_prefix: Annotated[str, AfterValidator(checks.key_prefix)] = Field(
        default=names.DEFAULT_PREFIX,
        description="Begins every Redis key, queues included. Keep a hash tag: {…} puts all keys into one slot.",
    )
    home: Annotated[Path, AfterValidator(checks.absolute)] = Field(
        default=Path(".beatline"), description="The data folder of `beatline up`: embedded servers, logs, secret keys."
    )
    env: Annotated[str | None, AfterValidator(checks.env)] = Field(
        default=None,
        description="The name of this environment; the file .env.<name> goes before .env.",
        examples=["production"],
    )
    secret_keys: SecretStr | None = Field(
        default=None,
        description="Keys that encrypt stored secrets and messages: id:base64, the first encrypts, all decrypt. "
        "Unset: the file secret_keys in the data folder, which `beatline up` makes.",
        examples=["k2:BASE64_OF_32_BYTES,k1:BASE64_OF_32_BYTES"],
    )
    artifacts_url: Annotated[str, AfterValidator(checks.artifacts_url)] = Field(
        default="",
        description="Where stored files go: s3://bucket/prefix, or file:///folder that every machine mounts. Unset: the "
        "folder artifacts in the data folder. While an s3:// store is out, files wait in that folder.",
        examples=["s3://beatline/production"],
    )
    artifacts_endpoint: Annotated[str | None, AfterValidator(checks.endpoint)] = Field(
        default=None,
        description="The address of an S3-style store that is not AWS's own: MinIO, Ceph, …",
        examples=["https://minio.example.com:9000"],
    )
    artifacts_region: str | None = Field(
        default=None, description="The region of the s3:// store. Unset: us-east-1.", examples=["eu-central-1"]
    )
    artifacts_access_key_id: str | None = Field(
        default=None,
        description="The id of the key to the s3:// store. Unset: as AWS's own tools find theirs.",
        examples=["AKIDEXAMPLE"],
    )
    artifacts_secret_access_key: Annotated[SecretStr | None, AfterValidator(checks.key_pair)] = Field(
        default=None,
        description="The secret of the key to the s3:// store.",
        examples=["THE_SECRET_OF_THAT_KEY"],
    )
    task_modules: Annotated[Names, AfterValidator(checks.modules)] = Field(
        default=(),
        description="Modules of your own tasks, imported by every worker; separated by commas.",
        examples=["myproject.tasks"],
    )
    queues: Annotated[Names, AfterValidator(checks.queues)] = Field(
        default=(),
        description="Queues of your own beside Beatline's; separated by commas.",
        examples=["invoices,thumbnails"],
    )
    priority_order: Literal["high_first", "low_first"] = Field(
        default="high_first", description="Whether priority 9 goes first, or 0 as in Celery on Redis."
    )
    accept: Literal["redis", "postgres"] = Field(
        default="redis",
        description="Where a plain .delay() is accepted: redis, in one round trip, or postgres: its row is committed "
        "first, and Redis may be away.",
    )
    result_expires_s: int = Field(default=3600, ge=1, description="How long a result is kept, in seconds.")
    history_days: int = Field(default=30, ge=1, description="How many days of history are kept.")
    lease_s: Annotated[Seconds, AfterValidator(checks.lease_s)] = Field(
        default=20.0,
        description="How long a worker may be silent before its runs go back to their queue, in seconds; at most the "
        "shortest hard time limit of the queues.",
    )
    lease_renew_s: Annotated[Seconds, AfterValidator(checks.lease_renew_s)] = Field(
        default=5.0, description="How often a worker renews its leases, in seconds; at most a third of lease_s."
    )
    stop_within_s: Seconds | None = Field(
        default=None,
        description="How long a worker that got SIGTERM waits for what it runs, in seconds, before it gives it back to "
        "its queue. Unset: for as long as it takes.",
        examples=["45"],
    )
    beat_interval_s: Seconds = Field(
        default=1.0, description="The longest sleep of Beat between two looks, in seconds."
    )
    beat_lock_s: Annotated[LockSeconds, AfterValidator(checks.beat_lock_s)] = Field(
        default=10.0,
        description="How long Beat's lock outlives its holder, in seconds; at least 5, and 5 times beat_interval_s.",
    )
    allow_private_addresses: bool = Field(
        default=False, description="Whether collect may read from loopback, private and link-local addresses."
    )
    email_connections_per_host: int = Field(
        default=50, ge=1, description="How many connections all workers together open to one mail server."
    )
    cleanup_tables: Annotated[Names, AfterValidator(checks.cleanup_tables)] = Field(
        default=(),
        description="Tables of your own that maintenance.cleanup_expired_tokens may delete from: "
        "connection:schema.table, separated by commas.",
        examples=["warehouse:public.tokens"],
    )
    log_level: Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR"], BeforeValidator(checks.upper)] = Field(
        default="INFO", description="The least that is logged."
    )
    log_format: Literal["auto", "console", "json"] = Field(
        default="auto", description="auto: readable on a terminal, one JSON object a line elsewhere."
    )
    health_folder: Path | None = Field(
        default=None,
        description="Where beat, workers and recorders leave a sign of life, for `beatline health` on the same machine or "
        "in the same container. Unset: nowhere.",
        examples=["/tmp/beatline-health"],  # noqa: S108  # made by us, for us alone, and trusted for nothing
    )
    api_exposed: bool = Field(
        default=False,
        description="Whether the admin API may listen beyond loopback. It speaks plain HTTP: put a proxy with TLS before it.",
    )
    api_host: Annotated[str, AfterValidator(checks.api_host)] = Field(
        default="127.0.0.1",
        min_length=1,
        description="The address on which the admin API listens; beyond loopback only with api_exposed.",
    )
    api_port: Port = Field(
        default=8000, description="The port of the admin API. Unset: `beatline up` takes a free one."
    )
    flower_host: str = Field(default="127.0.0.1", min_length=1, description="The address on which Flower listens.")
    flower_port: Port = Field(default=5555, description="The port of Flower. Unset: `beatline up` takes a free one.")
    embedded_redis_port: Port | None = Field(
        default=None, description="The port of the embedded Valkey. Unset: a free one.", examples=["16379"]
    )
    embedded_postgres_port: Port | None = Field(
        default=None, description="The port of the embedded PostgreSQL. Unset: a free one.", examples=["15432"]
    )

    _given: Mapping[str, Given] = PrivateAttr(default_factory=dict[str, Given])
    _strangers: tuple[tuple[str, str], ...] = PrivateAttr(default=())

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only the arguments: `load` gathers the rest, so that it can say where each value came from."""
        return (init_settings,)

    @classmethod
    def load(cls, *, services: bool = True, **overrides: object) -> Self:
        """The settings of this process. Raises SettingsError with every problem, or NotRunningError.

        An override that is None counts as not given. With `services=False` the servers' URLs may stay empty.
        """
        problems: list[str] = []
        layers = read_layers(cls, os.environ, Path.cwd(), problems)
        fields = tuple(cls.model_fields)
        found = find(layers, fields, problems)
        found |= {name: Given(value, name, "caller") for name, value in overrides.items() if value is not None}
        absent = [name for name in SERVERS if name not in found] if services else []
        home = checks.absolute(Path(str(found["home"].value if "home" in found else cls.model_fields["home"].default)))
        running = _servers_of_running(home) if absent else {}
        found |= {name: running[name] for name in absent if name in running}
        absent = [name for name in absent if name not in running]
        settings = cls._build(found, problems)
        problems += [] if settings is None else mixed_servers(settings, found, running)
        if settings is None or problems or absent:
            if not problems and len(absent) == len(SERVERS):
                raise NotRunningError(str(home))
            raise SettingsError([*problems, *(missing_server(cls.model_fields, name, home) for name in absent)])
        settings._strangers = tuple(strangers(layers, fields))
        return settings

    @classmethod
    def _build(cls, found: Mapping[str, Given], problems: list[str]) -> Self | None:
        try:
            settings = cls.model_validate({name: given.value for name, given in found.items()})
        except ValidationError as exc:
            problems += describe(cls.model_fields, exc, found)
            return None
        settings._given = dict(found)
        return settings

    def replaced(self, **changes: object) -> Self:
        """These settings with some changed, checked again as a whole. Raises SettingsError."""
        found = {name: Given(getattr(self, name), name, "caller") for name in self.model_fields_set}
        found |= {name: Given(getattr(self, name), given.variable, given.place) for name, given in self._given.items()}
        found |= {name: Given(value, name, "caller") for name, value in changes.items()}
        problems: list[str] = []
        settings = self._build(found, problems)
        if settings is None:
            raise SettingsError(problems)
        return settings

    @property
    def keys(self) -> names.Keys:
        """The Redis keys of this installation."""
        return names.Keys(self.key_prefix)

    def shown(self) -> list[Shown]:
        """Every setting with its effective value, secrets masked, and where it comes from."""
        return show(self, self._given)

    def strangers(self) -> tuple[tuple[str, str], ...]:
        """Variables that begin with BEATLINE_ and are no setting, with their places."""
        return self._strangers

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        for name, value in super().__repr_args__():
            yield name, mask_urls(value) if isinstance(value, str) else value

    @field_serializer("redis_url", "result_url", "database_url")
    def _mask_in_dumps(self, url: str) -> str:
        return mask_urls(url)


def _servers_of_running(home: Path) -> dict[str, Given]:
    # Imported here: it is needed only where no server is configured.
    from beatline.embedded.runfile import find_running

    running = find_running(home)
    if running is None:
        return {}
    place = f"running `beatline up` on {home}"
    return {name: Given(getattr(running, name), name, place) for name in SERVERS}


def align_celery_variables(settings: Settings) -> None:
    """Let Celery's own variables name the same servers: Celery takes them before any configuration of an app."""
    for variable, url in (
        ("CELERY_BROKER_URL", settings.redis_url),
        ("CELERY_BROKER_READ_URL", settings.redis_url),
        ("CELERY_BROKER_WRITE_URL", settings.redis_url),
        ("CELERY_RESULT_BACKEND", settings.result_url),
    ):
        if variable in os.environ:
            os.environ[variable] = url


def read_variable(name: str) -> str | None:
    """A variable of the environment or of the `.env` files: where a definition says that its secret is there."""
    for layer in read_layers(Settings, os.environ, Path.cwd(), []):
        if name in layer.values:
            return layer.values[name]
    return None
