"""A key that one process lacks is a fault of that process: nothing is parked for the others, as a wrong key would."""

from __future__ import annotations

import base64
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import update

from beatline.definitions import specs, store
from beatline.errors import SecretError, ServiceError
from beatline.families import kinds
from beatline.installation import Installation
from beatline.ledger.model import definitions
from support.serving import MakeSettings

if TYPE_CHECKING:
    from beatline.definitions import Definition

K1, K2, WRONG = (
    f"{name}:{base64.b64encode(fill * 32).decode()}" for name, fill in (("k1", b"1"), ("k2", b"2"), ("k2", b"3"))
)
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "source": (
        "beatline_tasks.collect.collecting:open_source",
        {"type": "file", "path": "/nowhere/days.csv", "format": "csv", "columns": {"day": "integer"}, "key": ["day"]},
    ),
    "mailbox": (
        "beatline_tasks.email.polling:open_mailbox",
        {"host": "imap.example.com", "user": "ann@example.com", "password": "hush"},
    ),
    "job": (
        "beatline_tasks.etl.running:open_job",
        {"input": {"dataset": "feed"}, "output": {"table": "days", "mode": "append"}},
    ),
    "report": (
        "beatline_tasks.report.generating:open_report",
        {"title": "Days", "queries": {"days": {"sql": "SELECT 1"}}},
    ),
}
Open = Callable[[Installation, str], object]


def opener(kind: str) -> Open:
    module, _, name = KINDS[kind][0].partition(":")
    found: Open = getattr(import_module(module), name)
    return found


def define(installation: Installation, kind: str) -> Definition:
    """One whose secrets are sealed with the first key, also of a kind that has none."""
    checked = specs.check(kinds()[kind], "one", KINDS[kind][1])
    with installation.engine.begin() as conn:
        made = store.add(conn, kind, "one", checked, lambda: installation.keyring, who="test")
        if made.secrets is None:
            sealed = installation.keyring.encrypt(b"[]", bound_to=made.bound_to)
            conn.execute(update(definitions).where(definitions.c.id == made.id).values(secrets=sealed))
    return made


def parked(installation: Installation, kind: str) -> str | None:
    with installation.engine.connect() as conn:
        return store.get(conn, kind, "one").parked


@pytest.mark.parametrize("kind", KINDS)
def test_a_process_without_the_newest_key_stops_nothing_for_the_others(make_settings: MakeSettings, kind: str) -> None:
    settings = make_settings(secret_keys=f"{K2},{K1}")
    new, old = Installation(settings), Installation(settings.replaced(secret_keys=K1))
    made = define(new, kind)
    with pytest.raises(
        ServiceError, match=f"^{made.called}: .* the key 'k2', which BEATLINE_SECRET_KEYS does not hold"
    ):
        opener(kind)(old, "one")
    assert parked(new, kind) is None
    assert opener(kind)(new, "one")


@pytest.mark.parametrize("kind", KINDS)
def test_one_without_any_key_stops_nothing_either(make_settings: MakeSettings, kind: str) -> None:
    settings = make_settings(secret_keys=K2)
    define(Installation(settings), kind)
    with pytest.raises(ServiceError, match="There is no secret key"):
        opener(kind)(Installation(settings.replaced(secret_keys=None)), "one")
    assert parked(Installation(settings), kind) is None


@pytest.mark.parametrize("kind", KINDS)
def test_a_key_that_does_not_open_parks(make_settings: MakeSettings, kind: str) -> None:
    settings = make_settings(secret_keys=K2)
    define(Installation(settings), kind)
    with pytest.raises(SecretError, match="does not open with the key 'k2'"):
        opener(kind)(Installation(settings.replaced(secret_keys=WRONG)), "one")
    assert "does not open with the key 'k2'" in (parked(Installation(settings), kind) or "")


def test_a_token_whose_key_is_missing_is_not_got_anew(make_settings: MakeSettings) -> None:
    from beatline.clock import utc_now
    from beatline_tasks.email import accounts
    from beatline_tasks.email.oauth import Tokens

    settings = make_settings(secret_keys=f"{K2},{K1}")
    new, old = Installation(settings), Installation(settings.replaced(secret_keys=K1))
    wrong = Installation(settings.replaced(secret_keys=WRONG))
    made = define(new, "mailbox")
    tokens = Tokens("access", utc_now(), "refresh", "ann")
    with new.engine.begin() as conn:
        accounts.keep_token(conn, new, made, tokens)
        account = accounts.find(conn, made.id)
    assert accounts.open_token(new, made, account) == tokens
    with pytest.raises(ServiceError, match="'k2', which BEATLINE_SECRET_KEYS does not hold"):
        accounts.open_token(old, made, account)
    assert accounts.open_token(wrong, made, account) is None
