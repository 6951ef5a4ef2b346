"""What `beatline up` says of servers that are given."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import psycopg2
import pytest
import redis

from beatline.embedded.server_checks import check_servers, require_servers
from beatline.errors import ServiceError
from beatline.settings import Settings
from support import databases
from support.servers import Server

PASSWORD = "sesame-0815"  # so that it can be looked for in what is said


def of(redis_url: str, database_url: str, home: Path) -> Settings:
    return Settings.load(redis_url=redis_url, database_url=database_url, home=home)


def said(settings: Settings, **which: bool) -> dict[str, str]:
    """Level → text of all findings, each level at most once."""
    findings = check_servers(settings, **which)
    assert len({one.level for one in findings}) == len(findings), findings
    return {one.level: str(one) for one in findings}


@pytest.fixture
def started_redis(own_redis: Server) -> Iterator[tuple[str, Any]]:
    """The URL of a Redis that this test may set up wrongly, and a client of it."""
    with cast("Any", redis.Redis).from_url(own_redis.url) as client:
        yield own_redis.url, client


@pytest.fixture
def redis_settings(started_redis: tuple[str, Any], tmp_path: Path) -> Settings:
    return of(started_redis[0], "postgresql://nobody@127.0.0.1:1/none", tmp_path)


def test_servers_as_ours_need_no_word(valkey: str, empty_database: str, tmp_path: Path) -> None:
    assert check_servers(of(valkey, empty_database, tmp_path)) == []


@pytest.mark.parametrize(("policy", "level"), [("allkeys-lru", "error"), ("volatile-ttl", "warning")])
def test_a_redis_that_evicts(redis_settings: Settings, started_redis: tuple[str, Any], policy: str, level: str) -> None:
    started_redis[1].config_set("maxmemory-policy", policy)

    found = said(redis_settings, database=False)

    assert set(found) == {level}
    assert f"maxmemory-policy {policy}" in found[level]
    assert "set maxmemory-policy noeviction" in found[level]


def test_a_redis_that_forgets(redis_settings: Settings, started_redis: tuple[str, Any]) -> None:
    started_redis[1].config_set("appendonly", "no")

    assert "set appendonly yes" in said(redis_settings, database=False)["warning"]

    started_redis[1].config_set("save", "60 1")
    assert said(redis_settings, database=False) == {}


def test_a_managed_redis_that_does_not_let_itself_be_asked(started_redis: tuple[str, Any], tmp_path: Path) -> None:
    url, client = started_redis
    client.config_set("appendonly", "no")
    client.acl_setuser(
        "app", enabled=True, passwords=[f"+{PASSWORD}"], keys=["*"], channels=["*"], commands=["+@all", "-config"]
    )
    app = url.replace(url[url.index("//") + 2 : url.index("@")], f"app:{PASSWORD}")

    found = said(of(app, "postgresql://nobody@127.0.0.1:1/none", tmp_path), database=False)

    assert set(found) == {"warning"}
    assert "does not let its snapshots be asked for" in found["warning"]


def test_a_redis_user_without_rights(started_redis: tuple[str, Any], tmp_path: Path) -> None:
    url, client = started_redis
    client.acl_setuser("app", enabled=True, passwords=[f"+{PASSWORD}"], keys=["other:*"], commands=["+@all"])
    app = url.replace(url[url.index("//") + 2 : url.index("@")], f"app:{PASSWORD}")

    found = said(of(app, "postgresql://nobody@127.0.0.1:1/none", tmp_path), database=False)

    assert set(found) == {"error"}
    assert "give its user +@all on ~{beatline}:*" in found["error"]


def test_a_redis_replica(redis_settings: Settings, started_redis: tuple[str, Any], valkey: str) -> None:
    started_redis[1].replicaof("127.0.0.1", "1")

    assert "to a server that accepts writes" in said(redis_settings, database=False)["error"]


def test_servers_that_do_not_answer_are_all_named_at_once_without_their_passwords(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        settings = of(
            f"redis://:{PASSWORD}@127.0.0.1:{port}/0", f"postgresql://u:{PASSWORD}@127.0.0.1:{port}/d", tmp_path
        )

        with pytest.raises(ServiceError) as caught:
            require_servers(settings)

    redis_line, postgres_line = str(caught.value).splitlines()
    assert redis_line.startswith(f"Redis at 127.0.0.1:{port}/0: ")
    assert "correct BEATLINE_REDIS_URL" in redis_line
    assert postgres_line.startswith(f"PostgreSQL at 127.0.0.1:{port}/d: ")
    assert "correct BEATLINE_DATABASE_URL" in postgres_line
    assert PASSWORD not in str(caught.value)


def test_a_wrong_password_is_not_repeated(started_redis: tuple[str, Any], empty_database: str, tmp_path: Path) -> None:
    wrong_redis = started_redis[0].replace("redis://:", f"redis://:{PASSWORD}")
    user = empty_database.index("@")
    wrong_database = f"{empty_database[:user]}{PASSWORD}{empty_database[user:]}"

    findings = check_servers(of(wrong_redis, wrong_database, tmp_path))

    assert [one.level for one in findings] == ["error", "error"]
    assert not [one for one in findings if PASSWORD in str(one)]


def run_sql(url: str, *statements: str) -> None:
    with closing(psycopg2.connect(url)) as connection:
        connection.autocommit = True
        for statement in statements:
            connection.cursor().execute(statement)


def test_a_database_in_another_encoding(valkey: str, empty_database: str, tmp_path: Path) -> None:
    name = f"latin_{tmp_path.name[-20:].replace('-', '_')}"
    run_sql(empty_database, f"CREATE DATABASE \"{name}\" ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    try:
        found = said(of(valkey, f"{empty_database.rpartition('/')[0]}/{name}", tmp_path), redis=False)
    finally:
        run_sql(empty_database, f'DROP DATABASE "{name}"')

    assert "is encoded in LATIN1" in found["error"]
    assert "ENCODING 'UTF8'" in found["error"]


@pytest.fixture
def plain_user(empty_database: str) -> Iterator[str]:
    """The URL of the database as a user who may only connect to it."""
    name = f"plain_{databases.name_of(empty_database)[-20:]}"
    run_sql(empty_database, f"CREATE ROLE \"{name}\" LOGIN PASSWORD '{PASSWORD}'")
    scheme, _, rest = empty_database.partition("://")
    yield f"{scheme}://{name}:{PASSWORD}@{rest.partition('@')[2]}"
    run_sql(empty_database, f'DROP OWNED BY "{name}"', f'DROP ROLE "{name}"')


def test_a_database_user_without_rights_is_told_the_grant(
    valkey: str, empty_database: str, plain_user: str, tmp_path: Path
) -> None:
    user = plain_user.partition("://")[2].partition(":")[0]
    settings = of(valkey, plain_user, tmp_path)

    texts = [str(one) for one in check_servers(settings, redis=False)]

    assert len(texts) == 2
    assert all(f'TO "{user}"' in text for text in texts)
    for text in texts:
        run_sql(empty_database, text.partition("GRANT ")[1] + text.partition("GRANT ")[2].rstrip("."))
    assert check_servers(settings, redis=False) == []


def test_schemas_that_are_there_need_no_right_on_the_database(
    valkey: str, empty_database: str, plain_user: str, tmp_path: Path
) -> None:
    user = plain_user.partition("://")[2].partition(":")[0]
    run_sql(empty_database, "CREATE SCHEMA beatline", f'CREATE SCHEMA beatline_data AUTHORIZATION "{user}"')
    settings = of(valkey, plain_user, tmp_path)

    (text,) = [str(one) for one in check_servers(settings, redis=False)]

    assert "may not create tables in the schema 'beatline'" in text
    run_sql(empty_database, "GRANT " + text.partition("GRANT ")[2].rstrip("."))
    assert check_servers(settings, redis=False) == []


def test_a_standby_is_refused(valkey: str, empty_database: str, tmp_path: Path) -> None:
    name = databases.name_of(empty_database)
    run_sql(empty_database, f'ALTER DATABASE "{name}" SET default_transaction_read_only TO on')

    assert "accepts no writes" in said(of(valkey, empty_database, tmp_path), redis=False)["error"]
