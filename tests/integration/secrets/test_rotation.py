"""`beatline secrets rotate`: everything that is sealed gets the first key, beside workers, and the report is true."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from sqlalchemy import select, text

from beatline.cli import root
from beatline.clock import utc_now, utc_today
from beatline.connections import get_connection
from beatline.errors import SecretError
from beatline.installation import Installation
from beatline.ledger.apply import message_binding, park
from beatline.ledger.intake import Entry, Refused
from beatline.ledger.model import definitions, parked_events, runs
from beatline.rotation import UNREADABLE, rotate
from beatline.secrets import KEY_FILE, Keyring, ensure_keys, key_id_of, put_new_key
from support.connecting import add_connection
from support.processes import variables_of
from support.serving import MakeSettings

if TYPE_CHECKING:
    from beatline.settings import Settings

KEYS = {name: f"{name}:{base64.b64encode((name * 16).encode()).decode()}" for name in ("k1", "k2", "k3")}


def with_keys(make_settings: MakeSettings, *names: str) -> Installation:
    return Installation(make_settings(secret_keys=",".join(KEYS[name] for name in names)))


def seal_run(installation: Installation, run_id: str, message: str = "a message") -> None:
    with installation.engine.begin() as conn:
        sealed = installation.keyring.encrypt(message.encode(), bound_to=message_binding(run_id))
        conn.execute(
            runs.insert().values(
                day=utc_today(),
                id=run_id,
                task="t",
                queue="default",
                state="accepted",
                progress=1,
                attempt=1,
                changed_at=utc_now(),
                message=sealed,
                message_attempt=1,
            )
        )


def messages(installation: Installation) -> dict[str, str]:
    with installation.engine.connect() as conn:
        rows = conn.execute(select(runs.c.id, runs.c.message)).all()
    opened = installation.keyring.decrypt
    return {row.id: opened(row.message, bound_to=message_binding(row.id)).decode() for row in rows}


def park_event(installation: Installation, message: str) -> None:
    with installation.engine.begin() as conn:
        entry = Entry("1-0", json.dumps({"message": message, "kind": "x"}))
        park(conn, [Refused(entry, "because")], installation.keyring)


@pytest.fixture
def sealed(make_settings: MakeSettings) -> Installation:
    """An installation with things sealed with k1, many more runs than one batch."""
    ours = with_keys(make_settings, "k1")
    add_connection(ours, "mail", url="smtp://mail", user="ann", password="hush")
    for number in range(450):
        seal_run(ours, f"run-{number}", f"message {number}")
    park_event(ours, "parked")
    return ours


def test_everything_gets_the_first_key_and_the_old_one_can_go(
    sealed: Installation, make_settings: MakeSettings
) -> None:
    done = rotate(with_keys(make_settings, "k2", "k1"))
    assert (done.first, done.rotated, done.left, done.unopened) == ("k2", 452, [], [])
    held = {(one.table, one.key): one.rows for one in done.held}
    assert held == {("definitions", "k2"): 1, ("runs", "k2"): 450, ("parked_events", "k2"): 1}
    alone = with_keys(make_settings, "k2")
    password = get_connection(alone, "mail").spec.password
    assert password is not None
    assert password.get_secret_value() == "hush"
    assert messages(alone) == {f"run-{number}": f"message {number}" for number in range(450)}
    with alone.engine.connect() as conn:
        row = conn.execute(select(parked_events)).one()
    plain = alone.keyring.decrypt(base64.b64decode(json.loads(row.payload)["message"]), bound_to="event:1-0")
    assert json.loads(plain) == "parked"
    assert rotate(alone).rotated == 0


def test_what_cannot_be_opened_is_named_and_the_rest_goes_on(sealed: Installation, make_settings: MakeSettings) -> None:
    lost = with_keys(make_settings, "k3")
    add_connection(lost, "shop", url="postgresql://db/shop", user="a", password="x")
    with sealed.engine.begin() as conn:
        conn.execute(text("UPDATE beatline.runs SET message = 'junk' WHERE id = 'run-7'"))
    done = rotate(with_keys(make_settings, "k2", "k1"))
    assert done.rotated == 451
    left = {(one.table, one.key, one.rows) for one in done.left}
    assert left == {("definitions", "k3", 1), ("runs", UNREADABLE, 1)}
    assert [said.partition(":")[0] for said in done.unopened] == ["connection shop", "run run-7"]


def test_broken_off_it_goes_on_where_it_was(sealed: Installation, make_settings: MakeSettings) -> None:
    ours = with_keys(make_settings, "k2", "k1")
    with sealed.engine.begin() as conn:
        conn.execute(text("ALTER TABLE beatline.parked_events RENAME TO hidden"))
    with pytest.raises(Exception, match="parked_events"):
        rotate(ours)  # the batches before stand
    with sealed.engine.begin() as conn:
        conn.execute(text("ALTER TABLE beatline.hidden RENAME TO parked_events"))
    done = rotate(ours)
    assert (done.rotated, done.left) == (1, [])


def test_rows_that_others_hold_and_write_meanwhile_are_not_lost(
    sealed: Installation, make_settings: MakeSettings
) -> None:
    ours, stop = with_keys(make_settings, "k2", "k1"), threading.Event()
    written: list[str] = []

    def work() -> None:
        while not stop.is_set():
            run_id = f"live-{uuid4()}"
            seal_run(sealed, run_id, run_id)
            written.append(run_id)

    workers = [threading.Thread(target=work) for _ in range(2)]
    for worker in workers:
        worker.start()
    with sealed.engine.begin() as conn:  # as the recorder does for a moment
        conn.execute(text("SELECT 1 FROM beatline.runs WHERE id = 'run-3' FOR UPDATE"))
        assert "runs" in {one.table for one in rotate(ours).left}
    stop.set()
    for worker in workers:
        worker.join()
    assert rotate(ours).left == []
    found = messages(with_keys(make_settings, "k2"))
    assert {run_id: found[run_id] for run_id in written} == {run_id: run_id for run_id in written}


def test_a_new_key_in_the_file_reaches_keyrings_that_are_in_use(make_settings: MakeSettings) -> None:
    settings = make_settings(secret_keys=None)
    path = ensure_keys(settings.home)
    worker, other = Installation(settings), Installation(settings)
    before = worker.keyring.encrypt(b"hush", bound_to="a")
    made = put_new_key(settings.home)
    assert path.stat().st_mode & 0o777 == 0o600
    assert [one.name for one in settings.home.iterdir() if one.name != KEY_FILE] == [f".{KEY_FILE}.lock"]
    assert key_id_of(worker.keyring.encrypt(b"x", bound_to="a")) == made
    sealed = Keyring.load(settings).encrypt(b"hush", bound_to="a")
    assert other.keyring.decrypt(sealed, bound_to="a") == b"hush"
    assert other.keyring.decrypt(before, bound_to="a") == b"hush"
    path.write_text("damaged")
    assert worker.keyring.decrypt(before, bound_to="a") == b"hush", "a file that is damaged now takes no key away"


def test_new_keys_put_at_once_are_all_kept(make_settings: MakeSettings) -> None:
    home = make_settings(secret_keys=None).home
    ensure_keys(home)
    made: list[str] = []
    threads = [threading.Thread(target=lambda: made.append(put_new_key(home))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ids = [line.partition(":")[0] for line in (home / KEY_FILE).read_text().split()]
    assert set(made) < set(ids)
    assert len(ids) == 7
    Path("empty").mkdir()
    with pytest.raises(SecretError, match="does not exist"):
        put_new_key(Path("empty").absolute())


Ran = tuple[int, str, str]


@pytest.fixture
def secrets_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """Run `beatline secrets rotate ARGS…` on given settings."""

    def run(settings: Settings, *args: str) -> Ran:
        monkeypatch.delenv("BEATLINE_SECRET_KEYS", raising=False)
        for name, value in variables_of(settings).items():
            monkeypatch.setenv(name, value)
        with pytest.raises(SystemExit) as ended:
            root.run(["secrets", "rotate", *args])
        said = capsys.readouterr()
        return int(str(ended.value.code)), said.out, said.err

    return run


def test_the_command_reports_by_key_and_fails_while_an_old_one_is_needed(
    sealed: Installation, make_settings: MakeSettings, secrets_command: Callable[..., Ran]
) -> None:
    code, out, err = secrets_command(with_keys(make_settings, "k2").settings)
    assert code == 1
    assert "Still sealed with k1: 452. Keep the old keys" in err
    assert "Not opened: connection mail: " in err
    code, out, err = secrets_command(with_keys(make_settings, "k2", "k1").settings)
    assert code == 0
    assert "Sealed 452 rows with the key k2." in err
    assert "No row needs another key than k2" in err
    code, out, err = secrets_command(with_keys(make_settings, "k2", "k1").settings, "--json")
    said: dict[str, Any] = json.loads(out)
    assert (said["first"], said["rotated"], said["left"]) == ("k2", 0, [])
    assert {"table": "runs", "key": "k2", "rows": 450} in said["held"]


def test_new_key_works_on_the_key_file_and_is_refused_where_the_keys_are_a_setting(
    make_settings: MakeSettings, secrets_command: Callable[..., Ran]
) -> None:
    settings = make_settings(secret_keys=None)
    ensure_keys(settings.home)
    ours = Installation(settings)
    add_connection(ours, "mail", url="smtp://mail", user="ann", password="hush")
    code, _, err = secrets_command(settings, "--new-key")
    assert code == 0, err
    assert "Sealed 1 row with the key k" in err
    first = ours.keyring.first
    with ours.engine.connect() as conn:
        assert key_id_of(conn.execute(select(definitions.c.secrets)).scalar_one()) == first
    assert get_connection(ours, "mail").spec.password is not None
    code, _, err = secrets_command(make_settings(secret_keys=KEYS["k1"]), "--new-key")
    assert code == 1
    assert "The keys are in BEATLINE_SECRET_KEYS" in err
