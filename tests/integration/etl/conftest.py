"""What the tests of etl share: jobs, tables, and a second database behind a named connection."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from sqlalchemy import Engine, create_engine, text

from support import databases
from support.serving import MakeSettings

if TYPE_CHECKING:
    from beatline.definitions import Definition
    from beatline.installation import Installation

AddJob = Callable[..., "Definition"]
Load = Callable[..., dict[str, Any]]
Rows = Callable[..., list[dict[str, Any]]]
Run = Callable[[str], None]


@pytest.fixture
def open_installation(make_settings: MakeSettings) -> Installation:
    """This test's installation, which may reach loopback."""
    from beatline.installation import Installation

    return Installation(make_settings(allow_private_addresses=True))


@pytest.fixture
def define(open_installation: Installation) -> Callable[..., Definition]:
    """Defines anything as `beatline … add` does."""
    from beatline.definitions import specs, store
    from beatline.families import kinds

    def add(kind: str, name: str, spec: Mapping[str, Any]) -> Definition:
        checked = specs.check(kinds()[kind], name, spec)
        with open_installation.engine.begin() as conn:
            return store.add(conn, kind, name, checked, lambda: open_installation.keyring, who="test")

    return add


@pytest.fixture
def add_job(define: Callable[..., Definition]) -> AddJob:
    """Defines a job as `beatline jobs add` does."""

    def add(name: str, **spec: Any) -> Definition:
        return define("job", name, spec)

    return add


@pytest.fixture
def execute(open_installation: Installation) -> Run:
    """Executes SQL in the installation's database; a name without a schema is a dataset's."""

    def run(statement: str) -> None:
        with open_installation.engine.begin() as conn:
            conn.exec_driver_sql("CREATE SCHEMA IF NOT EXISTS beatline_data")
            conn.exec_driver_sql("SET LOCAL search_path TO beatline_data, public")
            conn.execution_options(no_parameters=True).exec_driver_sql(statement)

    return run


@pytest.fixture
def rows(open_installation: Installation) -> Rows:
    """The rows that a SELECT finds in the installation's database."""

    def select(statement: str) -> list[dict[str, Any]]:
        with open_installation.engine.begin() as conn:
            conn.exec_driver_sql("SET LOCAL search_path TO beatline_data, public")
            return [dict(row) for row in conn.execute(text(statement)).mappings()]

    return select


@pytest.fixture
def load(open_installation: Installation) -> Load:
    """Runs a job in this process, under a run id."""
    from beatline.task.context import RunContext
    from beatline_tasks.etl.running import run_load

    numbers = iter(range(1, 1000))

    def run(name: str, run_id: str | None = None) -> dict[str, Any]:
        context = RunContext(run_id or f"run-{next(numbers)}", 1, 0, "etl.run_job", "etl", None, None)
        result = run_load(open_installation, name, context)
        assert isinstance(result, dict)
        return result

    return run


@pytest.fixture
def shop_url(postgres: str) -> Iterator[str]:
    """The URL of a second database, empty."""
    with databases.database(postgres) as url:
        yield url


@pytest.fixture
def shop(shop_url: str, define: Callable[..., Definition]) -> Iterator[Engine]:
    """The second database, behind the connections `shop` (read only) and `mart`."""
    parts = urlsplit(shop_url)
    plain = f"postgresql://{parts.hostname}:{parts.port}{parts.path}"
    spec: dict[str, Any] = {"url": plain, "user": parts.username}
    if parts.password:
        spec["password"] = parts.password
    define("connection", "shop", spec)
    define("connection", "mart", spec | {"read_only": False})
    engine = create_engine(shop_url.replace("postgresql:", "postgresql+psycopg2:", 1))
    yield engine
    engine.dispose()


def put(engine: Engine, statements: Sequence[str]) -> None:
    """Execute SQL in the second database."""
    with engine.begin() as conn:
        for statement in statements:
            conn.execution_options(no_parameters=True).exec_driver_sql(statement)
