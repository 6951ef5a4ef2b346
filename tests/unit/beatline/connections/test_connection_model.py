"""What a connection may declare, and what it is told when it declares nonsense."""

from __future__ import annotations

from typing import Any

import pytest

from beatline.connections.model import Connection
from beatline.definitions.specs import check
from beatline.errors import DefinitionError
from beatline.families import kinds

S3: dict[str, Any] = {"url": "s3://bucket/reports", "access_key_id": "AK", "secret_access_key": "hush"}


@pytest.mark.parametrize(
    ("spec", "kind", "place"),
    [
        ({"url": "postgresql://db.example.com/shop"}, "sql", "db.example.com:5432/shop"),
        ({"url": "postgres://ann@db.example.com:6000/shop?sslmode=require"}, "sql", "db.example.com:6000/shop"),
        ({"url": "POSTGRESQL://db/shop%20two", "user": "ann", "password": "x"}, "sql", "db:5432/shop two"),
        ({"url": "smtp://mail.example.com"}, "smtp", "mail.example.com:587"),
        ({"url": "smtp://mail:25", "security": "plain"}, "smtp", "mail:25"),
        ({"url": "smtps://mail.example.com", "user": "a", "password": "x"}, "smtp", "mail.example.com:465"),
        (S3, "store", "s3://bucket/reports"),
        (S3 | {"endpoint": "https://minio:9000", "region": "eu"}, "store", "s3://bucket/reports"),
        ({"url": "file:///srv/reports"}, "store", "file:///srv/reports"),
    ],
)
def test_the_address_decides_what_it_is(spec: dict[str, Any], kind: str, place: str) -> None:
    connection = Connection.model_validate(spec)
    assert (connection.type, connection.place) == (kind, place)


def test_the_user_may_stand_in_the_address_and_a_way_is_encrypted_unless_said_otherwise() -> None:
    assert Connection.model_validate({"url": "postgresql://a%40b@db/shop"}).login == "a@b"
    assert Connection.model_validate({"url": "postgresql://db/shop", "user": "ann"}).login == "ann"
    assert Connection.model_validate({"url": "smtp://mail"}).encrypted == "starttls"
    assert Connection.model_validate({"url": "smtps://mail"}).encrypted == "tls"
    assert Connection.model_validate({"url": "postgresql://db/shop"}).read_only


NONSENSE: list[tuple[dict[str, Any], str]] = [
    (
        {"url": "postgresql://ann:hush@db/shop"},
        "url: must not carry a password, it would be shown: give it in the field",
    ),
    ({"url": "smtp://ann:hush@mail:25"}, "give it in the field password"),
    ({"url": "s3://AK:hush@bucket"}, "give it in the field secret_access_key"),
    ({"url": "mysql://db/shop"}, "url: is MySQL: Beatline connects to PostgreSQL for now"),
    ({"url": "mssql+pyodbc://db/shop"}, "is SQL Server"),
    ({"url": "postgresql+asyncpg://db/shop"}, "names a driver"),
    ({"url": "ftp://host/x"}, "must begin with postgresql://"),
    ({"url": "db.example.com"}, "must begin with postgresql://"),
    ({"url": "postgresql://db"}, "must name a host and a database"),
    ({"url": "postgresql:///shop"}, "must name a host and a database"),
    ({"url": "postgresql://db:port/shop"}, "has no valid host and port"),
    ({"url": "postgresql://db/shop?hostaddr=10.0.0.1&service=x"}, "may not set hostaddr, service"),
    ({"url": "postgresql://db/sh op"}, "holds white space"),
    ({"url": "smtp://"}, "must be a host and a port"),
    ({"url": "smtp://mail/path"}, "must be a host and a port"),
    ({"url": "s3://", "access_key_id": "a", "secret_access_key": "b"}, "names no bucket"),
    ({"url": "file://host/folder"}, "must name a folder from the root on"),
    ({"url": "file:///srv/../etc"}, "must name a folder from the root on"),
    ({"url": "s3://bucket"}, "access_key_id and secret_access_key: are required"),
    (S3 | {"endpoint": "minio:9000"}, "endpoint: must be an address such as"),
    (S3 | {"endpoint": "https://AK:hush@minio:9000"}, "endpoint: must not carry a key"),
    (S3 | {"password": "hush"}, "password: is no field of a connection to s3://; it has endpoint, region"),
    ({"url": "postgresql://db/shop", "sender": "a@b.org"}, "sender: is no field of a connection to postgresql://"),
    ({"url": "file:///srv", "user": "ann"}, "user: is no field of a connection to file://"),
    ({"url": "postgresql://ann@db/shop", "user": "bob"}, "user: stands in the url, too"),
    ({"url": "smtp://mail", "user": "ann"}, "user and password: go together"),
    ({"url": "smtps://mail", "security": "plain"}, "security: smtps:// is tls"),
    ({"url": "smtp://mail", "sender": "nobody"}, "sender: "),
    ({"url": "smtp://mail", "sender": "a@b\r\nBcc: c@d"}, "sender: "),
    ({"url": "postgresql://db/shop", "statement_timeout_s": 0}, "statement_timeout_s: must be greater than 0"),
    ({"url": "postgresql://db/shop", "pasword": "hush"}, "pasword: is no field of it"),
    ({}, "url: is required"),
]


@pytest.mark.parametrize(("spec", "words"), NONSENSE)
def test_nonsense_is_refused_by_field_and_no_secret_is_repeated(spec: dict[str, Any], words: str) -> None:
    with pytest.raises(DefinitionError) as refused:
        check(kinds()["connection"], "mine", spec)
    assert str(refused.value).startswith("Connection 'mine': ")
    assert words in str(refused.value)
    assert "hush" not in str(refused.value)


def test_secrets_are_split_off() -> None:
    checked = check(kinds()["connection"], "mine", S3)
    assert checked.plain["secret_access_key"] == "***"
    assert checked.secrets == {("secret_access_key",): "hush"}
    assert "hush" not in repr(Connection.model_validate(S3))
