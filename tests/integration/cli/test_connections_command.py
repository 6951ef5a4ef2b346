"""`beatline connections …` on a real database: the password comes from a variable and stands nowhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from beatline.settings import Settings
from support.connecting import own_database

Cli = Callable[..., Any]


def test_a_connection_is_added_shown_and_checked(settings: Settings, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    given = own_database(settings)
    monkeypatch.setenv("SHOP_PASSWORD", given["password"])
    added = cli(
        "connections", "add", "shop", "--url", given["url"], "--user", given["user"], "--password", "env:SHOP_PASSWORD"
    )
    assert added.code == 0, added.err
    assert "`beatline connections check shop` tries it." in added.err
    shown = cli("connections", "show", "shop", "--json")
    assert shown.json["spec"]["password"] == "***"
    refused = cli("connections", "check", "shop")
    assert refused.code == 1
    assert "BEATLINE_ALLOW_PRIVATE_ADDRESSES" in refused.out
    monkeypatch.setenv("BEATLINE_ALLOW_PRIVATE_ADDRESSES", "true")
    checked = cli("connections", "check", "shop", "--json")
    assert checked.code == 0
    assert checked.json["text"].startswith("It works: PostgreSQL")
    for said in (added, shown, refused, checked):
        assert given["password"] not in said.out + said.err


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("postgresql://ann:hush@db/shop", "give it in the field password"),
        ("mysql://db/shop", "is MySQL: Beatline connects to PostgreSQL for now"),
    ],
)
def test_a_wrong_address_is_refused_and_nothing_is_added(cli: Cli, url: str, words: str) -> None:
    refused = cli("connections", "add", "shop", "--url", url)
    assert refused.code == 1
    assert words in refused.err
    assert "hush" not in refused.err
    assert cli("connections", "list", "--json").json == []
