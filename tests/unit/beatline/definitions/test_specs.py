"""A spec is checked whole, its secrets split off, and everything wrong named by its field."""

from __future__ import annotations

import base64
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from beatline.definitions.model import Definition
from beatline.definitions.specs import Checked, check, raw_spec, seal, spec_to_edit, unseal
from beatline.errors import DefinitionError, SecretError
from beatline.secrets import Keyring
from support.gadgets import KIND

RING = Keyring.parse(f"k1:{base64.b64encode(b'k' * 32).decode()}", source="BEATLINE_SECRET_KEYS")
OTHER = Keyring.parse(f"k2:{base64.b64encode(b'o' * 32).decode()}", source="BEATLINE_SECRET_KEYS")
RAW: dict[str, Any] = {
    "url": "https://h/",
    "auth": {"type": "login", "user": "ann", "password": "hush"},
    "key": "hush too",
    "parts": [{"name": "a"}, {"name": "b", "pin": "hush three"}],
    "extra": {"deep": [1, {"x": None}]},
}


def stored(checked: Checked, keyring: Keyring = RING) -> Definition:
    """The definition as a row holds it."""
    made = Definition(
        id=UUID(int=7), kind="gadget", name="g", spec=checked.plain, secrets=None, state={}, parked=None,
        owner="operator", version=1, created_at=datetime.now(UTC), updated_at=datetime.now(UTC),
    )  # fmt: skip
    return replace(made, secrets=seal(checked.secrets, lambda: keyring, bound_to=made.bound_to))


def test_secrets_are_split_off_wherever_they_stand() -> None:
    checked = check(KIND, "g", RAW)
    assert checked.plain == {
        "url": "https://h/",
        "auth": {"type": "login", "user": "ann", "password": "***"},
        "key": "***",
        "parts": [{"name": "a"}, {"name": "b", "pin": "***"}],
        "extra": {"deep": [1, {"x": None}]},
    }
    assert checked.secrets == {("auth", "password"): "hush", ("key",): "hush too", ("parts", 1, "pin"): "hush three"}
    definition = stored(checked)
    assert "hush" not in repr(checked) + repr(definition)
    assert raw_spec(definition, lambda: RING) == RAW


def test_only_what_was_written_is_kept() -> None:
    assert check(KIND, "g", {"url": "u", "tags": ["a"]}).plain == {"url": "u", "tags": ["a"]}


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ({}, "Gadget 'g': url: is required."),
        ({"url": "u", "size": 0, "colour": "green"}, "size: must be greater than or equal to 1; colour: must be 'red'"),
        ({"url": "u", "ulr": "v"}, "ulr: is no field of it."),
        ({"url": "u", "auth": {"type": "login", "user": "ann"}}, "auth.password: is required."),
        ({"url": "u", "auth": {"type": "login", "usr": "ann", "password": "hush"}}, "auth.usr: is no field of it"),
        ({"url": "u", "auth": {"type": "oauth"}}, "auth.type: must be one of 'token', 'login'"),
        ({"url": "u", "auth": {"token": "hush"}}, "auth.type: is required"),
        ({"url": "u", "parts": [{"name": "a"}, {"pin": "hush"}]}, "parts.1.name: is required"),
        ({"url": "u", "key": 5}, "key: must be a valid string"),
        ({"url": "u", "key": "***"}, "key: is the mask ***, not a secret"),
        ({"url": "a\x00b"}, "url: holds a NUL character"),
        ({"url": "u", "labels": {"a\ud800": "b"}}, "labels: holds"),
        ({"url": "u", "labels": {"a": "b\udfff"}}, "labels.a: holds"),
    ],
)
def test_what_is_wrong_is_named(raw: dict[str, Any], said: str) -> None:
    with pytest.raises(DefinitionError) as refused:
        check(KIND, "g", raw)
    told = str(refused.value)
    assert told.startswith("Gadget 'g': ")
    assert said in told
    assert "hush" not in told


def test_endless_nesting_is_refused() -> None:
    deep: dict[str, Any] = {}
    deep["extra"] = deep
    with pytest.raises(DefinitionError, match="nested deeper than 64"):
        check(KIND, "g", {"url": "u", "extra": deep})


def test_a_definition_without_secrets_needs_no_key() -> None:
    def no_key() -> Keyring:
        raise SecretError("no key")

    definition = stored(check(KIND, "g", {"url": "u"}))
    assert raw_spec(definition, no_key) == {"url": "u"}
    with pytest.raises(SecretError, match="no key"):
        seal({("key",): "x"}, no_key, bound_to="b")


def test_a_wrong_key_names_the_definition() -> None:
    with pytest.raises(SecretError) as refused:
        unseal(stored(check(KIND, "g", RAW)), lambda: OTHER)
    assert str(refused.value).startswith("Gadget 'g': The secret of definition:")


def test_editing_keeps_untouched_secrets() -> None:
    shown, complete = spec_to_edit(stored(check(KIND, "g", RAW)), lambda: RING)
    shown["size"] = 5
    shown["key"] = "new"
    assert complete(shown) == {**RAW, "size": 5, "key": "new"}


def test_a_lost_key_is_mended_by_setting_every_secret_again() -> None:
    checked = check(KIND, "g", {"url": "u", "key": "hush"})
    shown, complete = spec_to_edit(stored(checked), lambda: OTHER)
    with pytest.raises(SecretError):
        complete(shown | {"size": 2})
    assert complete(shown | {"key": "new"}) == {"url": "u", "key": "new"}
