"""Definitions in PostgreSQL: versions, audit, secrets, parking, and two writers at once."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import select

from beatline.definitions import Definition, open_spec, store
from beatline.definitions.specs import check
from beatline.errors import BeatlineError, DefinitionError, NameRefusedError, NotFoundError, SecretError
from beatline.installation import Installation
from beatline.ledger.model import audit, definitions
from beatline.secrets import new_key
from support.gadgets import KIND, Gadget, Token
from support.serving import MakeSettings

RAW: dict[str, Any] = {"url": "https://h/", "auth": {"type": "token", "token": "hush"}}


def add(installation: Installation, name: str = "lamp", raw: Mapping[str, Any] = RAW) -> Definition:
    with installation.engine.begin() as conn:
        return store.add(conn, KIND.name, name, check(KIND, name, raw), lambda: installation.keyring, who="ann@h")


def change(installation: Installation, current: Definition, raw: Mapping[str, Any], **options: Any) -> Definition:
    checked = check(KIND, current.name, raw)
    with installation.engine.begin() as conn:
        return store.update_spec(conn, current, checked, lambda: installation.keyring, who="bob@h", **options)


def read(installation: Installation, name_or_id: str = "lamp") -> Definition:
    with installation.engine.connect() as conn:
        return store.get(conn, KIND.name, name_or_id)


def audited(installation: Installation) -> list[tuple[Any, ...]]:
    columns = (audit.c.who, audit.c.action, audit.c.kind, audit.c.name, audit.c.before, audit.c.after)
    with installation.engine.connect() as conn:
        return [tuple(row) for row in conn.execute(select(*columns).order_by(audit.c.id))]


def test_a_definition_is_found_by_name_and_by_id_and_opens_with_its_secrets(installation: Installation) -> None:
    made = add(installation)
    assert read(installation) == read(installation, str(made.id)) == made
    assert open_spec(installation, made, Gadget) == Gadget(
        url="https://h/", auth=Token(type="token", token=SecretStr("hush"))
    )


def test_no_secret_stands_in_the_database_in_the_clear(installation: Installation) -> None:
    made = add(installation)
    change(installation, made, RAW | {"auth": {"type": "token", "token": "hush again"}})
    with installation.engine.connect() as conn:
        rows = [*conn.execute(select(definitions)).mappings(), *conn.execute(select(audit)).mappings()]
    stored = repr([dict(row) for row in rows])
    assert "hush" not in stored
    assert rows[0]["spec"]["auth"] == {"type": "token", "token": "***"}


def test_every_change_is_a_version_and_an_audit_row(installation: Installation) -> None:
    made = add(installation)
    size = change(installation, made, RAW | {"size": 3})
    secret = change(installation, size, RAW | {"size": 3, "auth": {"type": "token", "token": "new"}}, owner="file")
    assert (made.version, size.version, secret.version, secret.owner) == (1, 2, 3, "file")
    assert open_spec(installation, secret, Gadget).auth == Token(token=SecretStr("new"))
    with installation.engine.begin() as conn:
        store.remove(conn, KIND.name, "lamp", who="eve@h")
    masked = {"url": "https://h/", "auth": {"type": "token", "token": "***"}}
    with_size = {**masked, "size": 3}
    assert audited(installation) == [
        ("ann@h", "add", "gadget", "lamp", None, {"spec": masked}),
        ("bob@h", "change", "gadget", "lamp", {"spec": masked}, {"spec": with_size}),
        (
            "bob@h", "change", "gadget", "lamp",
            {"spec": with_size}, {"spec": with_size, "secrets_changed": ["auth.token"]},
        ),
        ("eve@h", "remove", "gadget", "lamp", {"spec": with_size}, None),
    ]  # fmt: skip
    with pytest.raises(NotFoundError):
        read(installation)


def test_no_change_is_no_version(installation: Installation) -> None:
    made = add(installation)
    assert change(installation, made, RAW) == made
    assert len(audited(installation)) == 1


def test_a_failed_transaction_leaves_neither_row_nor_audit(installation: Installation) -> None:
    def fail() -> None:
        with installation.engine.begin() as conn:
            store.add(conn, KIND.name, "lamp", check(KIND, "lamp", RAW), lambda: installation.keyring, who="a")
            raise RuntimeError("the rest failed")

    with pytest.raises(RuntimeError):
        fail()
    assert audited(installation) == []
    with pytest.raises(NotFoundError):
        read(installation)


def test_what_is_refused(installation: Installation) -> None:
    made = add(installation)
    with pytest.raises(DefinitionError, match="There is a gadget 'lamp' already"):
        add(installation)
    with pytest.raises(NameRefusedError, match="gadget name 'two words'"):
        add(installation, "two words")
    with pytest.raises(NotFoundError, match="Did you mean lamp"):
        read(installation, "lmap")
    with pytest.raises(NotFoundError, match="There is no gadget '00000000"):
        read(installation, "00000000-0000-0000-0000-000000000000")
    change(installation, made, RAW | {"size": 2})
    with pytest.raises(DefinitionError, match="changed or removed by someone else meanwhile"):
        change(installation, made, RAW | {"size": 3})


def test_of_two_that_add_the_same_name_one_is_told(installation: Installation) -> None:
    ready = threading.Barrier(4)
    outcomes: list[str] = []

    def race() -> None:
        ready.wait()
        try:
            add(installation)
            outcomes.append("added")
        except BeatlineError as exc:
            outcomes.append(str(exc))

    threads = [threading.Thread(target=race) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count("added") == 1
    assert sum("already" in outcome for outcome in outcomes) == 3


def test_parking_stops_one_definition_until_it_is_changed_or_unparked(installation: Installation) -> None:
    lamp, fan = add(installation), add(installation, "fan")
    with installation.engine.begin() as conn:
        assert store.park(conn, lamp, "its key is gone", who="worker")
        assert not store.park(conn, lamp, "another reason", who="worker")
    parked = read(installation)
    assert (parked.parked, parked.version, read(installation, "fan").parked) == ("its key is gone", 1, None)
    with installation.engine.begin() as conn:
        assert store.unpark(conn, parked, who="ann@h")
        assert not store.unpark(conn, fan, who="ann@h")
        assert store.park(conn, parked, "again", who="worker")
    changed = change(installation, read(installation), RAW | {"size": 2})
    assert changed.parked is None
    with installation.engine.begin() as conn:
        assert not store.park(conn, parked, "told of the old version", who="worker")
    assert [row[1] for row in audited(installation)] == ["add", "add", "park", "unpark", "park", "change"]


def test_state_is_kept_in_the_callers_transaction(installation: Installation) -> None:
    made = add(installation)

    def fail() -> None:
        with installation.engine.begin() as conn:
            store.save_state(conn, made, {"cursor": "lost"})
            raise RuntimeError("the rows could not be written")

    with installation.engine.begin() as conn:
        assert store.load_state(conn, made, lock=True) == {}
        store.save_state(conn, made, {"cursor": "2012-01-01"})
    with pytest.raises(RuntimeError):
        fail()
    change(installation, made, RAW | {"size": 2})
    with installation.engine.begin() as conn:
        assert store.load_state(conn, made) == {"cursor": "2012-01-01"}
        store.remove(conn, KIND.name, "lamp", who="ann@h")
        with pytest.raises(NotFoundError, match="removed meanwhile"):
            store.load_state(conn, made)
        with pytest.raises(NotFoundError, match="nothing was kept"):
            store.save_state(conn, made, {})


def test_a_wrong_or_missing_key_stops_only_what_has_secrets(
    installation: Installation, make_settings: MakeSettings
) -> None:
    add(installation)
    add(installation, "plain", {"url": "u"})
    for keys in (new_key(), None):
        other = Installation(make_settings(secret_keys=keys).replaced(secret_keys=keys))
        assert open_spec(other, read(other, "plain"), Gadget).url == "u"
        with pytest.raises(SecretError):
            open_spec(other, read(other), Gadget)


def test_a_secret_set_again_with_a_new_key_opens_again(installation: Installation, make_settings: MakeSettings) -> None:
    add(installation)
    other = Installation(make_settings(secret_keys=new_key()))
    checked = check(KIND, "lamp", RAW)
    told = store.differences(read(other), checked, lambda: other.keyring)
    assert [(one.field, one.before, one.after) for one in told] == [("auth.token", "***", "***")]
    assert store.differences(read(other), checked, lambda: installation.keyring) == []
    changed = change(other, read(other), RAW)
    assert changed.version == 2
    assert open_spec(other, changed, Gadget).auth == Token(token=SecretStr("hush"))


def test_a_spec_that_this_version_refuses_is_an_error_that_names_it(installation: Installation) -> None:
    made = add(installation)
    with installation.engine.begin() as conn:
        conn.execute(definitions.update().values(spec={"url": "u", "from_the_future": 1}, secrets=None))
    with pytest.raises(DefinitionError, match="Gadget 'lamp': from_the_future: is no field of it"):
        open_spec(installation, read(installation, str(made.id)), Gadget)
